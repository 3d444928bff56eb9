// One row of logits on the device: how a cluster of thread blocks shares it, the order of its
// elements as integers, their weights. A row is cut into chunks that a warp reads at once; which
// block reads a chunk changes no result.
#pragma once

#include <cfloat>
#include <cstdint>

#include "kernels/core/cuda/launch.cuh"
#include "kernels/core/cuda/reduce.cuh"
#include "kernels/sampling/outcome.h"

namespace inflight::cuda {

inline constexpr int kRowThreads = 512;  // of a block
inline constexpr int kRowWarps = kRowThreads / 32;
inline constexpr int kChunk = kMaximaChunk;  // logits; 251 chunks in a row of 128k
inline constexpr int kPerLane = kChunk / 32;
inline constexpr int kMaxChunks = 2048;
inline constexpr int64_t kMaxVocabSize = int64_t{kChunk} * kMaxChunks;

/// The thread blocks that share a row; one before Hopper.
struct Cluster {
  unsigned rank = 0;
  unsigned size = 1;

  __device__ static Cluster of_this_block() {
    Cluster cluster;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(cluster.rank));
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(cluster.size));
#endif
    return cluster;
  }
  /// A barrier of all threads of all blocks, which then see each other's shared memory.
  __device__ void sync() const {
#if __CUDA_ARCH__ >= 900
    if (size > 1) {
      asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;"
                   :
                   :
                   : "memory");
      return;
    }
#endif
    __syncthreads();
  }
  /// Where the block `of` has what is at `shared` here.
  template <typename T>
  __device__ T* at(T* shared, unsigned of) const {
#if __CUDA_ARCH__ >= 900
    if (size > 1) {
      T* there;
      asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(shared), "r"(of));
      return there;
    }
#endif
    return shared;
  }
};

/// Blocks to a row so that `num_rows` rows about fill the device. Clusters of more blocks than fit
/// at once would wait for each other.
inline int row_cluster(int64_t num_rows, const OpContext& context) {
  if (context.compute_capability < 90) return 1;
  int blocks = 8;
  while (blocks > 1 && num_rows * blocks > context.num_multiprocessors) blocks /= 2;
  return blocks;
}

inline void check_row_length(const char* op, int64_t vocab_size) {
  if (vocab_size > kMaxVocabSize) {
    throw Error(ErrorCode::kUnsupported, concat(op, ": a vocabulary of ", vocab_size,
                                                " ids; on CUDA at most ", kMaxVocabSize));
  }
}

/// A warp's chunks of those of a row, shared out evenly.
struct Turns {
  int first;
  int stride;
  int count;

  __device__ Turns(int num_chunks, const Cluster& cluster)
      : first((threadIdx.x / 32) * cluster.size + cluster.rank),
        stride(cluster.size * kRowWarps),
        count((num_chunks - first + stride - 1) / stride) {}
  __device__ int chunk(int turn) const { return first + stride * turn; }
};

struct Row {
  const float* logits;
  int length;

  __device__ int num_chunks() const { return (length + kChunk - 1) / kChunk; }
  /// Element j of a lane is logits[chunk * kChunk + j * 32 + lane], -infinity beyond the row.
  __device__ __forceinline__ void load(int chunk, float (&values)[kPerLane]) const {
    const int first = chunk * kChunk + static_cast<int>(threadIdx.x % 32);
    if ((chunk + 1) * kChunk <= length) {
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) values[j] = __ldcg(logits + first + j * 32);
    } else {
#pragma unroll
      for (int j = 0; j < kPerLane; ++j)
        values[j] = first + j * 32 < length ? __ldcg(logits + first + j * 32) : -INFINITY;
    }
  }
  /// Calls function(chunk, values) for all of a warp's chunks; the next one is on its way
  /// meanwhile.
  template <typename Function>
  __device__ __forceinline__ void stream(const Turns& turns, const Function& function) const {
    float values[kPerLane], next[kPerLane];
    if (turns.count > 0) load(turns.chunk(0), next);
    for (int turn = 0; turn < turns.count; ++turn) {
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) values[j] = next[j];
      if (turn + 1 < turns.count) load(turns.chunk(turn + 1), next);
      function(turns.chunk(turn), values);
    }
  }
};

/// The larger one, NaN if any is.
__device__ __forceinline__ float max_or_nan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}
/// parts[i]: of the values i, i + 4, ...
__device__ __forceinline__ float lane_max(const float (&values)[kPerLane], float (&parts)[4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) parts[j] = values[j];
#pragma unroll
  for (int j = 4; j < kPerLane; ++j) parts[j % 4] = max_or_nan(parts[j % 4], values[j]);
  return max_or_nan(max_or_nan(parts[0], parts[1]), max_or_nan(parts[2], parts[3]));
}
__device__ __forceinline__ float lane_max(const float (&values)[kPerLane]) {
  float parts[4];
  return lane_max(values, parts);
}
__device__ __forceinline__ float warp_max_or_nan(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    x = max_or_nan(x, __shfl_xor_sync(kFullWarp, x, offset));
  return x;
}

/// Floats in their order as unsigned integers; both zeros are one. Not for NaN.
__device__ __forceinline__ uint32_t ordered(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}
__device__ __forceinline__ float value_of(uint32_t ordered) {
  return __uint_as_float(ordered ^ (ordered >> 31 ? 0x80000000u : 0xffffffffu));
}
/// Likelier is larger, of equals the lower id: no two elements of a row share a key.
__device__ __forceinline__ uint64_t key_of(float x, int id) {
  return uint64_t{ordered(x)} << 32 | ~static_cast<uint32_t>(id);
}
__device__ __forceinline__ float value_of_key(uint64_t key) {
  return value_of(static_cast<uint32_t>(key >> 32));
}
__device__ __forceinline__ int id_of_key(uint64_t key) {
  return static_cast<int>(~static_cast<uint32_t>(key));
}
/// The least key of a value.
__device__ __forceinline__ uint64_t least_key(float x) { return uint64_t{ordered(x)} << 32; }

/// exp((x - maximum) / temperature) of x <= maximum; `scale` is scale_of(temperature).
__device__ __forceinline__ float weight_of(float x, float maximum, float scale) {
  float weight;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(weight) : "f"((x - maximum) * scale));
  return weight;
}
__device__ __forceinline__ float scale_of(float temperature) {
  return fminf(1.44269504f / temperature, FLT_MAX);
}
/// The least logit that passes a filter which drops weights below `weight`, 0 < weight <= 1.
__device__ __forceinline__ float logit_of_weight(double weight, float maximum, float temperature) {
  const double logit = maximum + static_cast<double>(temperature) * log(weight);
  return static_cast<float>(fmax(logit, -static_cast<double>(FLT_MAX)));
}

}  // namespace inflight::cuda
