// Requests through reader, engine loop (over the scripted model) and writer, without a server.
#include <chrono>
#include <cstdio>
#include <memory>
#include <numeric>
#include <thread>

#include "backend/triton/instance_state.h"
#include "tests/cpp/engine_fixture.h"
#include "tests/cpp/triton/fake_triton.h"

namespace inflight::testing {
namespace {

using RequestPtr = std::unique_ptr<TRITONBACKEND_Request>;
using Ids = std::vector<int32_t>;

struct Backend {
  /// `beside`: another instance of the same server.
  explicit Backend(bool decoupled = true, executor::EngineConfig config = {},
                   const Backend* beside = nullptr) {
    if (beside != nullptr)
      families = beside->families;
    else
      families = std::make_shared<triton::MetricFamilies>();
    settings.name = "tensorrt_llm";
    settings.version = 1;
    settings.reader.decoupled = decoupled;
    auto engine = std::make_unique<Engine>(
        small_info(), config, std::make_unique<ScriptedExecutor>(small_info(), script));
    state =
        std::make_unique<triton::InstanceState>(nullptr, settings, *families, std::move(engine));
  }
  ~Backend() { close(); }
  void close() {
    script->gate.open();
    state.reset();
    EXPECT_EQ(fake_counts().freed_gauges_set.load(), 0);
    const bool is_alone = families.use_count() <= 1;
    families.reset();
    if (!is_alone) return;
    EXPECT_EQ(fake_counts().errors.load(), 0);
    EXPECT_EQ(fake_counts().factories.load(), 0);
    EXPECT_EQ(fake_counts().responses.load(), 0);
    EXPECT_EQ(fake_counts().metrics.load(), 0);
    EXPECT_EQ(fake_counts().families.load(), 0);
  }
  void send(const RequestPtr& request) {
    TRITONBACKEND_Request* pointer = request.get();
    state->execute(&pointer, 1);
  }
  /// Sends, waits for the end, checks what holds for every request.
  const std::vector<FakeAnswer>& run(const RequestPtr& request) {
    send(request);
    return ended(request);
  }
  const std::vector<FakeAnswer>& ended(const RequestPtr& request) {
    request->wait_until_released();
    std::lock_guard lock(request->mutex);
    EXPECT_EQ(request->num_released, 1);
    EXPECT_EQ(request->num_finals, 1);
    EXPECT_EQ(request->num_statistics, 1);
    EXPECT(request->answers.back().is_final);
    return request->answers;
  }
  std::string error_of(const RequestPtr& request) {
    const FakeAnswer& answer = run(request).back();
    EXPECT(answer.error.has_value());
    EXPECT(!request->success);
    return answer.error.value_or("");
  }

