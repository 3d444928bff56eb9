// One instance of a model: owns the engine and every request between Triton and it. Triton's
// threads call execute(); the engine's response thread answers. Each request ends with exactly one
// final response and is released then.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "backend/executor/engine.h"
#include "backend/triton/delayed_calls.h"
#include "backend/triton/event_streams.h"
#include "backend/triton/live_request.h"
#include "backend/triton/metrics.h"
#include "backend/triton/model_instance.h"
#include "backend/triton/model_state.h"
#include "backend/triton/receipts.h"
#include "backend/triton/request_reader.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

class InstanceState : public ModelInstance {
 public:
  /// Settings and families outlive it. `take_out_of_service` is called once, on any thread, if the
  /// engine dies.
  InstanceState(TRITONBACKEND_ModelInstance* instance, const ModelSettings& settings,
                MetricFamilies& families, std::unique_ptr<executor::Engine> engine,
                std::function<void()> take_out_of_service);
  /// Ends every live request first: the engine answers each with a final part.
  ~InstanceState() override;

  /// Reads and queues, then returns. Takes the requests; each one's failure is its own answer.
  void execute(TRITONBACKEND_Request** requests, uint32_t count) override;
  /// Raises unavailable if the engine has died.
  void check_ready() const override;

  /// Public ids of its sequences are this and up to 2^32 more.
  uint64_t id_base() const { return receipts_.id_base(); }
  /// Nobody waits for the request that this sequence is of. Any thread.
  void client_left(uint64_t public_id);

 private:
  using LivePtr = std::shared_ptr<LiveRequest>;

  void accept(TRITONBACKEND_Request* request);
  void stop(const IncomingRequest& command);
  void submit(const LivePtr& live, const IncomingRequest& incoming);
  void answer(const LivePtr& live, size_t sequence, executor::Response&& part);
  /// Keeps an ensemble's failure until all its sequences have ended, and ends them: the ensemble
  /// hands nothing on after an error.
  void keep_failure(LiveRequest& live, const executor::Response& part);
  /// Takes the sequence of a final part off the books; whether it was the request's last.
  bool close(LiveRequest& live, size_t sequence, executor::Response& part);
  void end(LiveRequest& live, size_t sequence, const executor::Response& part);
  /// The same of a failed ensemble, a while after postprocessing is through with what was sent.
  void end_quietly(const LivePtr& live, size_t sequence, const executor::Response& part);
  void finish(TRITONBACKEND_Request* request, bool success, uint64_t start_ns,
              uint64_t compute_start_ns);
  void after_step(const executor::EngineStats& stats);
  /// At most so often as the settings say, but at once when the engine rests: those numbers stay.
  void publish(const executor::EngineStats& stats);
  /// A cancelled request may end after the newest step and before any other: nothing would tell
  /// the gauges.
  bool publish_if_idle();
  /// Asks Triton which requests are cancelled, and has the ensemble ask. During a step, too: the
  /// next one is without them.
  void look_for_departures();
  void cancel_what_nobody_waits_for();
  /// Lets the ensemble ask whether clients are still there (relay_instance.h).
  void send_heartbeats();
  uint64_t public_id(executor::RequestId id) const { return receipts_.id_base() + id; }

  TRITONBACKEND_ModelInstance* instance_;
  const ModelSettings& settings_;
  ReaderOptions reader_;
  Receipts receipts_;
  ResponseGroups groups_;      // response thread
  const int64_t events_base_;  // what ids of the cache's events begin with, see unix_time_us
  std::mutex mutex_;           // guards live_ and the ids in it
  std::unordered_map<executor::RequestId, LivePtr> live_;  // by sequence
  std::unique_ptr<Metrics> metrics_;
  // Of the response thread.
  std::chrono::steady_clock::time_point stats_due_, cancellations_due_, heartbeats_sent_;
  DelayedCalls late_endings_;
  std::unique_ptr<executor::Engine> engine_;  // its threads use all of the above
  EventStreams event_streams_;                // last: it reads of the engine
};

}  // namespace inflight::triton
