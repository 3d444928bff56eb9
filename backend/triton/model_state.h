// A model as the server knows it, with its settings. Those of an engine are shared by the model's
// instances; immutable.
#pragma once

#include <atomic>
#include <cstddef>

#include "backend/triton/bls_settings.h"
#include "backend/triton/model_config.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

/// By the model's configuration.
ModelRole role_of(TRITONBACKEND_Model* model);

/// Of a model of that role; logs what is to be said of the configuration.
BlsSettings bls_settings_of(TRITONBACKEND_Model* model);

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
