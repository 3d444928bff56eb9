#include <algorithm>
#include <limits>

#include "kernels/sampling/log_probs.h"
#include "kernels/sampling/row_cpu.h"

namespace inflight::cpu {
namespace {

/// A thread's part of the workspace.
struct Scratch {
  float* block_maxima;  // [num_row_blocks(V)]
  int32_t* ids;         // [V]
  float* values;        // [V]
};

/// Puts the `count` likeliest ids, likeliest first, at the front of scratch.ids; those with logit
/// -infinity are left out. Returns how many there are.
int64_t find_top(const float* row, int64_t length, int64_t count, const Scratch& scratch) {
  row_maxima(row, length, scratch.block_maxima);
  float threshold = kth_largest(row, length, scratch.block_maxima, count, scratch.values);
  threshold = std::max(threshold, std::numeric_limits<float>::lowest());
  const int64_t found =
      collect(row, length, scratch.block_maxima, threshold, scratch.ids, scratch.values);
  count = std::min(count, found);
  const auto likelier = [row](int32_t a, int32_t b) {
    return row[a] != row[b] ? row[a] > row[b] : a < b;
  };
  std::partial_sort(scratch.ids, scratch.ids + count, scratch.ids + found, likelier);
  return count;
}

}  // namespace

size_t log_probs_workspace_bytes(int64_t vocab_size) {
  return Carver::bytes_of<float>(num_row_blocks(vocab_size)) +
         2 * Carver::bytes_of<float>(vocab_size);
}

void log_probs(const LogProbsParams& params, OpContext& context) {
  const int64_t length = params.logits.shape[1];
  const size_t scratch_bytes = log_probs_workspace_bytes(length);
  for_each_row(context, params.rows.shape[0], length, [&](int64_t i, int thread) {
    const int64_t num_top = params.num_top.as<int32_t>()[i];
    const int64_t place = params.rows.as<int32_t>()[i];
    const int32_t token = params.tokens.as<int32_t>()[place];
    params.top_counts.as<int32_t>()[i] = 0;
    if (num_top < 0 || token < 0) return;
    const float* row = params.logits.as<float>() + place * params.logits.strides[0];
    const float temperature = params.temperatures.as<float>()[i];
    const float divisor = temperature == 0.0f ? 1.0f : temperature;
    const float maximum = params.maxima.as<float>()[i];
    const float log_sum = params.log_sums.as<float>()[i];
    const auto log_prob = [&](int32_t id) { return (row[id] - maximum) / divisor - log_sum; };
    params.log_probs.as<float>()[i] = log_prob(token);

    const int64_t wanted = std::min<int64_t>(num_top, params.num_kept.as<int32_t>()[i]);
    if (wanted == 0) return;
    Carver carver(static_cast<std::byte*>(context.workspace.data) + thread * scratch_bytes);
    Scratch scratch;
    scratch.block_maxima = carver.take<float>(num_row_blocks(length));
    scratch.ids = carver.take<int32_t>(length);
    scratch.values = carver.take<float>(length);
    const int64_t count = find_top(row, length, wanted, scratch);
    const int64_t start = params.top_starts.as<int32_t>()[i];
    for (int64_t j = 0; j < count; ++j) {
      params.top_ids.as<int32_t>()[start + j] = scratch.ids[j];
      params.top_log_probs.as<float>()[start + j] = log_prob(scratch.ids[j]);
    }
    params.top_counts.as<int32_t>()[i] = static_cast<int32_t>(count);
  });
}

}  // namespace inflight::cpu
