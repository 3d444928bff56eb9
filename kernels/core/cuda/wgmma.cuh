// Tensor cores as a warpgroup uses them on Hopper: products of 64 rows of a with up to 256 of b
// over a depth of 16, enqueued, the sums in the warpgroup's registers; and how warps share a
// multiprocessor's registers. Operands in shared memory are tile_descriptors. (PTX ISA: wgmma,
// setmaxnreg.)
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace inflight::cuda {

/// Of each thread of a warpgroup, all of whose warps call it.
template <int kCount>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

/// A tile whose rows are 128 bytes, 64 elements, in the 128-byte swizzle, from a multiple of 1024
/// bytes on. Adding bytes / 16 moves along a row. `outer_bytes` from one 64-element column to the
/// next counts only where rows are the inner dimension of the product.
__device__ __forceinline__ uint64_t tile_descriptor(uint32_t address, uint32_t outer_bytes = 0) {
  return uint64_t{1} << 62 | uint64_t{1024 >> 4} << 32 | uint64_t{outer_bytes >> 4} << 16 |
         (address & 0x3ffff) >> 4;
}

/// Around products, which belong to a group from commit on: registers and shared memory written
/// before `begin` are seen by them.
__device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Until at most so many groups of products are in flight.
template <int kPending>
__device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Keeps the compiler from moving accesses of the sums over this point.
template <int kCount>
__device__ __forceinline__ void pin(float (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

#define INFLIGHT_LIST4 "%0,%1,%2,%3"
#define INFLIGHT_LIST8 INFLIGHT_LIST4 ",%4,%5,%6,%7"
#define INFLIGHT_LIST16 INFLIGHT_LIST8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define INFLIGHT_LIST32 \
  INFLIGHT_LIST16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define INFLIGHT_LIST40 INFLIGHT_LIST32 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define INFLIGHT_LIST48 INFLIGHT_LIST40 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define INFLIGHT_LIST56 INFLIGHT_LIST48 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define INFLIGHT_LIST64 INFLIGHT_LIST56 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define INFLIGHT_LIST72 INFLIGHT_LIST64 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define INFLIGHT_LIST104                                                                       \
  INFLIGHT_LIST72                                                                              \
  ",%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%" \
  "94,%95,%96,%97,%98,%99,%100,%101,%102,%103"
#define INFLIGHT_LIST112 INFLIGHT_LIST104 ",%104,%105,%106,%107,%108,%109,%110,%111"
#define INFLIGHT_LIST128 \
  INFLIGHT_LIST112       \
  ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define INFLIGHT_R4(s, i) "+f"(s[i]), "+f"(s[i + 1]), "+f"(s[i + 2]), "+f"(s[i + 3])
#define INFLIGHT_R8(s, i) INFLIGHT_R4(s, i), INFLIGHT_R4(s, i + 4)
#define INFLIGHT_R16(s, i) INFLIGHT_R8(s, i), INFLIGHT_R8(s, i + 8)
#define INFLIGHT_R32(s, i) INFLIGHT_R16(s, i), INFLIGHT_R16(s, i + 16)
#define INFLIGHT_R64(s, i) INFLIGHT_R32(s, i), INFLIGHT_R32(s, i + 32)
#define INFLIGHT_SUMS4(s) INFLIGHT_R4(s, 0)
#define INFLIGHT_SUMS8(s) INFLIGHT_R8(s, 0)
#define INFLIGHT_SUMS16(s) INFLIGHT_R16(s, 0)
#define INFLIGHT_SUMS32(s) INFLIGHT_R32(s, 0)
#define INFLIGHT_SUMS40(s) INFLIGHT_R32(s, 0), INFLIGHT_R8(s, 32)
#define INFLIGHT_SUMS48(s) INFLIGHT_R32(s, 0), INFLIGHT_R16(s, 32)
#define INFLIGHT_SUMS56(s) INFLIGHT_R32(s, 0), INFLIGHT_R16(s, 32), INFLIGHT_R8(s, 48)
#define INFLIGHT_SUMS64(s) INFLIGHT_R64(s, 0)
#define INFLIGHT_SUMS72(s) INFLIGHT_R64(s, 0), INFLIGHT_R8(s, 64)
#define INFLIGHT_SUMS104(s) INFLIGHT_R64(s, 0), INFLIGHT_R32(s, 64), INFLIGHT_R8(s, 96)
#define INFLIGHT_SUMS112(s) INFLIGHT_R64(s, 0), INFLIGHT_R32(s, 64), INFLIGHT_R16(s, 96)
#define INFLIGHT_SUMS128(s) INFLIGHT_R64(s, 0), INFLIGHT_R64(s, 64)
#define INFLIGHT_OF_TYPE(product, ...)       \
  if constexpr (std::is_same_v<T, __half>) { \
    product("f16", __VA_ARGS__);             \
  } else {                                   \
    product("bf16", __VA_ARGS__);            \
  }

#define INFLIGHT_PRODUCT(type, columns, count, a, b, p)                                    \
  asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, %" #p                               \
               ", 0;\nwgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type \
               " {" INFLIGHT_LIST##count "}, %" #a ", %" #b ", more, 1, 1, 0, 0;\n}\n"     \
               : INFLIGHT_SUMS##count(sums)                                                \
               : "l"(left), "l"(right), "r"(accumulate))
/// sums[64][2 * kCount] = or += left [64, 16] * right [2 * kCount, 16]^T.
template <typename T, int kCount>
__device__ __forceinline__ void multiply(float (&sums)[kCount], uint64_t left, uint64_t right,
                                         int accumulate) {
  if constexpr (kCount == 32) {
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 64, 32, 32, 33, 34)
  } else if constexpr (kCount == 48) {
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 96, 48, 48, 49, 50)
  } else if constexpr (kCount == 64) {
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 128, 64, 64, 65, 66)
  } else if constexpr (kCount == 72) {
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 144, 72, 72, 73, 74)
  } else if constexpr (kCount == 104) {
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 208, 104, 104, 105, 106)
  } else if constexpr (kCount == 112) {
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 224, 112, 112, 113, 114)
  } else {
    static_assert(kCount == 128);
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 256, 128, 128, 129, 130)
  }
}
#undef INFLIGHT_PRODUCT

