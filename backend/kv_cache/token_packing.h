// Token ids in as few bits as the vocabulary needs, so that a block's tokens can be kept beside it:
// 68 bytes for 32 ids below 131,072. Pure.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace inflight::kv_cache {

class TokenPacking {
 public:
  /// `vocab_size` and `tokens_per_block` at least 1.
  TokenPacking(int32_t vocab_size, int32_t tokens_per_block)
      : bits_(vocab_size <= 2 ? 1 : std::bit_width(static_cast<uint32_t>(vocab_size - 1))),
        pack_group_(group_packer(bits_)),
        num_words_(static_cast<int32_t>((int64_t{tokens_per_block} * bits_ + 31) / 32)) {}

  int32_t num_words() const { return num_words_; }  // of 32 bits, a block

  /// Packs `count` ids into `out` [num_words], zeros behind them; false if one does not fit.
  bool pack(const int32_t* ids, int32_t count, uint32_t* out) const {
    uint64_t pending = 0;
    uint32_t all = 0;
    int32_t num_pending = 0, word = 0, i = 0;
    for (; i + kGroup <= count; i += kGroup, word += bits_) all |= pack_group_(ids + i, out + word);
    for (; i < count; ++i) {
      const auto id = static_cast<uint32_t>(ids[i]);
      all |= id;
      pending |= uint64_t{id} << num_pending;
      num_pending += bits_;
      if (num_pending >= 32) {
        out[word++] = static_cast<uint32_t>(pending);
        pending >>= 32;
        num_pending -= 32;
      }
    }
    if (num_pending > 0) out[word++] = static_cast<uint32_t>(pending);
    while (word < num_words_) out[word++] = 0;
    return (uint64_t{all} >> bits_) == 0;
  }

  int32_t token(const uint32_t* words, int32_t index) const {
    const int64_t bit = int64_t{index} * bits_;
    const int32_t word = static_cast<int32_t>(bit / 32), shift = static_cast<int32_t>(bit % 32);
    uint64_t window = words[word];
    if (shift + bits_ > 32) window |= uint64_t{words[word + 1]} << 32;
    return static_cast<int32_t>((window >> shift) & ((uint64_t{1} << bits_) - 1));
  }

  /// Of a block whose predecessors have `before`: of its words and of all before it.
  uint64_t chain_hash(uint64_t before, const uint32_t* words, int32_t num_tokens) const {
    uint64_t a = before ^ 0x9e3779b97f4a7c15u, b = before + 0xd6e8feb86659fd93u + num_tokens;
    int32_t i = 0;
    for (; i + 4 <= num_words_; i += 4) {
      a = mix(a ^ load(words + i), 0xa0761d6478bd642fu);
      b = mix(b ^ load(words + i + 2), 0xe7037ed1a0b428dbu);
    }
    for (; i < num_words_; ++i) a = mix(a ^ words[i], 0x8ebc6af09c88c6e3u);
    return mix(a ^ 0x589965cc75374cc3u, b ^ 0x1d8e4e27c47d124fu);
  }

 private:
  static constexpr int32_t kGroup = 32;  // ids that fill whole words
  /// Packs so many; returns all of them or-ed.
  using PackGroup = uint32_t (*)(const int32_t* ids, uint32_t* out);
  static PackGroup group_packer(int32_t bits);

  static uint64_t load(const uint32_t* words) {
    uint64_t value;
    std::memcpy(&value, words, sizeof(value));
    return value;
  }
  static uint64_t mix(uint64_t a, uint64_t b) {
    const auto product = static_cast<unsigned __int128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }

  int32_t bits_;  // an id, at most 31
  PackGroup pack_group_;
  int32_t num_words_;
};

}  // namespace inflight::kv_cache
