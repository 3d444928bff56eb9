// A model's configuration, parsed once: Triton's config.pbtxt (as JSON) into typed settings. Pure
// but for looking whether the engine is there; calls no server.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "backend/executor/engine.h"
#include "backend/triton/metric_table.h"
#include "backend/triton/parameters.h"
#include "backend/triton/request_reader.h"

namespace inflight::triton {

struct ModelSettings {
  std::string name;
  uint64_t version = 0;
  ReaderOptions reader;
  executor::EngineConfig engine;
  BatchingNumbers batching_numbers = BatchingNumbers::kInflight;
  // At most so often; 0: after every step that brought somebody something, and every 5 ms.
  std::chrono::milliseconds stats_check_period{0};
  std::chrono::milliseconds cancellation_check_period{0};
  std::vector<std::string> warnings;     // for the log: unparsable or unknown values
  std::vector<ParameterUse> parameters;  // what became of each
};

/// `config_json` is Triton's model configuration; a relative gpt_model_path is taken from
/// `version_dir`, an absent one means that folder itself. Raises Error naming key and value.
ModelSettings parse_model_config(std::string_view config_json, const std::string& name,
                                 uint64_t version, const std::filesystem::path& version_dir);

}  // namespace inflight::triton
