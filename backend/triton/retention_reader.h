// Reads the KV retention tensors of a row.
#pragma once

#include <optional>

#include "backend/kv_cache/retention.h"
#include "backend/triton/input_tensors.h"

namespace inflight::triton {

/// None if the row gives none of them. Raises Error if the lengths of the range tensors differ;
/// values are the engine's to check.
std::optional<kv_cache::Retention> read_retention(const Inputs& inputs);

}  // namespace inflight::triton
