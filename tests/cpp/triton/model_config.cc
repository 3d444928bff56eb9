// What config.pbtxt (as Triton's JSON) turns into.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "backend/triton/model_state.h"
#include "tests/cpp/testing.h"
#include "tests/cpp/triton/fake_triton.h"

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

void reads_every_setting() {
  EngineFolder folder;
  const ModelSettings settings =
      parse(config(parameter("gpt_model_type", "inflight_fused_batching") + "," +
                       parameter("gpt_model_path", folder.path.string()) + "," +
                       parameter("device", "cpu") + "," +
                       parameter("max_tokens_in_paged_kv_cache", "4096") + "," +
                       parameter("kv_cache_max_bytes", "1000000") + "," +
                       parameter("kv_cache_free_gpu_mem_fraction", "0.5") + "," +
                       parameter("enable_chunked_context", "False") + "," +
                       parameter("cuda_graph_mode", "false") + "," +
                       parameter("exclude_input_in_output", "TRUE") + "," +
                       parameter("normalize_log_probs", "false") + "," +
                       parameter("max_num_tokens", "256") + "," + parameter("num_threads", "2"),
                   "\"model_transaction_policy\": {\"decoupled\": true}, \"dynamic_batching\": "
                   "{\"default_queue_policy\": {\"max_queue_size\": 17}}, "),
            "/nowhere");
  EXPECT_EQ(settings.engine.engine_dir.string(), folder.path.string());
  EXPECT_EQ(settings.engine.device, "cpu");
  EXPECT_EQ(settings.engine.kv_cache_max_tokens.value_or(0), 4096);
  EXPECT_EQ(settings.engine.kv_cache_max_bytes.value_or(0), 1000000);
  EXPECT_EQ(settings.engine.kv_cache_free_memory_fraction, 0.5);
  EXPECT(!settings.engine.enable_chunked_context);
  EXPECT(!settings.engine.enable_cuda_graphs);
  EXPECT_EQ(settings.engine.max_num_tokens.value_or(0), 256);
  EXPECT_EQ(settings.engine.num_threads, 2);
  EXPECT_EQ(settings.engine.max_queue_size, 17);
  EXPECT(settings.reader.exclude_input_in_output);
  EXPECT(!settings.reader.normalize_log_probs);
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
    return parse(config(parameters), folder.path).engine.device;
  };
  EXPECT_EQ(device_of(""), "auto");
  EXPECT_EQ(device_of(parameter("gpu_device_ids", "1")), "cuda:1");
  EXPECT_EQ(device_of(parameter("gpu_device_ids", "2;3")), "cuda:2");
  EXPECT_EQ(device_of(parameter("gpu_device_ids", "1") + "," + parameter("device", "cpu")), "cpu");
  const std::string two = error_of(config(parameter("gpu_device_ids", "0,1")), folder.path);
  EXPECT(two.find("one GPU") != std::string::npos);
  const std::string none = error_of(config(parameter("gpu_device_ids", "x")), folder.path);
  EXPECT(none.find("expected a number") != std::string::npos);
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

void wrong_values() {
  EngineFolder folder;
  EXPECT_EQ(error_of(config(parameter("gpt_model_type", "fancy")), folder.path),
            "Invalid gpt_model_type \"fancy\": expected inflight_fused_batching, "
            "inflight_batching or V1");
  EXPECT_EQ(error_of(config(parameter("gpt_model_path", "/no/such/folder")), folder.path),
            "gpt_model_path: the engine directory /no/such/folder does not exist");
  EXPECT_EQ(error_of(config(parameter("gpt_model_path", "/")), folder.path),
            "gpt_model_path: / holds no engine.json; make one with `inflight build`");
  EXPECT_EQ(error_of(config(parameter("max_beam_width", "4")), folder.path),
            "max_beam_width is 4; beam search is not supported yet, expected 1");
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
             "," + parameter("step_timeout_ms", "30000")),
      folder.path);
  EXPECT_EQ(given.stats_check_period.count(), 250);
  EXPECT_EQ(given.cancellation_check_period.count(), 40);
  EXPECT_EQ(given.reader.request_timeout.count(), 5000);
  EXPECT_EQ(given.engine.queue_timeout.count(), 700);
  EXPECT_EQ(given.engine.step_timeout.count(), 30000);
  EXPECT(given.warnings.empty());
  EXPECT(given.batching_numbers == triton::BatchingNumbers::kInflight);
  const ModelSettings wrong = parse(config(parameter("stats_check_period_ms", "-1")), folder.path);
  EXPECT_EQ(wrong.stats_check_period.count(), 0);
  EXPECT_EQ(wrong.warnings.size(), 1u);
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases(
      {
          {"reads_every_setting", reads_every_setting},
          {"the_queue_is_bound_by_a_parameter_first", the_queue_is_bound_by_a_parameter_first},
          {"gpu_ids_name_the_device", gpu_ids_name_the_device},
          {"placeholders_and_empty_values_are_absent", placeholders_and_empty_values_are_absent},
          {"relative_paths_belong_to_the_version", relative_paths_belong_to_the_version},
          {"reads_the_servers_model", reads_the_servers_model},
          {"wrong_values", wrong_values},
          {"periods_of_checks", periods_of_checks},
      },
      argc, argv);
}
