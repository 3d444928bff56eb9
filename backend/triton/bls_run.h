// One request's way through the BLS: preprocessing, the engine's model, and for each of its
// responses postprocessing, one at a time. Ends with exactly one final response. The server's
// threads carry it from step to step; whoever holds it may tell it of its client.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "backend/triton/bls_settings.h"
#include "backend/triton/delayed_calls.h"
#include "backend/triton/host_tensors.h"
#include "backend/triton/live_request.h"
#include "backend/triton/server_calls.h"
#include "kernels/core/error.h"

namespace inflight::triton {

class BlsRun : public std::enable_shared_from_this<BlsRun> {
 public:
  /// Once, after the final response.
  using OnEnd = std::function<void(BlsRun& run, bool success)>;

  /// References outlive it. `quiet` delays by kQuietTime (live_request.h).
  BlsRun(std::unique_ptr<LiveRequest> live, const BlsSettings& settings, const ServerCalls& calls,
         DelayedCalls& quiet, OnEnd on_end)
      : live_(std::move(live)),
        settings_(settings),
        calls_(calls),
        quiet_(quiet),
        on_end_(std::move(on_end)) {}

  LiveRequest& live() { return *live_; }
  /// Once. Failures are answers.
  void start();
  /// Ends the engine's part if the client has left. Any thread, any number of times.
  void look_for_client();
  /// Ends the engine's part. Likewise.
  void cancel();

 private:
  using Tensors = std::vector<HostTensor>;

  void preprocess();
  void generate(Tensors&& made);
  /// Of the engine, while other pieces are made text.
  void take(CallResponse&& response);
  /// After each step: the next piece, or the end, if nothing is on its way.
  void go_on();
  void make_text(Tensors&& made);
  void answer(Tensors&& text);
  /// Ends the engine's part; the failure is told when nothing runs any more.
  void fail(const Error& error);
  void finish(std::optional<Tensors> last);
  /// Makes the piece the whole text of its sequence so far.
  void accumulate(HostTensor& text);

  const std::unique_ptr<LiveRequest> live_;
  const BlsSettings& settings_;
  const ServerCalls& calls_;
  DelayedCalls& quiet_;
  const OnEnd on_end_;
  std::set<std::string> wanted_;
  // By names of the BLS; until the engine has them.
  std::map<std::string, HostTensor> tensors_;
  // Of the piece that is made text: its row and the sequence of the row, and what the client gets
  // beside the text, by names of the BLS.
  std::pair<int64_t, int64_t> sequence_;
  Tensors beside_text_;
  std::map<std::pair<int64_t, int64_t>, std::string> so_far_;
  ResponsePtr unfilled_;  // of a failure

  std::mutex mutex_;  // guards what follows
  std::shared_ptr<ServerCall> generation_;
  bool engine_runs_ = false;
  bool is_stepping_ = true;  // another model than the engine's is at work for it
  bool is_unwanted_ = false;
  bool has_ended_ = false;
  std::deque<Tensors> pieces_;          // of the engine, by its names, that wait for their text
  std::optional<Tensors> only_answer_;  // of a model that is not decoupled, until the end
  std::optional<Error> failure_;        // the first
};

}  // namespace inflight::triton
