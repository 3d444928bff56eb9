// x of the narrow product (narrow.cu): a warp's share of it in shared memory, and the norm.
#pragma once

#include "kernels/core/cuda/reduce.cuh"
#include "kernels/gemm/narrow.cuh"
#include "kernels/gemm/norm.cuh"

namespace inflight::cuda::narrow {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// A warp's x of a link in shared memory, [32s of the depth][row][32]: the lanes of a load meet no
/// bank twice. Lane (row, quarter) multiplies elements [8 quarter, 8 quarter + 8) of each 32 of its
/// row: that permutes the depth within 32, for x and weights alike.
template <typename T>
struct WarpX {
  uint32_t address;
  uint32_t g;                     // the norm's weight, [32s of the depth][32]
  const T* x;                     // of the lane's row
  int rows, depth, steps, shift;  // a slot holds 64 << shift elements
  int row, quarter;
  int warp, lane;

  /// Where the warp's 16 bytes number `piece` of a row are in the depth.
  __device__ int depth_of(int piece) const {
    return (((piece >> (3 + shift)) * kWarps + warp) << (6 + shift)) +
           ((piece & ((8 << shift) - 1)) << 3);
  }
  __device__ uint32_t at(int piece, int of_row) const {
    return address + (((piece >> 2) * rows + of_row) * 4 + (piece & 3)) * 16;
  }
  __device__ void copy_piece(uint32_t to, const T* from, int piece) const {
    const int k = depth_of(piece);
    if (k < depth) {
      copy_async(to, from + k);
    } else {
      store_shared(to, uint4{});  // weights are zeros there
    }
  }
  __device__ int pieces() const { return steps << (3 + shift); }

  __device__ void copy_norm_weight(const T* norm_weight) const {
    for (int i = lane; i < pieces(); i += 32) copy_piece(g + i * 16, norm_weight, i);
    commit_copies();
  }
  /// All of it. Of one row a lane copies each 32nd piece, of more what it will multiply.
  __device__ void copy_all() const {
    if (rows == 1) {
      for (int i = lane; i < pieces(); i += 32) copy_piece(at(i, 0), x, i);
    } else if (row < rows) {
      for (int i = quarter; i < pieces(); i += 4) copy_piece(at(i, row), x, i);
    }
    commit_copies();
  }
  /// A slot's worth, to the ring's place `buffer`; the lane's own.
  __device__ void copy_step(int buffer, int step) const {
    if (row < rows) {
      for (int i = 0; i < 2 << shift; ++i)
        copy_piece(at((buffer << (3 + shift)) + i * 4 + quarter, row), x,
                   (step << (3 + shift)) + i * 4 + quarter);
    }
    commit_copies();
  }

  /// Multiplies it with the norm's weight; answers, in every lane, the sum of squares of each row's
  /// share in turn: use(row, sum). What it adds in which order does not depend on the rows.
  template <typename Use>
  __device__ void scale_all(const Use& use) const {
    for (int r = 0; r < rows; ++r) {
      float squares = 0;
      for (int i = lane; i < pieces(); i += 32) {
        const uint4 v = load_shared(at(i, r));
        squares += sum_of_squares(v);
        store_shared(at(i, r), scaled(v, load_shared(g + i * 16)));
      }
      use(r, warp_sum(squares));
    }
  }
};

#endif

}  // namespace inflight::cuda::narrow
