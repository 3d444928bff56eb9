#include "backend/triton/model_config.h"

#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/core/check.h"

namespace inflight::triton {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kModelType = "inflight_fused_batching";
constexpr const char* kOfEngine = "the engine's";

std::map<std::string, std::string> given_parameters(const Json& config) {
  std::map<std::string, std::string> given;
  const auto found = config.find("parameters");
  if (found == config.end() || !found->is_object()) return given;
  for (const auto& [key, value] : found->items())
    given.emplace(key, value.value("string_value", ""));
  return given;
}

std::chrono::milliseconds read_period(Parameters& parameters, const char* key,
                                      std::vector<std::string>& warnings) {
  const int milliseconds = parameters.number<int>(key, "0").value_or(0);
  if (milliseconds >= 0) return std::chrono::milliseconds(milliseconds);
  warnings.push_back(concat("parameter ", key, " = ", milliseconds, " is below 0; 0 is used"));
  return {};
}

/// The numbers that a model of this type shows.
BatchingNumbers read_model_type(Parameters& parameters, std::vector<std::string>& warnings) {
  const std::string type = parameters.text("gpt_model_type", kModelType).value_or(kModelType);
  if (type == "V1" || type == "v1") {
    warnings.push_back("Static batching type is deprecated: requests are batched in flight");
    return BatchingNumbers::kV1;
  }
  check(type == "inflight_batching" || type == "inflight_fused_batching",
        "Invalid gpt_model_type \"", type,
        "\": expected inflight_fused_batching, inflight_batching or V1");
  return BatchingNumbers::kInflight;
}

fs::path read_engine_dir(Parameters& parameters, const fs::path& version_dir) {
  const fs::path dir =
      version_dir / parameters.text("gpt_model_path", "the version's folder").value_or("");
  check(fs::is_directory(dir), "gpt_model_path: the engine directory ", dir.string(),
        " does not exist");
  check(fs::exists(dir / "engine.json"), "gpt_model_path: ", dir.string(),
        " holds no engine.json; make one with `inflight build`");
  return dir;
}

/// The device of `gpu_device_ids`, unless `device` names one: "0", or a set for each instance of
/// the model, "0;1", of which this one takes the first.
std::string read_device(Parameters& parameters, const std::string& otherwise) {
  const std::string device = parameters.text("device", otherwise).value_or(otherwise);
  const std::optional<std::string> ids = parameters.text("gpu_device_ids", "none");
  if (!ids || device != "auto") return device;
  const std::string first = ids->substr(0, ids->find(';'));
  check(first.find(',') == std::string::npos, "gpu_device_ids is \"", *ids,
        "\"; this version runs a model on one GPU, expected one id");
  check(!first.empty() && first.find_first_not_of("0123456789") == std::string::npos,
        "gpu_device_ids is \"", *ids, "\", expected a number");
  return concat("cuda:", first);
}

executor::EngineConfig read_engine_config(Parameters& parameters, const Json& config,
                                          const fs::path& version_dir) {
  executor::EngineConfig engine;
  engine.engine_dir = read_engine_dir(parameters, version_dir);
  engine.device = read_device(parameters, engine.device);
  engine.load_format =
      parameters.text("load_format", engine.load_format).value_or(engine.load_format);
  engine.max_batch_size = parameters.number<int>("max_batch_size", kOfEngine);
  engine.max_num_tokens = parameters.number<int>("max_num_tokens", kOfEngine);
  engine.max_seq_len = parameters.number<int>("max_seq_len", kOfEngine);
  engine.num_threads =
      parameters.number<int>("num_threads", "0, all cores").value_or(engine.num_threads);
  engine.enable_chunked_context =
      parameters.flag("enable_chunked_context", engine.enable_chunked_context);
  engine.enable_cuda_graphs = parameters.flag("cuda_graph_mode", engine.enable_cuda_graphs);
  engine.kv_cache_max_tokens = parameters.number<int64_t>("max_tokens_in_paged_kv_cache", "no cap");
  engine.kv_cache_max_bytes = parameters.number<int64_t>("kv_cache_max_bytes", "no cap");
  engine.kv_cache_free_memory_fraction =
      parameters
          .number<double>("kv_cache_free_gpu_mem_fraction",
                          concat(engine.kv_cache_free_memory_fraction))
          .value_or(engine.kv_cache_free_memory_fraction);
  engine.check_invariants = parameters.flag("check_invariants", false);
  const auto queue =
      config.value(Json::json_pointer("/dynamic_batching/default_queue_policy"), Json::object());
  const int queue_size = queue.value("max_queue_size", 0);
  engine.max_queue_size =
      parameters.number<int>("max_queue_size", concat(queue_size)).value_or(queue_size);
  const int max_beam_width = parameters.number<int>("max_beam_width", "1").value_or(1);
  check(max_beam_width <= 1, "max_beam_width is ", max_beam_width,
        "; beam search is not supported yet, expected 1");
  return engine;
}

}  // namespace

ModelSettings parse_model_config(std::string_view config_json, const std::string& name,
                                 uint64_t version, const fs::path& version_dir) {
  ModelSettings settings;
  settings.name = name;
  settings.version = version;
  const Json config = Json::parse(config_json, nullptr, /*allow_exceptions=*/false);
  check(config.is_object(), "the configuration of model ", name, " is not a JSON object");
  Parameters parameters(given_parameters(config), settings.warnings);
  settings.batching_numbers = read_model_type(parameters, settings.warnings);
  settings.stats_check_period = read_period(parameters, "stats_check_period_ms", settings.warnings);
  settings.cancellation_check_period =
      read_period(parameters, "cancellation_check_period_ms", settings.warnings);
  settings.engine = read_engine_config(parameters, config, version_dir);
  settings.engine.step_timeout = read_period(parameters, "step_timeout_ms", settings.warnings);
  settings.engine.queue_timeout = read_period(parameters, "queue_timeout_ms", settings.warnings);
  settings.reader.request_timeout =
      read_period(parameters, "request_timeout_ms", settings.warnings);
  settings.reader.exclude_input_in_output = parameters.flag("exclude_input_in_output", false);
  settings.reader.normalize_log_probs = parameters.flag("normalize_log_probs", true);
  const auto policy = config.value("model_transaction_policy", Json::object());
  settings.reader.decoupled = policy.value("decoupled", false);
  settings.reader.has_batch_dim = config.value("max_batch_size", 0) > 0;
  parameters.warn_of_unknown();
  settings.parameters = parameters.uses();
  return settings;
}

}  // namespace inflight::triton
