// The engine thread's work: receive, schedule, launch, wait, commit, release, over and over. Where
// the executor takes two steps in flight, the next one is launched before the older is waited for,
// so that the device need not wait for the host. Owns the EngineState. Other threads may only ask
// for the published statistics.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "backend/executor/engine.h"
#include "backend/executor/engine_state.h"
#include "backend/executor/inbox.h"
#include "backend/executor/model_executor.h"
#include "backend/executor/response_queue.h"
#include "backend/executor/state_dump.h"
#include "backend/executor/watchdog.h"
#include "backend/scheduler/limits.h"

namespace inflight::executor {

struct LoopOptions {
  bool check_invariants = false;
  std::chrono::milliseconds queue_timeout{0};
  bool keeps_dump = false;                    // for newest_dump
  kv_cache::CacheEventLog* events = nullptr;  // outlives the loop
};

class EngineLoop {
 public:
  /// All arguments outlive the loop.
  EngineLoop(const EngineInfo& info, const scheduler::Limits& limits, const LoopOptions& options,
             ModelExecutor& executor, Inbox& inbox, ResponseQueue& responses);

  /// Runs until the inbox is closed or the engine dies; every request has got its final part then.
  void run();

  // Any thread.
  EngineStats stats() const;
  bool is_healthy() const { return healthy_; }
  /// Why it has died; once it has.
  std::string cause_of_death() const;
  /// It does not come back: no longer healthy.
  void give_up() { healthy_ = false; }
  const Heartbeat& heartbeat() const { return heartbeat_; }
  /// The state at the newest launch; empty unless the options ask for it.
  StateDump newest_dump() const;

 private:
  /// Takes arrivals and cancels, waiting if there is nothing to do; false when the inbox is closed.
  bool receive();
  /// Builds the planned step's inputs and launches it.
  void launch();
  /// Waits for the oldest step's tokens.
  void wait();
  /// Makes the oldest step's tokens part of its sequences and decides which of them end.
  void commit();
  /// Frees what ended and no step in flight names.
  void release();

  /// Plans the next step and tells who begins and what blocks prompts got; false if there is
  /// nothing to run now.
  bool plan();
  /// Ends those whose time is up.
  void end_overdue();
  void take_arrivals();
  void commit_token(Sequence& sequence, const decoding::SampledToken& token,
                    std::span<const float> logits, int64_t now_ns);
  void end(Sequence& sequence, FinishReason reason, std::optional<Error> error = std::nullopt,
           std::vector<int32_t> matched_ids = {});
  void end_all(FinishReason reason, const std::optional<Error>& error);
  /// Plans and launches a step, ends the oldest if it is its turn; true if it did.
  bool make_step();
  /// Ends the steps in flight, whose sequences have all ended; true if there were any.
  bool drain();
  /// Gives a step back and ends its sequences with an error.
  void fail_step(StepInFlight& step, const std::string& what);
  /// The same for all in flight.
  void fail_steps_in_flight(const std::string& what);
  void die(const std::string& what);
  /// Tells tasks that it is too late, and hands arrivals that became no sequence to the responses.
  void refuse_arrivals();
  void publish(bool made_step);

  const LoopOptions options_;
  const int64_t block_bytes_;
  const double onboard_bytes_per_second_;
  const int shown_pool_;  // cache_groups.h
  ModelExecutor& executor_;
  Inbox& inbox_;
  ResponseQueue& responses_;

  EngineState state_;
  std::span<const decoding::SampledToken> tokens_;  // of the step just waited for
  int64_t device_busy_since_ns_ = 0;                // while steps are in flight
  kv_cache::MeasuredRate prompt_rate_;              // tokens computed in a second
  double generation_seconds_ = 0;                   // of the newest step without prompts
  int64_t waited_ns_ = 0;                           // in this round of the loop, not host work
  bool any_ended_ = false;                          // since the lists were last cleaned

  Heartbeat heartbeat_;
  std::atomic<bool> healthy_{true};
  mutable std::mutex stats_mutex_;
  EngineStats published_stats_;  // under stats_mutex_
  std::string cause_of_death_;   // under stats_mutex_
  StateDump dump_;               // under stats_mutex_
};

}  // namespace inflight::executor
