// What the Triton backend makes of a model's configuration, for `inflight check`.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <vector>

#include "backend/executor/forecast.h"
#include "backend/triton/model_config.h"

namespace inflight::bindings {

namespace py = pybind11;

namespace {

const char* source_name(triton::ParameterUse::Source source) {
  switch (source) {
    case triton::ParameterUse::Source::kGiven:
      return "config.pbtxt";
    case triton::ParameterUse::Source::kDefault:
      return "default";
    case triton::ParameterUse::Source::kNoEffect:
      return "no effect";
    case triton::ParameterUse::Source::kUnknown:
      return "unknown";
  }
  return "";
}

py::dict read_model_config(const std::string& config_json, const std::string& name,
                           uint64_t version, const std::string& version_dir,
                           const std::string& backend) {
  const triton::ModelSettings settings =
      triton::parse_model_config(config_json, name, version, version_dir, backend);
  std::vector<std::tuple<std::string, std::string, std::string>> parameters;
  for (const triton::ParameterUse& use : settings.parameters)
    parameters.emplace_back(use.key, use.value, source_name(use.source));
  py::dict result;
  result["engine_dir"] = settings.engine.engine_dir.string();
  py::dict build;
  build["load_format"] = settings.engine.load_format;
  build["max_batch_size"] = settings.engine.max_batch_size;
  build["max_seq_len"] = settings.engine.max_seq_len;
  build["max_num_tokens"] = settings.engine.max_num_tokens;
  result["build_options"] = build;
  result["parameters"] = parameters;
  result["warnings"] = settings.warnings;
  return result;
}

py::dict forecast_kv_cache(const std::string& config_json, const std::string& name,
                           const std::string& version_dir, const std::string& backend,
                           const std::string& engine_dir, int64_t taken_bytes,
                           int64_t mapped_bytes) {
  triton::ModelSettings settings =
      triton::parse_model_config(config_json, name, 1, version_dir, backend);
  settings.engine.engine_dir = engine_dir;
  const executor::Forecast forecast =
      executor::forecast(settings.engine, taken_bytes, mapped_bytes);
  py::dict result;
  result["device"] = forecast.info.device;
  result["free_bytes"] = forecast.free_bytes;
  result["num_blocks"] = forecast.info.num_blocks;
  result["num_host_blocks"] = forecast.info.num_host_blocks;
  result["bytes_per_block"] = forecast.bytes_per_block;
  result["cache_bytes"] = forecast.cache_bytes;
  std::vector<std::tuple<int, int, int, int64_t>> windows;
  for (const executor::KvGroupInfo& group : forecast.info.kv_groups) {
    if (group.window > 0)
      windows.emplace_back(group.window, group.num_sinks, group.num_layers, group.num_blocks);
  }
  result["windows"] = windows;
  result["tokens_per_block"] = forecast.info.tokens_per_block;
  result["max_seq_len"] = forecast.info.max_seq_len;
  result["max_batch_size"] = forecast.info.max_batch_size;
  result["max_num_tokens"] = forecast.info.max_num_tokens;
  return result;
}

}  // namespace

void register_model_config(py::module_& module) {
  module.def("read_model_config", &read_model_config, py::arg("config_json"), py::arg("name"),
             py::arg("version"), py::arg("version_dir"), py::arg("backend"),
             "The tensorrt_llm model's configuration as the backend of this name reads it: "
             "engine_dir (maybe a checkpoint's, of which an engine with build_options is built), "
             "parameters as (key, value, source), warnings.");
  module.def("forecast_kv_cache", &forecast_kv_cache, py::arg("config_json"), py::arg("name"),
             py::arg("version_dir"), py::arg("backend"), py::arg("engine_dir"),
             py::arg("taken_bytes"), py::arg("mapped_bytes"),
             "Limits and the size of the KV pool on this machine as it is now.");
}

}  // namespace inflight::bindings
