// The decode kernel of one sequence alone, which all multiprocessors share: rings of tiles
// (decode_ring.cuh) and thread blocks that only merge (decode_mergers.cuh).
//
// Nothing else hides the start and the end of its thread blocks, which are instructions that run
// once, one after another. So nothing is measured or divided: warps take tiles in turns, and know
// which before they know how many there are, so that lengths and tables come at the same time.
#pragma once

#include <climits>

#include "kernels/attention/decode_ring.cuh"

namespace inflight::cuda::decode {

/// The parts that an item of so many tiles is divided into, as measure() has them.
__device__ __forceinline__ int num_parts_alone(int tiles, int most) {
  return tiles <= kWholeTiles ? 1 : min((tiles + 7) / 8, most);
}

/// Thread blocks are [parts][items]; the last ones, in the place of a part, merge.
template <typename T_, int kHeadSize_, int kWarps_, int kStages_>
struct AloneKernel : RingKernel<T_, kHeadSize_, kWarps_, kStages_, false, false, true> {
  using Rings = RingKernel<T_, kHeadSize_, kWarps_, kStages_, false, false, true>;
  using T = T_;
  static constexpr int kHeadSize = kHeadSize_, kWarps = kWarps_, kStages = kStages_;
  using typename Rings::Group, typename Rings::Newest, typename Rings::Place,
      typename Rings::Source;
  using Ring = RingTile<kHeadSize>;
  using Rings::args, Rings::barriers, Rings::entry, Rings::kPartPitch, Rings::kQuads,
      Rings::part_outputs, Rings::part_states, Rings::ring, Rings::sums, Rings::work;

  int part;  // of the item, this block's

  // So many 64ths of a long item's tiles, the last ones, are for the later half of its parts alone.
  // Measured at 32,768 keys: 2 % faster for heads of 64 and 80, slower for larger ones.
  static constexpr int kLaterShare = kHeadSize == 64 ? 5 : kHeadSize == 80 ? 8 : 0;
  static constexpr int kLongTiles = 1024;

  /// Which tiles a warp takes: `num_first` from `first` on, `stride` apart, then others.
  struct Tiles {
    int first, stride, num_first, then_first, then_stride;

    __device__ __forceinline__ int at(int nth) const {
      if (kLaterShare == 0 || nth < num_first) return first + nth * stride;
      return then_first + (nth - num_first) * then_stride;
    }
  };
  static __device__ __forceinline__ Tiles tiles_of_warp(int part, int num_parts, int tiles) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int first = warp * num_parts + part, stride = num_parts * kWarps;
    const int border = tiles - tiles * kLaterShare / 64;
    // Of a shorter item a warp would have to know the border for the tiles that it begins with.
    if (kLaterShare == 0 || tiles < kLongTiles || border < kStages * stride)
      return {first, stride, INT_MAX, 0, 0};
    const int num_first =  // before the border; a float's division is exact enough by the half
        static_cast<int>(__fdividef(border - first + stride - 0.5f, static_cast<float>(stride)));
    const int num_early = num_parts / 2, num_late = num_parts - num_early;
    if (part < num_early) return {first, stride, num_first, tiles, stride};
    return {first, stride, num_first, border + warp * num_late + part - num_early,
            num_late * kWarps};
  }

  /// A tile, and the block that has it. It may be behind the last one.
  struct Turn {
    int tile, block;
  };
  static __device__ __forceinline__ Turn turn(const DecodeArgs& args, int tile) {
    const int index = min(args.tiles_per_block.quotient(tile), args.max_blocks - 1);
    return {tile, args.block_tables[index]};
  }
  __device__ __forceinline__ Source source_of(const Turn& at, int keys) const {
    const auto tiles = static_cast<int>(args.tiles_per_block.divisor);
    const int kv_head = args.groups_per_kv_head.quotient(work.item.group);
    const int in_block = at.tile - args.tiles_per_block.quotient(at.tile) * tiles;
    return {at.block, (kv_head * tiles + in_block) * kTileKeys, keys - at.tile * kTileKeys};
  }

