// Carries what the engine thread decided to the users' callbacks. Owns the response thread, which
// runs them; it sees finished tokens, never the engine's state. Callbacks that return at once are
// run by the engine thread, too, while the other has nothing to do.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/decoding/sampler.h"
#include "backend/executor/engine.h"
#include "backend/executor/request.h"

namespace inflight::executor {

/// The response side of one request: made by submit, owned by the queue from its adoption to its
/// end. The engine thread passes its address on.
class ResponseChannel {
 public:
  ResponseChannel(RequestId id, const Request& request, ResponseCallback callback,
                  int64_t arrival_ns);

  RequestId id() const { return id_; }
  bool streaming() const { return streaming_; }

 private:
  friend class ResponseQueue;
  const RequestId id_;
  const bool streaming_;
  const bool log_probs_;
  const size_t prompt_len_;
  const ResponseCallback callback_;
  // Whoever delivers, one at a time.
  Response part_;  // not yet delivered
  double cumulative_log_prob_ = 0.0;
  size_t num_context_logits_ = 0;  // rows
  bool dirty_ = false;             // listed for delivery in this round
};

class ResponseQueue {
 public:
  explicit ResponseQueue(bool callbacks_return_at_once);
  ~ResponseQueue() { stop(); }
  ResponseQueue(const ResponseQueue&) = delete;
  ResponseQueue& operator=(const ResponseQueue&) = delete;

  /// Delivers what is queued, then ends the thread.
  void stop();

  /// See Engine; each before the first request.
  void on_step(std::function<void(const EngineStats&)> callback);
  void on_wait(std::function<void()> callback);

  /// Takes the channel of a request that has come; any thread. It lives until its ending has been
  /// published and delivered. If there is no memory for it, it stays with the caller.
  ResponseChannel& adopt(std::unique_ptr<ResponseChannel>&& channel);

  /// The engine thread does not come back, or has died: every request whose ending it has not
  /// published gets `error` as its final part, whatever that thread may say later is dropped. Any
  /// thread; the first error counts.
  void abandon(const Error& error);
  /// Requests that `abandon` has ended so far; any thread.
  int64_t num_given_up() const { return num_given_up_; }

  // Engine thread only: gathered without a lock until publish.
  void started(ResponseChannel& channel, int64_t time_ns);
  /// Blocks for a chunk of its prompt, and those that held a part of it already.
  void allocated(ResponseChannel& channel, ContextBlocks blocks);
  /// `logits` is the row that the token was chosen from, if the request wants it.
  void token(ResponseChannel& channel, const decoding::SampledToken& token,
             std::span<const float> logits, int64_t time_ns);
  /// Of the next `num_tokens` of the prompt: [num_tokens, V].
  void context_logits(ResponseChannel& channel, std::span<const float> logits, int num_tokens);
  void ended(ResponseChannel& channel, FinishReason reason,
             std::optional<Error> error = std::nullopt, std::vector<int32_t> matched_ids = {});

  /// Hands over what was gathered and `stats`, if a step was made. Wakes the response thread only
  /// if somebody waits for something in it, so that non-streaming tokens cost no wake-up; for the
  /// statistics alone every few milliseconds, and when the engine `rests`: nothing may follow then.
  void publish(const EngineStats* stats, bool rests);

 private:
  struct Start {
    ResponseChannel* channel;
    int64_t time_ns;
  };
  struct Allocation {
    ResponseChannel* channel;
    ContextBlocks blocks;
  };
  struct Token {
    ResponseChannel* channel;
    int64_t time_ns;
    int32_t token;
    float log_prob;
    int32_t num_top;  // entries of Batch::top, in order
  };
  struct Logits {
    ResponseChannel* channel;
    int num_context;  // rows of the prompt's tokens; 0: one of a generated token
    std::vector<float> values;
  };
  struct Ending {
    ResponseChannel* channel;
    FinishReason reason;
    std::optional<Error> error;
    std::vector<int32_t> matched_ids;
  };
  /// Flat and reused: gathering a token allocates nothing once the vectors have grown.
  struct Batch {
    std::vector<Start> starts;
    std::vector<Allocation> allocations;
    std::vector<Token> tokens;
    std::vector<std::pair<int32_t, float>> top;
    std::vector<Logits> logits;        // of a channel: ahead of the tokens chosen from them
    std::vector<Ending> endings;       // of a channel: after all its tokens
    std::optional<EngineStats> stats;  // the newest
    size_t num_parts = 0;              // endings and tokens of streams: at least the parts to send
    bool urgent = false;               // somebody waits for something in it

    void append(Batch& newer);  // leaves `newer` empty
    void clear();
    bool empty() const {
      return starts.empty() && allocations.empty() && tokens.empty() && logits.empty() &&
             endings.empty() && !stats;
    }
  };

  bool can_deliver_here() const;  // under mutex_
  /// Until there is something to deliver or to end; calls the waiting callback meanwhile.
  void wait(std::unique_lock<std::mutex>& lock);
  void run();
  void deliver(Batch& batch);
  void forget(const Batch& batch);
  void end_abandoned(const Error& error);
  static void collect_logits(Batch& batch);
  void collect_tokens(const Batch& batch);
  void send(ResponseChannel& channel);

  using Clock = std::chrono::steady_clock;

  const bool callbacks_return_at_once_;
  Batch gathering_;              // engine thread
  Clock::time_point stats_due_;  // engine thread
  std::mutex mutex_;
  std::condition_variable wake_;
  Batch published_;                                        // under mutex_
  std::function<void(const EngineStats&)> step_callback_;  // under mutex_
  std::function<void()> wait_callback_;                    // under mutex_
  bool closed_ = false;                                    // under mutex_
  bool is_delivering_ = false;                             // the response thread; under mutex_
  bool engine_delivers_ = false;                           // the engine thread; under mutex_
  std::unordered_map<ResponseChannel*, std::unique_ptr<ResponseChannel>> open_;  // under mutex_
  std::optional<Error> abandoned_;                                               // under mutex_
  // Channels ended by `abandon`, which the engine thread may still name; response thread.
  std::vector<std::unique_ptr<ResponseChannel>> given_up_;
  std::atomic<int64_t> num_given_up_{0};
  Batch delivering_here_;                // engine thread
  std::vector<ResponseChannel*> dirty_;  // whoever delivers
  std::thread thread_;
};

}  // namespace inflight::executor
