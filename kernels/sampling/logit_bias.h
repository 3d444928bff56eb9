// Adds a number of a request's own to the logits of some ids: in place, before penalties and bans.
#pragma once

#include "kernels/core/op.h"

namespace inflight {

struct LogitBiasParams {
  TensorView logits;  // [B, V] float32, rows dense; changed in place
  TensorView rows;    // [N] int32: the row of logits; each at most once
  TensorView ids;     // [K] int32, those of a row distinct; ids outside [0, V) are ignored
  TensorView biases;  // [K] float32, added to the logits of ids; -infinity bans
  TensorView starts;  // [N + 1] int32, offsets into ids
};

void logit_bias(const LogitBiasParams& params, OpContext& context);

namespace cuda {
void logit_bias(const LogitBiasParams& params, OpContext& context);
}  // namespace cuda

}  // namespace inflight
