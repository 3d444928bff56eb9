// Parts of items, which several warps or thread blocks have, and how they add up.
#pragma once

#include "kernels/attention/decode_work.cuh"
#include "kernels/core/cuda/convert.cuh"

namespace inflight::cuda::decode {

/// Adds one to a counter and returns the sum: after all that the thread block stored before its
/// last barrier, and before all that it reads behind its next one. A fence of every thread took
/// longer.
__device__ __forceinline__ uint32_t count_in_order(uint32_t* counter) {
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
               : "=r"(before)
               : "l"(counter)
               : "memory");
  return before + 1;
}

/// Of a head's part in shared memory: outputs, with a pad that keeps banks apart, and state.
inline constexpr size_t part_bytes(int head_size) { return (head_size + 8 + 2) * sizeof(float); }

/// An item of which several warps of the block, or blocks, have parts.
struct Parted {
  Item item;
  int64_t offset;  // of its outputs
  int num_heads;
  int num_parts;  // in this block; 0: there is no such item
};

__device__ __forceinline__ void scale(float2& state, float4& output, float factor) {
  state.y *= factor;
  output = {output.x * factor, output.y * factor, output.z * factor, output.w * factor};
}
/// Adds a part; state.x is the maximum of all.
__device__ __forceinline__ void add(float2& state, float4& output, const float2& other,
                                    const float4& more) {
  const float factor = exp2_fast(other.x - state.x);
  state.y += other.y * factor;
  output.x += more.x * factor;
  output.y += more.y * factor;
  output.z += more.z * factor;
  output.w += more.w * factor;
}

// Parts are added some at a time, so that neither loads nor factors wait for those before.
inline constexpr int kAtOnce = 8;

/// Adds up `count` parts of 4 components of one head. load(begin, states, outputs) fills arrays of
/// kAtOnce with {maximum, sum} and components of the parts from `begin` on.
template <typename Load>
__device__ __forceinline__ float4 merge(int count, const Load& load, float2& state) {
  state = make_float2(-INFINITY, 0);
  float4 output = {};
  for (int begin = 0; begin < count; begin += kAtOnce) {
    float2 states[kAtOnce];
    float4 outputs[kAtOnce];
    float maximum = state.x;
    load(begin, states, outputs);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) maximum = fmaxf(maximum, states[i].x);
    scale(state, output, exp2_fast(state.x - maximum));
    state.x = maximum;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) add(state, output, states[i], outputs[i]);
  }
  return output;
}
/// The same, state_at(i) and output_at(i) of part i.
template <typename States, typename Outputs>
__device__ __forceinline__ float4 merge(int count, const States& state_at, const Outputs& output_at,
                                        float2& state) {
  const auto load = [&](int begin, float2* states, float4* outputs) {
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const bool is_there = begin + i < count;
      states[i] = is_there ? state_at(begin + i) : make_float2(-INFINITY, 0);
      outputs[i] = is_there ? output_at(begin + i) : float4{};
    }
  };
  return merge(count, load, state);
}

template <typename T>
__device__ __forceinline__ void write(T* y, const float4& output, float sum) {
  const float factor = 1.0f / sum;
  uint2 both;
  both.x = pack(T(), output.x * factor, output.y * factor);
  both.y = pack(T(), output.z * factor, output.w * factor);
  *reinterpret_cast<uint2*>(y) = both;
}
}  // namespace inflight::cuda::decode
