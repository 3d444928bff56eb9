// What every kind of model of this backend is to the server's entry points.
#pragma once

#include <cstdint>

#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

class ModelInstance {
 public:
  virtual ~ModelInstance() = default;
  /// Takes the requests; each one's failure is its own answer.
  virtual void execute(TRITONBACKEND_Request** requests, uint32_t count) = 0;
  /// Raises Error if it can answer nothing any more.
  virtual void check_ready() const {}
};

}  // namespace inflight::triton
