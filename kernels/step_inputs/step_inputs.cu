#include <algorithm>

#include "kernels/core/cuda/launch.cuh"
#include "kernels/rope/rope_angles.cuh"
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

/// StepOpening as a launch parameter.
struct Opening {
  const uint4* table;
  uint4* x;
  int32_t num_ids;
  int units;  // of a row
  float* cos_sin;
  RopeAngles<kMaxOpeningFrequencies> angles;  // none where there is no table
};

Opening pointers(const StepOpening& opening) {
  const EmbeddingParams& rows = opening.embedding;
  Opening result = {};
  result.table = rows.table.as<const uint4>();
  result.x = rows.y.as<uint4>();
  result.num_ids = static_cast<int32_t>(rows.table.shape[0]);
  result.units = static_cast<int>(rows.table.shape[1] * size_of(rows.table.dtype) / sizeof(uint4));
  if (!opening.rope_table) return result;
  result.cos_sin = opening.rope_table->cos_sin.as<float>();
  result.angles = RopeAngles<kMaxOpeningFrequencies>::of(*opening.rope_table);
  return result;
}

/// What a row of thread blocks does, so that no load waits for another's store; what takes longest
/// first, and left out without an opening.
enum Part { kEmbedding, kRopeTable, kIds, kPlaces, kSequences, kFirstGroup };

__device__ int32_t id_of(const Arrays& from, const int32_t* previous_tokens, int t) {
  const int32_t id = t < from.num_tokens ? from.input_ids[t] : 0;
  return id < 0 ? previous_tokens[~id] : id;
}

/// A thread block a token.
__device__ void embed(const Arrays& from, const Arrays& to, const int32_t* previous_tokens,
                      const Opening& opening) {
  for (int t = static_cast<int>(blockIdx.x); t < to.num_tokens; t += static_cast<int>(gridDim.x)) {
    const int32_t id = id_of(from, previous_tokens, t);
    const bool is_there = id >= 0 && id < opening.num_ids;
    const uint4* source = opening.table + int64_t{is_there ? id : 0} * opening.units;
    uint4* target = opening.x + int64_t{t} * opening.units;
    for (int i = static_cast<int>(threadIdx.x); i < opening.units; i += kThreads)
      target[i] = is_there ? source[i] : uint4{};
  }
}

__device__ void write_rope_table(const Arrays& from, const Arrays& to, const Opening& opening,
                                 int first, int stride) {
  const int half = opening.angles.half;
  for (int k = first; k < to.num_tokens * half; k += stride) {
    const int t = k / half, i = k - t * half;
    const bool is_there = t < from.num_tokens;
    const float2 made =
        opening.angles.at(i, is_there ? from.positions[t] : 0, is_there ? from.rope_lengths[t] : 1);
    opening.cos_sin[2 * t * half + i] = made.x;
    opening.cos_sin[(2 * t + 1) * half + i] = made.y;
  }
}

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
                                   const int32_t* previous_tokens,
                                   const __grid_constant__ Opening opening, int first_part) {
  wait_for_previous();
  const int first = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const int stride = static_cast<int>(gridDim.x) * kThreads;
  const int part = first_part + static_cast<int>(blockIdx.y);
  if (part == kEmbedding) {
    embed(from, to, previous_tokens, opening);
  } else if (part == kRopeTable) {
    write_rope_table(from, to, opening, first, stride);
  } else if (part == kIds) {
    for (int t = first; t < to.num_tokens; t += stride)
      to.input_ids[t] = id_of(from, previous_tokens, t);
  } else if (part == kPlaces) {
    move_places(from, to, first, stride);
  } else if (part == kSequences) {
    move_sequences(from, to, first, stride);
  } else {
    move_group(from, to, part - kFirstGroup, first, stride);
  }
  // Without a wait the next ones know only that this one's blocks have ended, not that others see
  // what they wrote.
  __threadfence();
}

}  // namespace

void step_inputs(const StepInputsParams& params, OpContext& context) {
  const Arrays from = pointers(params.from);
  const Arrays to = pointers(params.to);
  const int entries = from.num_sequences * from.groups[0].num_columns;  // of any group
  const int items = std::max({to.num_tokens, to.num_sequences + 1, entries});
  int blocks = (items + kThreads - 1) / kThreads;
  int first_part = kIds;
  Opening opening = {};
  if (params.opening != nullptr) {
    first_part = kEmbedding;
    opening = pointers(*params.opening);
    blocks = std::max(
        {blocks, to.num_tokens, (to.num_tokens * opening.angles.half + kThreads - 1) / kThreads});
  }
  const dim3 grid(static_cast<unsigned>(std::min(blocks, kMaxBlocks)),
                  static_cast<unsigned>(kFirstGroup - first_part + from.num_groups));
  launch(step_inputs_kernel, {grid, dim3(kThreads)}, context, from, to,
         params.previous_tokens.as<int32_t>(), opening, first_part);
}

}  // namespace inflight::cuda
