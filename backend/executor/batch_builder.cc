#include "backend/executor/batch_builder.h"

#include <algorithm>
#include <numeric>

#include "kernels/core/check.h"

namespace inflight::executor {
namespace {

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

BatchBuilder::BatchBuilder(int max_num_tokens, int max_batch_size)
    : max_num_tokens_(max_num_tokens), max_batch_size_(max_batch_size) {
  rows_.reserve(max_batch_size);
}

size_t BatchBuilder::staging_bytes(int max_num_tokens, int max_batch_size,
                                   int max_blocks_per_sequence) {
  const auto bytes = [](size_t length) { return Staging::aligned(length * sizeof(int32_t)); };
  const size_t tokens = max_num_tokens, sequences = max_batch_size;
  return 4 * bytes(tokens) + bytes(sequences + 1) + 2 * bytes(sequences) +
         bytes(sequences * max_blocks_per_sequence);
}

BatchBuilder::Arrays BatchBuilder::lay_out(int num_tokens, int num_sequences, int num_columns,
                                           Staging& staging) {
  const auto place = [&staging](TensorView& view, std::initializer_list<int64_t> shape) {
    const auto [data, placed] = staging.place<int32_t>(DType::kInt32, shape);
    view = placed;
    return data;
  };
  inputs_.num_tokens = num_tokens;
  inputs_.num_sequences = num_sequences;
  return {.input_ids = place(inputs_.input_ids, {num_tokens}),
          .positions = place(inputs_.positions, {num_tokens}),
          .rope_lengths = place(inputs_.rope_lengths, {num_tokens}),
          .slots = place(inputs_.slots, {num_tokens}),
          .query_starts = place(inputs_.query_starts, {num_sequences + 1}),
          .kv_lengths = place(inputs_.kv_lengths, {num_sequences}),
          .last_rows = place(inputs_.last_rows, {num_sequences}),
          .block_tables = place(inputs_.block_tables, {num_sequences, num_columns})};
}

void BatchBuilder::build(const scheduler::Step& step, std::span<Sequence* const> sequences,
                         std::span<const int32_t> in_flight_tokens,
                         const kv_cache::KvCacheManager& cache, Staging& staging) {
  const auto num_sequences = static_cast<int>(step.sequences.size());
  check_internal(step.num_tokens <= max_num_tokens_ && num_sequences <= max_batch_size_,
                 "a step of ", step.num_tokens, " tokens in ", num_sequences,
                 " sequences exceeds the limits of ", max_num_tokens_, " and ", max_batch_size_);
  size_t num_columns = 1;
  for (const Sequence* sequence : sequences)
    num_columns = std::max(num_columns, cache.block_table(sequence->table).size());
  const Arrays arrays =
      lay_out(step.num_tokens, num_sequences, static_cast<int>(num_columns), staging);
  rows_.clear();
  const kv_cache::Geometry& geometry = cache.geometry();
  int32_t row = 0;
  for (int b = 0; b < num_sequences; ++b) {
    const scheduler::ScheduledSequence& part = step.sequences[b];
    const Sequence& sequence = *sequences[b];
    const std::span<const int32_t> table = cache.block_table(sequence.table);
    const int32_t end = part.first_position + part.num_tokens;

    arrays.query_starts[b] = row;
    arrays.kv_lengths[b] = end;
    arrays.last_rows[b] = row + part.num_tokens - 1;
    // Attention reads no further than kv_lengths; what lies behind is of an older step.
    std::copy(table.begin(), table.end(), arrays.block_tables + b * num_columns);

    sequence.copy_ids(part.first_position, part.num_tokens, in_flight_tokens[b],
                      arrays.input_ids + row);
    int32_t* positions = arrays.positions + row;
    std::iota(positions, positions + part.num_tokens, part.first_position);
    int32_t* rope_lengths = arrays.rope_lengths + row;
    for (int32_t i = 0; i < part.num_tokens; ++i) {
      rope_lengths[i] = std::max(sequence.prompt_len(), part.first_position + i + 1);
    }
    fill_slots(part.first_position, end, table, geometry, arrays.slots + row);

    if (part.makes_token()) rows_.push_back(sequence.sample_row(b, in_flight_tokens[b]));
    row += part.num_tokens;
  }
  arrays.query_starts[num_sequences] = row;
}

}  // namespace inflight::executor
