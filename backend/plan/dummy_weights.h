// Random weights that stand in for a checkpoint, so that a model can be run from its config.json
// alone. Matrices have the standard deviation 1 / sqrt(length of a row), which keeps activations as
// wide as they are; norms are 1, biases small.
#pragma once

#include <set>
#include <string>
#include <string_view>

#include "backend/plan/plan.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/core/tensor_view.h"

namespace inflight::plan {

/// The weights that some row of the plan takes as its `bias`.
std::set<std::string, std::less<>> bias_names(const Plan& plan);

/// Fills `out` with values that are a function of `recipe_key`, the same on every device. They are
/// there on return. Raises unsupported, naming the weight, for a dtype that is not floating.
void fill_dummy(const WeightSpec& weight, std::string_view name, std::string_view recipe_key,
                bool is_bias, void* out, Device device, cpu::ThreadPool& pool);

}  // namespace inflight::plan
