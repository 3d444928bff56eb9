#include <algorithm>

#include "kernels/core/cuda/launch.cuh"
#include "kernels/step_inputs/step_inputs.h"

namespace inflight::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxBlocks = 256;

struct Group {
  int32_t* slots;
  int32_t* block_tables;
  int num_columns;
};

struct Arrays {
  int32_t* input_ids;
  int32_t* positions;
  int32_t* rope_lengths;
  int32_t* query_starts;
  int32_t* kv_lengths;
  int32_t* last_rows;
  int num_tokens;
  int num_sequences;
  int num_groups;
  Group groups[1 + kMaxMoreStepGroups];
};

Group pointers(const TensorView& slots, const TensorView& block_tables) {
  return {slots.as<int32_t>(), block_tables.as<int32_t>(), static_cast<int>(block_tables.shape[1])};
}

Arrays pointers(const StepArrays& arrays) {
  Arrays result = {arrays.input_ids.as<int32_t>(),
                   arrays.positions.as<int32_t>(),
                   arrays.rope_lengths.as<int32_t>(),
                   arrays.query_starts.as<int32_t>(),
                   arrays.kv_lengths.as<int32_t>(),
                   arrays.last_rows.as<int32_t>(),
                   static_cast<int>(arrays.input_ids.shape[0]),
                   static_cast<int>(arrays.kv_lengths.shape[0]),
                   1 + arrays.num_more_groups(),
                   {pointers(arrays.slots, arrays.block_tables)}};
  for (int g = 1; g < result.num_groups; ++g) {
    const StepGroupArrays& group = arrays.more_groups[g - 1];
    result.groups[g] = pointers(*group.slots, *group.block_tables);
  }
  return result;
}

/// What a row of thread blocks moves, so that no load waits for another's store.
enum Part { kIds, kPlaces, kSequences, kFirstGroup };

__device__ void move_places(const Arrays& from, const Arrays& to, int first, int stride) {
  for (int t = first; t < to.num_tokens; t += stride) {
    const bool is_there = t < from.num_tokens;
    const int32_t position = is_there ? from.positions[t] : 0;
    const int32_t rope_length = is_there ? from.rope_lengths[t] : 1;
    to.positions[t] = position;
    to.rope_lengths[t] = rope_length;
  }
}

__device__ void move_sequences(const Arrays& from, const Arrays& to, int first, int stride) {
  for (int b = first; b <= to.num_sequences; b += stride) {
    const bool is_there = b < from.num_sequences;
    const int32_t padded_row = from.num_tokens + b - from.num_sequences;
    const int32_t start = b <= from.num_sequences ? from.query_starts[b] : padded_row;
    const int32_t kv_length = is_there ? from.kv_lengths[b] : 0;
    const int32_t last_row = is_there ? from.last_rows[b] : padded_row;
    to.query_starts[b] = start;
    if (b == to.num_sequences) break;
    to.kv_lengths[b] = kv_length;
    to.last_rows[b] = last_row;
  }
}

__device__ void move_group(const Arrays& from, const Arrays& to, int g, int first, int stride) {
  const Group &source = from.groups[g], &target = to.groups[g];
  const int num_entries = from.num_sequences * source.num_columns;
  for (int i = first; i < max(num_entries, to.num_tokens); i += stride) {
    const int32_t slot = i < from.num_tokens ? source.slots[i] : -1;
    const int32_t block = i < num_entries ? source.block_tables[i] : 0;
    if (i < to.num_tokens) target.slots[i] = slot;
    if (i >= num_entries) continue;
    const int b = i / source.num_columns;
    const int column = i - b * source.num_columns;
    target.block_tables[static_cast<int64_t>(b) * target.num_columns + column] = block;
  }
}

/// Never calls let_next_start(): the plan's kernels read what it writes before they wait.
__global__ void step_inputs_kernel(const __grid_constant__ Arrays from,
                                   const __grid_constant__ Arrays to,
                                   const int32_t* previous_tokens) {
  wait_for_previous();
  const int first = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const int stride = static_cast<int>(gridDim.x) * kThreads;
  const int part = static_cast<int>(blockIdx.y);
  if (part == kIds) {
    for (int t = first; t < to.num_tokens; t += stride) {
      const int32_t id = t < from.num_tokens ? from.input_ids[t] : 0;
      to.input_ids[t] = id < 0 ? previous_tokens[~id] : id;
    }
  } else if (part == kPlaces) {
    move_places(from, to, first, stride);
  } else if (part == kSequences) {
    move_sequences(from, to, first, stride);
  } else {
    move_group(from, to, part - kFirstGroup, first, stride);
  }
}

}  // namespace

void step_inputs(const StepInputsParams& params, OpContext& context) {
  const Arrays from = pointers(params.from);
  const Arrays to = pointers(params.to);
  const int entries = from.num_sequences * from.groups[0].num_columns;  // of any group
  const int items = std::max({to.num_tokens, to.num_sequences + 1, entries});
  const int blocks = std::min((items + kThreads - 1) / kThreads, kMaxBlocks);
  const auto parts = static_cast<unsigned>(kFirstGroup + from.num_groups);
  launch(step_inputs_kernel, {dim3(static_cast<unsigned>(blocks), parts), dim3(kThreads)}, context,
         from, to, params.previous_tokens.as<int32_t>());
}

}  // namespace inflight::cuda
