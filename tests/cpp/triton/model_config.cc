// What config.pbtxt (as Triton's JSON) turns into.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "backend/triton/bls_settings.h"
#include "backend/triton/engine_builder.h"
#include "backend/triton/model_state.h"
#include "tests/cpp/triton/instance_fixture.h"

namespace inflight::testing {
namespace {

namespace fs = std::filesystem;
using triton::ModelSettings;

/// A folder with an engine.json in it, removed at the end.
struct EngineFolder {
  EngineFolder() {
    std::string name = (fs::temp_directory_path() / "inflight-config-XXXXXX").string();
    path = ::mkdtemp(name.data());
    std::ofstream(path / "engine.json") << "{}";
  }
  ~EngineFolder() { fs::remove_all(path); }
  fs::path path;
};

std::string parameter(const std::string& key, const std::string& value) {
  return "\"" + key + "\": {\"string_value\": \"" + value + "\"}";
}

std::string config(const std::string& parameters, const std::string& more = "") {
  return "{\"max_batch_size\": 8, " + more + "\"parameters\": {" + parameters + "}}";
}

ModelSettings parse(const std::string& json, const fs::path& version_dir) {
  return triton::parse_model_config(json, "tensorrt_llm", 3, version_dir);
}

std::string error_of(const std::string& json, const fs::path& version_dir) {
  try {
    parse(json, version_dir);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

void steps_of_the_bls() {
  std::string links = parameter("role", "bls");
  const auto add = [&](const char* key, const char* value) {
    links += ", " + parameter(key, value);
  };
  add("preprocessing_inputs", "QUERY=text_input");
  add("preprocessing_outputs", "IDS=_IDS  LENGTHS=_LENGTHS");
  add("tensorrt_llm_inputs", "input_ids=_IDS seed");
  add("tensorrt_llm_outputs", "output_ids=_SAID");
  add("postprocessing_inputs", "TOKENS=_SAID");
  const std::string without = links;
  add("postprocessing_outputs", "OUTPUT=text_output");
  const std::string whole = links;
  add("tensorrt_llm_model_name", "llm");
  add("accumulate_tokens", "true");
  add("multimodal_encoders_name", "");
  add("bls_instances", "3");
  const std::string policy = "\"model_transaction_policy\": {\"decoupled\": true},";
  const auto settings = triton::parse_bls_config(config(links, policy), "bls");
  EXPECT(settings.decoupled && settings.accumulate_tokens);
  EXPECT_EQ(settings.preprocessing.model, "preprocessing");
  EXPECT_EQ(settings.generation.model, "llm");
  EXPECT_EQ(settings.preprocessing.outputs.size(), 2u);
  EXPECT_EQ(settings.preprocessing.outputs.at(1).model_tensor, "LENGTHS");
  EXPECT_EQ(settings.preprocessing.outputs.at(1).bls_tensor, "_LENGTHS");
  EXPECT_EQ(settings.generation.inputs.at(1).model_tensor, "seed");
  EXPECT_EQ(settings.generation.inputs.at(1).bls_tensor, "seed");
  EXPECT_EQ(settings.warnings.size(), 1u);
  EXPECT_EQ(settings.warnings.at(0), "parameter bls_instances = \"3\" has no effect");

  const auto error_of_bls = [](const std::string& parameters) -> std::string {
    try {
      triton::parse_bls_config(config(parameters), "bls");
    } catch (const Error& error) {
      return error.what();
    }
    return "none";
  };
  EXPECT_EQ(error_of_bls(whole), "none");
  EXPECT_EQ(error_of_bls(without),
            "parameter postprocessing_outputs names no tensor, expected model_tensor=bls_tensor or "
            "names, with blanks between");
  EXPECT_EQ(error_of_bls(without + ", " + parameter("postprocessing_outputs", "OUTPUT=")),
            "parameter postprocessing_outputs: \"OUTPUT=\" lacks a name, expected "
            "model_tensor=bls_tensor");
  for (const char* key : {"tensorrt_llm_draft_model_name", "multimodal_encoders_name"})
    EXPECT_EQ(
        error_of_bls(whole + ", " + parameter(key, "x")),
        concat("parameter ", key, " = \"x\": draft models and encoders are not supported yet"));
}

void relays_keep_order() {
  const std::string relay = parameter("role", "relay");
  const auto error_of_relay = [](const std::string& json) -> std::string {
    try {
      const triton::ModelRole role = triton::role_of_config(json);
      return role == triton::ModelRole::kRelay ? "a relay" : "no relay";
    } catch (const Error& error) {
      return error.what();
    }
  };
  EXPECT_EQ(error_of_relay(config(relay, "\"instance_group\": [{\"count\": 1}],")), "a relay");
  EXPECT_EQ(error_of_relay(config(relay)), "a relay");
  EXPECT_EQ(error_of_relay(config(parameter("role", "bls"))), "no relay");
  EXPECT_EQ(error_of_relay(config(parameter("role", "other"))),
            "parameter role is \"other\", expected relay or bls");
  EXPECT_EQ(error_of_relay("{}"), "no relay");
  EXPECT_CONTAINS(error_of_relay(config(relay, "\"instance_group\": [{\"count\": 2}],")),
                  "a relay with 2 instances");
  EXPECT_CONTAINS(error_of_relay(config(relay, "\"dynamic_batching\": {},")),
                  "a relay with dynamic_batching");
}

void reads_every_setting() {
  EngineFolder folder;
  const ModelSettings settings =
      parse(config(parameter("gpt_model_type", "inflight_fused_batching") + "," +
                       parameter("gpt_model_path", folder.path.string()) + "," +
                       parameter("device", "cpu") + "," +
                       parameter("max_tokens_in_paged_kv_cache", "4096") + "," +
                       parameter("kv_cache_max_bytes", "1000000") + "," +
                       parameter("kv_cache_free_gpu_mem_fraction", "0.5") + "," +
                       parameter("kv_cache_host_memory_bytes", "3000000000") + "," +
                       parameter("max_logits_bytes", "5000000000") + "," +
                       parameter("kv_cache_event_buffer_max_size", "400") + "," +
                       parameter("kv_cache_onboard_blocks", "false") + "," +
                       parameter("kv_cache_dtype", "int8") + "," +
                       parameter("enable_chunked_context", "False") + "," +
                       parameter("cuda_graph_mode", "false") + "," +
                       parameter("exclude_input_in_output", "TRUE") + "," +
                       parameter("normalize_log_probs", "false") + "," +
                       parameter("use_model_end_ids", "true") + "," +
                       parameter("max_num_tokens", "256") + "," + parameter("num_threads", "2"),
                   "\"model_transaction_policy\": {\"decoupled\": true}, \"dynamic_batching\": "
                   "{\"default_queue_policy\": {\"max_queue_size\": 17}}, "),
            "/nowhere");
  EXPECT_EQ(settings.engine.engine_dir.string(), folder.path.string());
  EXPECT_EQ(settings.devices.size(), 1u);
  EXPECT_EQ(settings.devices[0], "cpu");
  EXPECT_EQ(settings.engine.kv_cache_max_tokens.value_or(0), 4096);
  EXPECT_EQ(settings.engine.kv_cache_max_bytes.value_or(0), 1000000);
  EXPECT_EQ(settings.engine.kv_cache_free_memory_fraction, 0.5);
  EXPECT_EQ(settings.engine.kv_cache_host_memory_bytes, 3000000000);
  EXPECT_EQ(settings.engine.max_logits_bytes, 5000000000);
  EXPECT_EQ(settings.engine.kv_cache_event_buffer_max_size, 400);
  EXPECT(!settings.engine.kv_cache_onboard_blocks);
  EXPECT_EQ(settings.engine.kv_cache_dtype, "int8");
  EXPECT(!settings.engine.enable_chunked_context);
  EXPECT(!settings.engine.enable_cuda_graphs);
  EXPECT_EQ(settings.engine.max_num_tokens.value_or(0), 256);
  EXPECT_EQ(settings.engine.num_threads, 2);
  EXPECT_EQ(settings.engine.max_queue_size, 17);
  EXPECT(settings.reader.exclude_input_in_output);
  EXPECT(!settings.reader.normalize_log_probs);
  EXPECT(settings.use_model_end_ids);
  EXPECT(settings.reader.decoupled);
  EXPECT(settings.reader.has_batch_dim);
  EXPECT(settings.warnings.empty());
}

void the_queue_is_bound_by_a_parameter_first() {
  const EngineFolder folder;
  const std::string engine = parameter("gpt_model_path", folder.path.string());
  const char* batching =
      "\"dynamic_batching\": {\"default_queue_policy\": {\"max_queue_size\": 17}}, ";
  const auto bound = [](const ModelSettings& settings) { return settings.engine.max_queue_size; };
  EXPECT_EQ(bound(parse(config(engine), "/nowhere")), 0);
  const std::string both = engine + "," + parameter("max_queue_size", "3");
  EXPECT_EQ(bound(parse(config(both), "/nowhere")), 3);
  EXPECT_EQ(bound(parse(config(both, batching), "/nowhere")), 3);
}

void gpu_ids_name_the_device() {
  EngineFolder folder;
  const auto device_of = [&](const std::string& parameters) {
    std::string text;
    for (const std::string& device : parse(config(parameters), folder.path).devices)
      text += (text.empty() ? "" : " ") + device;
    return text;
  };
  EXPECT_EQ(device_of(""), "auto");
  EXPECT_EQ(device_of(parameter("gpu_device_ids", "1")), "cuda:1");
  EXPECT_EQ(device_of(parameter("gpu_device_ids", "2;3")), "cuda:2 cuda:3");
  EXPECT_EQ(device_of(parameter("gpu_device_ids", "1") + "," + parameter("device", "cpu")), "cpu");
  const std::string two = error_of(config(parameter("gpu_device_ids", "0,1")), folder.path);
  EXPECT(two.find("one GPU") != std::string::npos);
  for (const char* wrong : {"x", "0;", "0,x", "-1"}) {
    const ModelSettings unread = parse(config(parameter("gpu_device_ids", wrong)), folder.path);
    EXPECT((unread.devices == std::vector<std::string>{"auto"}));
    EXPECT_EQ(unread.warnings.size(), 1u);
    EXPECT_EQ(unread.warnings.at(0), concat("parameter gpu_device_ids = \"", wrong,
                                            "\" is not numbers; its default is used"));
  }
  const ModelSettings dummy = parse(config(parameter("load_format", "dummy")), folder.path);
  EXPECT_EQ(dummy.engine.load_format, "dummy");
  EXPECT(dummy.warnings.empty());
}

void placeholders_and_empty_values_are_absent() {
  EngineFolder folder;
  const ModelSettings settings =
      parse(config(parameter("gpt_model_type", "${batching_strategy}") + "," +
                   parameter("gpt_model_path", "${engine_dir}") + "," +
                   parameter("max_tokens_in_paged_kv_cache", "${max_tokens_in_paged_kv_cache}") +
                   "," + parameter("exclude_input_in_output", "")),
            folder.path);
  EXPECT_EQ(settings.engine.engine_dir.parent_path().string(), folder.path.string());
  EXPECT(!settings.engine.kv_cache_max_tokens.has_value());
  EXPECT(!settings.reader.exclude_input_in_output);
  EXPECT(!settings.use_model_end_ids);
  EXPECT(!settings.reader.decoupled);
  EXPECT(settings.warnings.empty());
}

void relative_paths_belong_to_the_version() {
  EngineFolder folder;
  fs::create_directory(folder.path / "inner");
  std::ofstream(folder.path / "inner" / "engine.json") << "{}";
  const ModelSettings settings = parse(config(parameter("gpt_model_path", "inner")), folder.path);
  EXPECT_EQ(settings.engine.engine_dir.string(), (folder.path / "inner").string());
}

void reads_the_servers_model() {
  EngineFolder folder;
  fs::create_directory(folder.path / "7");
  fs::rename(folder.path / "engine.json", folder.path / "7" / "engine.json");
  TRITONBACKEND_Model model{"llm", 7, folder.path.string(), config("")};
  const triton::ModelState state(&model);
  EXPECT_EQ(state.settings().name, "llm");
  EXPECT_EQ(state.settings().version, 7u);
  EXPECT(fs::equivalent(state.settings().engine.engine_dir, folder.path / "7"));
}

void logits_are_of_the_type_declared() {
  EngineFolder folder;
  const auto with_outputs = [&](const std::string& outputs) {
    return parse(config("", "\"output\": [" + outputs + "], "), folder.path).reader;
  };
  EXPECT(!with_outputs("").context_logits_are_fp16);
  const std::string context = R"({"name": "context_logits", "data_type": "TYPE_FP16"})";
  const std::string generation = R"({"name": "generation_logits", "data_type": "TYPE_FP32"})";
  const triton::ReaderOptions both = with_outputs(context + "," + generation);
  EXPECT(both.context_logits_are_fp16 && !both.generation_logits_are_fp16);
  EXPECT_EQ(
      error_of(
          config("", R"("output": [{"name": "generation_logits", "data_type": "TYPE_BF16"}], )"),
          folder.path),
      "output generation_logits is declared as TYPE_BF16, expected TYPE_FP32 or TYPE_FP16");
}

void wrong_values() {
  EngineFolder folder;
  EXPECT_EQ(error_of(config(parameter("gpt_model_type", "fancy")), folder.path),
            "Invalid gpt_model_type \"fancy\": expected inflight_fused_batching, "
            "inflight_batching or V1");
  EXPECT_EQ(error_of(config(parameter("gpt_model_path", "/no/such/folder")), folder.path),
            "gpt_model_path: the engine directory /no/such/folder does not exist");
  EXPECT_EQ(
      error_of(config(parameter("gpt_model_path", "/")), folder.path),
      "gpt_model_path: / holds no engine.json, nor a checkpoint's config.json; make an engine "
      "with `inflight build`");
  EXPECT_EQ(error_of("[]", folder.path),
            "the configuration of model tensorrt_llm is not a JSON object");

  const ModelSettings settings =
      parse(config(parameter("gpt_model_type", "V1") + "," + parameter("max_num_tokens", "many") +
                   "," + parameter("enable_chunked_context", "maybe") + "," +
                   parameter("no_such_key", "1") + "," + parameter("multi_block_mode", "true")),
            folder.path);
  EXPECT_EQ(settings.warnings.size(), 4u);
  EXPECT_EQ(settings.warnings[0],
            "Static batching type is deprecated: requests are batched in flight");
  EXPECT(!settings.engine.max_num_tokens.has_value());
  EXPECT(settings.engine.enable_chunked_context);
  EXPECT(settings.engine.enable_cuda_graphs);
  EXPECT(settings.batching_numbers == triton::BatchingNumbers::kV1);
}

void periods_of_checks() {
  EngineFolder folder;
  const ModelSettings given = parse(
      config(parameter("stats_check_period_ms", "250") + "," +
             parameter("cancellation_check_period_ms", "40") + "," +
             parameter("request_timeout_ms", "5000") + "," + parameter("queue_timeout_ms", "700") +
             "," + parameter("step_timeout_ms", "30000") + "," +
             parameter("max_time_per_output_token_ms", "12.5") + "," +
             parameter("batch_scheduler_policy", "max_utilization")),
      folder.path);
  EXPECT_EQ(given.engine.max_time_per_output_token_ms, 12.5);
  EXPECT_EQ(given.engine.batch_scheduler_policy, "max_utilization");
  EXPECT_EQ(given.stats_check_period.count(), 250);
  EXPECT_EQ(given.cancellation_check_period.count(), 40);
  EXPECT_EQ(given.reader.request_timeout.count(), 5000);
  EXPECT_EQ(given.engine.queue_timeout.count(), 700);
  EXPECT_EQ(given.engine.step_timeout.count(), 30000);
  EXPECT(given.warnings.empty());
  EXPECT(given.batching_numbers == triton::BatchingNumbers::kInflight);
  const ModelSettings wrong = parse(config(parameter("stats_check_period_ms", "-1")), folder.path);
  EXPECT_EQ(wrong.stats_check_period.count(), 0);
  EXPECT_EQ(wrong.engine.max_time_per_output_token_ms, 0.0);
  EXPECT_EQ(wrong.engine.batch_scheduler_policy, "guaranteed_no_evict");
  EXPECT_EQ(wrong.warnings.size(), 1u);
}

void spellings() {
  EngineFolder folder;
  for (const char* yes : {"true", "True", "TRUE", "1"})
    EXPECT(parse(config(parameter("exclude_input_in_output", yes)), folder.path)
               .reader.exclude_input_in_output);
  for (const char* no : {"false", "False", "FALSE", "0"})
    EXPECT(!parse(config(parameter("normalize_log_probs", no)), folder.path)
                .reader.normalize_log_probs);
  for (const auto& [type, numbers] :
       {std::pair{"V1", triton::BatchingNumbers::kV1},
        {"v1", triton::BatchingNumbers::kV1},
        {"inflight_batching", triton::BatchingNumbers::kInflight},
        {"inflight_fused_batching", triton::BatchingNumbers::kInflight}}) {
    const ModelSettings settings = parse(config(parameter("gpt_model_type", type)), folder.path);
    EXPECT(settings.batching_numbers == numbers);
    EXPECT_EQ(settings.warnings.size(), numbers == triton::BatchingNumbers::kV1 ? 1u : 0u);
  }
}

/// As people fill templates: blanks around values, and names that are none.
void values_filled_by_hand() {
  EngineFolder folder;
  const ModelSettings given = parse(
      config(parameter("kv_cache_free_gpu_mem_fraction", " 0.5 ") + "," +
             parameter("enable_chunked_context", "false\\n") + "," + parameter("device", " ") +
             "," + parameter("max_num_tokens", " ${max_num_tokens}") + "," +
             parameter("batch_scheduler_policy", "MAX_UTILIZATION") + "," +
             parameter("gpu_device_ids", "0; 1") + "," +
             parameter("max_attention_window_size", "4096, 2048")),
      folder.path);
  EXPECT((given.devices == std::vector<std::string>{"cuda:0", "cuda:1"}));
  EXPECT_EQ(given.attention_window.value_or(0), 2048);
  EXPECT_EQ(given.engine.kv_cache_free_memory_fraction, 0.5);
  EXPECT(!given.engine.enable_chunked_context);
  EXPECT_EQ(given.engine.batch_scheduler_policy, "guaranteed_no_evict");
  EXPECT_EQ(given.warnings.size(), 1u);
  EXPECT_EQ(given.warnings[0],
            "parameter batch_scheduler_policy = \"MAX_UTILIZATION\" is not guaranteed_no_evict, "
            "max_utilization or static_batch; its default is used");
}

/// Every parameter of the former backend is honoured, harmless, or named.
void former_parameters() {
  EngineFolder folder;
  const auto parsed = [&](const std::string& parameters) {
    return parse(config(parameters), folder.path);
  };
  const ModelSettings harmless = parsed(
      parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "no") + "," +
      parameter("multi_block_mode", "true") + "," + parameter("enable_trt_overlap", "False") + "," +
      parameter("gpu_weights_percent", "1.0") + "," + parameter("decoding_mode", "top_k_top_p") +
      "," + parameter("sink_token_length", "0") + "," +
      parameter("encoder_model_path", "${encoder}") + "," + parameter("participant_ids", "0") +
      "," + parameter("max_beam_width", "1"));
  EXPECT(harmless.warnings.empty());
  EXPECT_EQ(harmless.notes.size(), 1u);
  EXPECT_CONTAINS(harmless.notes[0],
                  "parameters of the former backend that change nothing: "
                  "FORCE_CPU_ONLY_INPUT_TENSORS, decoding_mode");

  const auto warning = [&](const char* key, const char* value) {
    const ModelSettings settings = parsed(parameter(key, value));
    EXPECT_EQ(settings.warnings.size(), 1u);
    return settings.warnings.empty() ? std::string() : settings.warnings[0];
  };
  EXPECT_CONTAINS(warning("max_beam_width", "4"), "beam search is not supported yet");
  EXPECT_CONTAINS(warning("guided_decoding_backend", "xgrammar"), "guided decoding is not");
  EXPECT_CONTAINS(warning("lora_prefetch_dir", "/adapters"), "LoRA is not supported yet");
  EXPECT_CONTAINS(warning("decoding_mode", "lookahead"), "speculative decoding");
  EXPECT_CONTAINS(warning("decoding_mode", "no_such_mode"), "expected top_k_top_p");
  EXPECT_CONTAINS(warning("participant_ids", "1,2"), "one process");

  const auto refusal = [&](const char* key, const char* value) {
    return error_of(config(parameter(key, value)), folder.path);
  };
  EXPECT_EQ(refusal("encoder_model_path", "/encoder"),
            "parameter encoder_model_path = \"/encoder\": models with an encoder are not supported "
            "yet");
  EXPECT_CONTAINS(refusal("sink_token_length", "4"), "sink tokens are not supported");
  EXPECT_CONTAINS(refusal("num_nodes", "2"), "num_nodes = \"2\"");
  EXPECT_CONTAINS(refusal("decoding_mode", "medusa"), "speculative decoding is not supported yet");
  for (const char* wrong : {"many", "0", "4096,", "99999999999"}) {
    EXPECT_CONTAINS(warning("max_attention_window_size", wrong), "is not numbers above 0");
    EXPECT(!parsed(parameter("max_attention_window_size", wrong)).attention_window.has_value());
  }
}

void attention_windows() {
  EngineFolder folder;
  executor::EngineInfo info;
  info.max_seq_len = 4096;
  const auto error_for = [&](const std::string& parameters) -> std::string {
    try {
      triton::check_attention_window(parse(config(parameters), folder.path), info);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(error_for(""), "");
  EXPECT_EQ(error_for(parameter("max_attention_window_size", "4096,8192")), "");
  EXPECT_CONTAINS(error_for(parameter("max_attention_window_size", "8192,1024")),
                  "max_attention_window_size is 1024, smaller than the longest sequence of 4096");
  // It cuts nothing off where all layers have such a window already.
  info.kv_groups = {{.window = 1024}, {.window = 512}};
  EXPECT_EQ(error_for(parameter("max_attention_window_size", "1024")), "");
  EXPECT_CONTAINS(error_for(parameter("max_attention_window_size", "1000")), "is 1000, smaller");
  info.kv_groups.push_back({.window = 0});
  EXPECT_CONTAINS(error_for(parameter("max_attention_window_size", "1024")), "is 1024, smaller");
}

void the_former_name() {
  EngineFolder folder;
  const std::string json = config(parameter("cuda_graph_mode", "false"));
  const auto named = [&](const char* backend) {
    return triton::parse_model_config(json, "llm", 1, folder.path, backend);
  };
  EXPECT(named("tensorrtllm").reader.allow_unknown_ids);
  EXPECT(named("tensorrtllm").engine.enable_cuda_graphs);  // not what that backend meant by it
  EXPECT(!named("inflight").reader.allow_unknown_ids);
  EXPECT(!named("inflight").engine.enable_cuda_graphs);
}

void instances_take_devices_in_turn() {
  EngineFolder folder;
  fs::create_directory(folder.path / "1");
  fs::rename(folder.path / "engine.json", folder.path / "1" / "engine.json");
  TRITONBACKEND_Model model{"llm", 1, folder.path.string(),
                            config(parameter("gpu_device_ids", "2;5"))};
  triton::ModelState state(&model);
  for (const char* device : {"cuda:2", "cuda:5", "cuda:2"})
    EXPECT_EQ(state.next_engine().device, device);
}

/// A checkpoint where an engine is wanted: the compiler's answer is the engine, its words the
/// error.
void checkpoints_are_compiled() {
  EngineFolder folder;
  const fs::path engine = folder.path / "engine.json";
  const fs::path checkpoint = folder.path / "checkpoint";
  fs::create_directory(checkpoint);
  std::ofstream(checkpoint / "config.json") << "{}";
  EXPECT_EQ(parse(config(parameter("gpt_model_path", "checkpoint")), folder.path)
                .engine.engine_dir.string(),
            checkpoint.string());

  const fs::path compiler = folder.path / "compiler";
  const auto build_with = [&](const std::string& script) -> std::string {
    std::ofstream(compiler) << "#!/bin/sh\n" << script;
    fs::permissions(compiler, fs::perms::owner_all);
    try {
      const triton::Compiler how{compiler.string(), "/some/folder"};
      return triton::build_engine(how, checkpoint, {"--max-seq-len", "7"}).string();
    } catch (const Error& error) {
      return error.what();
    }
  };
  EXPECT_EQ(build_with("echo chatter; echo " + folder.path.string()), folder.path.string());
  EXPECT_CONTAINS(build_with("echo $0 $* >&2; echo $PYTHONPATH >&2; exit 3"),
                  "-m inflight.builder " + checkpoint.string() + " --max-seq-len 7\n/some/folder");
  EXPECT_CONTAINS(build_with("exit 3"), "make one with `inflight build`");
  EXPECT_CONTAINS(build_with("echo /no/such/engine"), "no engine could be built");
  fs::remove(compiler);
  try {
    triton::build_engine({compiler.string(), ""}, checkpoint, {});
    EXPECT(false);
  } catch (const Error& error) {
    EXPECT_CONTAINS(error.what(), "No such file");
  }
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases(
      {
          {"relays_keep_order", relays_keep_order},
          {"steps_of_the_bls", steps_of_the_bls},
          {"reads_every_setting", reads_every_setting},
          {"the_queue_is_bound_by_a_parameter_first", the_queue_is_bound_by_a_parameter_first},
          {"gpu_ids_name_the_device", gpu_ids_name_the_device},
          {"placeholders_and_empty_values_are_absent", placeholders_and_empty_values_are_absent},
          {"relative_paths_belong_to_the_version", relative_paths_belong_to_the_version},
          {"reads_the_servers_model", reads_the_servers_model},
          {"logits_are_of_the_type_declared", logits_are_of_the_type_declared},
          {"wrong_values", wrong_values},
          {"former_parameters", former_parameters},
          {"attention_windows", attention_windows},
          {"the_former_name", the_former_name},
          {"instances_take_devices_in_turn", instances_take_devices_in_turn},
          {"checkpoints_are_compiled", checkpoints_are_compiled},
          {"periods_of_checks", periods_of_checks},
          {"spellings", spellings},
          {"values_filled_by_hand", values_filled_by_hand},
      },
      argc, argv);
}
