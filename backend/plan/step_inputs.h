// What a step tells the plan: packed rows and where their cache lies. Made by the executor's batch
// builder, read by ops under these names; the runner keeps the views only while it runs.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/tensor_view.h"

namespace inflight::plan {

/// Layers that see different windows are of different groups; this many at most.
inline constexpr int kMaxKvGroups = 8;

/// Where a group of layers has its cache.
struct KvGroupInputs {
  TensorView slots;         // [T] as StepInputs::slots
  TensorView block_tables;  // [B, columns] as StepInputs::block_tables
};

/// All int32, dense, on the runner's device. T = num_tokens, B = num_sequences; the rows of a
/// sequence are adjacent, sequences in the order of query_starts. On a CUDA device an input id may
/// be ~i (-1 - i): previous_tokens[i], not known yet on the host.
struct StepInputs {
  int num_tokens = 0;
  int num_sequences = 0;
  TensorView input_ids;     // [T]
  TensorView positions;     // [T]
  TensorView rope_lengths;  // [T] prompt rows: the prompt's length; generated rows: position + 1
  TensorView slots;         // [T] block * tokens_per_block + offset; < 0: the row is not cached
  TensorView query_starts;  // [B + 1] first row of each sequence, then T
  TensorView kv_lengths;    // [B] tokens each sequence can see, this step's included
  /// [B, columns], as many as the longest table of the step needs or more. A place whose tokens no
  /// row of the step sees may hold anything.
  TensorView block_tables;
  TensorView last_rows;  // [B] row of each sequence's last token of the step
  /// Several of the step's sequences are rows of one, each with a row of logits of its own: all
  /// rows must be in the cache before any reads it. Such a step has fewer than max_num_tokens.
  bool rows_share_cache = false;
  TensorView previous_tokens;  // no plan's business: the tokens of the step before, by its rows of
                               // logits; empty if no id needs it
  std::vector<KvGroupInputs> more_groups;  // of groups 1, 2, ...; those of group 0 stand above
};

enum class StepInputShape { kTokens, kSequences, kSequencesPlusOne, kBlockTables };

struct StepInputSpec {
  std::string_view name;
  TensorView StepInputs::* view;
  StepInputShape shape;

  int64_t length(int64_t num_tokens, int64_t num_sequences) const {  // of the first axis
    if (shape == StepInputShape::kTokens) return num_tokens;
    return shape == StepInputShape::kSequencesPlusOne ? num_sequences + 1 : num_sequences;
  }
};

/// The fixed names by which plan rows ask for step inputs.
inline constexpr std::array<StepInputSpec, 8> kStepInputs = {{
    {"input_ids", &StepInputs::input_ids, StepInputShape::kTokens},
    {"positions", &StepInputs::positions, StepInputShape::kTokens},
    {"rope_lengths", &StepInputs::rope_lengths, StepInputShape::kTokens},
    {"slots", &StepInputs::slots, StepInputShape::kTokens},
    {"query_starts", &StepInputs::query_starts, StepInputShape::kSequencesPlusOne},
    {"kv_lengths", &StepInputs::kv_lengths, StepInputShape::kSequences},
    {"block_tables", &StepInputs::block_tables, StepInputShape::kBlockTables},
    {"last_rows", &StepInputs::last_rows, StepInputShape::kSequences},
}};

inline const StepInputSpec& spec_of(TensorView StepInputs::* view) {
  return *std::ranges::find(kStepInputs, view, &StepInputSpec::view);
}

/// What slots and block_tables of a group are called: "slots", "slots.1", ...
inline std::string group_input_name(std::string_view name, int group) {
  return group == 0 ? std::string(name) : std::string(name) + "." + std::to_string(group);
}

/// The view of layer i's cache is called "kv_cache.<i>".
inline constexpr std::string_view kKvCachePrefix = "kv_cache.";

}  // namespace inflight::plan
