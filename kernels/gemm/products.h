// The CUDA products that select.h's choice is among. All take what gemm.cc has checked.
#pragma once

#include <span>

#include "kernels/gemm/gemm.h"
#include "kernels/gemm/select.h"

namespace inflight::cuda {

/// Half of an RMS norm between two products of bfloat16. The first one leaves y times the norm's
/// weights, which is the second one's x, and the sums of the squares of y; the second one divides
/// its sums by the root of their mean.
struct SplitNorm {
  const void* weight = nullptr;  // [columns of y]
  void* scaled = nullptr;        // [rows, columns of y]
  float* squares = nullptr;      // [rows / 4][num_parts][4], of parts of a row; null: no norm
  int num_parts = 0;             // of 16 columns of the first one's y, or num_norm_parts
  float epsilon = 0;
};
/// Of a product's x and of its y, which has a residual then.
struct SplitNorms {
  SplitNorm x, y;
};

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
/// The same of weights that few slices hold, `split` thread blocks to each: 1, 2 or 4, of at least
/// 256 of the depth; y and residual of x's dtype, their rows multiples of 16 bytes.
void slice_product(const FusedProductParams& params, int split, const OpContext& context,
                   const SplitNorms& norms = {});
/// plan_slices' for these; 0 where they do not fit.
int choose_slices(const FusedProductParams& params, const OpContext& context);
/// slice_product, or skinny_product where choose_slices has none, divided as plan_skinny says.
void few_rows_product(const FusedProductParams& params, const OpContext& context);
/// The same by bands of `rows` weight rows, a multiple of 16 of 129 to 256, of a depth of at least
/// 256; not gated.
void band_product(const FusedProductParams& params, int rows, const OpContext& context,
                  const SplitNorms& norms = {});
/// plan_bands' for these; 0 where they do not fit.
int choose_bands(const FusedProductParams& params, const OpContext& context);
/// The same of up to 64 rows, as `plan` divides it; y and residual of x's dtype, their rows
/// multiples of 16 bytes. With `norm`, of x, no residual.
void stripe_product(const FusedProductParams& params, const StripePlan& plan,
                    const OpContext& context, const SplitNorm& norm = {});
/// plan_stripe's for these; of no rows where they do not fit.
StripePlan choose_stripes(const FusedProductParams& params, const OpContext& context);
/// By bands, or else by stripes, where there is a plan. False: nothing was done.
bool band_or_stripe_product(const FusedProductParams& params, const OpContext& context);
/// y = residual + linear, or the gated linear, where plan_medium has a plan; residual optional,
/// rounded as the ops do that it stands for. False: nothing was done.
bool medium_product(const LinearParams& params, const TensorView& residual, bool is_gated,
                    const OpContext& context);
/// By cuBLASLt, with `residual` ([M, N], dtype of y, may be y) added before y is rounded unless it
/// has no data; false, with nothing done, if it has no algorithm for these dtypes and shapes.
bool library_product(const LinearParams& params, const TensorView& residual,
                     const OpContext& context);

/// Scratch that cuBLASLt is offered; what its races read to clear the L2, more than an H200's
/// holds; and the workspace of library_product: both.
inline constexpr size_t kLibraryScratchBytes = 32u << 20, kRaceBytes = 64u << 20,
                        kLibraryWorkspaceBytes = kLibraryScratchBytes + kRaceBytes;

}  // namespace inflight::cuda
