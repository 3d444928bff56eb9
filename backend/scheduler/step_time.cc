#include "backend/scheduler/step_time.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>

#include "kernels/core/check.h"

namespace inflight::scheduler {
namespace {

/// A class weighs as much as this many steps at most: it has forgotten most of what lies further
/// back.
constexpr double kForgetting = 1.0 - 1.0 / 32;
constexpr double kTimesExpected = 4.0;
constexpr double kStepsBeforeClipping = 8.0;
constexpr int kMostDoubted = 3;
constexpr int32_t kFirstPromptTokens = 64;  // that are tried beside others before any is measured
/// Features are of order 1 in these units.
constexpr double kTokens = 1e3, kKeys = 1e5, kPairs = 1e6;
/// Holds the solution where steps were too much alike to tell the features apart; in units of a
/// step's own weight.
constexpr double kRidge = 1e-6;

}  // namespace

double StepTime::predict(const StepWork& work) const {
  return ms_per_step + ms_per_token * work.num_tokens +
         ms_per_generation_key * static_cast<double>(work.generation_keys) +
         ms_per_prompt_pair * static_cast<double>(work.prompt_pairs);
}

int32_t StepTime::tokens_within(double ms, int32_t first_position, int32_t most) const {
  most = std::min<int64_t>(most,
                           std::max<int64_t>(kFirstPromptTokens, 2 * int64_t{most_prompt_tokens}));
  if (ms <= 0.0 || most <= 0) return 0;
  // n tokens cost linear * n + square * n^2.
  const double square = ms_per_prompt_pair / 2;
  const double linear = ms_per_token + ms_per_prompt_pair * (first_position + 0.5);
  if (linear * most + square * most * most <= ms) return most;
  // The smaller root's stable form; linear > 0, since something costs more than ms.
  const double count = 2 * ms / (linear + std::sqrt(linear * linear + 4 * square * ms));
  return std::clamp(static_cast<int32_t>(count), 0, most);
}

StepTimeModel::Vector StepTimeModel::features_of(const StepWork& work) {
  return {1.0, work.num_tokens / kTokens, static_cast<double>(work.generation_keys) / kKeys,
          static_cast<double>(work.prompt_pairs) / kPairs};
}

void StepTimeModel::observe(const StepWork& work, double ms) {
  check_internal(ms >= 0.0 && std::isfinite(ms), "a step took ", ms, " ms");
  const int size = std::bit_width(static_cast<uint32_t>(work.num_prompt_tokens));
  Moments& moments = classes_[std::min(size, kNumClasses - 1)];
  const double most_ms = kTimesExpected * expected_ms(work);
  if (moments.num_steps >= kStepsBeforeClipping) {
    ms = std::min(ms, most_ms);
  } else if (most_tokens_ > 0 && ms > most_ms && moments.num_doubted < kMostDoubted) {
    ++moments.num_doubted;
    return;
  }
  const Vector features = features_of(work);
  for (int i = 0; i < kNumFeatures; ++i) {
    for (int j = 0; j < kNumFeatures; ++j)
      moments.features[i][j] = kForgetting * moments.features[i][j] + features[i] * features[j];
    moments.times[i] = kForgetting * moments.times[i] + features[i] * ms;
  }
  moments.num_steps = kForgetting * moments.num_steps + 1.0;
  fit_.most_prompt_tokens = std::max(fit_.most_prompt_tokens, work.num_prompt_tokens);
  most_tokens_ = std::max(most_tokens_, work.num_tokens);
  refit();
}

double StepTimeModel::expected_ms(const StepWork& work) const {
  const double times = std::max(1.0, work.num_tokens / std::max(1.0, 1.0 * most_tokens_));
  return times * std::max(fit_.predict(work), 1e-3);
}

void StepTimeModel::refit() {
  Moments all;
  for (const Moments& moments : classes_) {
    if (moments.num_steps == 0.0) continue;
    all.num_steps += moments.num_steps;
    for (int i = 0; i < kNumFeatures; ++i) {
      for (int j = 0; j < kNumFeatures; ++j) all.features[i][j] += moments.features[i][j];
      all.times[i] += moments.times[i];
    }
  }
  // Coefficients below 0 mean nothing: the most negative is left out, until none is.
  std::array<bool, kNumFeatures> is_used;
  is_used.fill(true);
  Vector solution{};
  while (true) {
    // Gauss-Jordan on the features in use; the ridge makes it positive definite.
    Matrix left = all.features;
    Vector right = all.times;
    for (int i = 0; i < kNumFeatures; ++i) left[i][i] += kRidge * all.num_steps;
    for (int pivot = 0; pivot < kNumFeatures; ++pivot) {
      if (!is_used[pivot]) continue;
      for (int row = 0; row < kNumFeatures; ++row) {
        if (row == pivot || !is_used[row]) continue;
        const double factor = left[row][pivot] / left[pivot][pivot];
        for (int column = 0; column < kNumFeatures; ++column)
          left[row][column] -= factor * left[pivot][column];
        right[row] -= factor * right[pivot];
      }
    }
    int worst = -1;
    for (int i = 0; i < kNumFeatures; ++i) {
      solution[i] = is_used[i] ? right[i] / left[i][i] : 0.0;
      if (solution[i] < 0.0 && (worst < 0 || solution[i] < solution[worst])) worst = i;
    }
    if (worst < 0) break;
    is_used[worst] = false;
  }
  fit_.ms_per_step = solution[0];
  fit_.ms_per_token = solution[1] / kTokens;
  fit_.ms_per_generation_key = solution[2] / kKeys;
  fit_.ms_per_prompt_pair = solution[3] / kPairs;
}

}  // namespace inflight::scheduler
