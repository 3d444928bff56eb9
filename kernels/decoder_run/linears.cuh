// A consumer warp's part of the linears of a run of layers (decoder_run.cu).
#pragma once

#include "kernels/core/cuda/convert.cuh"
#include "kernels/decoder_run/exchange.cuh"
#include "kernels/decoder_run/run_args.cuh"
#include "kernels/gemm/narrow_multiply.cuh"

namespace inflight::cuda::decoder {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Where a linear's x comes from and what becomes of its sums.
struct LinearCall {
  const uint32_t* x;  // [rows, depth / 2], words or, of the first one, what was there before
  bool x_is_words;
  const void* bias;  // [columns] or null
  uint32_t* words;   // where other blocks look for y, or null
  void* y;           // [rows, columns] or null
  float* logits;     // [rows, columns] or null
  bool is_normed;    // by the weight that load_norm copied last
  bool adds;         // to the residual
};

/// A round of a warp's share of x on its way: kPieces times 16 bytes to a lane, of each row one or,
/// of few rows, more.
template <typename T, int kPieces>
class ComingX {
 public:
  /// A round has 32 << of_row_log2 pieces of a row.
  __device__ __forceinline__ ComingX(const narrow::WarpX<T>& x, const LinearCall& call,
                                     int of_row_log2)
      : x_(x), call_(call), log2_(of_row_log2) {}

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
    if (call_.x_is_words) wait_for_pieces(pieces_, missing_, [&](int i) { return address_of(i); });
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
    return call_.x + (row_of(i) * x_.depth + x_.depth_of(piece_of(i))) / 2;
  }

  const narrow::WarpX<T>& x_;
  const LinearCall& call_;
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

template <typename T, int kPieces>
class Linears {
 public:
  __device__ __forceinline__ Linears(const Args& args, Shared& shared, uint8_t* slots, uint8_t* xs)
      : args_(args),
        shared_(shared),
        ring_{shared_address(slots + thread() / 32 * args.slots * kSlotBytes), args.slots,
              args.zero},
        xs_(shared_address(xs)),
        gs_(xs_ + kWarps * args.x_bytes),
        parts_(reinterpret_cast<float*>(xs + kWarps * (args.x_bytes + args.g_bytes))) {}

  /// Keeps x, a tile of the residual.
  __device__ __forceinline__ void start(const T* x) {
    const Linear& linear = shared_.linears[kDown];
    const int row = thread() / linear.width;
    const int column = static_cast<int>(blockIdx.x) * linear.width + thread() % linear.width;
    if (row < args_.rows && column < linear.columns)
      residual_ = to_float(__ldcg(x + int64_t{row} * linear.columns + column));
  }

  /// Begins to copy the weight of a linear's norm, of which `run` is the next normed one.
  __device__ __forceinline__ void load_norm(const Linear& linear, const void* norm) {
    narrow::wait_copies<0>();  // of one that this block had no tile for
    x_of(linear).copy_norm_weight(static_cast<const T*>(norm));
  }

  /// All tiles of a linear that are this block's: one at most of a linear without a norm.
  __device__ __forceinline__ void run(const Linear& linear, const LinearCall& call) {
    const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
    const int width = linear.width, tiles = linear.tiles;
    if (block >= tiles) return;
    const narrow::WarpX<T> x = x_of(linear);
    const int warp = x.warp, row = thread() / width, at = thread() - row * width;
    if (call.is_normed) {
      squares_turn_ ^= 1;
      narrow::wait_copies<0>();
      __syncwarp();
      receive(x, call);
    }
    for (int tile = block; tile < tiles; tile += blocks) {
      // Those of the tile before are still being read.
      float* parts = parts_ + turn_ * kWarps * args_.rows * kPartColumns;
      float* part = parts + warp * args_.rows * kPartColumns;
      turn_ ^= 1;
      if (call.is_normed) {
        KeptSteps steps;
        multiply(linear, x, steps, part);
      } else {
        ComingX<T, kPieces> coming(x, call, args_.round_log2);
        coming.ask(0, !call.x_is_words);
        RoundSteps<T, kPieces> steps(x, coming);
        multiply(linear, x, steps, part);
      }
      narrow::meet<1>(kConsumers);
      if (warp * 32 < args_.rows * width) finish(linear, call, parts, tile, row, at);
    }
  }

