// Copies that a thread starts and does not wait for: of 16 bytes by the threads themselves (sm_80),
// of boxes and rows by the copy engine, whose bytes an mbarrier counts (sm_90), and stores into the
// shared memory of a cluster's other blocks. (PTX ISA: cp.async, cp.async.bulk, st.async.)
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/core/cuda/barrier.cuh"

namespace inflight::cuda {

/// 16 bytes to shared memory, past the L1, which other multiprocessors' stores do not reach.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
/// Zeros where nothing is there, and `from` is not read.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, bool is_there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(is_there ? 16 : 0)
               : "memory");
}
/// 4 bytes, by way of the L1.
__device__ __forceinline__ void copy_word_async(uint32_t to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}
/// The thread's copies since the last call become a group.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Until at most so many of the thread's groups are on their way.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
/// Until none of the thread's copies is, whether in a group or not.
__device__ __forceinline__ void wait_all_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
/// For copy_tile and others: what is read once need not stay in the L2.
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
/// The same into the same place of all blocks of the mask, each one's barrier counting its bytes.
__device__ __forceinline__ void copy_tile_to_all(void* to, const CUtensorMap& map, int column,
                                                 int row, uint64_t* barrier, uint16_t mask) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier)), "h"(mask)
      : "memory");
}
/// Of three dimensions, the innermost first.
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap& map, int x, int y, int z,
                                         uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %4}], [%5];" ::"r"(to),
      "l"(&map), "r"(x), "r"(y), "r"(z), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap& map, int x, int y, int z,
                                         uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
      "l"(&map), "r"(x), "r"(y), "r"(z), "r"(barrier), "l"(policy)
      : "memory");
}
/// Of four, (x, 0, 0, w).
__device__ __forceinline__ void copy_box_of_four(void* to, const CUtensorMap& map, int x, int w,
                                                 uint64_t* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, 0, 0, %3}], [%4], %5;" ::"r"(shared_address(to)),
      "l"(&map), "r"(x), "r"(w), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
}
/// Of five, (0, y, 0, 0, v).
__device__ __forceinline__ void copy_box_of_five(uint32_t to, const CUtensorMap& map, int y, int v,
                                                 uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %2, %2, %4}], [%5];" ::"r"(to),
      "l"(&map), "r"(0), "r"(y), "r"(v), "r"(barrier)
      : "memory");
}
/// A multiple of 16 bytes at multiples of 16.
__device__ __forceinline__ void copy_bytes(uint32_t to, const void* from, int bytes,
                                           uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

/// The map's box from (column, row) on becomes what lies at `from`, where a thread's writes are the
/// engine's behind fence_shared. Groups as of copies.
__device__ __forceinline__ void store_tile(const CUtensorMap& map, int column, int row,
                                           const void* from) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map),
      "r"(column), "r"(row), "r"(shared_address(from))
      : "memory");
}
__device__ __forceinline__ void commit_stores() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/// Until the thread's stores have read what they store.
__device__ __forceinline__ void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
__device__ __forceinline__ void wait_stores() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

/// Between a thread's own accesses of shared memory, of global memory, and those of the copy engine
/// or of wgmma.
__device__ __forceinline__ void fence_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void fence_global() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

/// To another block of the cluster, at a remote_address.
__device__ __forceinline__ void store_remote(uint32_t address, float value) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}
__device__ __forceinline__ void store_remote_four(uint32_t address, const float* from) {
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(from[0]),
               "f"(from[1]), "f"(from[2]), "f"(from[3])
               : "memory");
}
/// The same, its 16 bytes counted by a barrier there.
__device__ __forceinline__ void send_four(uint32_t address, const float* from, uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4},"
      " [%5];" ::"r"(address),
      "f"(from[0]), "f"(from[1]), "f"(from[2]), "f"(from[3]), "r"(barrier)
      : "memory");
}

}  // namespace inflight::cuda
