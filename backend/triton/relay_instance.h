// The ensemble's step behind tensorrt_llm. The server tells a cancellation to no running step, only
// to those that it schedules later: each response of the engine schedules one of these, which tells
// the engine when the client has left and hands the response's tensors on. A response with a
// `heartbeat` alone was sent to have it asked, and is handed on to nobody. Any thread; keeps
// nothing.
#pragma once

#include "backend/triton/departures.h"
#include "backend/triton/model_instance.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

class RelayInstance : public ModelInstance {
 public:
  RelayInstance(TRITONBACKEND_ModelInstance* instance, Departures& departures)
      : instance_(instance), departures_(departures) {}
  void execute(TRITONBACKEND_Request** requests, uint32_t count) override;

 private:
  void relay(TRITONBACKEND_Request* request);

  TRITONBACKEND_ModelInstance* instance_;
  Departures& departures_;
};

}  // namespace inflight::triton
