// A consumer warp's part of the linears of a run of layers (decoder_run.cu).
#pragma once

#include <algorithm>

#include "kernels/core/cuda/convert.cuh"
#include "kernels/decoder_run/coming_x.cuh"
#include "kernels/decoder_run/exchange.cuh"
#include "kernels/decoder_run/run_args.cuh"
#include "kernels/gemm/narrow_multiply.cuh"

namespace inflight::cuda::decoder {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// A linear of a run: where its x comes from and what becomes of its sums. Its number alone stays
/// in registers, what follows from it is asked for where it is needed. kHeld as Linears has it.
template <int kHeld>
struct LinearCall {
  int layer, kind;

  __device__ __forceinline__ bool is_normed() const { return kind % 2 == 0; }
  __device__ __forceinline__ bool adds() const { return kind % 2 != 0; }  // to the residual
  /// All but what was there before.
  __device__ __forceinline__ bool x_is_words() const { return layer > 0 || kind != kQkv; }
  /// [rows, depth / 2]
  __device__ __forceinline__ const uint32_t* x(const Shared& shared) const {
    if (!x_is_words()) return static_cast<const uint32_t*>(shared.pointers.x);
    return shared.pointers.words + layer * shared.layout.size +
           shared.layout.xs[kind % kLayerKinds];
  }
  /// Where other blocks look for y [rows, columns / 2], or null.
  __device__ __forceinline__ uint32_t* words(const Shared& shared) const {
    if (kind == kHead || (is_last(shared) && !shared.pointers.has_head)) return nullptr;
    return shared.pointers.words + layer * shared.layout.size + shared.layout.linears[kind];
  }
  /// [columns] or null
  __device__ __forceinline__ const void* bias(const Shared& shared) const {
    return kind == kQkv ? shared.layers[layer].qkv_bias : nullptr;
  }
  /// [rows, columns] or null
  __device__ __forceinline__ void* y(const Shared& shared) const {
    return is_last(shared) ? shared.pointers.y : nullptr;
  }
  // Words that lanes load side by side lie side by side.
  __device__ __forceinline__ Strides of_x(const Shared& shared, int rows) const {
    return kHeld > 0 && x_is_words() ? Strides{16, rows * 16}
                                     : Strides{shared.linears[kind].depth / 2, 16};
  }
  __device__ __forceinline__ Strides of_words(const Shared& shared, int rows) const {
    return kHeld > 0 && kind != kQkv ? Strides{16, rows * 16}
                                     : Strides{shared.linears[kind].columns / 2, 16};
  }

 private:
  /// Of all layers.
  __device__ __forceinline__ bool is_last(const Shared& shared) const {
    return kind == kDown && layer == shared.pointers.num_layers - 1;
  }
};

/// kHeld: of a warp's 32s of the depth, those whose x a lane keeps in registers, as it multiplies
/// it: all that a linear with a norm has. 0: x goes through shared memory, kPieces at a time.
template <typename T, int kPieces, int kHeld>
class Linears {
 public:
  __device__ __forceinline__ Linears(const Args& args, Shared& shared, uint8_t* slots, uint8_t* xs)
      : args_(args),
        shared_(shared),
        ring_{shared_address(slots + thread() / 32 * args.slots * kSlotBytes), args.slots,
              args.zero},
        xs_(xs) {}

  /// Room that nothing is in from the products of qkv to those of o.
  __device__ __forceinline__ uint8_t* scratch() const {
    return kHeld > 0 ? reinterpret_cast<uint8_t*>(parts()) : xs_;
  }

  /// Keeps a tile of x as the residual.
  __device__ __forceinline__ void start() {
    const Linear& linear = shared_.linears[kDown];
    const auto* x = static_cast<const T*>(shared_.pointers.x);
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

  /// All tiles of a linear that are this block's, of one without a norm one at most. Norms are by
  /// the weight that load_norm copied last.
  __device__ __forceinline__ void run(const LinearCall<kHeld>& call) {
    const Linear& linear = shared_.linears[call.kind];
    const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
    if (block >= linear.tiles) return;
    const narrow::WarpX<T> x = x_of(linear);
    const Ends ends = ends_of(call);
    Piece kept[kPiecesKept];
    if (call.is_normed()) {
      squares_turn_ ^= 1;
      narrow::wait_copies<0>();
      __syncwarp();
      if constexpr (kHeld > 0) {
        receive_held(x, call, kept);
      } else {
        receive(x, call);
      }
    }
    for (int tile = block; tile < linear.tiles; tile += blocks) {
      if constexpr (kHeld > 0) {
        with_groups(linear.groups, [&](auto groups) {
          if (call.is_normed()) {
            multiply_held<groups.value>(x, linear.is_gated, kept);
          } else {
            multiply_coming<groups.value>(x, linear.is_gated, call, turned(linear, 0, block), kept);
          }
        });
      } else if (call.is_normed()) {
        KeptSteps steps;
        multiply(linear, x, steps);
      } else {
        ComingX<T, kPieces> coming(x, call.x(shared_), call.x_is_words(), args_.round_log2);
        coming.ask(0, !call.x_is_words());
        RoundSteps<T, kPieces> steps(x, coming);
        multiply(linear, x, steps);
      }
      narrow::meet<1>(kConsumers);
      // By each half of the warps in turn, where a half is enough and no residual is asked for.
      const int half = call.kind == kGateUp && ends.count <= kConsumers / 2 ? kConsumers / 2 : 0;
      const int element = turn_ != 0 ? thread() ^ half : thread();
      if (element / 32 * 32 < ends.count) finish(linear, call, ends, tile, element);
      turn_ ^= 1;
    }
  }

 private:
  static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x); }

