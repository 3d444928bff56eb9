#include "backend/executor/batch_builder.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/core/check.h"

namespace inflight::executor {
namespace {

constexpr int64_t kAlignment = 16;  // elements of int32: a cache line

int64_t aligned(int64_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

/// Elements of int32 that a step takes, by the same order as lay_out.
int64_t staging_elements(int64_t tokens, int64_t sequences, int64_t blocks_per_sequence) {
  return 4 * aligned(tokens) + aligned(sequences + 1) + 2 * aligned(sequences) +
         aligned(sequences * blocks_per_sequence);
}

/// Slots of [position, end) of a sequence, a run per block.
void fill_slots(int32_t position, int32_t end, std::span<const int32_t> block_table,
                const kv_cache::Geometry& geometry, int32_t* out) {
  while (position < end) {
    const int32_t slot = geometry.slot(block_table[geometry.block_index(position)], position);
    const int32_t run_end =
        std::min(end, geometry.round_down(position) + geometry.tokens_per_block());
    const int32_t length = run_end - position;
    std::iota(out, out + length, slot);
    out += length;
    position = run_end;
  }
}

}  // namespace

BatchBuilder::BatchBuilder(int max_num_tokens, int max_batch_size, int max_blocks_per_sequence)
    : max_num_tokens_(max_num_tokens),
      max_batch_size_(max_batch_size),
      max_blocks_per_sequence_(max_blocks_per_sequence),
      staging_(sizeof(int32_t) *
               staging_elements(max_num_tokens, max_batch_size, max_blocks_per_sequence)) {
  rows_.reserve(max_batch_size);
}

void BatchBuilder::lay_out(int num_tokens, int num_sequences) {
  inputs_.num_tokens = num_tokens;
  inputs_.num_sequences = num_sequences;
  auto* next = static_cast<int32_t*>(staging_.data());
  const auto place = [&next](int64_t length) {
    TensorView view = TensorView::dense(next, DType::kInt32, {length});
    next += aligned(length);
    return view;
  };
  inputs_.input_ids = place(num_tokens);
  inputs_.positions = place(num_tokens);
  inputs_.rope_lengths = place(num_tokens);
  inputs_.slots = place(num_tokens);
  inputs_.query_starts = place(num_sequences + 1);
  inputs_.kv_lengths = place(num_sequences);
  inputs_.last_rows = place(num_sequences);
  inputs_.block_tables =
      TensorView::dense(next, DType::kInt32, {num_sequences, max_blocks_per_sequence_});
}

void BatchBuilder::build(const scheduler::Step& step, std::span<Sequence* const> sequences,
                         const kv_cache::KvCacheManager& cache) {
  const auto num_sequences = static_cast<int>(step.sequences.size());
  check_internal(step.num_tokens <= max_num_tokens_ && num_sequences <= max_batch_size_,
                 "a step of ", step.num_tokens, " tokens in ", num_sequences,
                 " sequences exceeds the limits of ", max_num_tokens_, " and ", max_batch_size_);
  lay_out(step.num_tokens, num_sequences);
  rows_.clear();
  auto* query_starts = inputs_.query_starts.as<int32_t>();
  auto* kv_lengths = inputs_.kv_lengths.as<int32_t>();
  auto* last_rows = inputs_.last_rows.as<int32_t>();
  auto* block_tables = inputs_.block_tables.as<int32_t>();
  const kv_cache::Geometry& geometry = cache.geometry();
  int32_t row = 0;
  for (int b = 0; b < num_sequences; ++b) {
    const scheduler::ScheduledSequence& part = step.sequences[b];
    const Sequence& sequence = *sequences[b];
    const std::span<const int32_t> table = cache.block_table(sequence.table);
    const int32_t end = part.first_position + part.num_tokens;

    query_starts[b] = row;
    kv_lengths[b] = end;
    last_rows[b] = row + part.num_tokens - 1;
    // Attention reads no further than kv_lengths; what lies behind is of an older step.
    std::copy(table.begin(), table.end(), block_tables + int64_t{b} * max_blocks_per_sequence_);

    sequence.copy_ids(part.first_position, part.num_tokens, inputs_.input_ids.as<int32_t>() + row);
    auto* positions = inputs_.positions.as<int32_t>() + row;
    std::iota(positions, positions + part.num_tokens, part.first_position);
    auto* rope_lengths = inputs_.rope_lengths.as<int32_t>() + row;
    for (int32_t i = 0; i < part.num_tokens; ++i) {
      rope_lengths[i] = std::max(sequence.prompt_len(), part.first_position + i + 1);
    }
    fill_slots(part.first_position, end, table, geometry, inputs_.slots.as<int32_t>() + row);

    if (part.makes_token()) rows_.push_back(sequence.sample_row(b));
    row += part.num_tokens;
  }
  query_starts[num_sequences] = row;
}

}  // namespace inflight::executor
