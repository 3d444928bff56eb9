#include "backend/triton/model_state.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "backend/triton/triton_error.h"
#include "kernels/core/check.h"

namespace inflight::triton {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

// Keys of the former backend that change nothing here.
constexpr std::array kHarmless = {"FORCE_CPU_ONLY_INPUT_TENSORS",
                                  "batch_scheduler_policy",
                                  "cuda_graph_cache_size",
                                  "cuda_graph_mode",
                                  "enable_context_fmha_fp32_acc",
                                  "enable_kv_cache_reuse",
                                  "enable_trt_overlap",
                                  "executor_worker_path",
                                  "gpu_weights_percent",
                                  "iter_stats_max_iterations",
                                  "multi_block_mode",
                                  "recv_poll_period_ms",
                                  "request_stats_max_iterations",
                                  "speculative_decoding_fast_logits",
                                  "tokenizer_dir",
                                  "xgrammar_tokenizer_info_path",
                                  "cross_kv_cache_fraction",
                                  "kv_cache_host_memory_bytes",
                                  "kv_cache_onboard_blocks",
                                  "lora_cache_optimal_adapter_size",
                                  "lora_cache_max_adapter_size",
                                  "lora_cache_gpu_memory_fraction",
                                  "lora_cache_host_memory_bytes",
                                  "num_nodes"};

/// The `parameters` of a model configuration. An empty value, or one that is still a template
/// placeholder, counts as absent. Remembers what was read, so that the rest can be named.
class Parameters {
 public:
  Parameters(const Json& config, std::vector<std::string>& warnings) : warnings_(warnings) {
    const auto found = config.find("parameters");
    if (found == config.end() || !found->is_object()) return;
    for (const auto& [key, value] : found->items()) {
      const std::string text = value.value("string_value", "");
      if (!text.empty() && text.rfind("${", 0) != 0) values_.emplace(key, text);
    }
  }

  std::optional<std::string> text(const std::string& key) {
    known_.insert(key);
    const auto found = values_.find(key);
    return found == values_.end() ? std::nullopt : std::optional(found->second);
  }

  template <typename T>
  std::optional<T> number(const std::string& key) {
    const std::optional<std::string> value = text(key);
    if (!value) return std::nullopt;
    T parsed{};
    const char* end = value->data() + value->size();
    const auto [stop, failure] = std::from_chars(value->data(), end, parsed);
    if (failure == std::errc() && stop == end) return parsed;
    warn(key, *value, "a number");
    return std::nullopt;
  }

  bool flag(const std::string& key, bool otherwise) {
    const std::optional<std::string> value = text(key);
    if (!value) return otherwise;
    for (const char* yes : {"true", "True", "TRUE", "1"})
      if (*value == yes) return true;
    for (const char* no : {"false", "False", "FALSE", "0"})
      if (*value == no) return false;
    warn(key, *value, "true or false");
    return otherwise;
  }

  void warn_of_unknown() {
    for (const auto& [key, value] : values_) {
      const bool harmless = std::find(kHarmless.begin(), kHarmless.end(), key) != kHarmless.end();
      if (!harmless && known_.count(key) == 0)
        warnings_.push_back(concat("parameter ", key, " = \"", value, "\" has no effect"));
    }
  }

 private:
  void warn(const std::string& key, const std::string& value, const char* expected) {
    warnings_.push_back(
        concat("parameter ", key, " = \"", value, "\" is not ", expected, "; its default is used"));
  }

