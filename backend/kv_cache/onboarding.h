// Whether blocks found in host memory are worth bringing back, and how many at a time. Pure
// numbers: measured rates in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace inflight::kv_cache {

/// What moving and computing costs here. 0: not known yet.
struct CacheCosts {
  double bytes_per_second = 0;    // of copies from the host tier into the pool
  double tokens_per_second = 0;   // of prompts, as steps have run them
  double generation_seconds = 0;  // of the newest step measured that read no prompt
};

/// Bringing `num_blocks` of `block_bytes` back against computing their `num_tokens` again. With a
/// rate unknown they come back: a copy leaves the device to the other sequences.
constexpr bool is_onboarding_cheaper(int64_t num_blocks, int64_t block_bytes, int64_t num_tokens,
                                     const CacheCosts& costs) {
  if (costs.bytes_per_second <= 0 || costs.tokens_per_second <= 0) return true;
  const double copy_seconds =
      static_cast<double>(num_blocks) * static_cast<double>(block_bytes) / costs.bytes_per_second;
  return copy_seconds <= static_cast<double>(num_tokens) / costs.tokens_per_second;
}

/// Copies of blocks between the tiers that are done by the end of a step that began as they did and
/// reads `num_prompt_tokens` beside what generates: those who wait for the next one do not notice.
/// At least 1; no bound where rates are not known.
constexpr int32_t copies_beside_step(int32_t num_prompt_tokens, int64_t block_bytes,
                                     const CacheCosts& costs) {
  constexpr double kShare = 0.8;  // they begin a little later, and the step may be shorter
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  if (costs.bytes_per_second <= 0 || costs.generation_seconds <= 0 || block_bytes <= 0)
    return kMost;
  double seconds = costs.generation_seconds;
  if (costs.tokens_per_second > 0) seconds += num_prompt_tokens / costs.tokens_per_second;
  const double copies =
      kShare * seconds * costs.bytes_per_second / static_cast<double>(block_bytes);
  return copies < kMost ? std::max(1, static_cast<int32_t>(copies)) : kMost;
}

/// A rate that follows what is measured: the newest second of measurements weighs about as much as
/// all before it, so that one odd step does not turn decisions round.
class MeasuredRate {
 public:
  void add(double amount, double seconds) {
    if (amount <= 0 || seconds <= 0) return;
    const double kept = 1.0 / (1.0 + seconds);
    amount_ = amount_ * kept + amount;
    seconds_ = seconds_ * kept + seconds;
  }
  double per_second() const { return seconds_ > 0 ? amount_ / seconds_ : 0; }

 private:
  double amount_ = 0;
  double seconds_ = 0;
};

}  // namespace inflight::kv_cache
