#include "backend/triton/response_groups.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "backend/triton/log_prob_rows.h"
#include "backend/triton/triton_error.h"

namespace inflight::triton {

void ResponseGroups::add(const GroupPlace& place, int32_t num_before,
                         TRITONBACKEND_ResponseFactory* factory, executor::Response part,
                         int32_t num_top_log_probs, LostPart& loss) {
  Waiting& waiting = waiting_[place.group];
  waiting.factory = factory;
  waiting.sequences.push_back(part.id);
  waiting.losses.push_back(&loss);
  waiting.members.push_back(place.member);
  waiting.begins.push_back(num_before);
  waiting.lengths.push_back(static_cast<int32_t>(part.token_ids.size()));
  if (!part.log_probs.empty()) {
    waiting.log_probs.resize(waiting.ids.size());  // of those before it that want none
    std::ranges::move(part.log_probs, std::back_inserter(waiting.log_probs));
  }
  waiting.ids.insert(waiting.ids.end(), part.token_ids.begin(), part.token_ids.end());
  waiting.num_top_log_probs = std::max(waiting.num_top_log_probs, num_top_log_probs);
}

void ResponseGroups::send_all() {
  for (auto& [group, waiting] : waiting_) {
    if (!waiting.log_probs.empty()) waiting.log_probs.resize(waiting.ids.size());
    ResponsePtr unfilled;
    TRITONSERVER_Error* error = guarded([&] { send(waiting, unfilled); });
    if (error == nullptr) continue;
    log_if_error(error, "response of a group");
    for (LostPart* loss : waiting.losses) loss->is_lost = true;
    waiting.losses.back()->unfilled = std::move(unfilled);
    for (executor::RequestId id : waiting.sequences) lost_(id);
  }
  waiting_.clear();
}

void ResponseGroups::send(const Waiting& waiting, ResponsePtr& unfilled) {
  static const std::vector<std::string> kOutputs = {
      "output_ids",    "sequence_length",  "group_members",    "group_begins",
      "group_lengths", "output_log_probs", "top_log_prob_ids", "top_log_probs"};
  const auto num_members = static_cast<int64_t>(waiting.members.size());
  const auto num_ids = static_cast<int64_t>(waiting.ids.size());
  ResponseBuilder response(waiting.factory, kOutputs, unfilled);
  response.add("output_ids", {1, 1, num_ids}, waiting.ids);
  response.add("sequence_length", static_cast<int32_t>(num_ids));
  response.add("group_members", {1, num_members}, waiting.members);
  response.add("group_begins", {1, num_members}, waiting.begins);
  response.add("group_lengths", {1, num_members}, waiting.lengths);
  if (!waiting.log_probs.empty()) {
    response.add("output_log_probs", {1, 1, num_ids}, chosen_log_probs(waiting.log_probs));
    if (const int64_t count = waiting.num_top_log_probs; count > 0) {
      const TopLogProbs top(waiting.log_probs, count);
      response.add("top_log_prob_ids", {1, 1, num_ids, count}, top.ids);
      response.add("top_log_probs", {1, 1, num_ids, count}, top.values);
    }
  }
  check_triton(TRITONBACKEND_ResponseSend(response.take().release(), 0, nullptr), "ResponseSend");
}

}  // namespace inflight::triton
