// The kernels of attention on CUDA, one launch each. All find their rows on the device, from
// query_starts and kv_lengths, so that a captured launch serves any step of the same T and B. A
// kernel that is not given a row by the rules below does not touch it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention/attention.h"
#include "kernels/core/check.h"
#include "kernels/core/device.h"

namespace inflight::cuda {

/// Which sequences a launch serves, by their rows in the step.
enum class Rows { kAny, kOne, kMany };  // any number; exactly one; two or more

/// Calls function.template operator()<size>() for a head size that decode and prefill kernels are
/// made for.
template <typename Function>
void with_head_size(int64_t size, const Function& function) {
  switch (size) {
    case 64:
      return function.template operator()<64>();
    case 80:
      return function.template operator()<80>();
    case 96:
      return function.template operator()<96>();
    case 128:
      return function.template operator()<128>();
    case 256:
      return function.template operator()<256>();
    default:
      throw Error(ErrorCode::kInternal, concat("attention: no kernel for head size ", size));
  }
}

/// Rows::kOne. `suits` says whether the kernel can do these dtypes and sizes.
bool decode_suits(const AttentionParams& params, const OpContext& context);
/// With `cos_sin`, params.q are rows of qkv as cuda::attention_of_qkv has them.
void attention_decode(const AttentionParams& params, const TensorView* cos_sin, OpContext& context);
/// Whether it can, and is ahead of rope_kv_append and attention_decode.
bool decode_takes_qkv(const AttentionParams& params, const TensorView& cos_sin,
                      const OpContext& context);
size_t decode_workspace_bytes(const AttentionParams& largest, const DeviceFacts& facts);

/// Rows::kMany.
bool prefill_suits(const AttentionParams& params, const OpContext& context);
void attention_prefill(const AttentionParams& params, OpContext& context);
size_t prefill_workspace_bytes(const AttentionParams& largest, const DeviceFacts& facts);

/// Any dtypes, any head size up to 1024, any window, without workspace. A row's bits depend on its
/// own query, keys and values alone.
void attention_generic(const AttentionParams& params, OpContext& context, Rows rows);

}  // namespace inflight::cuda
