// What is new of several streams of one client, sent together: once a step, in one response of any
// one of them, so that server and client pay for a message a step and not for one a token. The last
// part of a stream is not in here: it is the request's own final response. Responses of different
// requests may overtake each other on their way through the server, so each part says how many ids
// of its stream came before it, the final response too.
//
// Used on the engine's response thread only. Knows no request but by its place and its factory.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "backend/executor/request.h"
#include "backend/triton/response_builder.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

/// Both are the client's: numbers of its own choice, a member's once in its group.
struct GroupPlace {
  int64_t group = 0;
  int64_t member = 0;
};

class ResponseGroups {
 public:
  using Lost = std::function<void(executor::RequestId)>;

  /// `lost` is told of each sequence whose part the server did not take.
  explicit ResponseGroups(Lost lost) : lost_(std::move(lost)) {}

  /// Keeps a part that is not final for the group's next response; `num_before` ids of its stream
  /// went ahead of it. `factory`, of the part's request, is there until that was sent, and so is
  /// `loss`, which tells if the server does not take it.
  void add(const GroupPlace& place, int32_t num_before, TRITONBACKEND_ResponseFactory* factory,
           executor::Response part, int32_t num_top_log_probs, LostPart& loss);

  /// Sends what is kept, a response a group: after each step, and before a request of a group ends.
  void send_all();

 private:
  struct Waiting {
    TRITONBACKEND_ResponseFactory* factory = nullptr;
    std::vector<executor::RequestId> sequences;
    std::vector<LostPart*> losses;  // of each sequence; the last one's request has the factory
    std::vector<int64_t> members;
    std::vector<int32_t> begins;   // ids of each that went before
    std::vector<int32_t> lengths;  // ids of each
    std::vector<int32_t> ids;
    std::vector<executor::TokenLogProbs> log_probs;  // of the ids, if a member asked for them
    int32_t num_top_log_probs = 0;                   // the most that a member asked for
  };

  static void send(const Waiting& waiting, ResponsePtr& unfilled);

  Lost lost_;
  std::map<int64_t, Waiting> waiting_;  // by group
};

}  // namespace inflight::triton
