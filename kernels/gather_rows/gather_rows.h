// Copies chosen rows: the last token's row of each sequence, before the head.
#pragma once

#include "kernels/core/op.h"

namespace inflight {

struct GatherRowsParams {
  const TensorView& x;     // [T, H] floating
  const TensorView& rows;  // [B] int32, each in [0, T)
  const TensorView& y;     // [B, H], dtype of x
};

void gather_rows(const GatherRowsParams& params, OpContext& context);

OpDef gather_rows_op();

namespace cpu {
void gather_rows(const GatherRowsParams& params, OpContext& context);
}

namespace cuda {
void gather_rows(const GatherRowsParams& params, OpContext& context);
}  // namespace cuda

}  // namespace inflight
