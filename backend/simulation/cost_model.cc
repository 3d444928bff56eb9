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

double CostModel::layers_seconds(int32_t num_rows) const {
  const double multiplying = per_row * num_rows;
  for (const SmallSteps& small : small_steps) {
    if (num_rows > small.max_rows) continue;
    return small.fixed + small.per_further_row * std::max(num_rows - 1, 0) +
           smooth_maximum(weights, multiplying, sharpness);
  }
  return smooth_maximum(weights + launches, multiplying, sharpness);
}

double CostModel::head_seconds(int32_t num_logits) const {
  if (num_logits == 0) return 0;
  return smooth_maximum(head_weights, per_logits_row * num_logits, sharpness) +
         per_logits_row_moved * num_logits;
}

double CostModel::device_seconds(const StepWork& work) const {
  const double own = fixed + layers_seconds(work.num_rows) + per_row_moved * work.num_rows +
                     head_seconds(work.num_logits) +
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
  double least_launches = cost.launches;
  int32_t rows_before = 0;
  for (const SmallSteps& small : cost.small_steps) {
    check(small.max_rows > rows_before, "small_steps: max_rows ", small.max_rows,
          " is not greater than the ", rows_before, " before it");
    not_negative(small.fixed, "small_steps: fixed");
    not_negative(small.per_further_row, "small_steps: per_further_row");
    rows_before = small.max_rows;
    least_launches = std::min(least_launches, small.fixed);
  }
  not_negative(cost.launches, "launches");
  not_negative(cost.weights, "weights");
  not_negative(cost.per_row, "per_row");
  not_negative(cost.per_row_moved, "per_row_moved");
  not_negative(cost.head_weights, "head_weights");
  not_negative(cost.per_logits_row, "per_logits_row");
  not_negative(cost.per_logits_row_moved, "per_logits_row_moved");
  not_negative(cost.per_generation_key, "per_generation_key");
  not_negative(cost.per_prompt_pair, "per_prompt_pair");
  not_negative(cost.per_host_copy_byte, "per_host_copy_byte");
  not_negative(cost.host_fixed, "host_fixed");
  not_negative(cost.host_per_sequence, "host_per_sequence");
  check(cost.sharpness >= 1 && std::isfinite(cost.sharpness), "sharpness ", cost.sharpness, " < 1");
  // A step without a duration would let virtual time stand still.
  check(cost.fixed + least_launches + cost.weights + cost.per_row > 0, "steps that take no time");
}

}  // namespace inflight::simulation
