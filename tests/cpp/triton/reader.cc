// What of a request's tensors reaches the engine's Request.
#include <algorithm>
#include <chrono>
#include <limits>

#include "tests/cpp/triton/instance_fixture.h"

namespace inflight::testing {
namespace {

using R = TRITONBACKEND_Request;

constexpr int kVocabSize = 10;
const triton::ReaderOptions kOptions{.decoupled = true, .vocab_size = kVocabSize};

/// The request of the only sequence.
executor::Request read(R& request) {
  const triton::IncomingRequest incoming = triton::read_request(&request, kOptions);
  EXPECT_EQ(incoming.sequences.size(), 1u);
  return *incoming.sequences.at(0).request;
}

void defaults() {
  const executor::Request request = read(*make_request({1, 2}, 3));
  EXPECT_EQ(request.priority, 0);
  EXPECT(!request.deadline.has_value());
  EXPECT(!request.kv_retention.has_value());
  EXPECT(request.stop.end_ids.empty());
}

void smaller_priorities_are_larger_here() {
  EXPECT_EQ(read(make_request({1}, 1)->number("priority", 7)).priority, -7);
  EXPECT_EQ(read(make_request({1}, 1)->number("priority", -2)).priority, 2);
  Backend backend;
  const RequestPtr least = make_request({1}, 1);
  least->number("priority", std::numeric_limits<int32_t>::min());
  EXPECT_CONTAINS(backend.error_of(least), "priority is -2147483648");
}

void a_parameter_names_the_tenant() {
  EXPECT_EQ(read(*make_request({1}, 1)).tenant, "");
  const RequestPtr request = make_request({1}, 1);
  request->parameters = {{"other", "x"}, {"tenant", "research"}};
  EXPECT_EQ(read(*request).tenant, "research");
  Backend backend;
  const RequestPtr long_name = make_request({1}, 1);
  long_name->parameters = {{"tenant", std::string(257, 'x')}};
  EXPECT_CONTAINS(backend.error_of(long_name), "tenant has 257 bytes; at most 256 are possible");
}

void timeouts_become_deadlines() {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point before = Clock::now();
  const executor::Request request = read(make_request({1}, 1)->number("timeout_ms", 1500));
  const std::chrono::milliseconds timeout(1500);
  EXPECT(request.deadline && *request.deadline >= before + timeout);
  EXPECT(request.deadline && *request.deadline <= Clock::now() + timeout);
  Backend backend;
  const RequestPtr none = make_request({1}, 1);
  none->number("timeout_ms", 0);
  EXPECT_CONTAINS(backend.error_of(none), "timeout_ms is 0; it must be at least 1");
  // The model's own limit is for requests that bring none.
  const triton::ReaderOptions options{.request_timeout = std::chrono::milliseconds(9000)};
  const auto deadline_of = [&](const RequestPtr& request) {
    return triton::read_request(request.get(), options).sequences.at(0).request->deadline;
  };
  const auto limit = deadline_of(make_request({1}, 1));
  EXPECT(limit && *limit >= before + std::chrono::milliseconds(9000));
  const RequestPtr own = make_request({1}, 1);
  own->number("timeout_ms", 1500);
  const auto its_own = deadline_of(own);
  EXPECT(its_own && *its_own >= before + timeout);
  EXPECT(its_own && *its_own <= Clock::now() + timeout);
}

void how_tokens_are_chosen() {
  const decoding::SamplingParams none = read(*make_request({1}, 1)).sampling;
  EXPECT(none.greedy && none.normalize_log_probs && none.embedding_bias.empty());
  EXPECT(none.top_p_decay == 1.0f && none.top_p_min == 0.0f && none.top_p_reset_id == -1);
  EXPECT(none.prompt_ignore_length == 0 && none.no_repeat_ngram_size == 0);

  const RequestPtr request = make_request({1}, 1);
  request->real("runtime_top_p", 0.9f).real("runtime_top_p_decay", 0.8f);
  request->real("runtime_top_p_min", 0.2f).number("runtime_top_p_reset_ids", 13);
  request->number("prompt_ignore_length", 5).number("no_repeat_ngram_size", 3);
  request->add("embedding_bias", TRITONSERVER_TYPE_FP32, {1, 3},
               std::vector<float>{0.0f, 2.0f, -1});
  const decoding::SamplingParams all = read(*request).sampling;
  EXPECT(!all.greedy && all.top_p == 0.9f && all.top_p_decay == 0.8f && all.top_p_min == 0.2f);
  EXPECT_EQ(all.top_p_reset_id, 13);
  EXPECT_EQ(all.prompt_ignore_length, 5);
  EXPECT_EQ(all.no_repeat_ngram_size, 3);
  EXPECT((all.embedding_bias == std::vector<float>{0.0f, 2.0f, -1}));

  const triton::ReaderOptions options{.decoupled = true, .normalize_log_probs = false};
  const RequestPtr plain = make_request({1}, 1);
  const triton::IncomingRequest other = triton::read_request(plain.get(), options);
  EXPECT(!other.sequences.at(0).request->sampling.normalize_log_probs);
}

/// Early releases declared other types than the last ones.
void types_that_a_configuration_may_declare() {
  const std::vector<float> bias = {0.0f, 2.0f, -0.5f, 65504.0f, 5.9604644775390625e-08f};
  const std::vector<uint16_t> as_fp16 = {0, 0x4000, 0xb800, 0x7bff, 1};
  const RequestPtr halves = make_request({1}, 1);
  halves->add("embedding_bias", TRITONSERVER_TYPE_FP16, {1, 5}, as_fp16);
  EXPECT((read(*halves).sampling.embedding_bias == bias));
  const RequestPtr brains = make_request({1}, 1);
  const std::vector<uint16_t> as_bf16 = {0, 0x4000, 0xbf00};
  brains->add("embedding_bias", TRITONSERVER_TYPE_BF16, {1, 3}, as_bf16);
  EXPECT((read(*brains).sampling.embedding_bias == std::vector<float>{0.0f, 2.0f, -0.5f}));

  const auto unsigned_number = [](R& request, const char* name, uint32_t value) {
    request.add(name, TRITONSERVER_TYPE_UINT32, {1, 1}, std::vector<uint32_t>{value});
  };
  const RequestPtr request = make_request({1}, 1);
  unsigned_number(*request, "beam_width", 1);
  unsigned_number(*request, "prompt_vocab_size", 0);
  unsigned_number(*request, "end_id", 0xffffffff);  // -1: none
  unsigned_number(*request, "runtime_top_k", 7);
  EXPECT(read(*request).stop.end_ids.empty());
  EXPECT_EQ(read(*request).sampling.top_k, 7);
  Backend backend;
  const RequestPtr beams = make_request({1}, 1);
  unsigned_number(*beams, "beam_width", 2);
  EXPECT_CONTAINS(backend.error_of(beams), "beam_width is not supported yet");
}

void end_ids_may_be_ignored() {
  EXPECT((read(make_request({1}, 1)->number("end_id", 9)).stop.end_ids == Ids{9}));
  EXPECT((read(make_request({1}, 1)->number("end_id", 9).flag("ignore_eos", false)).stop.end_ids ==
          Ids{9}));
  EXPECT(read(make_request({1}, 1)->number("end_id", 9).flag("ignore_eos", true))
             .stop.end_ids.empty());
}

void end_ids_of_several_sources() {
  const RequestPtr request = make_request({1}, 1);
  request->number("end_id", 9).ids("end_ids", {4, -1, 9});
  EXPECT((read(*request).stop.end_ids == Ids{4, 9}));
  EXPECT((read(make_request({1}, 1)->ids("end_ids", {7})).stop.end_ids == Ids{7}));
  EXPECT(read(make_request({1}, 1)->ids("end_ids", {7}).flag("ignore_eos", true))
             .stop.end_ids.empty());

  // The model's own: one of them stands for all, others and none stand for themselves.
  const triton::ReaderOptions options{
      .decoupled = true, .model_end_ids = {2, 5, 6}, .vocab_size = kVocabSize};
  const auto ends = [&](R& of) {
    return triton::read_request(&of, options).sequences.at(0).request->stop.end_ids;
  };
  EXPECT((ends(make_request({1}, 1)->number("end_id", 5)) == Ids{2, 5, 6}));
  EXPECT((ends(make_request({1}, 1)->number("end_id", 9)) == Ids{9}));
  EXPECT((ends(make_request({1}, 1)->number("end_id", 9).ids("end_ids", {6})) == Ids{2, 5, 6, 9}));
  EXPECT(ends(make_request({1}, 1)->number("end_id", -1)).empty());
  EXPECT(ends(*make_request({1}, 1)).empty());
}

/// By the tensor's name, whatever the engine calls it.
void errors_name_the_tensor() {
  const auto error_of = [](R& request) -> std::string {
    try {
      read(request);
    } catch (const Error& error) {
      return error.what();
    }
    return "none";
  };
  const std::string outside = "10, which is outside the vocabulary [0, 10)";
  EXPECT_EQ(error_of(make_request({1}, 1)->number("end_id", 10)),
            concat("end_id holds token id ", outside, " and not -1 (none)"));
  EXPECT_EQ(error_of(make_request({1}, 1)->number("min_length", -1)),
            "min_length is -1, expected at least 0");
  EXPECT_EQ(error_of(make_request({1}, 1)->number("min_tokens", -2)),
            "min_tokens is -2, expected at least 0");
  for (const char* name : {"stop_words_list", "bad_words_list"}) {
    const RequestPtr words = make_request({1}, 1);
    words->add(name, TRITONSERVER_TYPE_INT32, {1, 2, 2}, Ids{9, 10, 1, 2});
    EXPECT_EQ(error_of(*words), concat(name, " holds token id ", outside));
  }
}

void salt_of_the_cache() {
  EXPECT(read(*make_request({1}, 1)).cache_scope.is_default());
  const RequestPtr request = make_request({1}, 1);
  request->text("cache_salt", "tenant 7");
  EXPECT_EQ(read(*request).cache_scope.cache_salt, std::string("tenant 7"));
  const auto error_with = [](std::vector<uint8_t> bytes) {
    Backend backend;
    const RequestPtr broken = make_request({1}, 1);
    broken->add("cache_salt", TRITONSERVER_TYPE_BYTES, {1}, bytes);
    return backend.error_of(broken);
  };
  EXPECT_CONTAINS(error_with({3, 0}), "tensor cache_salt ends within a length");
  EXPECT_CONTAINS(error_with({3, 0, 0, 0, 'a'}),
                  "tensor cache_salt has a string of 3 bytes, 1 are left");
  EXPECT_CONTAINS(error_with({1, 0, 0, 0, 'a', 0, 0, 0, 0}),
                  "cache_salt: it has 2 strings, expected 1");
}

void length_of_the_salt() {
  Backend backend;
  const RequestPtr longest = make_request({1}, 1);
  longest->text("cache_salt", std::string(1024, 'x'));
  EXPECT(!backend.run(longest).back().error.has_value());
  const RequestPtr too_long = make_request({1}, 1);
  too_long->text("cache_salt", std::string(1025, 'x'));
  EXPECT_CONTAINS(backend.error_of(too_long),
                  "cache_salt has 1025 bytes; at most 1024 are possible");
}

void retention_of_ranges() {
  const RequestPtr request = make_request({1, 2, 3}, 1);
  request->ids("retention_token_range_starts", {0, 8}).ids("retention_token_range_ends", {8, -1});
  request->ids("retention_token_range_priorities", {100, 20});
  const auto plain = read(*request).kv_retention;
  EXPECT(plain.has_value());
  EXPECT_EQ(plain->ranges.size(), 2u);
  EXPECT(plain->ranges[0].begin == 0 && plain->ranges[0].end == 8);
  EXPECT(plain->ranges[1].begin == 8 && !plain->ranges[1].end);
  EXPECT(plain->ranges[0].priority == 100 && plain->ranges[1].priority == 20);
  EXPECT(!plain->ranges[0].duration && !plain->ranges[1].duration);
  EXPECT_EQ(plain->decode_priority, 35);
  EXPECT(!plain->decode_duration.has_value());

  request->ids("retention_token_range_durations_ms", {-1, 250});
  request->ids("retention_decode_priority", {60}).ids("retention_decode_duration_ms", {9});
  const auto timed = read(*request).kv_retention;
  EXPECT(timed.has_value());
  EXPECT(!timed->ranges[0].duration);
  EXPECT(timed->ranges[1].duration == std::chrono::milliseconds(250));
  EXPECT_EQ(timed->decode_priority, 60);
  EXPECT(timed->decode_duration == std::chrono::milliseconds(9));

  const auto decode_only =
      read(make_request({1}, 1)->ids("retention_decode_priority", {1})).kv_retention;
  EXPECT(decode_only && decode_only->ranges.empty() && decode_only->decode_priority == 1);
}

void retention_that_makes_no_sense() {
  Backend backend;
  const auto error_with = [&](Ids starts, Ids ends, Ids priorities, Ids durations = {}) {
    const RequestPtr request = make_request({1, 2, 3}, 1);
    request->ids("retention_token_range_starts", starts);
    request->ids("retention_token_range_ends", ends);
    request->ids("retention_token_range_priorities", priorities);
    request->ids("retention_token_range_durations_ms", durations);
    return backend.error_of(request);
  };
  EXPECT_CONTAINS(
      error_with({0, 4}, {4}, {1, 2}),
      "retention_token_range_ends has 1 elements but retention_token_range_starts has 2");
  EXPECT_CONTAINS(error_with({0}, {4}, {1, 2}),
                  "retention_token_range_priorities has 2 elements but "
                  "retention_token_range_starts has 1");
  EXPECT_CONTAINS(error_with({0}, {4}, {1}, {5, 6}),
                  "retention_token_range_durations_ms has 2 elements but "
                  "retention_token_range_starts has 1");
  EXPECT_CONTAINS(error_with({}, {4}, {}), "retention_token_range_ends has 1 elements");
  EXPECT_CONTAINS(error_with({-1}, {4}, {1}), "retention_token_range_starts[0] is -1");
  EXPECT_CONTAINS(error_with({0, 4}, {4, 4}, {1, 1}),
                  "retention_token_range_ends[1] is 4; it must be greater than the start, 4");
  EXPECT_CONTAINS(error_with({0}, {4}, {101}),
                  "retention_token_range_priorities[0] is 101; it must be at least 0 and at most "
                  "100");
  EXPECT_CONTAINS(error_with({0}, {4}, {1}, {-2}),
                  "retention_token_range_durations_ms[0] is -2 ms");
  const RequestPtr decode = make_request({1}, 1);
  decode->ids("retention_decode_priority", {-3});
  EXPECT_CONTAINS(backend.error_of(decode), "retention_decode_priority is -3");
}

void ids_of_no_vocabulary() {
  const Ids wild = {3, -5, 1000, std::numeric_limits<int32_t>::max(), 7};
  {
    Backend strict;
    EXPECT_CONTAINS(strict.error_of(make_request(wild, 2)), "input_ids[1] is -5");
  }
  triton::ModelSettings settings;
  settings.reader.allow_unknown_ids = true;
  Backend former(/*decoupled=*/true, {}, nullptr, settings);
  const RequestPtr request = make_request(wild, 4);
  request->real("repetition_penalty", 1.5f);
  const FakeAnswer& answer = former.run(request)[0];
  const Ids ids = output_ids(answer);
  EXPECT_EQ(ids.size(), 9u);
  EXPECT(std::equal(wild.begin(), wild.end(), ids.begin()));  // told as they were given
}

void request_types() {
  Backend backend;
  for (const char* kind : {"context_only", "generation_only"}) {
    const RequestPtr request = make_request({1}, 1);
    request->parameters = {{"other", "x"}, {"request_type", kind}};
    EXPECT_CONTAINS(backend.error_of(request), std::string("request_type is ") + kind);
  }
  for (const char* kind : {"context_and_generation", "no_such_type"}) {
    const RequestPtr request = make_request({1}, 1);
    request->parameters = {{"request_type", kind}, {"Streaming", "true"}};
    EXPECT(!backend.run(request)[0].error.has_value());
  }
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases(
      {
          {"defaults", defaults},
          {"smaller_priorities_are_larger_here", smaller_priorities_are_larger_here},
          {"a_parameter_names_the_tenant", a_parameter_names_the_tenant},
          {"timeouts_become_deadlines", timeouts_become_deadlines},
          {"how_tokens_are_chosen", how_tokens_are_chosen},
          {"types_that_a_configuration_may_declare", types_that_a_configuration_may_declare},
          {"end_ids_may_be_ignored", end_ids_may_be_ignored},
          {"end_ids_of_several_sources", end_ids_of_several_sources},
          {"errors_name_the_tensor", errors_name_the_tensor},
          {"salt_of_the_cache", salt_of_the_cache},
          {"length_of_the_salt", length_of_the_salt},
          {"retention_of_ranges", retention_of_ranges},
          {"retention_that_makes_no_sense", retention_that_makes_no_sense},
          {"ids_of_no_vocabulary", ids_of_no_vocabulary},
          {"request_types", request_types},
      },
      argc, argv);
}
