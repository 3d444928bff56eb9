// What the kernels of generated tokens share whose warps have several tiles of keys in registers
// before the row of this step is there: ShortKernel (decode_short.cuh) and the run of layers.
#pragma once

#include "kernels/attention/decode_heads.cuh"

namespace inflight::cuda::decode {

/// Scores of `kTiles` tiles to weights, as HeadGroup::weigh, with one maximum for all. keys_from(i)
/// is how many keys there are from tile i on, 0: there is no such tile.
template <typename T, typename Group, int kTiles, typename KeysFrom>
__device__ __forceinline__ void weigh_tiles(Group& group, typename Group::Scores (&scores)[kTiles],
                                            const KeysFrom& keys_from, float scale,
                                            typename Group::Weights (&weights)[kTiles]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  typename Group::Scores largest;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const int there = keys_from(i);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      float& score = scores[i][0][c];
      score = lane / 4 + c / 2 * 8 < there ? score * scale : -INFINITY;
      largest[0][c] = i == 0 ? score : fmaxf(largest[0][c], score);
    }
  }
  bool is_above = false;
#pragma unroll
  for (int c = 0; c < 4; ++c) is_above |= largest[0][c] > group.maxima[0][c % 2] + Group::kSlack;
  if (__any_sync(kFullWarp, is_above)) group.raise_maxima(largest);
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      float& score = scores[i][0][c];
      score = exp2_fast(score - group.maxima[0][c % 2]);
      group.sums[0][c % 2] += score;
    }
    weights[i][0][0] = transposed(pack(T(), scores[i][0][0], scores[i][0][1]));
    weights[i][0][1] = transposed(pack(T(), scores[i][0][2], scores[i][0][3]));
  }
}

/// Values that are not there must not be infinite.
template <int kWords>
__device__ __forceinline__ void clear(uint32_t (&values)[4][kWords]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < kWords; ++j) values[i][j] = 0;
  }
}

__device__ __forceinline__ void put(uint32_t* to, const uint4& from) {
  to[0] = from.x, to[1] = from.y, to[2] = from.z, to[3] = from.w;
}

/// Rotates the newest row's key by cos_sin and puts it and its value into the tile as its row
/// `newest`, and into the cache. `key` and `value` are lane l's words l, l + 32, ...; `row` is room
/// for both in shared memory, of this warp alone; `to` the key's place in the cache, its value
/// value_offset elements further. Whole warps.
template <typename T, int kHeadSize>
__device__ __forceinline__ void add_newest(Tile<T, kHeadSize>& tile, int newest,
                                           const uint32_t (&key)[kHeadSize / 64],
                                           const uint32_t (&value)[kHeadSize / 64],
                                           const float* cos_sin, uint32_t* row, T* to,
                                           int64_t value_offset) {
  // Words l and l + kHeadSize / 4 rotate each other.
  constexpr int kWords = kHeadSize / 64, kHalf = kHeadSize / 4;
  const int lane = static_cast<int>(threadIdx.x) % 32, at = lane % kHalf;
  const float2 cosine = reinterpret_cast<const float2*>(cos_sin)[at];
  const float2 sine = reinterpret_cast<const float2*>(cos_sin)[kHalf + at];
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    const uint32_t other =
        kWords == 1 ? __shfl_xor_sync(kFullWarp, key[i], kHalf) : key[kWords - 1 - i];
    const bool is_low = kWords == 1 ? lane < kHalf : i == 0;
    const float2 u = unpack(T(), key[i]), v = unpack(T(), other);
    const float sign = is_low ? -1.0f : 1.0f;
    const uint32_t rotated =
        pack(T(), u.x * cosine.x + sign * (v.x * sine.x), u.y * cosine.y + sign * (v.y * sine.y));
    const int word = i * 32 + lane;
    row[word] = rotated;
    row[kHeadSize / 2 + word] = value[i];
    reinterpret_cast<uint32_t*>(to)[word] = rotated;
    reinterpret_cast<uint32_t*>(to + value_offset)[word] = value[i];
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (Tile<T, kHeadSize>::key_of(i) != newest) continue;
    for_pieces<kHeadSize, 4>(lane % 4, [&](auto, int at, int offset) {
      put(tile.keys[i] + at, *reinterpret_cast<const uint4*>(row + offset / 2));
    });
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (Tile<T, kHeadSize>::value_of(i) != newest) continue;
    for_pieces<kHeadSize, 8>(lane / 4, [&](auto, int at, int offset) {
      put(tile.values[i] + at, *reinterpret_cast<const uint4*>(row + (kHeadSize + offset) / 2));
    });
  }
}

}  // namespace inflight::cuda::decode