  triton::ModelSettings settings;
  std::shared_ptr<triton::MetricFamilies> families;
  std::shared_ptr<Script> script = std::make_shared<Script>();
  std::unique_ptr<triton::InstanceState> state;
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

#define EXPECT_CONTAINS(text, part)                                                       \
  do {                                                                                    \
    const std::string whole = (text);                                                     \
    if (!contains(whole, part))                                                           \
      ::inflight::testing::fail(__FILE__, __LINE__, "'", part, "' not in '", whole, "'"); \
  } while (false)

Ids output_ids(const FakeAnswer& answer) {
  const FakeTensor* tensor = answer.find("output_ids");
  return tensor == nullptr ? Ids{} : tensor->values<int32_t>();
}

/// Of a request with a text context that has an answer, and may get more.
int64_t engine_request_id(TRITONBACKEND_Request& request) {
  std::lock_guard lock(request.mutex);
  return request.answers.at(0).find("response_state")->values<int64_t>()[0];
}

Ids joined(const std::vector<FakeAnswer>& answers) {
  Ids all;
  for (const FakeAnswer& answer : answers) {
    const Ids ids = output_ids(answer);
    all.insert(all.end(), ids.begin(), ids.end());
  }
  return all;
}

void one_response_without_streaming() {
  for (const bool decoupled : {false, true}) {
    Backend backend(decoupled);
    const Ids prompt = prompt_of(5);
    const RequestPtr request = make_request(prompt, 7);
    const auto& answers = backend.run(request);
    EXPECT_EQ(answers.size(), 1u);
    Ids expected = prompt;
    for (int32_t id : expected_tokens(prompt, 7)) expected.push_back(id);
    EXPECT(output_ids(answers[0]) == expected);
    EXPECT_EQ(answers[0].outputs.size(), 2u);
    EXPECT_EQ(answers[0].outputs[0].name, "output_ids");
    EXPECT((answers[0].outputs[0].shape == std::vector<int64_t>{1, 1, 12}));
    EXPECT((answers[0].find("sequence_length")->shape == std::vector<int64_t>{1, 1}));
    EXPECT(answers[0].find("sequence_length")->values<int32_t>() == Ids{12});
    EXPECT(request->success);
  }
}

void prompt_left_out_on_demand() {
  Backend backend;
  const Ids prompt = prompt_of(5);
  const RequestPtr asked = make_request(prompt, 3);
  asked->flag("exclude_input_in_output", true);
  EXPECT(output_ids(backend.run(asked)[0]) == expected_tokens(prompt, 3));
}

void streams_new_tokens_only() {
  Backend backend;
  const Ids prompt = prompt_of(20);  // two steps of prompt
  const RequestPtr request = make_request(prompt, 9);
  request->flag("streaming", true);
  const auto& answers = backend.run(request);
  EXPECT(joined(answers) == expected_tokens(prompt, 9));
  for (const FakeAnswer& answer : answers) {
    const auto length = static_cast<int32_t>(output_ids(answer).size());
    EXPECT(answer.find("sequence_length")->values<int32_t>() == Ids{length});
  }
}

void tells_postprocessing_what_it_needs() {
  Backend backend;
  const Ids prompt = prompt_of(4);
  const RequestPtr request = make_request(prompt, 6);
  request->flag("streaming", true);
  request->add("text_context", TRITONSERVER_TYPE_UINT8, {1, 3}, std::vector<uint8_t>{'a', 'b', 0});
  Ids sent;
  int64_t id = 0;
  for (const FakeAnswer& answer : backend.run(request)) {
    EXPECT((answer.find("text_context")->values<uint8_t>() == std::vector<uint8_t>{'a', 'b', 0}));
    EXPECT(answer.find("previous_ids")->values<int32_t>() == sent);
    const auto state = answer.find("response_state")->values<int64_t>();
    const Ids ids = output_ids(answer);
    EXPECT_EQ(state.size(), 3u);
    EXPECT(state[0] > 0 && (id == 0 || id == state[0]));
    id = state[0];
    EXPECT_EQ(state[1] == 1, answer.is_final);
    EXPECT_EQ(state[2], static_cast<int64_t>(ids.size()));
    sent.insert(sent.end(), ids.begin(), ids.end());
  }
  const RequestPtr whole = make_request(prompt, 6);
  whole->add("text_context", TRITONSERVER_TYPE_UINT8, {1, 1}, std::vector<uint8_t>{'a'});
  const FakeAnswer& answer = backend.run(whole)[0];
  EXPECT(answer.find("previous_ids")->values<int32_t>().empty());
  const auto state = answer.find("response_state")->values<int64_t>();
  EXPECT_EQ(state[2], 6);
}

/// What postprocessing does, by inflight/serving/receipts.py.
void tell(int64_t public_id, uint32_t num_ids) {
  const auto number = static_cast<uint64_t>(public_id) >> 32;
  const uint64_t id = static_cast<uint64_t>(public_id) & 0xffffffff;
  char path[64];
  std::snprintf(path, sizeof(path), "/dev/shm/inflight-%llx",
                static_cast<unsigned long long>(number));
  std::FILE* page = std::fopen(path, "r+b");
  EXPECT(page != nullptr);
  if (page == nullptr) return;
  std::fseek(page, 0, SEEK_END);
  const uint64_t num_slots = static_cast<uint64_t>(std::ftell(page)) / 8;
  std::fseek(page, static_cast<int64_t>(id % num_slots * 8), SEEK_SET);
  const uint64_t slot = id << 32 | num_ids;
  EXPECT_EQ(std::fwrite(&slot, sizeof(slot), 1, page), 1u);
  std::fclose(page);
}

void pieces_join_while_the_last_waits_for_postprocessing() {
  Backend backend;
  backend.script->gate.close();
  const Ids prompt = prompt_of(3);
  const RequestPtr request = make_request(prompt, 12);
  request->flag("streaming", true);
  request->flag("return_log_probs", true);
  request->add("text_context", TRITONSERVER_TYPE_UINT8, {1, 1}, std::vector<uint8_t>{1});
  backend.send(request);
  int num_steps = 0;
  const auto run_steps = [&](int count) {
    for (int i = 0; i < count; ++i) {
      backend.script->gate.let_pass(1);
      ++num_steps;  // its parts are delivered before the gauges change
      while (fake_gauges().at("nv_trt_llm_general_metrics iteration_counter") < num_steps)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  };
  const auto num_ids = [&] {
    std::lock_guard lock(request->mutex);
    std::vector<size_t> counts;
    for (const FakeAnswer& answer : request->answers) counts.push_back(output_ids(answer).size());
    return counts;
  };
  using Counts = std::vector<size_t>;
  run_steps(3);  // nobody has ever told: nothing to wait for
  EXPECT((num_ids() == Counts{1, 1, 1}));
  const int64_t id = engine_request_id(*request);
  tell(id, 1);
  run_steps(3);
  EXPECT((num_ids() == Counts{1, 1, 1}));
  tell(id, 3);
  run_steps(2);  // the first of these takes along what waited
  EXPECT((num_ids() == Counts{1, 1, 1, 4}));
  backend.script->gate.open();
  const auto& answers = backend.ended(request);
  EXPECT((num_ids() == Counts{1, 1, 1, 4, 5}));
  EXPECT(joined(answers) == expected_tokens(prompt, 12));
  EXPECT_EQ(answers[3].find("previous_ids")->values<int32_t>().size(), 3u);
  EXPECT_EQ(answers[4].find("previous_ids")->values<int32_t>().size(), 7u);
  EXPECT_EQ(answers[4].find("output_log_probs")->values<float>().size(), 5u);
  backend.close();
  char path[64];
  std::snprintf(path, sizeof(path), "/dev/shm/inflight-%llx",
                static_cast<unsigned long long>(id >> 32));
  EXPECT(std::fopen(path, "rb") == nullptr);
}

void log_probs_when_asked() {
  Backend backend;
  const RequestPtr request = make_request(prompt_of(4), 5);
  request->flag("return_log_probs", true);
  const FakeAnswer& answer = backend.run(request)[0];
  const auto each = answer.find("output_log_probs")->values<float>();
  EXPECT((answer.find("output_log_probs")->shape == std::vector<int64_t>{1, 1, 5}));
  EXPECT((answer.find("cum_log_probs")->shape == std::vector<int64_t>{1, 1}));
  const float sum = std::accumulate(each.begin(), each.end(), 0.0f);
  EXPECT(std::abs(answer.find("cum_log_probs")->values<float>()[0] - sum) < 1e-4f);
}

void only_outputs_asked_for() {
  Backend backend;
  const RequestPtr request = make_request(prompt_of(4), 2);
  request->flag("return_log_probs", true);
  request->outputs = {"sequence_length", "output_ids", "cum_log_probs"};
  const FakeAnswer& answer = backend.run(request)[0];
  EXPECT_EQ(answer.outputs.size(), 3u);
  EXPECT_EQ(answer.outputs[0].name, "output_ids");

  const RequestPtr without = make_request(prompt_of(4), 2);
  without->outputs = {"sequence_length"};
  EXPECT_CONTAINS(backend.error_of(without), "output_ids");
}

void tensors_in_pieces() {
  Backend backend;
  const Ids prompt = prompt_of(7);
  const RequestPtr request = make_request(prompt, 2);
  request->inputs[0].num_buffers = 3;
  EXPECT_EQ(output_ids(backend.run(request)[0]).size(), 9u);
}

void ends_and_words() {
  Backend backend;
  const Ids prompt = prompt_of(3);
  const Ids tokens = expected_tokens(prompt, 8);
  {
    const RequestPtr request = make_request(prompt, 8);
    request->flag("exclude_input_in_output", true).number("end_id", tokens[4]);
    EXPECT(output_ids(backend.run(request)[0]) == Ids(tokens.begin(), tokens.begin() + 4));
  }
  {
    const RequestPtr request = make_request(prompt, 8);
    request->flag("exclude_input_in_output", true);
    request->number("end_id", -1);
    // [7], [tokens 2, 3]
    request->add("stop_words_list", TRITONSERVER_TYPE_INT32, {1, 2, 3},
                 Ids{7, tokens[2], tokens[3], 1, 3, -1});
    EXPECT(output_ids(backend.run(request)[0]) == Ids(tokens.begin(), tokens.begin() + 4));
  }
  {
    const RequestPtr request = make_request(prompt, 1);  // no words in three spellings
    request->add("stop_words_list", TRITONSERVER_TYPE_INT32, {1, 2, 1}, Ids{0, -1});
    request->add("bad_words_list", TRITONSERVER_TYPE_INT32, {1, 2, 0}, Ids{});
    EXPECT(!backend.run(request)[0].error.has_value());
  }
}

void bad_word_lists() {
  Backend backend;
  const auto error_for = [&](std::vector<int64_t> shape, const Ids& values) {
    const RequestPtr request = make_request(prompt_of(3), 2);
    request->add("stop_words_list", TRITONSERVER_TYPE_INT32, std::move(shape), values);
    return backend.error_of(request);
  };
  EXPECT_CONTAINS(error_for({1, 3}, {1, 2, 3}), "sparse list stop_words_list has 3 elements");
  EXPECT_CONTAINS(error_for({1, 2, 2}, {1, 2, 2, 1}), "increasing");
  EXPECT_CONTAINS(error_for({1, 2, 2}, {1, 2, 0, -1}), "increasing");
  EXPECT_CONTAINS(error_for({1, 2, 2}, {1, 2, 3, -1}), "offset 3 beyond its length of 2");
  EXPECT_CONTAINS(error_for({1, 2, 2}, {1, 2, -1, 2}), "after the first -1");
}

void refusals() {
  Backend backend;
  const auto error_with = [&](auto&& change) {
    const RequestPtr request = make_request(prompt_of(3), 2);
    change(*request);
    return backend.error_of(request);
  };
  using R = TRITONBACKEND_Request;
  EXPECT_CONTAINS(error_with([](R& r) { r.number("beam_width", 2); }),
                  "beam_width is not supported yet");
  EXPECT_CONTAINS(error_with([](R& r) { r.flag("return_context_logits", true); }),
                  "return_context_logits is not supported yet");
  EXPECT_CONTAINS(error_with([](R& r) {
                    r.add("embedding_bias", TRITONSERVER_TYPE_FP32, {1, 2},
                          std::vector<float>{0.0f, 0.0f});
                  }),
                  "embedding_bias is not supported yet");
  EXPECT_CONTAINS(error_with([](R& r) {
                    r.add("guided_decoding_guide_type", TRITONSERVER_TYPE_BYTES, {1, 1},
                          std::vector<uint8_t>{4, 0, 0, 0, 'j', 's', 'o', 'n'});
                  }),
                  "guided_decoding_guide_type is not supported yet");
  EXPECT_CONTAINS(error_with([](R& r) { r.inputs[0].tensor.shape = {3, 1}; }),
                  "batch of 3 rows (tensor input_ids) is not supported yet");
  EXPECT_CONTAINS(error_with([](R& r) { r.inputs[0].tensor.shape = {1, 4}; }),
                  "Invalid size for tensor input_ids: 12 bytes for shape [1, 4]");
  EXPECT_CONTAINS(error_with([](R& r) {
                    r.add("temperature", TRITONSERVER_TYPE_FP32, {1, 2},
                          std::vector<float>{1.0f, 1.0f});
                  }),
                  "temperature: it has 2 elements, expected 1");
  EXPECT_CONTAINS(error_with([](R& r) { r.real("temperature", -1.0f); }), "temperature");
  EXPECT_CONTAINS(error_with([](R& r) { r.real("runtime_top_p", 1.5f); }), "top_p");
  EXPECT_CONTAINS(error_with([](R& r) { r.number("runtime_top_k", -4); }), "-4");
  EXPECT_CONTAINS(error_with([](R& r) { r.number("end_id", 1000); }), "1000");
  EXPECT_CONTAINS(error_with([](R& r) { r.number("min_tokens", 1).number("min_length", 2); }),
                  "min_tokens is 1 but min_length is 2");
  EXPECT_CONTAINS(error_with([](R& r) { r.inputs.pop_back(); }),
                  "request_output_len is not present in the request");
  EXPECT_CONTAINS(error_with([](R& r) {
                    r.inputs[0].tensor = {"input_ids", TRITONSERVER_TYPE_INT32, {1, 0}, {}};
                  }),
                  "input_ids");
  EXPECT_CONTAINS(backend.error_of(make_request(prompt_of(64), 2)), "64");
  EXPECT_CONTAINS(backend.error_of(make_request({1, 1000}, 2)), "1000");
  EXPECT_CONTAINS(backend.error_of(make_request({1}, 0)), "0");
  const RequestPtr fine = make_request(prompt_of(3), 2);
  EXPECT(!backend.run(fine)[0].error.has_value());
}

void defaults_of_the_refused() {
  Backend backend;
  const RequestPtr request = make_request(prompt_of(3), 2);
  request->number("beam_width", 1).number("num_return_sequences", 1);
  request->flag("return_generation_logits", false).real("runtime_top_p_decay", 1.0f);
  request->real("runtime_top_p", 0.0f).number("pad_id", 0).real("len_penalty", 2.0f);
  request->ids("decoder_input_ids", {0}).number("decoder_input_lengths", 1);
  request->add("embedding_bias", TRITONSERVER_TYPE_FP32, {1, 0}, std::vector<float>{});
  request->add("lora_task_id", TRITONSERVER_TYPE_UINT64, {1}, std::vector<uint64_t>{0});
  request->add("guided_decoding_guide", TRITONSERVER_TYPE_BYTES, {1, 1},
               std::vector<uint8_t>{0, 0, 0, 0});
  EXPECT(!backend.run(request)[0].error.has_value());
}

void streaming_needs_decoupled() {
  Backend backend(/*decoupled=*/false);
  const RequestPtr request = make_request(prompt_of(3), 2);
  request->flag("streaming", true);
  EXPECT_CONTAINS(backend.error_of(request), "decoupled");
}

void stop_by_id() {
  Backend backend;
  const Ids prompt = prompt_of(3);
  backend.script->gate.close();
  std::vector<RequestPtr> requests;
  for (const char* id : {"twice", "twice", "other"}) {
    requests.push_back(make_request(prompt, 20));
    requests.back()->id = id;
    requests.back()->flag("streaming", true);
    backend.send(requests.back());
  }
  backend.script->gate.let_pass(4);
  requests[0]->wait_for_answers(1);

  const RequestPtr command = make_request({0}, 0);
  command->id = "twice";
  command->flag("stop", true);
  const auto& reply = backend.run(command);
  EXPECT_EQ(reply.size(), 1u);
  EXPECT(reply[0].outputs.empty() && !reply[0].error.has_value());

  backend.script->gate.open();
  const Ids tokens = expected_tokens(prompt, 20);
  for (int i = 0; i < 2; ++i) {
    const Ids got = joined(backend.ended(requests[i]));
    EXPECT(got.size() < 20u);
    EXPECT(std::equal(got.begin(), got.end(), tokens.begin()));
  }
  EXPECT(joined(backend.ended(requests[2])) == tokens);

  const RequestPtr unknown = make_request({0}, 0);
  unknown->id = "gone";
  unknown->flag("stop", true);
  EXPECT(!backend.run(unknown)[0].error.has_value());
  const RequestPtr nameless = make_request({0}, 0);
  nameless->flag("stop", true);
  EXPECT_CONTAINS(backend.error_of(nameless), "request ID is not provided");
}

void stop_by_engine_request_id() {
  Backend backend;
  backend.script->gate.close();
  std::vector<RequestPtr> requests;
  for (int i = 0; i < 2; ++i) {  // both without an id
    requests.push_back(make_request(prompt_of(3), 20));
    requests.back()->flag("streaming", true);
    requests.back()->add("text_context", TRITONSERVER_TYPE_UINT8, {1, 1}, std::vector<uint8_t>{1});
    backend.send(requests.back());
  }
  backend.script->gate.let_pass(3);
  requests[1]->wait_for_answers(1);
  const int64_t id = engine_request_id(*requests[1]);
  const RequestPtr command = make_request({0}, 0);
  command->flag("stop", true);
  command->add("engine_request_id", TRITONSERVER_TYPE_UINT64, {1},
               std::vector<uint64_t>{static_cast<uint64_t>(id)});
  backend.run(command);
  backend.script->gate.open();
  EXPECT_EQ(joined(backend.ended(requests[0])).size(), 20u);
  EXPECT(joined(backend.ended(requests[1])).size() < 20u);
}

void cancelled_by_the_client() {
  for (const bool streaming : {false, true}) {
    Backend backend;
    backend.script->gate.close();
    // Steps slow enough for the response thread to keep up.
    backend.script->after_step = [] { std::this_thread::sleep_for(std::chrono::milliseconds(2)); };
    const RequestPtr gone = make_request(prompt_of(3), 60);
    gone->flag("streaming", streaming);
    const RequestPtr other = make_request(prompt_of(4), 30);
    backend.send(gone);
    backend.send(other);
    backend.script->gate.let_pass(3);
    gone->cancelled = true;
    backend.script->gate.open();
    // Both end by themselves if nobody hears of it: then it has all its tokens.
    const size_t num_ids = joined(backend.ended(gone)).size();
    EXPECT(num_ids < (streaming ? 60u : 63u));
    EXPECT_EQ(output_ids(backend.ended(other)[0]).size(), 34u);
    const auto gauges = fake_gauges();
    EXPECT_EQ(gauges.at("nv_trt_llm_kv_cache_block_metrics used"), 0);
  }
}

/// A server may still be writing to a client that has just left; see instance_state.cc.
void final_response_to_nobody_waits() {
  using Clock = std::chrono::steady_clock;
  for (const bool by_command : {false, true}) {
    Backend backend;
    backend.script->gate.close();
    const RequestPtr gone = make_request(prompt_of(3), 60);
    gone->flag("streaming", true);
    gone->add("text_context", TRITONSERVER_TYPE_UINT8, {1, 1}, std::vector<uint8_t>{1});
    backend.send(gone);
    backend.script->gate.let_pass(3);
    gone->wait_for_answers(1);
    const Clock::time_point left = Clock::now();
    if (by_command) {
      const int64_t id = engine_request_id(*gone);
      const RequestPtr command = make_request({0}, 0);
      command->flag("stop", true);
      command->flag("client_left", true);
      command->add("engine_request_id", TRITONSERVER_TYPE_UINT64, {1},
                   std::vector<uint64_t>{static_cast<uint64_t>(id)});
      backend.run(command);  // answered at once
      EXPECT(Clock::now() - left < std::chrono::milliseconds(100));
    } else {
      gone->cancelled = true;
    }
    backend.script->gate.open();
    while (fake_gauges().at("nv_trt_llm_kv_cache_block_metrics used") != 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    {
      std::lock_guard lock(gone->mutex);
      EXPECT_EQ(gone->num_finals, 0);  // the blocks are back before it
    }
    backend.ended(gone);
    EXPECT(Clock::now() - left >= std::chrono::milliseconds(100));
  }
}

void unloading_does_not_wait_for_nobody() {
  Backend backend;
  backend.script->gate.close();
  const RequestPtr gone = make_request(prompt_of(3), 60);
  backend.send(gone);
  gone->cancelled = true;
  backend.close();
  backend.ended(gone);
}

void engine_failure_reaches_each_request() {
  Backend backend;
  backend.script->fail_at_step = 2;
  const RequestPtr request = make_request(prompt_of(3), 20);
  EXPECT_CONTAINS(backend.error_of(request), "Executor failed process requestId");
}

void queue_full() {
  executor::EngineConfig config;
  config.max_queue_size = 2;
  Backend backend(true, config);
  backend.script->gate.close();
  std::vector<RequestPtr> requests;
  int num_refused = 0;
  for (int i = 0; i < 12; ++i) {
    requests.push_back(make_request(prompt_of(3), 4));
    backend.send(requests.back());
  }
  backend.script->gate.open();
  for (const RequestPtr& request : requests) {
    const FakeAnswer& answer = backend.ended(request).back();
    if (!answer.error) continue;
    ++num_refused;
    EXPECT_EQ(answer.code, TRITONSERVER_ERROR_UNAVAILABLE);
    EXPECT_CONTAINS(*answer.error, "Maximum queue size of");
    EXPECT_CONTAINS(*answer.error, "Exceeds maximum queue size");
  }
  EXPECT(num_refused > 0);
}

void unloading_ends_what_is_live() {
  Backend backend;
  backend.script->gate.close();
  std::vector<RequestPtr> requests;
  for (int i = 0; i < 6; ++i) {
    requests.push_back(make_request(prompt_of(3 + i), 40));
    requests.back()->flag("streaming", i % 2 == 0);
    backend.send(requests.back());
  }
  backend.script->gate.let_pass(3);
  std::thread opener([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    backend.script->gate.open();
  });
  backend.state.reset();
  opener.join();
  for (const RequestPtr& request : requests) backend.ended(request);
}

/// The server loads a model again before the one unloaded is gone.
void gauges_outlive_an_earlier_load() {
  Backend later;
  {
    Backend earlier(true, {}, &later);
    earlier.run(make_request(prompt_of(3), 4));
  }
  later.run(make_request(prompt_of(3), 4));
  EXPECT_EQ(fake_gauges().size(), 20u);
}

void gauges_end_idle() {
  Backend backend;
  const RequestPtr request = make_request(prompt_of(10), 8);
  backend.run(request);
  for (int i = 0; i < 2000 && fake_gauges().at("nv_trt_llm_request_metrics active") != 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const auto gauges = fake_gauges();
  EXPECT_EQ(gauges.size(), 20u);
  EXPECT_EQ(gauges.at("nv_trt_llm_request_metrics active"), 0);
  EXPECT_EQ(gauges.at("nv_trt_llm_request_metrics scheduled"), 0);
  EXPECT_EQ(gauges.at("nv_trt_llm_request_metrics waiting"), 0);
  EXPECT_EQ(gauges.at("nv_trt_llm_request_metrics max"), 4);
  EXPECT_EQ(gauges.at("nv_trt_llm_kv_cache_block_metrics used"), 0);
  EXPECT_EQ(gauges.at("nv_trt_llm_kv_cache_block_metrics max"), 64);
  EXPECT_EQ(gauges.at("nv_trt_llm_kv_cache_block_metrics fraction"), 0);
  EXPECT_EQ(gauges.at("nv_trt_llm_inflight_batcher_metrics generation_requests"), 0);
  EXPECT(gauges.at("nv_trt_llm_general_metrics iteration_counter") >= 8);
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases(
      {
          {"one_response_without_streaming", one_response_without_streaming},
          {"prompt_left_out_on_demand", prompt_left_out_on_demand},
          {"streams_new_tokens_only", streams_new_tokens_only},
          {"tells_postprocessing_what_it_needs", tells_postprocessing_what_it_needs},
          {"pieces_join_while_the_last_waits_for_postprocessing",
           pieces_join_while_the_last_waits_for_postprocessing},
          {"log_probs_when_asked", log_probs_when_asked},
          {"only_outputs_asked_for", only_outputs_asked_for},
          {"tensors_in_pieces", tensors_in_pieces},
          {"ends_and_words", ends_and_words},
          {"bad_word_lists", bad_word_lists},
          {"refusals", refusals},
          {"defaults_of_the_refused", defaults_of_the_refused},
          {"streaming_needs_decoupled", streaming_needs_decoupled},
          {"stop_by_id", stop_by_id},
          {"stop_by_engine_request_id", stop_by_engine_request_id},
          {"cancelled_by_the_client", cancelled_by_the_client},
          {"final_response_to_nobody_waits", final_response_to_nobody_waits},
          {"unloading_does_not_wait_for_nobody", unloading_does_not_wait_for_nobody},
          {"engine_failure_reaches_each_request", engine_failure_reaches_each_request},
          {"queue_full", queue_full},
          {"unloading_ends_what_is_live", unloading_ends_what_is_live},
          {"gauges_outlive_an_earlier_load", gauges_outlive_an_earlier_load},
          {"gauges_end_idle", gauges_end_idle},
      },
      argc, argv);
}
