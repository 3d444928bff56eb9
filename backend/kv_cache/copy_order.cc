#include "backend/kv_cache/copy_order.h"

#include "kernels/core/check.h"

namespace inflight::kv_cache {

CopyPhase& CopyOrder::next_phase() {
  if (num_phases_ == phases_.size()) phases_.emplace_back();
  CopyPhase& phase = phases_[num_phases_++];
  phase.between_tiers.clear();
  phase.on_device.clear();
  read_.clear();
  written_.clear();
  return phase;
}

std::span<const CopyPhase> CopyOrder::arrange(std::span<const BlockCopy> copies) {
  num_phases_ = 0;
  if (copies.empty()) return {};
  CopyPhase* phase = &next_phase();
  for (const BlockCopy& copy : copies) {
    const bool from_host = copy.from_tier == Tier::kHost, to_host = copy.to_tier == Tier::kHost;
    check_internal(!from_host || !to_host, "a copy from host block ", copy.from_block,
                   " to host block ", copy.to_block);
    const bool reads_written = !from_host && written_.contains(copy.from_block);
    const bool writes_named =
        !to_host && (written_.contains(copy.to_block) || read_.contains(copy.to_block));
    if (reads_written || writes_named) phase = &next_phase();
    if (from_host || to_host) {
      phase->between_tiers.push_back(copy);
    } else {
      phase->on_device.push_back(copy);
      read_.insert(copy.from_block);
      written_.insert(copy.to_block);
    }
  }
  return std::span(phases_).first(num_phases_);
}

}  // namespace inflight::kv_cache
