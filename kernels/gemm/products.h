// The CUDA products that select.h's choice is among. All take what gemm.cc has checked.
#pragma once

#include <span>

#include "kernels/gemm/gemm.h"
#include "kernels/gemm/select.h"

namespace inflight::cuda {

/// Whether the rows of a matrix begin at multiples of 16 bytes.
bool is_aligned(const TensorView& matrix);

/// select_product for these; y's columns play no part.
Product choose_product(const LinearParams& params, const OpContext& context);

/// Any dtypes and shapes, float32 fused multiply-adds in an order that depends on the depth alone.
void exact_product(const LinearParams& params, const OpContext& context);
/// 16-bit x and weight of one dtype, rows that are multiples of 16 bytes: mma.sync, sm_80 on.
void tiled_product(const LinearParams& params, const OpContext& context);
/// The same, at most kMaxSkinnyRows rows, sm_90 only.
void skinny_product(const FusedProductParams& params, const SkinnyPlan& plan,
                    const OpContext& context);
/// The same, at most kMaxNarrowRows rows, sm_90 only, a depth of whole 64s; no norm in float16.
/// Several, at most kMaxNarrowLinks, of the same rows and dtype: in turn, each may read what those
/// before it make.
void narrow_product(std::span<const FusedProductParams> products, const NarrowPlan& plan,
                    const OpContext& context);
/// skinny_product, divided as plan_skinny says.
void few_rows_product(const FusedProductParams& params, const OpContext& context);
/// The same of up to 64 rows, as `plan` divides it; y and residual of x's dtype, their rows
/// multiples of 16 bytes.
void stripe_product(const FusedProductParams& params, const StripePlan& plan,
                    const OpContext& context);
/// The same where plan_stripe has a plan. False: nothing was done.
bool stripe_product(const FusedProductParams& params, const OpContext& context);
/// y = residual + linear, or the gated linear, where plan_medium has a plan; residual optional,
/// rounded as the ops do that it stands for. False: nothing was done.
bool medium_product(const LinearParams& params, const TensorView& residual, bool is_gated,
                    const OpContext& context);
/// By cuBLASLt, with `residual` ([M, N], dtype of y, may be y) added before y is rounded unless it
/// has no data; false, with nothing done, if it has no algorithm for these dtypes and shapes.
bool library_product(const LinearParams& params, const TensorView& residual,
                     const OpContext& context);

/// Scratch that cuBLASLt is offered.
inline constexpr size_t kLibraryWorkspaceBytes = 32u << 20;

}  // namespace inflight::cuda
