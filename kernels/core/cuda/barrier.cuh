// Barriers beyond __syncthreads: mbarriers in shared memory, which count arrivals and copied bytes,
// barriers of some of a block's warps, barriers of a cluster. An mbarrier is named by its pointer
// or by its shared address. sm_90 but for shared_address and the named ones. (PTX ISA: mbarrier,
// bar, barrier.cluster.)
#pragma once

#include <cstdint>

namespace inflight::cuda {

/// In the window of shared memory, as instructions take it.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// For phases of so many arrivals and the bytes that arrive_expecting announces.
__device__ __forceinline__ void init_barrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void init_barrier(uint64_t* barrier, int arrivals) {
  init_barrier(shared_address(barrier), arrivals);
}
/// Makes initialised barriers known to the copy engine.
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void arrive(uint64_t* barrier) { arrive(shared_address(barrier)); }

__device__ __forceinline__ void arrive_expecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void arrive_expecting(uint64_t* barrier, uint32_t bytes) {
  arrive_expecting(shared_address(barrier), bytes);
}

/// `address`, known only once `loaded`, made of what was loaded from shared memory, is in a
/// register: for the arrival at a barrier, or the copy, behind which the copy engine writes where
/// that was. Without it the loads have only been issued, and the compiler waits for them where
/// their values are used: beside 16 KB and more of a multiprocessor's loads of global memory, each
/// wait of which holds up those of shared memory behind, a copy has overtaken them. `zero` is 0, of
/// which the compiler knows nothing.
__device__ __forceinline__ uint32_t behind(uint32_t address, uint32_t loaded, uint32_t zero) {
  return address + (loaded & zero);
}

/// Until the phase of this parity is over.
__device__ __forceinline__ void wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nAGAIN:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra AGAIN;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void wait(uint64_t* barrier, uint32_t parity) {
  wait(shared_address(barrier), parity);
}

/// Named barriers, 1 to 15, of so many threads in whole warps: of those that call either, `sync`
/// waits for all.
__device__ __forceinline__ void sync_named(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ __forceinline__ void arrive_named(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
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
/// The thread block's place in its cluster, and its cluster's in the grid.
__device__ __forceinline__ int cluster_rank() {
  int rank;
  asm("mov.u32 %0, %cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ int cluster_index() {
  int index;
  asm("mov.u32 %0, %clusterid.x;" : "=r"(index));
  return index;
}
/// The address, in the cluster's window, of `address` in block `rank`'s shared memory.
__device__ __forceinline__ uint32_t remote_address(uint32_t address, int rank) {
  uint32_t remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}
/// At a block of the cluster. Without a release of the cluster's scope, which would be a fence of
/// all memory: what the arrival tells is that wgmma has read, and that has been waited for.
__device__ __forceinline__ void arrive_at(uint64_t* barrier, int rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(
                   remote_address(shared_address(barrier), rank))
               : "memory");
}

}  // namespace inflight::cuda
