// engine.json as structs, parsed once and refused as a whole if anything in it is unknown, missing
// or of another type. Knows nothing of memory or kernels.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "backend/plan/plan.h"

namespace inflight::plan {

inline constexpr int kFormatVersion = 1;

struct ModelFacts {
  std::string architecture;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_size = 0;
  int64_t intermediate_size = 0;
  int64_t max_position_embeddings = 0;
  std::optional<int32_t> bos_token_id;
  std::vector<int32_t> eos_token_ids;
  std::optional<int32_t> pad_token_id;
  bool tie_word_embeddings = false;
};

struct KvLayerSpec {
  int num_kv_heads = 0;  // of this engine's rank
  int head_size = 0;
  int window = 0;     // tokens that a later one may see of the cache, itself included; 0: all
  int num_sinks = 0;  // first tokens of a sequence that it may see besides
};

/// Layers of one window: they share a pool, a block table and slots.
struct KvGroup {
  int window = 0;
  int num_sinks = 0;
  std::vector<int> layers;
};

struct KvCacheSpec {
  DType dtype = DType::kFloat32;
  int tokens_per_block = 0;
  std::vector<KvLayerSpec> layers;
  std::vector<KvGroup>
      groups;  // of the layers, in the order of each one's first; 1 to kMaxKvGroups
};

struct ParallelSpec {
  int tensor = 1;
  int pipeline = 1;
  int expert = 1;
};

struct CheckpointFile {
  std::filesystem::path path;  // absolute
  int64_t size = 0;            // bytes
  uint64_t fingerprint = 0;
};

struct EngineFile {
  std::filesystem::path directory;
  std::string inflight_version;
  ModelFacts model;
  StepLimits limits;
  int max_beam_width = 1;
  DType dtype = DType::kFloat32;
  KvCacheSpec kv_cache;
  ParallelSpec parallel;
  std::vector<CheckpointFile> checkpoint_files;
  std::vector<Plan> ranks;
};

/// Reads `<directory>/engine.json`. Raises Error naming the file and the key.
EngineFile load_engine_file(const std::filesystem::path& directory);

}  // namespace inflight::plan
