// The plan of one rank: a straight-line list of ops over named values, immutable after load. Knows
// names, shapes and arena offsets; no memory, no kernels.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/core/op.h"

namespace inflight::plan {

/// A length known at build, or one of the two that a step decides.
struct Dim {
  enum class Kind : uint8_t { kFixed, kTokens, kSequences };
  Kind kind = Kind::kFixed;
  int64_t fixed = 0;

  int64_t at(int64_t num_tokens, int64_t num_sequences) const {
    return kind == Kind::kTokens ? num_tokens : kind == Kind::kSequences ? num_sequences : fixed;
  }
};

/// An activation in the arena. Its offset holds for every T and B up to the engine's limits.
struct ValueSpec {
  DType dtype = DType::kFloat32;
  std::vector<Dim> shape;
  int64_t offset = 0;  // bytes, a multiple of 64

  /// -1 if that is more than an int64.
  int64_t bytes(int64_t num_tokens, int64_t num_sequences) const;
};

/// [begin, end) along one axis.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};

struct RecipeSource {
  std::string tensor;        // name in the checkpoint
  std::vector<Range> slice;  // one an axis; empty: the whole tensor
};

/// How a weight is made: slices of checkpoint tensors, cast, concatenated along `axis`.
struct Recipe {
  int axis = 0;
  std::vector<RecipeSource> sources;
};

struct WeightSpec {
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  Recipe recipe;
};

/// Argument name -> value, weight, step input or "kv_cache.<layer>".
using Arguments = std::vector<std::pair<std::string, std::string>>;

struct OpRow {
  std::string op;
  Arguments inputs;
  Arguments outputs;
  Attributes attributes;
};

template <typename T>
using ByName = std::map<std::string, T, std::less<>>;

struct Plan {
  int64_t arena_bytes = 0;  // activations at the engine's limits
  ByName<ValueSpec> values;
  ByName<WeightSpec> weights;
  std::vector<OpRow> rows;  // in order of execution
  std::string logits;       // the value [B, V] float32 that a step is for
};

/// The limits that a plan's offsets were computed for, or smaller ones chosen at run time.
struct StepLimits {
  int max_batch_size = 0;  // sequences in a step
  int max_num_tokens = 0;  // tokens in a step
  int max_seq_len = 0;     // prompt + output of a sequence
};

/// The layer i of a name "kv_cache.<i>".
std::optional<int> kv_layer_of(std::string_view name);

/// Raises invalid_argument (starting with `where`) if a row names what does not exist, reads a
/// value before it is written, or if the arena would not hold a value until its last read.
void validate(const Plan& plan, const StepLimits& limits, int num_kv_layers, int num_kv_groups,
              std::string_view where);

}  // namespace inflight::plan
