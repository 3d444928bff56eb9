// What all models of this backend in a server share.
#pragma once

#include <string>

#include "backend/triton/delayed_calls.h"
#include "backend/triton/departures.h"
#include "backend/triton/load_turns.h"
#include "backend/triton/metrics.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

class BackendState {
 public:
  MetricFamilies& families() { return families_; }
  Departures& departures() { return departures_; }
  LoadTurns& load_turns() { return load_turns_; }

  /// Asks the server to unload a model whose engine has died, so that it is no longer ready.
  /// Returns at once; any thread. A server whose control mode is not explicit refuses, which is
  /// logged.
  void take_out_of_service(TRITONSERVER_Server* server, const std::string& model);

 private:
  MetricFamilies families_;
  Departures departures_;
  LoadTurns load_turns_;
  // The model may end in the call that unloads it: on no thread of its own.
  DelayedCalls unloads_{std::chrono::milliseconds(0)};
};

}  // namespace inflight::triton
