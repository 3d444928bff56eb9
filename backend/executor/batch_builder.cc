#include "backend/executor/batch_builder.h"

#include <algorithm>
#include <numeric>
#include <utility>

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

BatchBuilder::BatchBuilder(int max_num_tokens, int max_batch_size, std::vector<int> table_sources)
    : max_num_tokens_(max_num_tokens),
      max_batch_size_(max_batch_size),
      table_sources_(std::move(table_sources)),
      groups_(table_sources_.size()),
      tables_(table_sources_.size()) {
  inputs_.more_groups.resize(table_sources_.size() - 1);
  rows_.reserve(max_batch_size);
}

size_t BatchBuilder::staging_bytes(int max_num_tokens, int max_batch_size,
                                   int max_blocks_per_sequence, int num_groups) {
  const auto bytes = [](size_t length) { return Staging::aligned(length * sizeof(int32_t)); };
  const size_t tokens = max_num_tokens, sequences = max_batch_size;
  return 3 * bytes(tokens) + bytes(sequences + 1) + 2 * bytes(sequences) +
         num_groups * (bytes(tokens) + bytes(sequences * max_blocks_per_sequence));
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
  for (size_t g = 0; g < groups_.size(); ++g) {
    TensorView& slots = g == 0 ? inputs_.slots : inputs_.more_groups[g - 1].slots;
    TensorView& tables = g == 0 ? inputs_.block_tables : inputs_.more_groups[g - 1].block_tables;
    groups_[g] = {.slots = place(slots, {num_tokens}),
                  .block_tables = place(tables, {num_sequences, num_columns})};
  }
  return {.input_ids = place(inputs_.input_ids, {num_tokens}),
          .positions = place(inputs_.positions, {num_tokens}),
          .rope_lengths = place(inputs_.rope_lengths, {num_tokens}),
          .query_starts = place(inputs_.query_starts, {num_sequences + 1}),
          .kv_lengths = place(inputs_.kv_lengths, {num_sequences}),
          .last_rows = place(inputs_.last_rows, {num_sequences})};
}

void BatchBuilder::place_logits_row(const Arrays& arrays, int b, int32_t first_row,
                                    int32_t last_row, int32_t kv_length) {
  arrays.query_starts[b] = first_row;
  arrays.kv_lengths[b] = kv_length;
  arrays.last_rows[b] = last_row;
  // Attention reads no further than kv_lengths; what lies behind is of an older step.
  for (size_t g = 0; g < groups_.size(); ++g)
    std::ranges::copy(tables_[g], groups_[g].block_tables + b * inputs_.block_tables.shape[1]);
}

void BatchBuilder::build(const scheduler::Step& step, std::span<Sequence* const> sequences,
                         std::span<const int32_t> in_flight_tokens,
                         const kv_cache::KvCacheManager& cache, Staging& staging) {
  // A row of logits is a sequence to the plan: a prompt's chunk with logits of all its tokens is as
  // many sequences of one row, which share a table.
  int num_logits = 0;
  for (const scheduler::ScheduledSequence& part : step.sequences) num_logits += part.num_logits();
  check_internal(step.num_tokens <= max_num_tokens_ && num_logits <= max_batch_size_, "a step of ",
                 step.num_tokens, " tokens with ", num_logits,
                 " rows of logits exceeds the limits of ", max_num_tokens_, " and ",
                 max_batch_size_);
  size_t num_columns = 1;
  for (const Sequence* sequence : sequences)
    num_columns = std::max(num_columns, cache.block_table(sequence->table).size());
  const Arrays arrays =
      lay_out(step.num_tokens, num_logits, static_cast<int>(num_columns), staging);
  rows_.clear();
  wanted_logits_.clear();
  inputs_.rows_share_cache = false;
  const kv_cache::Geometry& geometry = cache.geometry();
  int32_t row = 0;
  int b = 0;  // row of logits
  for (size_t i = 0; i < step.sequences.size(); ++i) {
    const scheduler::ScheduledSequence& part = step.sequences[i];
    const Sequence& sequence = *sequences[i];
    for (size_t g = 0; g < groups_.size(); ++g) {
      const int window = table_sources_[g];
      tables_[g] = window < 0 ? cache.block_table(sequence.table)
                              : cache.window_table(window, sequence.table);
    }
    const int32_t end = part.first_position + part.num_tokens;
    const int num_rows = part.num_logits();
    if (part.logits_of_all) {
      wanted_logits_.push_back({b, num_rows});
      inputs_.rows_share_cache |= num_rows > 1;
      for (int j = 0; j < num_rows; ++j)
        place_logits_row(arrays, b + j, row + j, row + j, part.first_position + j + 1);
    } else {
      place_logits_row(arrays, b, row, row + part.num_tokens - 1, end);
    }
    b += num_rows;

    sequence.copy_ids(part.first_position, part.num_tokens, in_flight_tokens[i],
                      arrays.input_ids + row);
    int32_t* positions = arrays.positions + row;
    std::iota(positions, positions + part.num_tokens, part.first_position);
    int32_t* rope_lengths = arrays.rope_lengths + row;
    for (int32_t t = 0; t < part.num_tokens; ++t) {
      rope_lengths[t] = std::max(sequence.prompt_len(), part.first_position + t + 1);
    }
    for (size_t g = 0; g < groups_.size(); ++g)
      fill_slots(part.first_position, end, tables_[g], geometry, groups_[g].slots + row);

    if (part.makes_token()) {
      rows_.push_back(sequence.sample_row(b - 1, in_flight_tokens[i]));
      if (sequence.request().return_generation_logits) wanted_logits_.push_back({b - 1, 1});
    }
    row += part.num_tokens;
  }
  arrays.query_starts[num_logits] = row;
}

}  // namespace inflight::executor
