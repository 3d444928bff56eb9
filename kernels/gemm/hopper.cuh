// Hopper's asynchronous machinery as thin wrappers: barriers in shared memory that count bytes,
// tile copies by tensor map, and warpgroup matrix products on tiles of shared memory.
// (PTX ISA: mbarrier, cp.async.bulk.tensor, wgmma.)
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace inflight::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Everything below is for sm_90a alone: other devices never reach a kernel that uses it.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ void init_barrier(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals));
}
/// Makes initialised barriers known to the copy engine.
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
__device__ __forceinline__ void arrive_expecting(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
/// Waits until the phase of this parity is over.
__device__ __forceinline__ void wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nAGAIN:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra AGAIN;\n}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

__device__ __forceinline__ uint64_t read_once_policy() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
/// Copies the map's box from (column, row) on; its bytes count towards the barrier, also those of
/// the part that lies outside of the matrix and is filled with zeros.
__device__ __forceinline__ void copy_tile(void* to, const CUtensorMap& map, int column, int row,
                                          uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier))
      : "memory");
}
__device__ __forceinline__ void copy_tile(void* to, const CUtensorMap& map, int column, int row,
                                          uint64_t* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
}
/// Copies the box of a map made by tensor_map_of_chunks from (row, chunk) on.
__device__ __forceinline__ void copy_chunks(void* to, const CUtensorMap& map, int row, int chunk,
                                            uint64_t* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(to)),
      "l"(&map), "r"(0), "r"(row), "r"(chunk), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
}
__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

/// The two halves of a barrier of all threads of a cluster; shared memory written before the first
/// is seen, in any block, after the second. Whole warps call them.
__device__ __forceinline__ void arrive_at_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void wait_for_cluster() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_barrier() {
  arrive_at_cluster();
  wait_for_cluster();
}
/// The address, in the cluster's window, of `address` in block `rank`'s shared memory.
__device__ __forceinline__ uint32_t remote_address(uint32_t address, int rank) {
  uint32_t remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}
__device__ __forceinline__ void store_remote(uint32_t address, float value) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

/// A tile whose rows are 128 bytes of the depth, in the 128-byte swizzle, from a multiple of 1024
/// bytes on. Adding bytes / 16 moves along the depth.
__device__ __forceinline__ uint64_t tile_descriptor(uint32_t address) {
  return (uint64_t{1} << 62) | (uint64_t{1024 >> 4} << 32) | ((address & 0x3ffff) >> 4);
}

__device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

#define INFLIGHT_R4(s, i) "+f"(s[i]), "+f"(s[i + 1]), "+f"(s[i + 2]), "+f"(s[i + 3])
#define INFLIGHT_R16(s, i) \
  INFLIGHT_R4(s, i), INFLIGHT_R4(s, i + 4), INFLIGHT_R4(s, i + 8), INFLIGHT_R4(s, i + 12)
/// sums[64 rows of weight][kColumns rows of x] += weight * x^T over a depth of 16 elements; the
/// operands are tile_descriptors.
template <typename T, int kColumns>
__device__ __forceinline__ void add_product(float (&sums)[kColumns / 2], uint64_t weight,
                                            uint64_t x) {
  constexpr bool kIsHalf = std::is_same_v<T, __half>;
#define INFLIGHT_WGMMA_BOTH(...)            \
  if constexpr (kIsHalf) {                  \
    INFLIGHT_WGMMA_OF("f16", __VA_ARGS__);  \
  } else {                                  \
    INFLIGHT_WGMMA_OF("bf16", __VA_ARGS__); \
  }
#define INFLIGHT_WGMMA_OF(type, shape, registers, a, b, ...)                                      \
  asm volatile("wgmma.mma_async.sync.aligned." shape ".f32." type "." type " {" registers "}, " a \
               ", " b ", 1, 1, 1, 0, 0;"                                                          \
               : __VA_ARGS__                                                                      \
               : "l"(weight), "l"(x))
  if constexpr (kColumns == 8) {
    INFLIGHT_WGMMA_BOTH("m64n8k16", "%0,%1,%2,%3", "%4", "%5", INFLIGHT_R4(sums, 0))
  } else if constexpr (kColumns == 16) {
    INFLIGHT_WGMMA_BOTH("m64n16k16", "%0,%1,%2,%3,%4,%5,%6,%7", "%8", "%9", INFLIGHT_R4(sums, 0),
                        INFLIGHT_R4(sums, 4))
  } else if constexpr (kColumns == 32) {
    INFLIGHT_WGMMA_BOTH("m64n32k16", "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15", "%16",
                        "%17", INFLIGHT_R16(sums, 0))
  } else {
    static_assert(kColumns == 64);
    INFLIGHT_WGMMA_BOTH("m64n64k16",
                        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31",
                        "%32", "%33", INFLIGHT_R16(sums, 0), INFLIGHT_R16(sums, 16))
  }
#undef INFLIGHT_WGMMA_OF
#undef INFLIGHT_WGMMA_BOTH
}
#undef INFLIGHT_R16
#undef INFLIGHT_R4

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace inflight::cuda
