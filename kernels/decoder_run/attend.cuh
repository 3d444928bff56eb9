// A consumer warp's part of the attention of a run of layers (decoder_run.cu): of one new row to a
// sequence. A block has one sequence's kv head, or a part of its keys, at most; the tiles and the
// softmax are the decode kernels' (kernels/attention/decode_ahead.cuh). Keys and values of earlier
// steps are read before the new row's are there.
#pragma once

#include "kernels/attention/decode_ahead.cuh"
#include "kernels/attention/decode_parts.cuh"
#include "kernels/decoder_run/exchange.cuh"
#include "kernels/decoder_run/run_args.cuh"

namespace inflight::cuda::decoder {

/// Shared memory in which the warps' and then the blocks' parts meet.
inline constexpr int attention_bytes(int heads, int head_size) {
  return kWarps * heads * static_cast<int>(decode::part_bytes(head_size));
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Where blocks look for what a layer's attention makes.
struct AttentionWords {
  uint32_t* attended;  // [rows, heads * head size / 2]
  Strides of_attended;
  uint32_t* partial;  // [blocks, heads of a kv head * (head size + 2)]
};

/// kTiles: that a warp reads ahead.
template <typename T, int kHeadSize, int kTiles>
class Attention {
 public:
  using Tile = decode::Tile<T, kHeadSize>;
  using Heads = decode::HeadGroup<T, kHeadSize, 1>;
  static constexpr int kWords = kHeadSize / 64;  // of a row, in lane l: l, l + 32
  static constexpr int kTileKeys = decode::kTileKeys, kPitch = kHeadSize + 8;
  static constexpr int kKeysOfPart = 512;  // more are divided among blocks, as far as they go

  /// Finds the block's part of the step, as `item` has it for all when they have met. `cos_sin` is
  /// the step's, and behind it is room for a key and a value.
  __device__ __forceinline__ Attention(const Args& args, AttentionItem& item, float* cos_sin)
      : args_(args), item_(item), cos_sin_(cos_sin) {
    if (thread() != 0) return;
    AttentionItem found{.row = -1, .num_parts = 1};
    // The last blocks have the fewest tiles of weights.
    int at = static_cast<int>(gridDim.x - 1 - blockIdx.x), first = 0;
    for (int row = 0; row < args.rows; ++row) {
      const int keys = args.kv_lengths[row];
      int parts = 1;
      while (parts < args.max_parts && keys > parts * kKeysOfPart) parts *= 2;
      const int items = args.num_kv_heads * parts;
      if (at < items) {
        const int tiles = (keys + kTileKeys - 1) / kTileKeys;
        const int share = (tiles + parts - 1) / parts;
        const int kv_head = at / parts, part = at % parts;
        found = {.row = static_cast<int16_t>(row),
                 .num_parts = static_cast<int16_t>(parts),
                 .kv_head = static_cast<int16_t>(kv_head),
                 .part = static_cast<int16_t>(part),
                 .keys = keys,
                 .first_of_item = first + kv_head * parts,
                 .begin = part * share,
                 .end = min((part + 1) * share, tiles)};
        break;
      }
      at -= items;
      first += items;
    }
    item = found;
  }

  /// When all have met.
  __device__ __forceinline__ void find_keys() {
    if (item_.row >= 0) offset_ = offset_of_lane(item_.begin, item_.end - 1 - warp());
  }

  /// Asks the L2 for what the warp will read of a layer's keys and values.
  __device__ __forceinline__ void prefetch(const void* cache) const {
    if (item_.row < 0 || item_.end - 1 - opaque(warp()) - lane() * kWarps < item_.begin) return;
    const T* from = static_cast<const T*>(cache) + offset_;
    constexpr uint32_t kBytes = kTileKeys * kHeadSize * sizeof(T);
    for (const T* address : {from, from + args_.value_offset})
      asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(address), "r"(kBytes));
  }

  /// All of it, to the words that o reads. `scratch` has attention_bytes.
  __device__ __forceinline__ void run(void* cache_of_layer, const uint32_t* qkv_words,
                                      uint8_t* scratch, const AttentionWords& words) {
    if (item_.row < 0) return;
    heads_ = args_.num_heads / args_.num_kv_heads;
    outputs_ = reinterpret_cast<float*>(scratch);
    states_ = reinterpret_cast<float2*>(outputs_ + kWarps * heads_ * kPitch);
    T* cache = static_cast<T*>(cache_of_layer);
    const int keys = item_.keys, begin = item_.begin, last = item_.end - 1 - warp();
    constexpr int kStride = kTiles * kWarps;
    Tile tiles[kTiles];
    Heads group;
    group.start(nullptr, 0);
    int64_t offsets = offset_;  // offset_of_lane(begin, known)
    int known = last;
    // The newest tiles first, each warp every eighth. The round before the first one only reads,
    // and waits for the new row; without a tile, too: what is made behind it says that it was read.
#pragma unroll 1
    for (int at = last + kStride; at >= begin; at -= kStride) {
      const bool is_first = at > last;
      if ((known - at) / kWarps + 2 * kTiles > 32) {  // not all next tiles are known
        known = at - kStride;
        offsets = offset_of_lane(begin, known);
      }
      const auto next_from = [&](int i) {
        return cache + __shfl_sync(kFullWarp, offsets, (known - at + kStride) / kWarps + i);
      };
      typename Heads::Scores scores[kTiles];
      const int old = keys - 1 - (at - kStride) * kTileKeys;  // in the first of the next tiles
      if (!is_first) {
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          if (at - i * kWarps >= begin) group.score(tiles[i], scores[i]);
        }
      }
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        if (at - kStride - i * kWarps < begin) continue;
        const T* from = next_from(i);
        if (i == 0) {
          tiles[i].load_keys(from, [&](int key) { return key < old; });
        } else {
          tiles[i].load_keys(from, std::true_type{});
        }
      }
      if (!is_first) {
        typename Heads::Weights weights[kTiles];
        const auto keys_from = [&](int i) {
          const int tile = at - i * kWarps;
          return tile >= begin ? keys - tile * kTileKeys : 0;
        };
        decode::weigh_tiles<T>(group, scores, keys_from, args_.scale, weights);
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          if (at - i * kWarps >= begin) group.accumulate(tiles[i], weights[i]);
        }
      }
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        if (at - kStride - i * kWarps < begin) continue;
        const T* from = next_from(i) + args_.value_offset;
        if (i == 0) {
          if (old < kTileKeys) decode::clear(tiles[i].values);
          tiles[i].load_values(from, [&](int key) { return key < old; });
        } else {
          tiles[i].load_values(from, std::true_type{});
        }
      }
      if (is_first) start(group, tiles[0], cache, qkv_words, last < begin ? kTileKeys : old);
    }
    group.finish(heads_, [&](int head, int component, auto words_at_once, const auto& values,
                             const float2& state) {
      static_assert(words_at_once.value == 4);
      const int index = warp() * heads_ + head;
      auto* to = reinterpret_cast<float4*>(outputs_ + index * kPitch + component);
      to[0] = {values[0], values[1], values[2], values[3]};
      to[1] = {values[4], values[5], values[6], values[7]};
      if (component == 0) states_[index] = state;
    });
    narrow::meet<1>(kConsumers);
    merge(words);
    narrow::meet<1>(kConsumers);  // x takes the place of what was read
  }

 private:
  static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x); }
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  static __device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x) / 32; }

  /// Of a tile's keys, in elements from the cache on.
  __device__ __forceinline__ int64_t offset_of(int tile) const {
    const int position = tile * kTileKeys, index = position / args_.tokens_per_block;
    const int in_block = position - index * args_.tokens_per_block;
    return args_.block_tables[int64_t{item_.row} * args_.max_blocks + index] * args_.block_stride +
           int64_t{item_.kv_head * args_.tokens_per_block + in_block} * kHeadSize;
  }

  /// offset_of the warp's tile number `lane` from `last` on.
  __device__ __forceinline__ int64_t offset_of_lane(int begin, int last) const {
    const int tile = last - lane() * kWarps;
    return tile < begin ? 0 : offset_of(tile);
  }

  /// Waits for the new row: its queries and, if it is number `newest` of the warp's first tile, its
  /// key and value, which go into the tile and the cache. Whole warps.
  __device__ __forceinline__ void start(Heads& group, Tile& tile, T* cache,
                                        const uint32_t* qkv_words, int newest) const {
    constexpr int kPieces = kHeadSize / 32;  // of a lane's part of a query
    const int heads = args_.num_heads, kv_heads = args_.num_kv_heads, kv_head = item_.kv_head;
    const uint32_t* row = qkv_words + int64_t{item_.row} * (heads + 2 * kv_heads) * (kHeadSize / 2);
    const int head = lane() / 4;
    const uint32_t* queries = row + (kv_head * heads_ + head) * (kHeadSize / 2) + lane() % 4 * 4;
    const uint32_t* keys = row + (heads + kv_head) * (kHeadSize / 2) + lane();
    const uint32_t* values = keys + kv_heads * (kHeadSize / 2);
    const bool has_newest = newest < kTileKeys;
    const bool reads_row = has_newest || item_.keys == 0;  // all words of each row are waited for
    Piece pieces[kPieces] = {};
    uint32_t key[kWords] = {}, value[kWords] = {};
    Patience patience;
    for (;;) {
      bool is_there = true;
      if (head < heads_) {
#pragma unroll
        for (int i = 0; i < kPieces; ++i) pieces[i].load(queries + i * 16);
      }
      if (reads_row) {
#pragma unroll
        for (int i = 0; i < kWords; ++i) {
          key[i] = load_word(keys + i * 32);
          value[i] = load_word(values + i * 32);
        }
#pragma unroll
        for (int i = 0; i < kWords; ++i) is_there = is_there && key[i] != 0 && value[i] != 0;
      }
      if (head < heads_) {
#pragma unroll
        for (int i = 0; i < kPieces; ++i) is_there = is_there && pieces[i].is_there();
      }
      if (__all_sync(kFullWarp, is_there)) break;
      patience.tick();
    }
#pragma unroll
    for (int i = 0; i < kPieces; ++i) decode::put(group.queries[0] + i * 4, pieces[i].data);
    const float* cos_sin = cos_sin_ + item_.row * kHeadSize;
    decode::rotate<T, kHeadSize>(group.queries, cos_sin);
    if (has_newest) {
      auto* room = reinterpret_cast<uint32_t*>(cos_sin_ + args_.rows * kHeadSize);
      T* to = cache + __shfl_sync(kFullWarp, offset_, 0) + newest * kHeadSize;
      decode::add_newest<T, kHeadSize>(tile, newest, key, value, cos_sin, room, to,
                                       args_.value_offset);
    }
  }

  /// The warps' parts, and then the blocks', to outputs. All consumers.
  __device__ __forceinline__ void merge(const AttentionWords& words) {
    const int count = heads_ * kHeadSize;
    uint32_t* mine = words.partial + int64_t{item_.first_of_item + item_.part} * words_of_part();
    if (thread() * 4 < count) {
      const int element = thread() * 4, head = element / kHeadSize;
      float2 state;
      const float4 sums = decode::merge(
          kWarps, [&](int w) { return states_[w * heads_ + head]; },
          [&](int w) {
            return *reinterpret_cast<const float4*>(outputs_ + (w * heads_ + head) * kPitch +
                                                    element % kHeadSize);
          },
          state);
      if (item_.num_parts == 1) {
        write(words, element, sums, state.y);
      } else {
        const float values[4] = {sums.x, sums.y, sums.z, sums.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) store_word(mine + element + i, __float_as_uint(values[i]));
        if (element % kHeadSize == 0) {
          store_word(mine + count + head * 2, __float_as_uint(state.x));
          store_word(mine + count + head * 2 + 1, __float_as_uint(state.y));
        }
      }
    }
    if (item_.num_parts > 1) merge_blocks(words, count);
  }

  /// Adds up all blocks' parts of a slice of the components.
  __device__ __forceinline__ void merge_blocks(const AttentionWords& words, int count) {
    narrow::meet<1>(kConsumers);  // all have read the warps' parts
    const int slice = count / item_.num_parts;
    const uint32_t* all = words.partial + int64_t{item_.first_of_item} * words_of_part();
    auto* states = reinterpret_cast<float2*>(outputs_ + count);
#pragma unroll 1
    for (int i = thread(); i < count; i += kConsumers) {
      const int part = i / slice, element = item_.part * slice + i % slice;
      const uint32_t* from = all + int64_t{part} * words_of_part();
      const uint32_t* state = from + count + element / kHeadSize * 2;
      outputs_[i] = __uint_as_float(wait_for_word(from + element));
      states[i].x = __uint_as_float(wait_for_word(state));
      states[i].y = __uint_as_float(wait_for_word(state + 1));
    }
    narrow::meet<1>(kConsumers);
    if (thread() >= (slice + 31) / 32 * 32) return;
    const int at = min(thread(), slice - 1);
    float2 state;
    const float sum = added(
        item_.num_parts, [&](int part) { return states[part * slice + at]; },
        [&](int part) { return outputs_[part * slice + at]; }, state);
    write(words, item_.part * slice + thread(), sum, state.y, thread() < slice);
  }
  /// Outputs and, of each head, maximum and sum.
  __device__ __forceinline__ int words_of_part() const { return heads_ * (kHeadSize + 2); }

  /// Parts of a component, added up; `state` is {maximum, sum} of all.
  template <typename States, typename Outputs>
  static __device__ __forceinline__ float added(int count, const States& state_of,
                                                const Outputs& output_of, float2& state) {
    state = {-INFINITY, 0};
#pragma unroll 4
    for (int i = 0; i < count; ++i) state.x = fmaxf(state.x, state_of(i).x);
    float sum = 0;
#pragma unroll 4
    for (int i = 0; i < count; ++i) {
      const float2 part = state_of(i);
      const float factor = part.y > 0 ? exp2_fast(part.x - state.x) : 0.0f;
      state.y += part.y * factor;
      sum += output_of(i) * factor;
    }
    return sum;
  }

  /// Four of the item's outputs; of a row without keys zeros.
  __device__ __forceinline__ void write(const AttentionWords& words, int element,
                                        const float4& sums, float total) const {
    const float factor = __fdividef(1.0f, total);
    const bool has_keys = total > 0;
    const uint32_t low = has_keys ? pack(T(), sums.x * factor, sums.y * factor) : 0;
    const uint32_t high = has_keys ? pack(T(), sums.z * factor, sums.w * factor) : 0;
    uint32_t* to = attended_at(words, element);
    store_word(to, low);
    store_word(to + 1, high);
  }

  /// One of the item's outputs; of a row without keys zero. Whole warps.
  __device__ __forceinline__ void write(const AttentionWords& words, int element, float sum,
                                        float total, bool is_there = true) const {
    const T value = from_float<T>(total > 0 ? sum / total : 0.0f);
    const uint32_t bits = reinterpret_cast<const uint16_t&>(value);
    const uint32_t other = __shfl_xor_sync(0xffffffffu, bits, 1);
    if (is_there && element % 2 == 0) store_word(attended_at(words, element), bits | other << 16);
  }

  __device__ __forceinline__ uint32_t* attended_at(const AttentionWords& words, int element) const {
    return words.attended +
           words.of_attended.at(item_.row, item_.kv_head * heads_ * kHeadSize + element);
  }

  const Args& args_;
  const AttentionItem& item_;
  float* const cos_sin_;  // [rows, 2, kHeadSize / 2], and then a key and a value
  // While it runs.
  int heads_;           // of a kv head
  float* outputs_;      // [warps][heads][kPitch]
  float2* states_;      // [warps][heads] {maximum, sum}
  int64_t offset_ = 0;  // offset_of the warp's tile number `lane` from the last one on
};

#endif

}  // namespace inflight::cuda::decoder
