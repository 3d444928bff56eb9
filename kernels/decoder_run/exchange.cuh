// How the thread blocks of a run of layers tell each other values: in words of 4 bytes that are not
// zero once they are there. A word is stored and loaded as a whole, so it says of itself that it
// has come: no fence, no counter, one way through the L2, and all of what is read is data. (The
// idea of NCCL's "LL" protocol, without its flags; a zero is sent as -0.)
//
// Each layer has words of its own, which are zero when the kernel starts and when it ends: whoever
// has all of a gate's and up's x clears the words that all blocks have read by then (since that x
// needs what was made of them), and what is left the last block to leave. So a word that is looked
// at never has had another value since the kernel began.
#pragma once

#include <cstdint>

#include "kernels/core/cuda/patience.cuh"
#include "kernels/gemm/narrow.cuh"

namespace inflight::cuda::decoder {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Two values of 2 bytes or one of 4.
__device__ __forceinline__ void store_word(uint32_t* to, uint32_t data) {
  constexpr uint32_t kNegativeZero = 0x80000000;
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to),
               "r"(data == 0 ? kNegativeZero : data)
               : "memory");
}
__device__ __forceinline__ uint32_t load_word(const uint32_t* from) {
  uint32_t word;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(word) : "l"(from) : "memory");
  return word;
}

/// Where two values lie that are words: [row] and [32s of the columns] apart.
struct Strides {
  int row, group;

  __device__ __forceinline__ int at(int of_row, int column) const {
    return of_row * row + column / 32 * group + column % 32 / 2;
  }
};

/// `value`, of which the compiler knows nothing: what is made of it in a loop is not kept in
/// registers from round to round.
__device__ __forceinline__ int opaque(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

__device__ __forceinline__ uint32_t wait_for_word(const uint32_t* from) {
  Patience patience;
  for (;;) {
    const uint32_t word = load_word(from);
    if (word != 0) return word;
    patience.tick();
  }
}

/// Eight values of 2 bytes: four words side by side.
struct Piece {
  uint4 data;

  __device__ __forceinline__ void load(const uint32_t* from) {
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(data.x), "=r"(data.y), "=r"(data.z), "=r"(data.w)
                 : "l"(from)
                 : "memory");
  }
  __device__ __forceinline__ bool is_there() const {
    return data.x != 0 && data.y != 0 && data.z != 0 && data.w != 0;
  }
};

/// Loads those of kCount pieces that are `missing` until all of them are there. Whole warps.
template <int kCount, typename Address>
__device__ __forceinline__ void wait_for_pieces(Piece (&pieces)[kCount], bool (&missing)[kCount],
                                                const Address& address_of) {
  Patience patience;
  for (;;) {
    bool is_missing = false;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      missing[i] = missing[i] && !pieces[i].is_there();
      is_missing |= missing[i];
    }
    if (!__any_sync(0xffffffffu, is_missing)) return;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (missing[i]) pieces[i].load(address_of(i));
    }
    patience.tick();
  }
}

#endif

}  // namespace inflight::cuda::decoder