  std::map<std::string, std::string> values_;
  std::set<std::string> known_;
  std::vector<std::string>& warnings_;
};

std::chrono::milliseconds read_period(Parameters& parameters, const char* key,
                                      std::vector<std::string>& warnings) {
  const int milliseconds = parameters.number<int>(key).value_or(0);
  if (milliseconds >= 0) return std::chrono::milliseconds(milliseconds);
  warnings.push_back(concat("parameter ", key, " = ", milliseconds, " is below 0; 0 is used"));
  return {};
}

/// The numbers that a model of this type shows.
BatchingNumbers read_model_type(Parameters& parameters, std::vector<std::string>& warnings) {
  const std::string type = parameters.text("gpt_model_type").value_or("inflight_fused_batching");
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
  const fs::path dir = version_dir / parameters.text("gpt_model_path").value_or("");
  check(fs::is_directory(dir), "gpt_model_path: the engine directory ", dir.string(),
        " does not exist");
  check(fs::exists(dir / "engine.json"), "gpt_model_path: ", dir.string(),
        " holds no engine.json; make one with `inflight build`");
  return dir;
}

/// The device of `gpu_device_ids`, unless `device` names one: "0", or a set for each instance of
/// the model, "0;1", of which this one takes the first.
std::string read_device(Parameters& parameters, const std::string& otherwise) {
  const std::string device = parameters.text("device").value_or(otherwise);
  const std::optional<std::string> ids = parameters.text("gpu_device_ids");
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
  engine.load_format = parameters.text("load_format").value_or(engine.load_format);
  engine.max_batch_size = parameters.number<int>("max_batch_size");
  engine.max_num_tokens = parameters.number<int>("max_num_tokens");
  engine.max_seq_len = parameters.number<int>("max_seq_len");
  engine.num_threads = parameters.number<int>("num_threads").value_or(engine.num_threads);
  engine.enable_chunked_context =
      parameters.flag("enable_chunked_context", engine.enable_chunked_context);
  engine.enable_cuda_graphs = parameters.flag("cuda_graph_mode", engine.enable_cuda_graphs);
  engine.kv_cache_max_tokens = parameters.number<int64_t>("max_tokens_in_paged_kv_cache");
  engine.kv_cache_max_bytes = parameters.number<int64_t>("kv_cache_max_bytes");
  engine.kv_cache_free_memory_fraction = parameters.number<double>("kv_cache_free_gpu_mem_fraction")
                                             .value_or(engine.kv_cache_free_memory_fraction);
  engine.check_invariants = parameters.flag("check_invariants", false);
  const auto queue =
      config.value(Json::json_pointer("/dynamic_batching/default_queue_policy"), Json::object());
  engine.max_queue_size =
      parameters.number<int>("max_queue_size").value_or(queue.value("max_queue_size", 0));
  const int max_beam_width = parameters.number<int>("max_beam_width").value_or(1);
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
  Parameters parameters(config, settings.warnings);
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
  return settings;
}

ModelState::ModelState(TRITONBACKEND_Model* model) {
  const char* name = nullptr;
  const char* location = nullptr;
  uint64_t version = 0;
  TRITONBACKEND_ArtifactType artifact = TRITONBACKEND_ARTIFACT_FILESYSTEM;
  check_triton(TRITONBACKEND_ModelName(model, &name), "ModelName");
  check_triton(TRITONBACKEND_ModelVersion(model, &version), "ModelVersion");
  check_triton(TRITONBACKEND_ModelRepository(model, &artifact, &location), "ModelRepository");
  check(artifact == TRITONBACKEND_ARTIFACT_FILESYSTEM, "model ", name,
        " does not lie in the file system");

  TRITONSERVER_Message* message = nullptr;
  check_triton(TRITONBACKEND_ModelConfig(model, /*config_version=*/1, &message), "ModelConfig");
  const std::unique_ptr<TRITONSERVER_Message, TRITONSERVER_Error* (*)(TRITONSERVER_Message*)> owned(
      message, TRITONSERVER_MessageDelete);
  const char* text = nullptr;
  size_t length = 0;
  check_triton(TRITONSERVER_MessageSerializeToJson(message, &text, &length),
               "MessageSerializeToJson");
  settings_ = parse_model_config(std::string_view(text, length), name, version,
                                 fs::path(location) / std::to_string(version));
  for (const std::string& warning : settings_.warnings)
    log(LogLevel::kWarning, name, ": ", warning);
}

}  // namespace inflight::triton
