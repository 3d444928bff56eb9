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
  const void* norm;  // [depth], the weight, or null
  bool adds;         // to the residual
};

template <typename T>
class Linears {
 public:
  __device__ __forceinline__ Linears(const Args& args, Shared& shared, uint8_t* slots, uint8_t* xs)
      : args_(args),
        shared_(shared),
        ring_{shared_address(slots + thread() / 32 * args.slots * kSlotBytes), args.slots,
              args.zero},
        xs_(shared_address(xs)),
        parts_(reinterpret_cast<float*>(xs + kWarps * args.x_bytes)) {}

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

  /// Asks the L2 for the weight of a norm.
  __device__ __forceinline__ void prefetch_norm(const Linear& linear, const void* norm) const {
    const int first = static_cast<int>(blockIdx.x) * 64;  // a line's
    if (thread() == 0 && first < linear.depth)
      asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const T*>(norm) + first));
  }

  /// All tiles of a linear that are this block's.
  __device__ __forceinline__ void run(const Linear& linear, const LinearCall& call) {
    const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
    const int width = linear.width, tiles = linear.tiles, groups = linear.groups;
    if (block >= tiles) return;
    const narrow::WarpX<T> x = x_of(linear);
    const int warp = x.warp, row = thread() / width, at = thread() - row * width;
    if (call.norm != nullptr) squares_turn_ ^= 1;
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
            .g = 0,
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
    const int of_row = (x.pieces() + 31) / 32;
    if (of_row * x.rows == 1) {
      receive<1>(x, call, of_row);
    } else {
      receive<4>(x, call, of_row);
    }
    __syncwarp();
  }
  /// kAtOnce pieces of a lane at a time, of `of_row` of a row; 1: of one in all.
  template <int kAtOnce>
  __device__ __forceinline__ void receive(const narrow::WarpX<T>& x, const LinearCall& call,
                                          int of_row) {
    constexpr int kRows = kAtOnce == 1 ? 1 : kMaxRunRows;
    const int pieces = x.pieces(), count = of_row * x.rows;
    float squares[kRows] = {};
    int row = 0, place = x.lane;
#pragma unroll 1
    for (int first = 0; first < count; first += kAtOnce) {
      int rows[kAtOnce], piece[kAtOnce];
      bool missing[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        rows[i] = row;
        piece[i] = place;
        place += 32;
        if (place >= of_row * 32) {
          place = x.lane;
          ++row;
        }
        missing[i] = rows[i] < x.rows && piece[i] < pieces && x.depth_of(piece[i]) < x.depth;
      }
      uint4 weights[kAtOnce] = {};  // of the norm
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (call.norm != nullptr && missing[i])
          weights[i] = __ldg(reinterpret_cast<const uint4*>(static_cast<const T*>(call.norm) +
                                                            x.depth_of(piece[i])));
      }
      Piece arrived[kAtOnce] = {};  // weights are zeros where nothing is
      wait_for_pieces(arrived, call.x_tag, missing, first == 0 && count > 2, [&](int i) {
        return call.x_words + (int64_t{rows[i]} * x.depth + x.depth_of(piece[i])) / 2;
      });
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (rows[i] >= x.rows || piece[i] >= pieces) continue;
        uint4 values = arrived[i].data();
        if (call.norm != nullptr) {
          const float sum = sum_of_squares(values);
#pragma unroll
          for (int r = 0; r < kRows; ++r) squares[r] += r == rows[i] ? sum : 0.0f;
          values = scaled(values, weights[i]);
        }
        narrow::store_shared(x.at(piece[i], rows[i]), values);
      }
      if constexpr (kAtOnce == 1) break;
    }
    if (call.norm == nullptr) return;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= x.rows) break;
      const float sum = warp_sum(squares[r]);
      if (x.lane == 0) shared_.squares[squares_turn_][x.warp][r] = sum;
    }
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
      if (call.norm != nullptr) {
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
      store_word(call.words + (int64_t{row} * linear.columns + column) / 2, bits | other << 16,
                 call.tag);
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
  const uint32_t xs_;
  float* parts_;
  float residual_ = 0;
  int turn_ = 0, squares_turn_ = 0;
};

#endif

}  // namespace inflight::cuda::decoder
