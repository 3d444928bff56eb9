// How the thread blocks of a run of layers tell each other values: in words of 8 bytes, 4 of them
// data, 4 a tag that no word of that place had before. A word is stored and loaded as a whole, so
// the tag says that the data are there: no fence, no counter, one way through the L2. (The idea is
// NCCL's "LL" protocol.)
//
// A tag is the number of layers run so far in this stream. Each place is written once a layer, and
// nobody writes it again before all have read it: a layer's qkv needs the whole of the layer
// before, which needs every block that read anything of it. (A word last written 2^32 layers ago
// would pass for new.)
#pragma once

#include <cstdint>

#include "kernels/gemm/narrow.cuh"

namespace inflight::cuda::decoder {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ uint64_t word_of(uint32_t data, uint32_t tag) {
  return uint64_t{tag} << 32 | data;
}
__device__ __forceinline__ bool has_tag(uint64_t word, uint32_t tag) {
  return static_cast<uint32_t>(word >> 32) == tag;
}

__device__ __forceinline__ void store_word(uint64_t* to, uint32_t data, uint32_t tag) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(word_of(data, tag)) : "memory");
}
__device__ __forceinline__ uint64_t load_word(const uint64_t* from) {
  uint64_t word;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(word) : "l"(from) : "memory");
  return word;
}
/// Two words side by side, each of them whole.
struct alignas(16) WordPair {
  uint64_t low, high;
};
__device__ __forceinline__ WordPair load_words(const uint64_t* from) {
  WordPair pair;
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
               : "=l"(pair.low), "=l"(pair.high)
               : "l"(from)
               : "memory");
  return pair;
}

/// `value`, of which the compiler knows nothing: what is made of it in a loop is not kept in
/// registers from round to round.
__device__ __forceinline__ int opaque(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

/// Ends the kernel as a failure, which the engine reports, if others take narrow::kPatience.
class Patience {
 public:
  __device__ __forceinline__ void tick() {
    if (++polls_ % 1024 != 0) return;  // 0.5 us each
    const uint64_t now = narrow::now_in_ns();
    if (end_ == 0) end_ = now + narrow::kPatience;
    if (now >= end_) asm volatile("trap;");
  }

 private:
  uint32_t polls_ = 0;
  uint64_t end_ = 0;
};

__device__ __forceinline__ uint32_t wait_for_word(const uint64_t* from, uint32_t tag) {
  Patience patience;
  for (;;) {
    const uint64_t word = load_word(from);
    if (has_tag(word, tag)) return static_cast<uint32_t>(word);
    patience.tick();
  }
}

/// Eight values of 2 bytes: four words side by side.
struct Piece {
  WordPair pairs[2];

  __device__ __forceinline__ void load(const uint64_t* from) {
    pairs[0] = load_words(from);
    pairs[1] = load_words(from + 2);
  }
  __device__ __forceinline__ bool has(uint32_t tag) const {
    const auto other = [&](uint64_t word) { return static_cast<uint32_t>(word >> 32) ^ tag; };
    return (other(pairs[0].low) | other(pairs[0].high) | other(pairs[1].low) |
            other(pairs[1].high)) == 0;
  }
  __device__ __forceinline__ uint4 data() const {
    return {static_cast<uint32_t>(pairs[0].low), static_cast<uint32_t>(pairs[0].high),
            static_cast<uint32_t>(pairs[1].low), static_cast<uint32_t>(pairs[1].high)};
  }
};

/// Those of kCount pieces that are `missing`, once all of them are there. Whole warps. Who asks for
/// much keeps the L2 from what it waits for: with `one_first` the first piece alone is asked for
/// until it is there.
template <int kCount, typename Address>
__device__ __forceinline__ void wait_for_pieces(Piece (&pieces)[kCount], uint32_t tag,
                                                bool (&missing)[kCount], bool one_first,
                                                const Address& address_of) {
  Patience patience;
  for (;;) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (missing[i] && (i == 0 || !one_first)) pieces[i].load(address_of(i));
    }
    bool is_missing = false;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i == 0 || !one_first) missing[i] = missing[i] && !pieces[i].has(tag);
      is_missing |= missing[i];
    }
    if (!__any_sync(0xffffffffu, is_missing)) return;
    if (one_first) one_first = __any_sync(0xffffffffu, missing[0]);
    patience.tick();
  }
}

#endif

}  // namespace inflight::cuda::decoder