#define INFLIGHT_PRODUCT(type, columns, count, a, b)                                 \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type \
               " {" INFLIGHT_LIST##count "}, %" #a ", %" #b ", 1, 1, 1, 0, 0;"       \
               : INFLIGHT_SUMS##count(sums)                                          \
               : "l"(left), "l"(right))
/// sums += left * right^T, of fewer columns.
template <typename T, int kCount>
__device__ __forceinline__ void add_product(float (&sums)[kCount], uint64_t left, uint64_t right) {
  if constexpr (kCount == 4) {
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 8, 4, 4, 5)
  } else if constexpr (kCount == 8) {
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 16, 8, 8, 9)
  } else if constexpr (kCount == 16) {
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 32, 16, 16, 17)
  } else if constexpr (kCount == 32) {
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 64, 32, 32, 33)
  } else if constexpr (kCount == 56) {
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 112, 56, 56, 57)
  } else {
    static_assert(kCount == 64);
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 128, 64, 64, 65)
  }
}
#undef INFLIGHT_PRODUCT

#define INFLIGHT_PRODUCT(type, columns, count, a0, a1, a2, a3, b)                \
  asm volatile(                                                                  \
      "{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"                                 \
      "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type      \
      " {" INFLIGHT_LIST##count "}, {%" #a0 ",%" #a1 ",%" #a2 ",%" #a3 "}, %" #b \
                                ", p, 1, 1, 1;\n}\n"                             \
      : INFLIGHT_SUMS##count(sums)                                               \
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right))
/// sums += left * right, [16, 2 * kCount] with rows as the inner dimension; left in registers, laid
/// out as multiply_add's a (mma.cuh) by each warp's 16 rows.
template <typename T, int kCount>
__device__ __forceinline__ void add_product(float (&sums)[kCount], const uint32_t (&left)[4],
                                            uint64_t right) {
  if constexpr (kCount == 32) {
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 64, 32, 32, 33, 34, 35, 36)
  } else if constexpr (kCount == 40) {
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 80, 40, 40, 41, 42, 43, 44)
  } else if constexpr (kCount == 48) {
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 96, 48, 48, 49, 50, 51, 52)
  } else if constexpr (kCount == 64) {
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 128, 64, 64, 65, 66, 67, 68)
  } else {
    static_assert(kCount == 128);
    INFLIGHT_OF_TYPE(INFLIGHT_PRODUCT, 256, 128, 128, 129, 130, 131, 132)
  }
}
#undef INFLIGHT_PRODUCT
#undef INFLIGHT_OF_TYPE
#undef INFLIGHT_LIST4
#undef INFLIGHT_LIST8
#undef INFLIGHT_LIST16
#undef INFLIGHT_LIST32
#undef INFLIGHT_LIST40
#undef INFLIGHT_LIST48
#undef INFLIGHT_LIST56
#undef INFLIGHT_LIST64
#undef INFLIGHT_LIST72
#undef INFLIGHT_LIST104
#undef INFLIGHT_LIST112
#undef INFLIGHT_LIST128
#undef INFLIGHT_R4
#undef INFLIGHT_R8
#undef INFLIGHT_R16
#undef INFLIGHT_R32
#undef INFLIGHT_R64
#undef INFLIGHT_SUMS4
#undef INFLIGHT_SUMS8
#undef INFLIGHT_SUMS16
#undef INFLIGHT_SUMS32
#undef INFLIGHT_SUMS40
#undef INFLIGHT_SUMS48
#undef INFLIGHT_SUMS56
#undef INFLIGHT_SUMS64
#undef INFLIGHT_SUMS72
#undef INFLIGHT_SUMS104
#undef INFLIGHT_SUMS112
#undef INFLIGHT_SUMS128

}  // namespace inflight::cuda
