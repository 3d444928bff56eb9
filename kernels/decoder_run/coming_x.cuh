// A warp's x of a linear, on its way to where it is multiplied (linears.cuh).
#pragma once

#include "kernels/core/cuda/convert.cuh"
#include "kernels/decoder_run/exchange.cuh"
#include "kernels/decoder_run/run_args.cuh"
#include "kernels/gemm/narrow_multiply.cuh"

namespace inflight::cuda::decoder {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// A round of a warp's share of x on its way: kPieces times 16 bytes to a lane, of each row one or,
/// of few rows, more.
template <typename T, int kPieces>
class ComingX {
 public:
  /// A round has 32 << of_row_log2 pieces of a row.
  __device__ __forceinline__ ComingX(const narrow::WarpX<T>& x, const uint32_t* from,
                                     bool are_words, int of_row_log2)
      : x_(x), from_(from), are_words_(are_words), log2_(of_row_log2) {}

  __device__ __forceinline__ int round_pieces() const { return 32 << log2_; }
  __device__ __forceinline__ int round_steps() const { return round_pieces() >> (3 + x_.shift); }

  /// Begins to load the pieces from `first` on, if they may be there.
  __device__ __forceinline__ void ask(int first, bool may_be_there) {
    first_ = first;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      pieces_[i] = {};  // weights are zeros where nothing is
      missing_[i] = is_piece(i) && x_.depth_of(piece_of(i)) < x_.depth;
      if (missing_[i] && may_be_there) pieces_[i].load(address_of(i));
    }
  }
  /// use(i, row, piece, values) of all that ask asked for, once it is there. Whole warps.
  template <typename Use>
  __device__ __forceinline__ void accept(const Use& use) {
    if (are_words_) wait_for_pieces(pieces_, missing_, [&](int i) { return address_of(i); });
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      if (is_piece(i)) use(i, row_of(i), piece_of(i), pieces_[i].data);
    }
  }

 private:
  __device__ __forceinline__ int row_of(int i) const { return i >> log2_; }
  __device__ __forceinline__ bool is_piece(int i) const {
    return row_of(i) < x_.rows && piece_of(i) < x_.pieces();
  }
  __device__ __forceinline__ int piece_of(int i) const {
    return first_ + (i - (i >> log2_ << log2_)) * 32 + x_.lane;
  }
  __device__ __forceinline__ const uint32_t* address_of(int i) const {
    return from_ + (row_of(i) * x_.depth + x_.depth_of(piece_of(i))) / 2;
  }

  const narrow::WarpX<T>& x_;
  const uint32_t* from_;
  const bool are_words_;
  const int log2_;
  int first_ = 0;
  Piece pieces_[kPieces];
  bool missing_[kPieces];
};

/// x for the products of a tile: all of it is there.
struct KeptSteps {
  __device__ __forceinline__ int begin(int step) const { return step; }
  __device__ __forceinline__ void end() const {}
};

/// x of a tile's products, a round at a time: what is made last is waited for last.
template <typename T, int kPieces>
class RoundSteps {
 public:
  __device__ __forceinline__ RoundSteps(const narrow::WarpX<T>& x, ComingX<T, kPieces>& coming)
      : x_(x), coming_(coming) {}

  __device__ __forceinline__ int begin(int step) {
    if (step == next_) {
      coming_.accept([&](int, int row, int piece, const uint4& values) {
        narrow::store_shared(x_.at(piece - first_piece_, row), values);
      });
      __syncwarp();
      first_ = step;
      next_ = step + coming_.round_steps();
      first_piece_ += coming_.round_pieces();
      if (next_ < x_.steps) coming_.ask(first_piece_, true);
    }
    return step - first_;
  }
  __device__ __forceinline__ void end() const {}

 private:
  const narrow::WarpX<T>& x_;
  ComingX<T, kPieces>& coming_;
  int first_ = 0, next_ = 0, first_piece_ = 0;
};

/// x where a warp's lanes multiply it: lane (row, quarter) has 8 values of its row of each 32 of
/// the warp's depth. Of rows that are not there zeros.
class FragmentX {
 public:
  template <typename T>
  __device__ __forceinline__ FragmentX(const narrow::WarpX<T>& x, const uint32_t* from,
                                       const Strides& strides, bool are_words)
      : from_(from + strides.at(x.row, (x.warp << (6 + x.shift)) + x.quarter * 8)),
        stride_(strides.group),
        count_(x.row < x.rows ? x.steps << (1 + x.shift) : 0),
        shift_(x.shift),
        are_words_(are_words) {}

  /// Begins to load the 32s from number `first` on, which begins a slot.
  template <int kCount>
  __device__ __forceinline__ void load(Piece (&pieces)[kCount], int first = 0) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      pieces[i] = {};
      if (first + i < count_) pieces[i].load(at(first, i));
    }
  }
  /// Until all of them are there. Whole warps.
  template <int kCount>
  __device__ __forceinline__ void wait(Piece (&pieces)[kCount], int first = 0) const {
    if (!are_words_) return;
    Patience patience;
    for (;;) {
      bool is_there = true;
#pragma unroll
      for (int i = 0; i < kCount; ++i)
        is_there = is_there && (pieces[i].is_there() || first + i >= count_);
      if (__all_sync(0xffffffffu, is_there)) return;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (first + i < count_ && !pieces[i].is_there()) pieces[i].load(at(first, i));
      }
      patience.tick();
    }
  }

 private:
  __device__ __forceinline__ const uint32_t* at(int first, int i) const {
    const int of_narrow = i / 2 * 2 * kWarps + i % 2, of_wide = i / 4 * 4 * kWarps + i % 4;
    return from_ + (first * kWarps + (shift_ == 0 ? of_narrow : of_wide)) * stride_;
  }

  const uint32_t* from_;  // the lane's first 8 values
  const int stride_;      // from 32 of the depth to the next ones
  const int count_;       // of 32s
  const int shift_;
  const bool are_words_;
};

#endif

}  // namespace inflight::cuda::decoder
