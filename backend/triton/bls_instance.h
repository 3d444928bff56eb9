// One instance of a model that walks the ensemble's steps itself: owns the requests on their way.
// What the ensemble cannot do, it does: a client that leaves ends the engine's part at once,
// streamed or not, and the final flag comes with the last text.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "backend/triton/bls_run.h"
#include "backend/triton/bls_settings.h"
#include "backend/triton/delayed_calls.h"
#include "backend/triton/model_instance.h"
#include "backend/triton/server_calls.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

class BlsInstance : public ModelInstance {
 public:
  BlsInstance(TRITONBACKEND_ModelInstance* instance, TRITONSERVER_Server* server,
              BlsSettings settings);
  /// Ends every request first.
  ~BlsInstance() override;
  void execute(TRITONBACKEND_Request** requests, uint32_t count) override;

 private:
  void accept(TRITONBACKEND_Request* request);
  void end(BlsRun& run, bool success);
  void release(TRITONBACKEND_Request* request, bool success, uint64_t start_ns);
  void look_for_clients();

  TRITONBACKEND_ModelInstance* instance_;
  const BlsSettings settings_;
  const ServerCalls calls_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::set<std::shared_ptr<BlsRun>> runs_;
  bool closed_ = false;
  DelayedCalls late_endings_;
  std::thread asking_;  // last: it uses all of the above
};

}  // namespace inflight::triton
