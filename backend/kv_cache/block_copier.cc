#include "backend/kv_cache/block_copier.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "kernels/core/check.h"

namespace inflight::kv_cache {

BlockCopier::BlockCopier(const KvStorage& storage, const DeviceContext& context)
    : storage_(storage), context_(context), rows_(storage.row_views()) {
  if (!context.is_cuda()) return;
  stream_.emplace(context.device());
  moved_between_tiers_.emplace(context.device());
  copied_on_device_.emplace(context.device());
}

void BlockCopier::launch(std::span<const BlockCopy> copies) {
  if (copies.empty()) return;
  check_internal(is_intact_, "copies of KV blocks have failed before");
  is_intact_ = false;
  for (const CopyPhase& phase : order_.arrange(copies)) {
    if (!phase.between_tiers.empty()) launch_between_tiers(phase.between_tiers);
    if (!phase.on_device.empty()) launch_on_device(phase.on_device);
  }
  is_intact_ = true;
}

void BlockCopier::launch_between_tiers(std::span<const BlockCopy> copies) {
  if (must_wait_for_device_) copied_on_device_->make_wait(*stream_);
  must_wait_for_device_ = false;
  for (const BlockCopy& copy : copies)
    move(storage_.block(copy.to_tier, copy.to_block),
         storage_.block(copy.from_tier, copy.from_block), stream_ ? &*stream_ : nullptr);
  if (!stream_) return;
  moved_between_tiers_->record(*stream_);
  moved_between_tiers_->make_wait(context_.stream());
}

void BlockCopier::launch_on_device(std::span<const BlockCopy> copies) {
  on_device_.clear();
  for (const BlockCopy& copy : copies)
    on_device_.push_back({copy.from_block, copy.to_block, copy.num_tokens});
  OpContext context = context_.op_context();
  for (const TensorView& rows : rows_) copy_blocks({.pool = rows, .copies = on_device_}, context);
  if (!stream_) return;
  copied_on_device_->record(context_.stream());
  must_wait_for_device_ = true;
}

void BlockCopier::move(void* to, const void* from, const Stream* stream) const {
  const auto bytes = static_cast<size_t>(storage_.block_bytes());
  if (stream == nullptr) {
    std::memcpy(to, from, bytes);
  } else {
    copy_async(to, from, bytes, *stream);
  }
}

void BlockCopier::read(Tier tier, int32_t block, std::span<std::byte> to) const {
  check_internal(static_cast<int64_t>(to.size()) == storage_.block_bytes(), "a KV block has ",
                 storage_.block_bytes(), " bytes, there is room for ", to.size());
  finish();
  move(to.data(), storage_.block(tier, block), stream_ ? &*stream_ : nullptr);
  synchronize();
}

void BlockCopier::write(Tier tier, int32_t block, std::span<const std::byte> from) const {
  check_internal(static_cast<int64_t>(from.size()) == storage_.block_bytes(), "a KV block has ",
                 storage_.block_bytes(), " bytes, got ", from.size());
  finish();
  move(storage_.block(tier, block), from.data(), stream_ ? &*stream_ : nullptr);
  synchronize();
}

double BlockCopier::measure_onboarding() {
  constexpr int32_t kMaxBlocks = 8;
  constexpr int kRounds = 3;  // the first warms up
  const int32_t count = std::min({kMaxBlocks, storage_.num_blocks(), storage_.num_host_blocks()});
  if (count == 0) return 0;
  std::vector<BlockCopy> copies;
  for (int32_t i = 0; i < count; ++i)
    copies.push_back({Tier::kHost, i, Tier::kDevice, i, storage_.geometry().tokens_per_block()});
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    launch(copies);
    finish();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    const auto bytes = static_cast<double>(count) * static_cast<double>(storage_.block_bytes());
    best = std::max(best, bytes / std::max(seconds.count(), 1e-9));
  }
  return best;
}

void BlockCopier::finish() const {
  if (stream_) context_.stream().synchronize();  // which has waited for the other
}

void BlockCopier::synchronize() const {
  if (stream_) stream_->synchronize();
}

}  // namespace inflight::kv_cache
