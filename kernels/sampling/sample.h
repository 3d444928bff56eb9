// Draws one token per row: temperature, top_k, top_p, min_p, then a seeded draw. No sort of the
// vocabulary: filters are thresholds, found by selection.
#pragma once

#include "kernels/core/op.h"
#include "kernels/sampling/outcome.h"

namespace inflight {

/// Filters in the order and with the meaning of transformers' LogitsProcessors:
///   temperature  logits / t; 0 = greedy: the argmax, ties to the lowest id, nothing else applies
///   top_k        keeps logits >= the k-th largest, so all that tie with it (TopKLogitsWarper)
///   top_p        of the softmax of what is kept: the smallest set of the likeliest tokens whose
///                probabilities sum to at least top_p, never empty; of tokens that tie at its
///                edge the lowest ids stay (TopPLogitsWarper, which leaves that open)
///   min_p        drops probabilities below min_p times the largest (MinPLogitsWarper)
/// The draw is the inverse of the cumulative distribution in order of ids at
/// philox_uniform(seed, position): it depends on nothing but the row's logits and parameters.
struct SampleParams {
  TensorView logits;        // [B, V] float32, rows dense
  TensorView rows;          // [N] int32: the row of logits; each at most once
  TensorView temperatures;  // [N] float32, >= 0
  TensorView top_ks;        // [N] int32; 0 = off
  TensorView top_ps;        // [N] float32, (0, 1]; 1 = off
  TensorView min_ps;        // [N] float32, [0, 1]; 0 = off
  TensorView seeds;         // [N] int64, the bits of a uint64
  TensorView positions;     // [N] int64: index of the token among the generated ones
  TensorView num_top;       // [N] int32; -1 = the three outputs below are not needed for the row
  TensorView tokens;        // [R] int32, entry rows[i] written; kBadLogits or kNoToken
  // The distribution drawn from, for log_probs: log p(i) = (logit[i] - maximum) / t - log_sum for
  // the num_kept likeliest ids. Greedy rows: all ids at temperature 1.
  TensorView maxima;    // [N] float32, written
  TensorView log_sums;  // [N] float32, written
  TensorView num_kept;  // [N] int32, written
  // [N, ceil(V / kMaximaChunk)] float32 on CUDA, or empty: written where num_top > 0, so that
  // log_probs need not read all logits again.
  TensorView chunk_maxima;
};

/// On the CPU; none on CUDA.
size_t sample_workspace_bytes(int64_t vocab_size, int num_threads);
void sample(const SampleParams& params, OpContext& context);

namespace cuda {
void sample(const SampleParams& params, OpContext& context);
}  // namespace cuda

}  // namespace inflight
