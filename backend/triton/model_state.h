// A model as the server knows it, with its settings. Shared by the model's instances; immutable.
#pragma once

#include <atomic>
#include <cstddef>

#include "backend/triton/model_config.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

/// Whether the model's configuration says that it is no engine but the ensemble's relay: parameter
/// role = "relay".
bool is_relay(TRITONBACKEND_Model* model);

class ModelState {
 public:
  /// Logs what is to be said of the configuration; a checkpoint's engine is built, if need be.
  explicit ModelState(TRITONBACKEND_Model* model);
  const ModelSettings& settings() const { return settings_; }
  /// What the next instance runs: devices are taken in turn. Any thread.
  executor::EngineConfig next_engine();

 private:
  ModelSettings settings_;
  std::atomic<size_t> num_engines_ = 0;
};

}  // namespace inflight::triton
