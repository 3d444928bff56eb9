// A model's configuration, parsed once: Triton's config.pbtxt (as JSON) into typed settings. Pure
// but for looking whether the engine is there; calls no server.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
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
  ReaderOptions reader;                 // but for the model's end ids, which the engine knows
  bool use_model_end_ids = false;       // ReaderOptions::model_end_ids
  executor::EngineConfig engine;        // of each instance; `device` of the first
  std::vector<std::string> devices;     // of the instances, in turn
  std::optional<int> attention_window;  // the smallest that is asked for
  BatchingNumbers batching_numbers = BatchingNumbers::kInflight;
  // At most so often; 0: after every step that brought somebody something, and every 5 ms.
  std::chrono::milliseconds stats_check_period{0};
  std::chrono::milliseconds cancellation_check_period{0};
  std::vector<std::string> warnings;     // for the log: unparsable or unknown values
  std::vector<std::string> notes;        // for the log, too: what needs no change
  std::vector<ParameterUse> parameters;  // what became of each
};

/// The name that repositories of the former backend know; a library installed under it embeds ids
/// outside the vocabulary as zeros, as that did.
inline constexpr std::string_view kFormerName = "tensorrtllm";

/// What a model of this backend is.
enum class ModelRole {
  kEngine,
  kRelay,  // the ensemble's step behind the engine
  kBls     // walks the ensemble's steps itself
};

/// By the parameter role, "relay" or "bls"; without it, an engine. Raises Error for another one,
/// and for a relay that would not keep the order of what it hands on.
ModelRole role_of_config(std::string_view config_json);

/// `config_json` is Triton's model configuration; a relative gpt_model_path is taken from
/// `version_dir`, an absent one means that folder itself; it may be a checkpoint's, of which an
/// engine is yet to be built. Raises Error naming key and value.
ModelSettings parse_model_config(std::string_view config_json, const std::string& name,
                                 uint64_t version, const std::filesystem::path& version_dir,
                                 std::string_view backend = "inflight");

/// Raises Error if the windows asked for are smaller than an engine's longest sequence.
void check_attention_window(const ModelSettings& settings, const executor::EngineInfo& info);

}  // namespace inflight::triton
