// Looks up a row of the embedding table for each token.
#pragma once

#include "kernels/core/op.h"

namespace inflight {

struct EmbeddingParams {
  const TensorView& ids;    // [T] int32; an id outside [0, V) gives a row of zeros
  const TensorView& table;  // [V, H] floating
  const TensorView& y;      // [T, H], dtype of table
};

void embedding(const EmbeddingParams& params, OpContext& context);

/// Of a row of a plan.
EmbeddingParams embedding_params(const OpArgs& args);

OpDef embedding_op();

namespace cpu {
void embedding(const EmbeddingParams& params, OpContext& context);
}

namespace cuda {
void embedding(const EmbeddingParams& params, OpContext& context);
}  // namespace cuda

}  // namespace inflight
