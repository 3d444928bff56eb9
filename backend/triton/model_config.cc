#include "backend/triton/model_config.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>

#include "backend/triton/config_parameters.h"
#include "kernels/core/check.h"

namespace inflight::triton {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kModelType = "inflight_fused_batching";
constexpr const char* kOfEngine = "the engine's";

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

/// An engine directory, or a checkpoint of which one is to be built.
fs::path read_engine_dir(Parameters& parameters, const fs::path& version_dir) {
  const fs::path dir =
      version_dir / parameters.text("gpt_model_path", "the version's folder").value_or("");
  check(fs::is_directory(dir), "gpt_model_path: the engine directory ", dir.string(),
        " does not exist");
  check(fs::exists(dir / "engine.json") || fs::exists(dir / "config.json"),
        "gpt_model_path: ", dir.string(),
        " holds no engine.json, nor a checkpoint's config.json; make an engine with ",
        "`inflight build`");
  return dir;
}

/// The texts between `separator`s.
std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

/// Whether it is digits and nothing else; a number that no int holds is none.
std::optional<int> parse_count(const std::string& text) {
  int value = 0;
  const auto [stop, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || stop != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

/// One for each set of `gpu_device_ids` ("0", or "0;1" for two instances of the model), unless
/// `device` names the device of all.
std::vector<std::string> read_devices(Parameters& parameters, const std::string& otherwise) {
  const std::string device = parameters.text("device", otherwise).value_or(otherwise);
  std::optional<std::string> ids = parameters.text("gpu_device_ids", "none");
  if (!ids || device != "auto") return {device};
  std::erase(*ids, ' ');  // "0; 1"
  std::vector<std::string> devices;
  for (const std::string& set : split(*ids, ';')) {
    for (const std::string& id : split(set, ',')) {
      if (parse_count(id)) continue;
      parameters.unreadable("numbers", "none");
      return {device};
    }
    check(set.find(',') == std::string::npos, "gpu_device_ids is \"", *ids,
          "\"; this version runs a model on one GPU, expected one id for each instance");
    devices.push_back(concat("cuda:", set));
  }
  return devices;
}

/// Comma-separated, one a layer or one for all; the smallest counts.
std::optional<int> read_attention_window(Parameters& parameters) {
  constexpr const char* kOtherwise = "the longest sequence";
  std::optional<std::string> text = parameters.text("max_attention_window_size", kOtherwise);
  if (!text) return std::nullopt;
  std::erase(*text, ' ');  // "4096, 2048"
  std::optional<int> smallest;
  for (const std::string& part : split(*text, ',')) {
    const std::optional<int> window = parse_count(part);
    if (!window || *window == 0) {
      parameters.unreadable("numbers above 0", kOtherwise);
      return std::nullopt;
    }
    smallest = std::min(*window, smallest.value_or(*window));
  }
  return smallest;
}

/// Whether the configuration declares an output of logits as FP16; FP32 where it does not name it.
bool is_fp16(const Json& config, const std::string& output) {
  for (const Json& declared : config.value("output", Json::array())) {
    if (!declared.is_object() || declared.value("name", "") != output) continue;
    const std::string type = declared.value("data_type", "TYPE_FP32");
    check(type == "TYPE_FP32" || type == "TYPE_FP16", "output ", output, " is declared as ", type,
          ", expected TYPE_FP32 or TYPE_FP16");
    return type == "TYPE_FP16";
  }
  return false;
}

executor::EngineConfig read_engine_config(Parameters& parameters, const Json& config,
                                          const fs::path& version_dir, bool is_former_name) {
  executor::EngineConfig engine;
  engine.engine_dir = read_engine_dir(parameters, version_dir);
  engine.load_format =
      parameters.text("load_format", engine.load_format).value_or(engine.load_format);
  engine.max_batch_size = parameters.number<int>("max_batch_size", kOfEngine);
  engine.max_num_tokens = parameters.number<int>("max_num_tokens", kOfEngine);
  engine.max_seq_len = parameters.number<int>("max_seq_len", kOfEngine);
  engine.num_threads =
      parameters.number<int>("num_threads", "0, all cores").value_or(engine.num_threads);
  engine.enable_chunked_context =
      parameters.flag("enable_chunked_context", engine.enable_chunked_context);
  engine.batch_scheduler_policy =
      parameters.one_of("batch_scheduler_policy", engine.batch_scheduler_policy,
                        {"guaranteed_no_evict", "max_utilization", "static_batch"});
  engine.max_time_per_output_token_ms =
      parameters.number<double>("max_time_per_output_token_ms", "0, no bound")
          .value_or(engine.max_time_per_output_token_ms);
  // The former backend's knob was off by default, and filled in for its sake.
  const bool cuda_graphs = parameters.flag("cuda_graph_mode", engine.enable_cuda_graphs);
  if (!is_former_name) engine.enable_cuda_graphs = cuda_graphs;
  engine.kv_cache_max_tokens = parameters.number<int64_t>("max_tokens_in_paged_kv_cache", "no cap");
  engine.kv_cache_max_bytes = parameters.number<int64_t>("kv_cache_max_bytes", "no cap");
  engine.kv_cache_free_memory_fraction =
      parameters
          .number<double>("kv_cache_free_gpu_mem_fraction",
                          concat(engine.kv_cache_free_memory_fraction))
          .value_or(engine.kv_cache_free_memory_fraction);
  engine.kv_cache_host_memory_bytes =
      parameters.number<int64_t>("kv_cache_host_memory_bytes", "0, none")
          .value_or(engine.kv_cache_host_memory_bytes);
  engine.enable_kv_cache_reuse =
      parameters.flag("enable_kv_cache_reuse", engine.enable_kv_cache_reuse);
  engine.kv_cache_onboard_blocks =
      parameters.flag("kv_cache_onboard_blocks", engine.kv_cache_onboard_blocks);
  engine.kv_cache_event_buffer_max_size =
      parameters.number<int64_t>("kv_cache_event_buffer_max_size", "0, none")
          .value_or(engine.kv_cache_event_buffer_max_size);
  engine.kv_cache_dtype =
      parameters.text("kv_cache_dtype", engine.kv_cache_dtype).value_or(engine.kv_cache_dtype);
  engine.max_logits_bytes =
      parameters.number<int64_t>("max_logits_bytes", "0, a quarter of what is free")
          .value_or(engine.max_logits_bytes);
  engine.check_invariants = parameters.flag("check_invariants", false);
  const auto queue =
      config.value(Json::json_pointer("/dynamic_batching/default_queue_policy"), Json::object());
  const int queue_size = queue.value("max_queue_size", 0);
  engine.max_queue_size =
      parameters.number<int>("max_queue_size", concat(queue_size)).value_or(queue_size);
  return engine;
}

}  // namespace

ModelRole role_of_config(std::string_view config_json) {
  const Json config = Json::parse(config_json, nullptr, /*allow_exceptions=*/false);
  const Json::json_pointer at("/parameters/role/string_value");
  if (!config.is_object() || !config.contains(at)) return ModelRole::kEngine;
  const std::string role = config[at];
  if (role == "bls") return ModelRole::kBls;
  check(role == "relay", "parameter role is \"", role, "\", expected relay or bls");
  int num_instances = 0;
  for (const Json& group : config.value("instance_group", Json::array()))
    num_instances += group.value("count", 1);
  check(num_instances <= 1 && !config.contains("dynamic_batching"), "a relay with ",
        num_instances > 1 ? concat(num_instances, " instances") : "dynamic_batching",
        " does not keep the order of a stream; expected one instance, without dynamic_batching");
  return ModelRole::kRelay;
}

ModelSettings parse_model_config(std::string_view config_json, const std::string& name,
                                 uint64_t version, const fs::path& version_dir,
                                 std::string_view backend) {
  const bool is_former_name = backend == kFormerName;
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
  settings.engine = read_engine_config(parameters, config, version_dir, is_former_name);
  settings.devices = read_devices(parameters, settings.engine.device);
  settings.engine.device = settings.devices[0];
  settings.attention_window = read_attention_window(parameters);
  settings.reader.allow_unknown_ids = is_former_name;
  settings.engine.step_timeout = read_period(parameters, "step_timeout_ms", settings.warnings);
  settings.engine.queue_timeout = read_period(parameters, "queue_timeout_ms", settings.warnings);
  settings.reader.request_timeout =
      read_period(parameters, "request_timeout_ms", settings.warnings);
  settings.reader.exclude_input_in_output = parameters.flag("exclude_input_in_output", false);
  settings.use_model_end_ids = parameters.flag("use_model_end_ids", false);
  settings.reader.normalize_log_probs = parameters.flag("normalize_log_probs", true);
  settings.reader.context_logits_are_fp16 = is_fp16(config, "context_logits");
  settings.reader.generation_logits_are_fp16 = is_fp16(config, "generation_logits");
  const auto policy = config.value("model_transaction_policy", Json::object());
  settings.reader.decoupled = policy.value("decoupled", false);
  settings.reader.has_batch_dim = config.value("max_batch_size", 0) > 0;
  parameters.judge_the_rest(settings.notes);
  if (config.contains("dynamic_batching"))
    settings.notes.push_back(
        "dynamic_batching holds requests back that the engine would batch by itself, and the "
        "batcher of some servers damages their memory when over 1,000 requests wait; better "
        "without");
  settings.parameters = parameters.uses();
  return settings;
}

void check_attention_window(const ModelSettings& settings, const executor::EngineInfo& info) {
  if (!settings.attention_window) return;
  const auto sees_no_more = [&](const executor::KvGroupInfo& group) {
    return group.window > 0 && group.window <= *settings.attention_window;
  };
  if (!info.kv_groups.empty() && std::ranges::all_of(info.kv_groups, sees_no_more)) return;
  check(*settings.attention_window >= info.max_seq_len, "max_attention_window_size is ",
        *settings.attention_window, ", smaller than the longest sequence of ", info.max_seq_len,
        "; windows are those that the model was made with: leave it out, or set max_seq_len");
}

}  // namespace inflight::triton
