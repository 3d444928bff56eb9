// Factual nucleus sampling's return to the first top_p, where the token that decides it is not
// known yet on the host. (Lee et al., "Factuality Enhanced Language Models for Open-Ended Text
// Generation", NeurIPS 2022.)
#pragma once

#include "kernels/core/op.h"

namespace inflight {

/// top_ps[entries[i]] = first_top_ps[i] if previous_tokens[newest[i]] == reset_ids[i].
struct TopPResetParams {
  TensorView top_ps;           // [N] float32, changed in place: SampleParams::top_ps
  TensorView entries;          // [M] int32, each in [0, N) and at most once
  TensorView newest;           // [M] int32, each in [0, P)
  TensorView reset_ids;        // [M] int32
  TensorView first_top_ps;     // [M] float32
  TensorView previous_tokens;  // [P] int32
};

void top_p_reset(const TopPResetParams& params, OpContext& context);

namespace cuda {
void top_p_reset(const TopPResetParams& params, OpContext& context);
}  // namespace cuda

}  // namespace inflight
