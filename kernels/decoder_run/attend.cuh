// A consumer warp's part of the attention of a run of layers (decoder_run.cu): of one new row to a
// sequence. A block has one sequence's kv head, or a part of its keys, at most; the tiles and the
// softmax are the decode kernel's (kernels/attention/decode_heads.cuh). Keys and values of earlier
// steps are read before the new row's are there.
#pragma once

#include "kernels/attention/decode_heads.cuh"
#include "kernels/attention/decode_parts.cuh"
#include "kernels/decoder_run/exchange.cuh"
#include "kernels/decoder_run/run_args.cuh"

namespace inflight::cuda::decoder {

/// Shared memory in which the warps' and then the blocks' parts meet.
inline constexpr int attention_bytes(int heads, int head_size) {
  return kWarps * heads * static_cast<int>(decode::part_bytes(head_size));
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <typename T, int kHeadSize>
class Attention {
 public:
  using Tile = decode::Tile<T, kHeadSize>;
  using Heads = decode::HeadGroup<T, kHeadSize, 1>;
  static constexpr int kTileKeys = decode::kTileKeys, kPitch = kHeadSize + 8;
  static constexpr int kKeysOfPart = 512;  // more are divided among blocks, as far as they go

  /// Finds the block's part of the step. `scratch` has attention_bytes.
  __device__ __forceinline__ Attention(const Args& args, const Shared& shared, uint8_t* scratch)
      : args_(args),
        shared_(shared),
        heads_(args.num_heads / args.num_kv_heads),
        outputs_(reinterpret_cast<float*>(scratch)),
        states_(reinterpret_cast<float2*>(outputs_ + kWarps * heads_ * kPitch)) {
    // The last blocks have the fewest tiles of weights.
    int item = static_cast<int>(gridDim.x - 1 - blockIdx.x), first = 0;
    for (int row = 0; row < args.rows; ++row) {
      const int keys = args.kv_lengths[row];
      int parts = 1;
      while (parts < args.max_parts && keys > parts * kKeysOfPart) parts *= 2;
      const int items = args.num_kv_heads * parts;
      if (item < items) {
        row_ = row;
        keys_ = keys;
        num_parts_ = parts;
        kv_head_ = item / parts;
        part_ = item % parts;
        first_of_item_ = first + kv_head_ * parts;
        break;
      }
      item -= items;
      first += items;
    }
    if (row_ < 0) return;
    const int tiles = (keys_ + kTileKeys - 1) / kTileKeys;
    const int share = (tiles + num_parts_ - 1) / num_parts_;
    begin_ = part_ * share;
    last_ = min(begin_ + share, tiles) - 1 - warp();
    if (last_ >= begin_) last_offset_ = offset_of(last_);
  }

  /// Asks the L2 for what the warp will read of a layer's keys and values.
  __device__ __forceinline__ void prefetch(const void* cache) const {
    if (row_ < 0) return;
    const int tile = opaque(last_) - lane() * kWarps;
    if (tile < begin_) return;
    const T* from = static_cast<const T*>(cache) + offset_of(tile);
    constexpr uint32_t kBytes = kTileKeys * kHeadSize * sizeof(T);
    for (const T* address : {from, from + args_.value_offset})
      asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(address), "r"(kBytes));
  }

  /// All of it, to the words that o reads.
  __device__ __forceinline__ void run(void* cache_of_layer, const uint64_t* qkv_words,
                                      uint32_t tag) {
    if (row_ < 0) return;
    T* cache = static_cast<T*>(cache_of_layer);
    const int keys = opaque(keys_), begin = opaque(begin_), last = opaque(last_);
    Tile tile;
    Heads group;
    group.start(nullptr, 0);
    int64_t offset = last_offset_;
    // The newest tile first, each warp every eighth. The round before the first one only reads, and
    // waits for the new row.
#pragma unroll 1
    for (int at = last + kWarps; at >= begin; at -= kWarps) {
      const int next = at - kWarps;
      const bool is_first = at > last, has_next = next >= begin;
      const T* next_from = cache + offset;
      const int there = keys - at * kTileKeys, old = keys - 1 - next * kTileKeys;
      typename Heads::Scores scores;
      if (!is_first) group.score(tile, scores);
      if (has_next) tile.load_keys(next_from, [&](int key) { return key < old; });
      if (!is_first) {
        typename Heads::Weights weights;
        group.weigh(scores, [&](int key) { return key < there; }, args_.scale, weights);
        group.accumulate(tile, weights);
      }
      if (has_next) {
        // What is not there must not be infinite.
        if (old < kTileKeys) clear(tile.values);
        tile.load_values(next_from + args_.value_offset, [&](int key) { return key < old; });
        if (next - kWarps >= begin) offset = offset_of(next - kWarps);
      }
      if (is_first) start(group, tile, cache, qkv_words, has_next ? old : kTileKeys, tag);
    }
    group.finish(heads_, [&](int head, int component, auto words_at_once, const auto& values,
                             const float2& state) {
      const int index = warp() * heads_ + head;
#pragma unroll
      for (int i = 0; i < 2 * words_at_once.value; ++i)
        outputs_[index * kPitch + component + i] = values[i];
      if (component == 0) states_[index] = state;
    });
    narrow::meet<1>(kConsumers);
    merge(tag);
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
    return args_.block_tables[int64_t{row_} * args_.max_blocks + index] * args_.block_stride +
           int64_t{kv_head_ * args_.tokens_per_block + in_block} * kHeadSize;
  }

  static __device__ __forceinline__ void clear(uint32_t (&values)[4][kHeadSize / 16]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < kHeadSize / 16; ++j) values[i][j] = 0;
    }
  }

  /// Waits for the new row: its queries and, if it is number `newest` of the warp's first tile, its
  /// key and value, which go into the tile and the cache. Whole warps.
  __device__ __forceinline__ void start(Heads& group, Tile& tile, T* cache,
                                        const uint64_t* qkv_words, int newest, uint32_t tag) const {
    constexpr int kKeyPieces = kHeadSize / 32, kValuePieces = kHeadSize / 64;
    constexpr int kPieces = 2 * kKeyPieces + kValuePieces;
    const int heads = args_.num_heads, kv_heads = args_.num_kv_heads, kv_head = opaque(kv_head_);
    const uint64_t* row = qkv_words + int64_t{row_} * (heads + 2 * kv_heads) * (kHeadSize / 2);
    const int head = lane() / 4;
    const uint64_t* queries = row + (kv_head * heads_ + head) * (kHeadSize / 2) + lane() % 4 * 4;
    const uint64_t* keys = row + (heads + kv_head) * (kHeadSize / 2) + lane() % 4 * 4;
    const uint64_t* values = row + (heads + kv_heads + kv_head) * (kHeadSize / 2) + lane() / 4 * 4;
    const bool has_newest = newest < kTileKeys;
    Piece pieces[kPieces] = {};
    bool missing[kPieces];
#pragma unroll
    for (int i = 0; i < kPieces; ++i) missing[i] = i < kKeyPieces ? head < heads_ : has_newest;
    wait_for_pieces(pieces, tag, missing, false, [&](int i) {
      return i < kKeyPieces       ? queries + i * 16
             : i < 2 * kKeyPieces ? keys + (i - kKeyPieces) * 16
                                  : values + (i - 2 * kKeyPieces) * 32;
    });
#pragma unroll
    for (int i = 0; i < kKeyPieces; ++i) put(group.queries[0] + i * 4, pieces[i].data());
    decode::rotate<T, kHeadSize>(group.queries, shared_.cos_sin[row_]);
    if (!has_newest) return;
    uint32_t key[1][kHeadSize / 8];
#pragma unroll
    for (int i = 0; i < kKeyPieces; ++i) put(key[0] + i * 4, pieces[kKeyPieces + i].data());
    decode::rotate<T, kHeadSize>(key, shared_.cos_sin[row_]);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < kHeadSize / 8; ++j) {
        if (Tile::key_of(i) == newest) tile.keys[i][j] = key[0][j];
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < kValuePieces; ++j) {
        if (Tile::value_of(i) == newest)
          put(tile.values[i] + j * 4, pieces[2 * kKeyPieces + j].data());
      }
    }
    T* to = cache + last_offset_ + newest * kHeadSize;
    tile.store_one(to, to + args_.value_offset, newest);
  }
  static __device__ __forceinline__ void put(uint32_t* to, const uint4& from) {
    to[0] = from.x, to[1] = from.y, to[2] = from.z, to[3] = from.w;
  }

  /// The warps' parts, and then the blocks', to outputs. All consumers.
  __device__ __forceinline__ void merge(uint32_t tag) {
    const int count = heads_ * kHeadSize;
    uint64_t* mine = args_.partial + int64_t{first_of_item_ + part_} * words_of_part();
#pragma unroll 1
    for (int element = thread(); element < count; element += kConsumers) {
      const int head = element / kHeadSize;
      float2 state;
      const float sum = added(
          kWarps, [&](int w) { return states_[w * heads_ + head]; },
          [&](int w) { return outputs_[(w * heads_ + head) * kPitch + element % kHeadSize]; },
          state);
      if (num_parts_ == 1) {
        write(element, sum, state.y, tag);
        continue;
      }
      store_word(mine + element, __float_as_uint(sum), tag);
      if (element % kHeadSize != 0) continue;
      store_word(mine + count + head * 2, __float_as_uint(state.x), tag);
      store_word(mine + count + head * 2 + 1, __float_as_uint(state.y), tag);
    }
    if (num_parts_ > 1) merge_blocks(count, tag);
  }

  /// Adds up all blocks' parts of a slice of the components.
  __device__ __forceinline__ void merge_blocks(int count, uint32_t tag) {
    narrow::meet<1>(kConsumers);  // all have read the warps' parts
    const int slice = count / num_parts_;
    const uint64_t* all = args_.partial + int64_t{first_of_item_} * words_of_part();
    auto* states = reinterpret_cast<float2*>(outputs_ + count);
#pragma unroll 1
    for (int i = thread(); i < count; i += kConsumers) {
      const int part = i / slice, element = part_ * slice + i % slice;
      const uint64_t* from = all + int64_t{part} * words_of_part();
      const uint64_t* state = from + count + element / kHeadSize * 2;
      outputs_[i] = __uint_as_float(wait_for_word(from + element, tag));
      states[i].x = __uint_as_float(wait_for_word(state, tag));
      states[i].y = __uint_as_float(wait_for_word(state + 1, tag));
    }
    narrow::meet<1>(kConsumers);
    if (thread() >= (slice + 31) / 32 * 32) return;
    const int at = min(thread(), slice - 1);
    float2 state;
    const float sum = added(
        num_parts_, [&](int part) { return states[part * slice + at]; },
        [&](int part) { return outputs_[part * slice + at]; }, state);
    write(part_ * slice + thread(), sum, state.y, tag, thread() < slice);
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
      const float factor = part.y > 0 ? decode::exp2_fast(part.x - state.x) : 0.0f;
      state.y += part.y * factor;
      sum += output_of(i) * factor;
    }
    return sum;
  }

  /// One of the item's outputs; of a row without keys zero. Whole warps.
  __device__ __forceinline__ void write(int element, float sum, float total, uint32_t tag,
                                        bool is_there = true) const {
    const T value = from_float<T>(total > 0 ? sum / total : 0.0f);
    const uint32_t bits = reinterpret_cast<const uint16_t&>(value);
    const uint32_t other = __shfl_xor_sync(0xffffffffu, bits, 1);
    const int first = (row_ * args_.num_heads + kv_head_ * heads_) * kHeadSize;
    if (is_there && element % 2 == 0)
      store_word(args_.attended + (first + element) / 2, bits | other << 16, tag);
  }

  const Args& args_;
  const Shared& shared_;
  const int heads_;  // of a kv head
  float* outputs_;   // [warps][heads][kPitch]
  float2* states_;   // [warps][heads] {maximum, sum}
  int row_ = -1;     // none
  int keys_ = 0, num_parts_ = 1, kv_head_ = 0, part_ = 0, first_of_item_ = 0;
  int begin_ = 0, last_ = -1;  // tiles: the block's first one, the warp's last one
  int64_t last_offset_ = 0;
};

#endif

}  // namespace inflight::cuda::decoder