  /// Of all warps: sums of the tile, those of the tile before are still being read.
  __device__ __forceinline__ float* parts() const {
    return reinterpret_cast<float*>(xs_ + kWarps * (args_.x_bytes + args_.g_bytes) +
                                    turn_ * args_.turn_bytes);
  }
  __device__ __forceinline__ float* part_of(const narrow::WarpX<T>& x) const {
    return parts() + x.warp * args_.rows * kPartColumns;
  }

  static constexpr int kPiecesKept = std::max(kHeld, 4 * kStepsAhead);

  /// x of a linear with a norm, times the norm's weight, and the sums of its squares.
  __device__ __forceinline__ void receive_held(const narrow::WarpX<T>& x,
                                               const LinearCall<kHeld>& call,
                                               Piece (&held)[kPiecesKept]) {
    const FragmentX fragments(x, call.x(shared_), call.of_x(shared_, x.rows), call.x_is_words());
    auto& all = reinterpret_cast<Piece(&)[kHeld]>(held);
    fragments.load(all);
    fragments.wait(all);
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (i >= x.steps << (1 + x.shift)) break;
      squares += sum_of_squares(held[i].data);
      held[i].data = scaled(held[i].data, narrow::load_shared(x.g + (i * 4 + x.quarter) * 16));
    }
    squares += __shfl_xor_sync(0xffffffffu, squares, 1);
    squares += __shfl_xor_sync(0xffffffffu, squares, 2);
    if (x.row < x.rows && x.quarter == 0) shared_.squares[squares_turn_][x.warp][x.row] = squares;
  }

  template <int kGroups>
  __device__ __forceinline__ void multiply_held(const narrow::WarpX<T>& x, bool is_gated,
                                                const Piece (&held)[kPiecesKept]) {
    constexpr int kHalves = narrow::TileSums<T, kGroups>::kHalves;
    narrow::TileSums<T, kGroups> sums(ring_, x.row, x.quarter, is_gated);
#pragma unroll
    for (int step = 0; step < kHeld / kHalves; ++step) {
      if (step >= x.steps) break;
      sums.add(shared_, ring_, x.warp, x.lane,
               [&](int h) { return held[step * kHalves + h].data; });
    }
    if (x.row < x.rows) sums.store(part_of(x), x.row, x.quarter);
  }

  /// With x of a linear without a norm, on its way from kStepsAhead steps before.
  template <int kGroups>
  __device__ __forceinline__ void multiply_coming(const narrow::WarpX<T>& x, bool is_gated,
                                                  const LinearCall<kHeld>& call, int begin,
                                                  Piece (&coming)[kPiecesKept]) {
    constexpr int kHalves = narrow::TileSums<T, kGroups>::kHalves;
    const FragmentX fragments(x, call.x(shared_), call.of_x(shared_, x.rows), call.x_is_words());
    narrow::TileSums<T, kGroups> sums(ring_, x.row, x.quarter, is_gated);
    auto& first_ones = reinterpret_cast<Piece(&)[kStepsAhead * kHalves]>(coming);
    auto& steps = reinterpret_cast<Piece(&)[kStepsAhead][kHalves]>(coming);
    int turned = begin;
    const auto load_next = [&](int i, int step) {
      if (step >= x.steps) return;
      fragments.load(steps[i], turned * kHalves);
      if (++turned == x.steps) turned = 0;
    };
#pragma unroll
    for (int i = 0; i < kStepsAhead; ++i) load_next(i, i);
    if (x.steps <= kStepsAhead)
      fragments.wait(first_ones);  // what has just been made comes at once
    int waited = begin;
#pragma unroll 1
    for (int first = 0; first < x.steps; first += kStepsAhead) {
#pragma unroll
      for (int i = 0; i < kStepsAhead; ++i) {
        if (first + i >= x.steps) break;
        fragments.wait(steps[i], waited * kHalves);
        if (++waited == x.steps) waited = 0;
        sums.add(shared_, ring_, x.warp, x.lane, [&](int h) { return steps[i][h].data; });
        load_next(i, first + i + kStepsAhead);
      }
    }
    if (x.row < x.rows) sums.store(part_of(x), x.row, x.quarter);
  }

  /// use(groups), a constant.
  template <typename Use>
  static __device__ __forceinline__ void with_groups(int groups, const Use& use) {
    if (groups == 2) return use(std::integral_constant<int, 2>());
    if (groups == 3) return use(std::integral_constant<int, 3>());
    use(std::integral_constant<int, 4>());
  }

  __device__ __forceinline__ narrow::WarpX<T> x_of(const Linear& linear) const {
    const int lane = opaque(thread() % 32), warp = opaque(thread() / 32);
    const uint32_t xs = shared_address(xs_);
    return {.address = xs + warp * args_.x_bytes,
            .g = xs + kWarps * args_.x_bytes + warp * args_.g_bytes,
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
                                           Steps& steps) {
    float* part = part_of(x);
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
  __device__ __forceinline__ void receive(const narrow::WarpX<T>& x,
                                          const LinearCall<kHeld>& call) {
    const int log2 = args_.kept_log2, of_row = 1 << log2;
    ComingX<T, kPieces> coming(x, call.x(shared_), call.x_is_words(), log2);
    float total = 0;  // lane row << log2: of its row
#pragma unroll 1
    for (int first = 0; first < x.pieces(); first += coming.round_pieces()) {
      coming.ask(first, !call.x_is_words());
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

  /// What finish needs, read before it is waited for.
  struct Ends {
    int count;  // elements of a tile
    const T* bias;
    T* y;
    uint32_t* words;
    Strides of_words;
  };
  __device__ __forceinline__ Ends ends_of(const LinearCall<kHeld>& call) const {
    return {.count = args_.rows * shared_.linears[call.kind].width,
            .bias = static_cast<const T*>(call.bias(shared_)),
            .y = static_cast<T*>(call.y(shared_)),
            .words = call.words(shared_),
            .of_words = call.of_words(shared_, args_.rows)};
  }

  /// The warps' sums of a tile's element to what the linear stands for. Whole warps.
  __device__ __forceinline__ void finish(const Linear& linear, const LinearCall<kHeld>& call,
                                         const Ends& ends, int tile, int element) {
    const int rows = args_.rows, width = linear.width, row = element / width;
    const int at = element - row * width, column = tile * width + at;
    const bool is_there = row < rows && column < linear.columns;
    uint32_t bits = 0;
    if (is_there) {
      const float* from = parts() + row * kPartColumns + at;
      const int stride = rows * kPartColumns;
      float sum = over_warps(from, stride), up = 0;
      if (linear.is_gated) up = over_warps(from + width, stride);
      if (call.is_normed()) {
        const float squares = over_warps(&shared_.squares[squares_turn_][0][row], kMaxRunRows);
        const float scale =
            rsqrtf(__fdividef(squares, static_cast<float>(linear.depth)) + args_.epsilon);
        sum *= scale;
        up *= scale;
      }
      if (call.kind == kHead) {
        shared_.pointers.logits[int64_t{row} * linear.columns + column] = sum;
        return;
      }
      if (ends.bias != nullptr) sum += to_float(ends.bias[column]);
      float value = rounded<T>(sum);
      if (linear.is_gated) {
        const float silu = rounded<T>(__fdividef(value, 1.0f + __expf(-value)));
        value = silu * rounded<T>(up);
      }
      if (call.adds()) value += residual_;
      const T result = from_float<T>(value);
      if (call.adds()) residual_ = to_float(result);
      bits = reinterpret_cast<const uint16_t&>(result);
      if (ends.y != nullptr) ends.y[int64_t{row} * linear.columns + column] = result;
    }
    if (ends.words == nullptr) return;
    // Two columns make a word.
    const uint32_t other = __shfl_xor_sync(0xffffffffu, bits, 1);
    if (is_there && element % 2 == 0)
      store_word(ends.words + ends.of_words.at(row, column), bits | other << 16);
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
  uint8_t* const xs_;  // x, norms' weights, sums of two turns
  float residual_ = 0;
  int turn_ = 0, squares_turn_ = 0;
};

#endif

}  // namespace inflight::cuda::decoder