  /// The warp's tiles. `at` is the lane's of the first ones, which may not be there.
  __device__ __forceinline__ void run(const Turn& at, const Tiles& tiles, int keys) const {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int end = work.item.end;
    Source source = source_of(at, keys);
    const bool is_first = lane < kStages && source.keys > 0;
    const bool is_early = source.keys > kTileKeys;  // the newest key is there behind the wait
    if (is_first && is_early) this->copy(source, lane);
    if (kLaterShare > 0) source = source_of(turn(args, tiles.at(lane)), keys);  // others than `at`
    Source later = source_of(turn(args, tiles.at(32 + lane)), keys);
    const Place place = this->place_of(work.item);
    wait_for_previous();
    fence_global();
    if (lane == 0) this->fetch(work.item);
    if (is_first && !is_early) this->copy(source, lane);
    Group group;
    Newest newest = {};
    this->start(group, newest, work.item, place, 0);

    bool waits_for_merger = threadIdx.x < 32 && work.num_parts > 1;
    int stage = 0, parity = 0, next = kStages;
#pragma unroll 1
    for (int nth = 0, tile = tiles.first; tile < end; tile = tiles.at(++nth)) {
      const uint32_t from = ring + stage * Ring::kBytes;
      const int valid = keys - tile * kTileKeys;
      wait(barriers + stage * 8, parity);
      if (valid <= kTileKeys) this->complete(from, newest, valid);
      Tile<T, kHeadSize> held;
      this->read_keys(held, from);
      typename Group::Scores scores;
      group.score(held, scores);
      this->read_values(held, from);
      const uint32_t loaded = this->loaded_of(held);
      __syncwarp();
      const int index = next % 32;
      if (index == 0) {
        source = later;
        later = source_of(turn(args, tiles.at(next + 32 + lane)), keys);
      }
      ++next;
      if (lane == index && source.keys > 0) this->copy(source, stage, loaded);
      if (waits_for_merger && tiles.at(next) >= end) {  // all is asked for
        if (lane == 0) wait_until_set(args.counters + work.first_block);
        __syncwarp();
        waits_for_merger = false;
      }
      typename Group::Weights weights;
      group.weigh(
          scores, [&](int row) { return Ring::key_at(row % 8) + row / 8 * 8 < valid; }, args.scale,
          weights);
      group.accumulate(held, weights);
      if (++stage == kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
    float* part = part_outputs + warp * args.heads_per_group * kPartPitch;
    float2* states = part_states + warp * args.heads_per_group;
    group.finish(place.num_heads,
                 [&](int head, int component, auto words, const auto& values, const float2& state) {
                   float* to = part + head * kPartPitch + component;
#pragma unroll
                   for (int i = 0; i < words.value; ++i)
                     *reinterpret_cast<float2*>(to + 2 * i) = {values[2 * i], values[2 * i + 1]};
                   if (component == 0) states[head] = state;
                 });
  }

  /// Of a padded row. All threads.
  __device__ __forceinline__ void write_zeros() const {
    wait_for_previous();
    const Place place = this->place_of(work.item);
    auto* y = reinterpret_cast<uint4*>(static_cast<T*>(args.y) + place.offset);
    for (int i = threadIdx.x; i < place.num_heads * kHeadSize / 8; i += kWarps * 32) y[i] = uint4{};
  }

  /// Merges the warps' parts: 4 lanes have a share of them each. All threads.
  __device__ __forceinline__ void merge_shares() const {
    static_assert(kWarps % 4 == 0);
    constexpr int kEach = kWarps / 4;
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int heads = args.heads_per_group, share = lane / 8;
    const Place place = this->place_of(work.item);
    const int num_quads = place.num_heads * kQuads;
    __syncthreads();
    for (int first = warp * 8; first < num_quads; first += kWarps * 8) {
      const int quad = min(first + lane % 8, num_quads - 1);
      const int head = quad / kQuads, d = quad % kQuads * 4;
      float2 states[kEach];
      float4 outputs[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int row = (share + i * 4) * heads + head;
        states[i] = part_states[row];
        outputs[i] = *reinterpret_cast<const float4*>(part_outputs + row * kPartPitch + d);
      }
      float maximum = states[0].x;
#pragma unroll
      for (int i = 1; i < kEach; ++i) maximum = fmaxf(maximum, states[i].x);
#pragma unroll
      for (int offset = 8; offset < 32; offset *= 2)
        maximum = fmaxf(maximum, __shfl_xor_sync(kFullWarp, maximum, offset));
      float2 state = make_float2(maximum, 0);
      float4 output = {};
#pragma unroll
      for (int i = 0; i < kEach; ++i) add(state, output, states[i], outputs[i]);
#pragma unroll
      for (int offset = 8; offset < 32; offset *= 2) {
        const auto from_other = [&](float& value) {
          value += __shfl_xor_sync(kFullWarp, value, offset);
        };
        from_other(state.y);
        from_other(output.x), from_other(output.y), from_other(output.z), from_other(output.w);
      }
      if (first + lane >= num_quads || lane >= 8) continue;
      if (work.num_parts == 1) {
        write(static_cast<T*>(args.y) + place.offset + head * kHeadSize + d, output, state.y);
        continue;
      }
      const int to = (2 * (work.first_block + part) + (part == 0 ? 1 : 0)) * heads + head;
      tell(args.partial_outputs + int64_t{to} * kHeadSize + d, output);
      if (d == 0) tell(args.partial_states + to, state);
    }
  }
};

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, 1)
    alone_kernel(const __grid_constant__ DecodeArgs args, const __grid_constant__ CUtensorMap map) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t shared[];
  __shared__ uint64_t barriers[Kernel::kWarps * (Kernel::kStages + 1)];
  let_next_start();
  const int warp = static_cast<int>(threadIdx.x) / 32, heads = args.heads_per_group;
  const auto group = static_cast<int>(blockIdx.x), part = static_cast<int>(blockIdx.y);
  const int most = static_cast<int>(gridDim.y) - 1;
  const int keys = max(*args.kv_lengths, 0);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  typename Kernel::Turn at = {};
  if (part < most)  // of a long sequence
    at = Kernel::turn(args, warp * most + part + lane * most * Kernel::kWarps);

