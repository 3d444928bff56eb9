#include "backend/simulation/cost_model.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/check.h"

namespace inflight::simulation {
namespace {

double smooth_maximum(double a, double b, double sharpness) {
  const double larger = std::max(a, b);
  if (larger <= 0) return 0;
  const double ratio = std::min(a, b) / larger;
  return larger * std::pow(1 + std::pow(ratio, sharpness), 1 / sharpness);
}

}  // namespace

double CostModel::device_seconds(const StepWork& work) const {
  const double launches = work.num_rows <= few_rows
                              ? fixed_of_few + per_few_row * std::max(work.num_rows - 1, 0)
                              : fixed;
  const double own = launches + smooth_maximum(weights, per_row * work.num_rows, sharpness) +
                     per_row_moved * work.num_rows + per_logits_row * work.num_logits +
                     per_generation_key * static_cast<double>(work.generation_keys) +
                     per_prompt_pair * static_cast<double>(work.prompt_pairs);
  return std::max(own, per_host_copy_byte * static_cast<double>(work.host_copy_bytes));
}

double CostModel::host_seconds(const StepWork& work) const {
  return host_fixed + host_per_sequence * work.num_sequences;
}

void validate(const CostModel& cost) {
  const auto not_negative = [](double value, const char* name) {
    check(value >= 0 && std::isfinite(value), name, " ", value, " is no number of seconds >= 0");
  };
  not_negative(cost.fixed, "fixed");
  not_negative(cost.fixed_of_few, "fixed_of_few");
  not_negative(cost.per_few_row, "per_few_row");
  check(cost.few_rows >= 0, "few_rows ", cost.few_rows, " < 0");
  not_negative(cost.weights, "weights");
  not_negative(cost.per_row, "per_row");
  not_negative(cost.per_row_moved, "per_row_moved");
  not_negative(cost.per_logits_row, "per_logits_row");
  not_negative(cost.per_generation_key, "per_generation_key");
  not_negative(cost.per_prompt_pair, "per_prompt_pair");
  not_negative(cost.per_host_copy_byte, "per_host_copy_byte");
  not_negative(cost.host_fixed, "host_fixed");
  not_negative(cost.host_per_sequence, "host_per_sequence");
  check(cost.sharpness >= 1 && std::isfinite(cost.sharpness), "sharpness ", cost.sharpness, " < 1");
  // A step without a duration would let virtual time stand still.
  const double least_fixed =
      cost.few_rows > 0 ? std::min(cost.fixed, cost.fixed_of_few) : cost.fixed;
  check(least_fixed + cost.weights + cost.per_row > 0, "steps that take no time");
}

}  // namespace inflight::simulation
