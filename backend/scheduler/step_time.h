// How long a step takes, as a function of what it does: fitted to the steps measured so far, so
// that a token budget can be chosen by time instead of by number. Arithmetic only, no clock.
//
// A prompt's chunk makes the tokens of all that generate beside it late. Sarathi-Serve (Agrawal et
// al., "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve", OSDI 2024) bounds
// that by the number of tokens in a step, found by profiling; here the bound is milliseconds, and
// the number follows from the fit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace inflight::scheduler {

/// What makes a step long.
struct StepWork {
  int32_t num_tokens = 0;
  int32_t num_prompt_tokens = 0;  // of them
  int64_t generation_keys = 0;    // that generating rows read: the sum of their positions + 1
  int64_t prompt_pairs = 0;       // of a prompt's token and a key that it reads

  void add_generating(int32_t position) {
    ++num_tokens;
    generation_keys += position + 1;
  }
  void add_chunk(int32_t first_position, int32_t count) {
    num_tokens += count;
    num_prompt_tokens += count;
    prompt_pairs += int64_t{count} * first_position + int64_t{count} * (count + int64_t{1}) / 2;
  }
  bool operator==(const StepWork&) const = default;
};

/// The fit. Nothing measured yet: all zero.
struct StepTime {
  double ms_per_step = 0.0;
  double ms_per_token = 0.0;
  double ms_per_generation_key = 0.0;
  double ms_per_prompt_pair = 0.0;
  int32_t most_prompt_tokens = 0;  // in a step measured; the fit is trusted up to twice as many

  double predict(const StepWork& work) const;
  /// Tokens of a chunk at `first_position` that take no more than `ms` and no more than `most`.
  int32_t tokens_within(double ms, int32_t first_position, int32_t most) const;
};

/// Least squares with forgetting, coefficients >= 0. Steps are remembered by the size of their
/// prompt part (a class per power of two), and each class forgets only when steps of it come: long
/// hours of generation do not forget what a prompt costs. Costs the same whatever has been seen.
class StepTimeModel {
 public:
  /// A step took `ms`. One that took far longer than any fit explains (a hiccup of the machine)
  /// counts as four times as long as expected. Of a size that is new, the first three such do not
  /// count: a device may do things once for a size, and a size that counts as too long is never
  /// tried again.
  void observe(const StepWork& work, double ms);
  const StepTime& fit() const { return fit_; }

 private:
  static constexpr int kNumFeatures = 4;
  static constexpr int kNumClasses = 24;
  using Vector = std::array<double, kNumFeatures>;
  using Matrix = std::array<Vector, kNumFeatures>;
  struct Moments {  // sums over the steps of a class, the newest weighing most
    Matrix features{};
    Vector times{};
    double num_steps = 0.0;
    int num_doubted = 0;
  };
  static Vector features_of(const StepWork& work);
  /// Ms, of a step perhaps larger than any that counted: then in proportion to its tokens.
  double expected_ms(const StepWork& work) const;
  void refit();

  std::array<Moments, kNumClasses> classes_{};
  int32_t most_tokens_ = 0;  // of a step that counted
  StepTime fit_;
};

}  // namespace inflight::scheduler
