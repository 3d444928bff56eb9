// The products of the narrow kernels: a warp multiplies what its ring brings with its share of x.
#pragma once

#include "kernels/gemm/narrow_x.cuh"

namespace inflight::cuda::narrow {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

struct Ring {
  uint32_t address;
  int slots;
  uint32_t zero;  // as behind() takes it
  int slot = 0;
  uint32_t parity = 0;
};

/// A warp's sums of a tile, a slot of its ring at a time.
template <typename T, int kGroups>
class TileSums {
 public:
  static constexpr int kChunks = chunks_of(kGroups), kHalves = 2 * kChunks;

  __device__ __forceinline__ TileSums(const Ring& ring, int row, int quarter, bool is_gated)
      : group_bytes_(is_gated && kChunks > 1 ? 2 * kAtom : kAtom),
        chunk_bytes_(is_gated ? kAtom : kGroups * kAtom) {
    // Lanes of a quarter warp read rows p and p + 4: their chunks of 16 bytes lie in different
    // banks.
    const int weight_row = row / 2 + row % 2 * 4;
    weights_of_lane_ = ring.address + weight_row * 128 + ((quarter ^ weight_row) << 4);
  }

  /// Adds the slot's products with x, of whose 32s of the depth `x_of(half)` is the lane's part.
  template <typename Shared, typename X>
  __device__ __forceinline__ void add(Shared& shared, Ring& ring, int warp, int lane,
                                      const X& x_of) {
    wait(&shared.full[warp][ring.slot], ring.parity);
    uint32_t loaded = 0;
    const uint32_t from = weights_of_lane_ + ring.slot * kSlotBytes;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      const uint4 a = x_of(h);
#pragma unroll
      for (int i = 0; i < kGroups; ++i) {
        const uint4 w =
            load_shared((from + h / 2 * chunk_bytes_ + i * group_bytes_) ^ (h % 2 * 64));
        loaded |= w.x;
        add_products<T>(sums_[i], a.x, a.y, w.x, w.y);
        add_products<T>(more_sums_[i], a.z, a.w, w.z, w.w);
      }
    }
    __syncwarp();
    if (lane == 0)
      arrive(behind(shared_address(&shared.empty[warp][ring.slot]), loaded, ring.zero));
    if (++ring.slot == ring.slots) {
      ring.slot = 0;
      ring.parity ^= 1;
    }
  }

  /// A lane's sums of its row, to `part` [rows][kPartColumns].
  __device__ __forceinline__ void store(float* part, int row, int quarter) const {
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      float* to = part + row * kPartColumns + i * kGroupColumns + quarter;
      to[0] = sums_[i][0] + more_sums_[i][0];
      to[4] = sums_[i][1] + more_sums_[i][1];
    }
  }

 private:
  const int group_bytes_, chunk_bytes_;
  uint32_t weights_of_lane_;
  float sums_[kGroups][4] = {}, more_sums_[kGroups][4] = {};  // two shorter chains
};

/// A warp's products of a tile, into `part` [rows][kPartColumns]. `steps.begin(step)` answers where
/// x of a slot lies, in slots' worth of it, once it is there; `steps.end()` says that it is used.
template <typename T, int kGroups, typename Steps, typename Shared>
__device__ __forceinline__ void multiply(const WarpX<T>& x, Steps& steps, bool is_gated,
                                         Shared& shared, Ring& ring, float* part) {
  constexpr int kHalves = TileSums<T, kGroups>::kHalves;
  const uint32_t x_of_lane = x.address + x.row * 64 + x.quarter * 16;
  const int rows = x.rows, slot_bytes = rows * kHalves * 64;
  const bool has_row = x.row < rows;
  TileSums<T, kGroups> sums(ring, x.row, x.quarter, is_gated);
  const int num_steps = x.steps;
  for (int step = 0; step < num_steps; ++step) {
    const int place = steps.begin(step);
    uint4 a[kHalves];
#pragma unroll
    for (int h = 0; h < kHalves; ++h)
      a[h] = has_row ? load_shared(x_of_lane + place * slot_bytes + h * rows * 64) : uint4{};
    sums.add(shared, ring, x.warp, x.lane, [&](int h) { return a[h]; });
    steps.end();
  }
  if (has_row) sums.store(part, x.row, x.quarter);
}

/// y[row][column] as store_finished makes it.
template <typename T>
__device__ __forceinline__ T finished(const ProductOutput& out, float sum, float up,
                                      const Additions<1>& add) {
  float value = rounded<T>(out.bias != nullptr ? sum + add.bias[0] : sum);
  if (out.is_gated) {
    const float silu = rounded<T>(value / (1.0f + expf(-value)));
    value = rounded<T>(silu * rounded<T>(out.bias != nullptr ? up + add.up_bias[0] : up));
  }
  if (out.residual != nullptr) value += add.residual[0];
  return from_float<T>(value);
}

#endif

}  // namespace inflight::cuda::narrow
