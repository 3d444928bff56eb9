// Hopper's asynchronous pieces as the prefill kernel uses them: mbarriers, bulk tensor copies, and
// wgmma with a tile of 64 rows (PTX ISA 8.0 and later, sm_90a).
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace inflight::cuda::hopper {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void init_barrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void arrive_expecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra end;\n"
      "bra again;\n"
      "end:\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

/// A box of a tensor into shared memory, counted by `barrier`.
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap* map, int x, int y, int z,
                                         uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %4}], [%5];" ::"r"(to),
      "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier)
      : "memory");
}

/// Named barriers: of the threads that call either, `sync` waits for all.
__device__ __forceinline__ void sync_named(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ __forceinline__ void arrive_named(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

template <int kCount>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

/// A tile in shared memory as wgmma reads it: rows of 128 bytes, swizzled, in groups of 8 that are
/// 1024 bytes apart. `outer_bytes` from one 64-element column to the next counts only where rows
/// are the inner dimension of the product.
__device__ __forceinline__ uint64_t descriptor(uint32_t address, uint32_t outer_bytes = 16) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) |
         static_cast<uint64_t>(outer_bytes >> 4) << 16 | static_cast<uint64_t>(1024 >> 4) << 32 |
         static_cast<uint64_t>(1) << 62;
}

__device__ __forceinline__ void open_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void close_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Until at most so many groups of products are in flight.
template <int kPending>
__device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Keeps the compiler from moving accesses of accumulators over this point.
template <int kCount>
__device__ __forceinline__ void pin(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}

#define INFLIGHT_F4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define INFLIGHT_F16(d, i) \
  INFLIGHT_F4(d, i), INFLIGHT_F4(d, i + 4), INFLIGHT_F4(d, i + 8), INFLIGHT_F4(d, i + 12)
#define INFLIGHT_F32(d, i) INFLIGHT_F16(d, i), INFLIGHT_F16(d, i + 16)
#define INFLIGHT_F40(d, i) INFLIGHT_F32(d, i), INFLIGHT_F4(d, i + 32), INFLIGHT_F4(d, i + 36)
#define INFLIGHT_F48(d, i) INFLIGHT_F32(d, i), INFLIGHT_F16(d, i + 32)
#define INFLIGHT_F64(d, i) INFLIGHT_F32(d, i), INFLIGHT_F32(d, i + 32)
#define INFLIGHT_F128(d, i) INFLIGHT_F64(d, i), INFLIGHT_F64(d, i + 64)

#define INFLIGHT_LIST32                                                                \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22," \
  "%23,%24,%25,%26,%27,%28,%29,%30,%31"

#define INFLIGHT_LIST40                                                                \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22," \
  "%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39"

#define INFLIGHT_LIST48                                                                  \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,"   \
  "%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43," \
  "%44,%45,%46,%47"

#define INFLIGHT_LIST64                                                                  \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,"   \
  "%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43," \
  "%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

#define INFLIGHT_LIST128                                                                 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,"   \
  "%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43," \
  "%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64," \
  "%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85," \
  "%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,"    \
  "%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,"     \
  "%121,%122,%123,%124,%125,%126,%127"

/// d (+)= a * b^T with a [64, 16] and b [2 * kCount, 16] in shared memory, rows of 16 contiguous.
#define INFLIGHT_PRODUCT_SHARED(type, name, n, count, a, b, p)                                     \
  __device__ __forceinline__ void multiply(type, float (&d)[count], uint64_t left, uint64_t right, \
                                           int accumulate) {                                       \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p                                           \
                 ", 0;\n"                                                                          \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." name "." name                   \
                 " {" INFLIGHT_LIST##count "}, %" #a ", %" #b ", p, 1, 1, 0, 0;\n}\n"              \
                 : INFLIGHT_F##count(d, 0)                                                         \
                 : "l"(left), "l"(right), "r"(accumulate));                                        \
  }
/// d += a * b with a [64, 16] in registers and b [16, 2 * kCount] in shared memory.
#define INFLIGHT_PRODUCT_REGISTERS(type, name, n, count, a0, a1, a2, a3, b)                       \
  __device__ __forceinline__ void multiply(type, float (&d)[count], const uint32_t (&left)[4],    \
                                           uint64_t right) {                                      \
    asm volatile(                                                                                 \
        "{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"                                                \
        "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." name "." name " {" INFLIGHT_LIST##count \
        "}, {%" #a0 ",%" #a1 ",%" #a2 ",%" #a3 "}, %" #b ", p, 1, 1, 1;\n}\n"                     \
        : INFLIGHT_F##count(d, 0)                                                                 \
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right));                    \
  }
#define INFLIGHT_PRODUCTS(type, name)                                 \
  INFLIGHT_PRODUCT_SHARED(type, name, 64, 32, 32, 33, 34)             \
  INFLIGHT_PRODUCT_SHARED(type, name, 128, 64, 64, 65, 66)            \
  INFLIGHT_PRODUCT_REGISTERS(type, name, 64, 32, 32, 33, 34, 35, 36)  \
  INFLIGHT_PRODUCT_REGISTERS(type, name, 80, 40, 40, 41, 42, 43, 44)  \
  INFLIGHT_PRODUCT_REGISTERS(type, name, 96, 48, 48, 49, 50, 51, 52)  \
  INFLIGHT_PRODUCT_REGISTERS(type, name, 128, 64, 64, 65, 66, 67, 68) \
  INFLIGHT_PRODUCT_REGISTERS(type, name, 256, 128, 128, 129, 130, 131, 132)

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
INFLIGHT_PRODUCTS(__nv_bfloat16, "bf16")
INFLIGHT_PRODUCTS(__half, "f16")
#endif

#undef INFLIGHT_PRODUCTS
#undef INFLIGHT_PRODUCT_REGISTERS
#undef INFLIGHT_PRODUCT_SHARED
#undef INFLIGHT_LIST32
#undef INFLIGHT_LIST40
#undef INFLIGHT_LIST48
#undef INFLIGHT_LIST64
#undef INFLIGHT_LIST128
#undef INFLIGHT_F128
#undef INFLIGHT_F64
#undef INFLIGHT_F48
#undef INFLIGHT_F40
#undef INFLIGHT_F32
#undef INFLIGHT_F16
#undef INFLIGHT_F4

}  // namespace inflight::cuda::hopper
