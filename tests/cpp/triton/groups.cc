// Streams that share their responses: what a step brings comes in one, and ends stay each request's
// own.
#include <algorithm>
#include <cmath>
#include <list>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "tests/cpp/triton/stepped_backend.h"

namespace inflight::testing {
namespace {

RequestPtr member_of(int64_t group, int64_t member, const Ids& prompt, int output_length) {
  RequestPtr request = make_request(prompt, output_length);
  request->flag("streaming", true);
  request->flag("return_finish_reason", true);
  request->add("response_group", TRITONSERVER_TYPE_INT64, {1, 2},
               std::vector<int64_t>{group, member});
  return request;
}

/// Of one string: the bytes behind its length.
std::string text_of(const FakeTensor& tensor) {
  return {tensor.bytes.begin() + 4, tensor.bytes.end()};
}

/// Those that came to any of the requests, in the order in which they went out.
std::vector<FakeAnswer> group_responses(const std::vector<RequestPtr>& requests) {
  std::vector<FakeAnswer> all;
  for (const RequestPtr& request : requests) {
    std::lock_guard lock(request->mutex);
    for (const FakeAnswer& answer : request->answers)
      if (answer.find("group_members") != nullptr) all.push_back(answer);
  }
  std::ranges::sort(all, {}, &FakeAnswer::number);
  return all;
}

/// The ids of each member; checks what holds for every response of a group.
std::map<int64_t, Ids> by_member(const std::vector<FakeAnswer>& responses) {
  std::map<int64_t, Ids> found;
  for (const FakeAnswer& answer : responses) {
    EXPECT(!answer.is_final && !answer.error);
    const auto members = answer.find("group_members")->values<int64_t>();
    const auto begins = answer.find("group_begins")->values<int32_t>();
    const auto lengths = answer.find("group_lengths")->values<int32_t>();
    const Ids all = output_ids(answer);
    EXPECT_EQ(members.size(), lengths.size());
    EXPECT_EQ(members.size(), begins.size());
    EXPECT_EQ(std::set(members.begin(), members.end()).size(), members.size());
    EXPECT((answer.find("group_members")->shape ==
            std::vector<int64_t>{1, static_cast<int64_t>(members.size())}));
    EXPECT((answer.find("output_ids")->shape ==
            std::vector<int64_t>{1, 1, static_cast<int64_t>(all.size())}));
    EXPECT(answer.find("sequence_length")->values<int32_t>() ==
           Ids{static_cast<int32_t>(all.size())});
    auto next = all.begin();
    for (size_t i = 0; i < members.size() && lengths[i] <= all.end() - next; ++i) {
      EXPECT_EQ(begins[i], static_cast<int32_t>(found[members[i]].size()));
      found[members[i]].insert(found[members[i]].end(), next, next + lengths[i]);
      next += lengths[i];
    }
    EXPECT(next == all.end());
  }
  return found;
}

void a_step_is_one_response_and_each_end_is_its_own() {
  SteppedBackend backend;
  constexpr int kNumMembers = 4, kShortest = 5;
  std::vector<RequestPtr> requests;
  for (int i = 0; i < kNumMembers; ++i) {
    requests.push_back(member_of(77, 100 + i, prompt_of(3 + i), kShortest + 2 * i));
    backend.send(requests[i]);
  }
  constexpr int kNumSteps = 4;
  backend.run_steps(kNumSteps);
  // Of the last of these steps all four have a token.
  const std::vector<FakeAnswer> first = group_responses(requests);
  EXPECT(first.size() <= kNumSteps);
  EXPECT_EQ(first.back().find("group_members")->values<int64_t>().size(), 4u);
  EXPECT((first.back().find("group_lengths")->values<int32_t>() == Ids{1, 1, 1, 1}));
  backend.script->gate.open();
  for (const RequestPtr& request : requests) backend.ended(request);
  std::map<int64_t, Ids> found = by_member(group_responses(requests));
  for (int i = 0; i < kNumMembers; ++i) {
    const FakeAnswer& last = requests[i]->answers.back();
    EXPECT(last.find("group_members") == nullptr);
    EXPECT_CONTAINS(text_of(*last.find("finish_reason")), "length");
    Ids ids = found[100 + i];
    EXPECT(ids.size() >= 3);
    const Ids rest = output_ids(last);
    EXPECT((last.find("group_begins")->values<int32_t>() == Ids{static_cast<int32_t>(ids.size())}));
    ids.insert(ids.end(), rest.begin(), rest.end());
    EXPECT(ids == expected_tokens(prompt_of(3 + i), kShortest + 2 * i));
    // What was shared of a request came before its end.
    for (const FakeAnswer& answer : group_responses(requests)) {
      const auto members = answer.find("group_members")->values<int64_t>();
      const bool is_in = std::ranges::find(members, 100 + i) != members.end();
      EXPECT(!is_in || answer.number < last.number);
    }
  }
}

void groups_and_others_do_not_mix() {
  Backend backend;
  std::vector<RequestPtr> ones, others;
  ones.push_back(member_of(1, 0, prompt_of(3), 9));
  others.push_back(member_of(2, 0, prompt_of(4), 9));
  const RequestPtr alone = make_request(prompt_of(5), 9);
  alone->flag("streaming", true);
  backend.send(ones[0]);
  backend.send(others[0]);
  backend.send(alone);
  const Ids all = joined(backend.ended(alone));
  EXPECT(all == expected_tokens(prompt_of(5), 9));
  for (const FakeAnswer& answer : alone->answers) EXPECT(answer.find("group_members") == nullptr);
  for (const auto& [requests, prompt] : {std::pair{&ones, prompt_of(3)}, {&others, prompt_of(4)}}) {
    // joined() has the parts that came to the request itself: nobody else's.
    EXPECT(joined(backend.ended(requests->front())) == expected_tokens(prompt, 9));
  }
}

void log_probs_of_who_asked_stand_beside_zeros() {
  struct Top {
    Ids ids;
    std::vector<float> log_probs;
  };
  std::list<Top> views;  // what the sampler's views show
  SteppedBackend backend;
  constexpr int32_t kOther = 1;
  backend.script->edit = [&](const decoding::SampleRow& row, decoding::SampledToken token) {
    token.log_prob = -0.5f * static_cast<float>(token.id);
    if (row.sampling->num_logprobs > 0) {
      const Top& top =
          views.emplace_back(Ids{token.id, kOther}, std::vector{token.log_prob, -9.0f});
      token.top_ids = top.ids;
      token.top_log_probs = top.log_probs;
    }
    return token;
  };
  std::vector<RequestPtr> requests;
  for (int i = 0; i < 3; ++i) requests.push_back(member_of(5, i, prompt_of(3 + i), 9));
  requests[1]->flag("return_log_probs", true);
  requests[2]->flag("return_log_probs", true);
  requests[2]->add("num_top_log_probs", TRITONSERVER_TYPE_INT32, {1, 1}, Ids{2});
  for (const RequestPtr& request : requests) backend.send(request);
  backend.run_steps(5);
  const FakeAnswer answer = group_responses(requests).back();
  backend.script->gate.open();
  for (const RequestPtr& request : requests) backend.ended(request);

  const auto members = answer.find("group_members")->values<int64_t>();
  const Ids ids = output_ids(answer);
  const auto log_probs = answer.find("output_log_probs")->values<float>();
  const auto top_ids = answer.find("top_log_prob_ids")->values<int32_t>();
  const auto tops = answer.find("top_log_probs")->values<float>();
  EXPECT((answer.find("output_log_probs")->shape == std::vector<int64_t>{1, 1, 3}));
  EXPECT((answer.find("top_log_probs")->shape == std::vector<int64_t>{1, 1, 3, 2}));
  EXPECT_EQ(members.size(), 3u);
  for (size_t i = 0; i < members.size(); ++i) {
    const float own = -0.5f * static_cast<float>(ids[i]);
    EXPECT_EQ(log_probs[i], members[i] == 0 ? 0.0f : own);
    const bool has_top = members[i] == 2;
    EXPECT_EQ(top_ids[2 * i], has_top ? ids[i] : -1);
    EXPECT_EQ(top_ids[2 * i + 1], has_top ? kOther : -1);
    EXPECT(has_top ? tops[2 * i] == own && tops[2 * i + 1] == -9.0f : std::isinf(tops[2 * i]));
  }
}

void whoever_is_cancelled_leaves_the_others_alone() {
  SteppedBackend backend;
  std::vector<RequestPtr> requests;
  for (int i = 0; i < 3; ++i) {
    requests.push_back(member_of(9, i, prompt_of(3 + i), 40));
    requests[i]->id = std::to_string(i);
    backend.send(requests[i]);
  }
  backend.run_steps(3);
  const RequestPtr stop = make_request({0}, 0);
  stop->id = "0";
  stop->flag("stop", true);
  backend.run(stop);
  backend.script->gate.open();
  for (const RequestPtr& request : requests) backend.ended(request);
  std::map<int64_t, Ids> found = by_member(group_responses(requests));
  const FakeAnswer& stopped = requests[0]->answers.back();
  EXPECT_CONTAINS(text_of(*stopped.find("finish_reason")), "cancelled");
  for (int i = 0; i < 3; ++i) {
    Ids ids = found[i];
    const Ids rest = output_ids(requests[i]->answers.back());
    ids.insert(ids.end(), rest.begin(), rest.end());
    const Ids whole = expected_tokens(prompt_of(3 + i), 40);
    EXPECT(i == 0 ? ids.size() < 40 : ids.size() == 40);
    EXPECT(std::equal(ids.begin(), ids.end(), whole.begin()));
  }
}

/// The first has one token left when a part of both is lost: it ends by itself, with an error as
/// the other, which is cancelled.
void who_lost_a_part_ends_with_an_error() {
  SteppedBackend backend;
  std::vector<RequestPtr> requests;
  requests.push_back(member_of(9, 0, prompt_of(3), 5));
  requests.push_back(member_of(9, 1, prompt_of(3), 40));
  for (const RequestPtr& request : requests) backend.send(request);
  backend.run_steps(3);
  fake_refuse_responses(1);
  backend.run_steps(1);
  backend.script->gate.open();
  for (const RequestPtr& request : requests) {
    const FakeAnswer& last = backend.ended(request).back();
    EXPECT(last.is_final && last.error.has_value());
    EXPECT_EQ(request->num_finals, 1);
    EXPECT_CONTAINS(last.error.value_or(""), "the server did not take a part of the answer");
  }
}

/// Without a group, too, where it may be the last part that is lost; and who gets nothing at all
/// any more has the flag of an end still.
void a_stream_that_lost_a_part_ends_with_an_error() {
  for (const int num_refused : {1, 100}) {
    SteppedBackend backend;
    const RequestPtr request = make_request(prompt_of(3), 4);
    request->flag("streaming", true);
    backend.send(request);
    backend.run_steps(2);
    fake_refuse_responses(num_refused);
    backend.script->gate.open();
    request->wait_until_released();
    fake_refuse_responses(0);
    EXPECT_EQ(request->num_finals, 1);
    const FakeAnswer& last = request->answers.back();
    EXPECT_EQ(last.is_final && last.error.has_value(), num_refused == 1);
  }
}

void an_engine_that_dies_ends_each_after_what_it_had() {
  SteppedBackend backend;
  std::vector<RequestPtr> requests;
  for (int i = 0; i < 2; ++i) {
    requests.push_back(member_of(9, i, prompt_of(3 + i), 40));
    backend.send(requests[i]);
  }
  backend.run_steps(3);
  backend.script->fail_at_step = 5;
  backend.script->gate.open();
  for (const RequestPtr& request : requests) {
    EXPECT(backend.ended(request).back().error.has_value());
    for (const FakeAnswer& answer : request->answers) EXPECT(answer.is_final == bool(answer.error));
  }
  std::map<int64_t, Ids> found = by_member(group_responses(requests));
  for (int i = 0; i < 2; ++i) {
    const Ids whole = expected_tokens(prompt_of(3 + i), 40);
    EXPECT(!found[i].empty() && found[i].size() < 40);
    EXPECT(std::equal(found[i].begin(), found[i].end(), whole.begin()));
  }
}

void what_cannot_be_shared_is_refused() {
  Backend backend;
  const auto error_of = [&](auto change) {
    const RequestPtr request = member_of(1, 2, prompt_of(3), 4);
    change(*request);
    return backend.error_of(request);
  };
  EXPECT_CONTAINS(error_of([](auto& one) { one.flag("return_context_logits", true); }),
                  "response_group together with return_context_logits");
  EXPECT_CONTAINS(error_of([](auto& one) { one.flag("return_generation_logits", true); }),
                  "response_group together with return_generation_logits");
  EXPECT_CONTAINS(error_of([](auto& one) {
                    one.add("text_context", TRITONSERVER_TYPE_UINT8, {1, 1},
                            std::vector<uint8_t>{1});
                  }),
                  "response_group together with text_context");
  EXPECT_CONTAINS(error_of([](auto& one) { one.number("num_return_sequences", 2); }),
                  "1 rows and 2 of each");
  const RequestPtr request = make_request(prompt_of(3), 4);
  request->add("response_group", TRITONSERVER_TYPE_INT64, {1, 3}, std::vector<int64_t>{1, 2, 3});
  EXPECT_CONTAINS(backend.error_of(request), "response_group has 3 numbers, expected 2");
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases(
      {
          {"a_step_is_one_response_and_each_end_is_its_own",
           a_step_is_one_response_and_each_end_is_its_own},
          {"groups_and_others_do_not_mix", groups_and_others_do_not_mix},
          {"log_probs_of_who_asked_stand_beside_zeros", log_probs_of_who_asked_stand_beside_zeros},
          {"whoever_is_cancelled_leaves_the_others_alone",
           whoever_is_cancelled_leaves_the_others_alone},
          {"who_lost_a_part_ends_with_an_error", who_lost_a_part_ends_with_an_error},
          {"a_stream_that_lost_a_part_ends_with_an_error",
           a_stream_that_lost_a_part_ends_with_an_error},
          {"an_engine_that_dies_ends_each_after_what_it_had",
           an_engine_that_dies_ends_each_after_what_it_had},
          {"what_cannot_be_shared_is_refused", what_cannot_be_shared_is_refused},
      },
      argc, argv);
}
