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
  const uint64_t* x_words;  // [rows, depth / 2]
  const void* bias;         // [columns] or null
  uint64_t* words;          // where other blocks look for y, or null
  void* y;                  // [rows, columns] or null
  float* logits;            // [rows, columns] or null
  uint32_t x_tag, tag;
  bool is_normed;  // by the weight that load_norm copied last
  bool adds;       // to the residual
};

template <typename T>
class Linears {
 public:
  __device__ __forceinline__ Linears(const Args& args, Shared& shared, uint8_t* slots, uint8_t* xs)
      : args_(args),
        shared_(shared),
        ring_{shared_address(slots + thread() / 32 * args.slots * kSlotBytes), args.slots},
        xs_(shared_address(xs)),
        gs_(xs_ + kWarps * args.x_bytes),
        parts_(reinterpret_cast<float*>(xs + kWarps * (args.x_bytes + args.g_bytes))) {}

  /// Tells the other blocks x, a tile of the residual each.
  __device__ __forceinline__ void publish(const T* x, uint64_t* words, uint32_t tag) {
    const Linear& linear = shared_.linears[kDown];
    const int row = thread() / linear.width;
    const int column = static_cast<int>(blockIdx.x) * linear.width + thread() % linear.width;
    if (row >= args_.rows || column >= linear.columns) return;
    const int64_t at = int64_t{row} * linear.columns + column;
    residual_ = to_float(__ldcg(x + at));
    if (column % 2 == 0)
      store_word(words + at / 2, __ldcg(reinterpret_cast<const uint32_t*>(x + at)), tag);
  }

  /// Begins to copy the weight of a linear's norm, of which `run` is the next normed one.
  __device__ __forceinline__ void load_norm(const Linear& linear, const void* norm) {
    narrow::wait_copies<0>();  // of one that this block had no tile for
    x_of(linear).copy_norm_weight(static_cast<const T*>(norm));
  }

  /// All tiles of a linear that are this block's.
  __device__ __forceinline__ void run(const Linear& linear, const LinearCall& call) {
    const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
    const int width = linear.width, tiles = linear.tiles, groups = linear.groups;
    if (block >= tiles) return;
    const narrow::WarpX<T> x = x_of(linear);
    const int warp = x.warp, row = thread() / width, at = thread() - row * width;
    if (call.is_normed) {
      squares_turn_ ^= 1;
      narrow::wait_copies<0>();
      __syncwarp();
    }
    receive(x, call);
    int buffer = 0;
    for (int tile = block; tile < tiles; tile += blocks) {
      // Those of the tile before are still being read.
      float* parts = parts_ + turn_ * kWarps * args_.rows * kPartColumns;
      float* part = parts + warp * args_.rows * kPartColumns;
      turn_ ^= 1;
      const auto no_more_x = [](int) {};
      switch (groups) {
        case 2:
          narrow::multiply<T, 2>(x, true, linear.is_gated, buffer, no_more_x, shared_, ring_, part);
          break;
        case 3:
          narrow::multiply<T, 3>(x, true, linear.is_gated, buffer, no_more_x, shared_, ring_, part);
          break;
        default:
          narrow::multiply<T, 4>(x, true, linear.is_gated, buffer, no_more_x, shared_, ring_, part);
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

  /// The warp's share of x, to shared memory; with a norm times its weight, and the share's sum of
  /// squares.
  __device__ __forceinline__ void receive(const narrow::WarpX<T>& x, const LinearCall& call) {
    constexpr int kAtOnce = 4;
    const int pieces = x.pieces(), of_row = (pieces + 31) / 32, count = of_row * x.rows;
    float squares[kMaxRunRows] = {};
#pragma unroll 1
    for (int first = 0; first < count; first += kAtOnce) {
      int rows[kAtOnce], piece[kAtOnce];
      bool missing[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        rows[i] = (first + i) / of_row;
        piece[i] = (first + i - rows[i] * of_row) * 32 + x.lane;
        missing[i] = rows[i] < x.rows && piece[i] < pieces && x.depth_of(piece[i]) < x.depth;
      }
      Piece arrived[kAtOnce] = {};  // weights are zeros where nothing is
      wait_for_pieces(arrived, call.x_tag, missing, first == 0 && count > 2, [&](int i) {
        return call.x_words + (int64_t{rows[i]} * x.depth + x.depth_of(piece[i])) / 2;
      });
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (rows[i] >= x.rows || piece[i] >= pieces) continue;
        uint4 values = arrived[i].data();
        if (call.is_normed) {
          const float sum = sum_of_squares(values);
#pragma unroll
          for (int row = 0; row < kMaxRunRows; ++row) squares[row] += row == rows[i] ? sum : 0.0f;
          values = scaled(values, narrow::load_shared(x.g + piece[i] * 16));
        }
        narrow::store_shared(x.at(piece[i], rows[i]), values);
      }
    }
    if (call.is_normed) {
#pragma unroll
      for (int row = 0; row < kMaxRunRows; ++row) {
        if (row >= x.rows) break;
        const float sum = warp_sum(squares[row]);
        if (x.lane == 0) shared_.squares[squares_turn_][x.warp][row] = sum;
      }
    }
    __syncwarp();
  }

  /// The warps' sums of a tile's element [row][at] to what the linear stands for.
  __device__ __forceinline__ void finish(const Linear& linear, const LinearCall& call,
                                         const float* parts, int tile, int row, int at) {
    const int rows = args_.rows, width = linear.width, column = tile * width + at;
    const bool is_there = row < rows && column < linear.columns;
    uint32_t bits = 0;
    if (is_there) {
      float sum = 0, up = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += parts[(w * rows + row) * kPartColumns + at];
      if (linear.is_gated) {
#pragma unroll
        for (int w = 0; w < kWarps; ++w) up += parts[(w * rows + row) * kPartColumns + at + width];
      }
      if (call.is_normed) {
        float squares = 0;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) squares += shared_.squares[squares_turn_][w][row];
        const float scale = norm_scale(squares, linear.depth, args_.epsilon);
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
        const float silu = rounded<T>(value / (1.0f + expf(-value)));
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
      store_word(call.words + (int64_t{row} * linear.columns + column) / 2, bits | other << 16,
                 call.tag);
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
