#include "backend/executor/prefix_transfer.h"

#include <cstdio>
#include <optional>

#include "backend/executor/cache_groups.h"
#include "kernels/core/check.h"

namespace inflight::executor {
namespace {

using kv_cache::KvCacheManager;
using kv_cache::Reservation;
using kv_cache::TableId;
using kv_cache::Tier;
using kv_cache::TokenView;

/// A table that goes with the object, and what it holds with it.
class Table {
 public:
  Table(KvCacheManager& cache, const kv_cache::TableRequest& request)
      : cache_(cache), id_(cache.open(request)), tokens_(request.tokens) {}
  ~Table() {
    reservation_.reset();
    cache_.release(id_, is_committed_ ? tokens_ : TokenView{});
  }
  Table(const Table&) = delete;

  /// Room for tokens [first, first + count), and what must be copied for it is copied.
  void grow(int32_t first, int32_t count, ModelExecutor& executor) {
    const kv_cache::Growth growth{id_, first, count};
    std::optional<Reservation> reservation = cache_.reserve(std::span(&growth, 1));
    if (!reservation) {
      throw Error(ErrorCode::kResourceExhausted,
                  concat("the KV cache has ", cache_.num_free_blocks() + cache_.num_cached_blocks(),
                         " blocks that nobody uses, ", cache_.geometry().num_blocks(first + count),
                         " are needed"));
    }
    reservation_.emplace(std::move(*reservation));
    executor.make_copies(cache_.copies());
    cache_.clear_copies();
  }
  void commit() {
    reservation_->commit([this](int32_t) { return tokens_; });
    is_committed_ = true;
  }

  int32_t num_cached_tokens() const { return cache_.num_cached_tokens(id_); }
  int32_t block(int32_t index) const { return cache_.block_table(id_)[index]; }

 private:
  KvCacheManager& cache_;
  const TableId id_;
  const TokenView tokens_;
  std::optional<Reservation> reservation_;
  bool is_committed_ = false;
};

/// Of several pools the blocks would have to come, of some of them only those in sight.
void refuse_windows(const EngineInfo& info) {
  if (has_windows(info))
    throw Error(ErrorCode::kUnsupported,
                "blocks of layers that see sliding windows can be neither exported nor imported");
}

}  // namespace

std::string cache_layout(const plan::EngineFile& engine) {
  std::string text = concat(name_of(engine.kv_cache.dtype), ", blocks of ",
                            engine.kv_cache.tokens_per_block, " tokens, layers");
  for (const plan::KvLayerSpec& layer : engine.kv_cache.layers)
    text += concat(" ", layer.num_kv_heads, "x", layer.head_size);
  uint64_t checkpoint = 0;
  for (const plan::CheckpointFile& file : engine.checkpoint_files)
    checkpoint = checkpoint * 1099511628211u + file.fingerprint;
  char digits[17];
  std::snprintf(digits, sizeof(digits), "%016llx", static_cast<unsigned long long>(checkpoint));
  return concat(text, ", checkpoint ", digits);
}

ExportedPrefix export_prefix(KvCacheManager& cache, ModelExecutor& executor, const EngineInfo& info,
                             std::span<const int32_t> token_ids,
                             const kv_cache::PrefixScope& scope) {
  refuse_windows(info);
  Table table(cache, {.tokens = {.prompt = token_ids},
                      .scope = &scope,
                      .onboarding = kv_cache::Onboarding::kAlways});
  const int32_t num_tokens = table.num_cached_tokens();
  ExportedPrefix prefix;
  prefix.layout = info.cache_layout;
  prefix.token_ids.assign(token_ids.begin(), token_ids.begin() + num_tokens);
  if (num_tokens == 0) return prefix;
  // With it come the blocks that are not at hand: of the host tier, or begun alike.
  table.grow(num_tokens, 1, executor);
  const int32_t num_blocks = cache.geometry().num_blocks(num_tokens);
  prefix.blocks.resize(num_blocks * info.block_bytes);
  for (int32_t i = 0; i < num_blocks; ++i) {
    executor.read_block(Tier::kDevice, table.block(i),
                        std::span(prefix.blocks).subspan(i * info.block_bytes, info.block_bytes));
  }
  return prefix;
}

void import_prefix(KvCacheManager& cache, ModelExecutor& executor, const EngineInfo& info,
                   const ExportedPrefix& prefix, const kv_cache::PrefixScope& scope) {
  check(prefix.layout == info.cache_layout, "the blocks are \"", prefix.layout,
        "\", this engine's are \"", info.cache_layout, "\"");
  const auto num_tokens = static_cast<int64_t>(prefix.token_ids.size());
  check(num_tokens <= info.max_seq_len, "blocks of ", num_tokens,
        " tokens, a sequence has at most ", info.max_seq_len);
  for (const int32_t id : prefix.token_ids)
    check(id >= 0 && id < info.vocab_size, "token id ", id, " is not of the vocabulary of ",
          info.vocab_size);
  const int32_t num_blocks = cache.geometry().num_blocks(static_cast<int32_t>(num_tokens));
  check(static_cast<int64_t>(prefix.blocks.size()) == num_blocks * info.block_bytes, num_tokens,
        " tokens take ", num_blocks, " blocks of ", info.block_bytes, " bytes, got ",
        prefix.blocks.size(), " bytes");
  if (num_tokens == 0) return;
  refuse_windows(info);
  Table table(cache, {.tokens = {.prompt = prefix.token_ids}, .scope = &scope, .may_reuse = false});
  table.grow(0, static_cast<int32_t>(num_tokens), executor);
  for (int32_t i = 0; i < num_blocks; ++i) {
    executor.write_block(Tier::kDevice, table.block(i),
                         std::span(prefix.blocks).subspan(i * info.block_bytes, info.block_bytes));
  }
  table.commit();
}

}  // namespace inflight::executor
