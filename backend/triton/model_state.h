// A model as the server knows it, with its settings. Shared by the model's instances; immutable.
#pragma once

#include "backend/triton/model_config.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

class ModelState {
 public:
  explicit ModelState(TRITONBACKEND_Model* model);
  const ModelSettings& settings() const { return settings_; }

 private:
  ModelSettings settings_;
};

}  // namespace inflight::triton