 private:
  static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x); }

  __device__ __forceinline__ narrow::WarpX<T> x_of(const Linear& linear) const {
    const int lane = opaque(thread() % 32), warp = opaque(thread() / 32);
    return {.address = xs_ + warp * args_.x_bytes,
            .g = gs_ + warp * args_.g_bytes,
            .x = nullptr,
            .rows = args_.rows,
            .depth = linear.depth,
            .steps = linear.steps,
            .shift = linear.groups == 2 ? 1 : 0,
            .row = lane / 4,
            .quarter = lane % 4,
            .warp = warp,
            .lane = lane};
  }

  template <typename Steps>
  __device__ __forceinline__ void multiply(const Linear& linear, const narrow::WarpX<T>& x,
                                           Steps& steps, float* part) {
    const bool is_gated = linear.is_gated;
    switch (linear.groups) {
      case 2:
        return narrow::multiply<T, 2>(x, steps, is_gated, shared_, ring_, part);
      case 3:
        return narrow::multiply<T, 3>(x, steps, is_gated, shared_, ring_, part);
      default:
        return narrow::multiply<T, 4>(x, steps, is_gated, shared_, ring_, part);
    }
  }

  /// The warp's share of x, times the norm's weight, to shared memory, and the share's sums of
  /// squares.
  __device__ __forceinline__ void receive(const narrow::WarpX<T>& x, const LinearCall& call) {
    const int log2 = args_.kept_log2, of_row = 1 << log2;
    ComingX<T, kPieces> coming(x, call, log2);
    float total = 0;  // lane row << log2: of its row
#pragma unroll 1
    for (int first = 0; first < x.pieces(); first += coming.round_pieces()) {
      coming.ask(first, !call.x_is_words);
      float squares[kPieces] = {};
      coming.accept([&](int i, int row, int piece, const uint4& values) {
        squares[i] = sum_of_squares(values);
        narrow::store_shared(x.at(piece, row),
                             scaled(values, narrow::load_shared(x.g + piece * 16)));
      });
      const float sum = sums_of_lanes(squares, x.lane);
#pragma unroll 1
      for (int i = 0; i < of_row; ++i) total += __shfl_sync(0xffffffffu, sum, x.lane + i);
    }
    const int row = x.lane >> log2;
    if (row << log2 == x.lane && row < x.rows) shared_.squares[squares_turn_][x.warp][row] = total;
    __syncwarp();
  }

  /// Each value's sum over a warp's lanes, in the lanes of its number modulo kPieces.
  static __device__ __forceinline__ float sums_of_lanes(float (&values)[kPieces], int lane) {
#pragma unroll
    for (int half = kPieces / 2; half > 0; half /= 2) {
      const bool is_upper = (lane & half) != 0;
#pragma unroll
      for (int i = 0; i < half; ++i) {
        const float kept = is_upper ? values[i + half] : values[i];
        const float sent = is_upper ? values[i] : values[i + half];
        values[i] = kept + __shfl_xor_sync(0xffffffffu, sent, half);
      }
    }
#pragma unroll
    for (int apart = kPieces; apart < 32; apart *= 2)
      values[0] += __shfl_xor_sync(0xffffffffu, values[0], apart);
    return values[0];
  }

  /// The warps' sums of a tile's element [row][at] to what the linear stands for.
  __device__ __forceinline__ void finish(const Linear& linear, const LinearCall& call,
                                         const float* parts, int tile, int row, int at) {
    const int rows = args_.rows, width = linear.width, column = tile * width + at;
    const bool is_there = row < rows && column < linear.columns;
    uint32_t bits = 0;
    if (is_there) {
      const float* from = parts + row * kPartColumns + at;
      const int stride = rows * kPartColumns;
      float sum = over_warps(from, stride), up = 0;
      if (linear.is_gated) up = over_warps(from + width, stride);
      if (call.is_normed) {
        const float squares = over_warps(&shared_.squares[squares_turn_][0][row], kMaxRunRows);
        const float scale =
            rsqrtf(__fdividef(squares, static_cast<float>(linear.depth)) + args_.epsilon);
        sum *= scale;
        up *= scale;
      }
      if (call.logits != nullptr) {
        call.logits[int64_t{row} * linear.columns + column] = sum;
        return;
      }
      if (call.bias != nullptr) sum += to_float(static_cast<const T*>(call.bias)[column]);
      float value = rounded<T>(sum);
      if (linear.is_gated) {
        const float silu = rounded<T>(__fdividef(value, 1.0f + __expf(-value)));
        value = silu * rounded<T>(up);
      }
      if (call.adds) value += residual_;
      const T result = from_float<T>(value);
      if (call.adds) residual_ = to_float(result);
      bits = reinterpret_cast<const uint16_t&>(result);
      if (call.y != nullptr)
        static_cast<T*>(call.y)[int64_t{row} * linear.columns + column] = result;
    }
    if (call.words == nullptr) return;
    // Two columns make a word.
    const uint32_t other = __shfl_xor_sync(0xffffffffu, bits, 1);
    if (is_there && thread() % 2 == 0)
      store_word(call.words + (int64_t{row} * linear.columns + column) / 2, bits | other << 16);
  }

  /// The sum of what each warp has, `stride` apart.
  static __device__ __forceinline__ float over_warps(const float* from, int stride) {
    float values[kWarps];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) values[w] = from[w * stride];
    return ((values[0] + values[1]) + (values[2] + values[3])) +
           ((values[4] + values[5]) + (values[6] + values[7]));
  }

  const Args& args_;
  Shared& shared_;
  narrow::Ring ring_;
  const uint32_t xs_, gs_;
  float* parts_;
  float residual_ = 0;
  int turn_ = 0, squares_turn_ = 0;
};

#endif

}  // namespace inflight::cuda::decoder