  const uint32_t own_barriers = shared_address(barriers + warp * (Kernel::kStages + 1));
  if (!Kernel::Ring::kIsPlain && threadIdx.x == 0) prefetch_map(map);
  if (threadIdx.x % 32 == 0) {
    for (int i = 0; i <= Kernel::kStages; ++i) init_barrier(own_barriers + i * 8, 1);
    publish_barriers();
  }
  __syncwarp();
  const uint32_t base = shared_address(shared);
  auto* rings = shared + (Kernel::kAlignment - base % Kernel::kAlignment) % Kernel::kAlignment;
  auto* part_outputs = reinterpret_cast<float*>(rings + Kernel::kRingBytes);
  uint8_t* entries =
      reinterpret_cast<uint8_t*>(part_outputs + Kernel::kWarps * heads * Kernel::kPartPitch);
  auto* part_states =
      reinterpret_cast<float2*>(entries + Kernel::kWarps * Kernel::entry_bytes(heads));

  int2 sequence = make_int2(0, keys);
  const Sums sums = {nullptr, nullptr, &sequence};
  const int tiles = (keys + kTileKeys - 1) / kTileKeys;
  const int num_parts = num_parts_alone(tiles, most);
  const Work work({0, group, 0, tiles}, group * most, num_parts);
  const Kernel kernel{{{args, work, sums, part_outputs, nullptr, 0, part_states, nullptr, 0},
                       &map,
                       shared_address(rings) + warp * Kernel::kWarpRingBytes,
                       own_barriers,
                       entries + warp * Kernel::entry_bytes(heads)},
                      part};
  if (part == most) {
    kernel.merge_as_they_come();
  } else if (part < num_parts) {
    if (keys == 0) return kernel.write_zeros();
    const auto own = Kernel::tiles_of_warp(part, num_parts, tiles);
    if (num_parts < most) at = Kernel::turn(args, own.at(lane));
    kernel.run(at, own, keys);
    kernel.merge_shares();
  }
#else
  __trap();  // chosen on 9.0 only
#endif
}

}  // namespace inflight::cuda::decode
