// The BLS over canned models: which tensors reach whom, one piece of text at a time, errors of each
// step, clients that leave, exactly one final response.
#include <chrono>
#include <thread>

#include "backend/triton/bls_instance.h"
#include "tests/cpp/testing.h"
#include "tests/cpp/triton/fake_calls.h"

namespace inflight::testing {
namespace {

using RequestPtr = std::unique_ptr<TRITONBACKEND_Request>;
using std::chrono::milliseconds;

triton::BlsSettings small_settings(bool decoupled = true) {
  triton::BlsSettings settings;
  settings.preprocessing = {
      "pre", {{"QUERY", "text_input"}, {"LENGTH", "max_tokens"}}, {{"IDS", "_IDS"}}};
  settings.generation = {"engine",
                         {{"input_ids", "_IDS"}, {"streaming", "stream"}, {"seed", "seed"}},
                         {{"output_ids", "_SAID"},
                          {"batch_index", "batch_index"},
                          {"sequence_index", "sequence_index"},
                          {"cum_log_probs", "cum_log_probs"}}};
  settings.postprocessing = {"post", {{"TOKENS", "_SAID"}}, {{"OUTPUT", "text_output"}}};
  settings.decoupled = decoupled;
  return settings;
}

FakeTensor text_tensor(const std::string& name, const std::string& text) {
  TRITONBACKEND_Request maker;
  maker.text(name, text);
  return maker.inputs[0].tensor;
}

std::string text_of(const FakeTensor* tensor) {
  if (tensor == nullptr || tensor->bytes.size() < 4) return "";
  return {tensor->bytes.begin() + 4, tensor->bytes.end()};
}

FakeTensor number_tensor(const std::string& name, int32_t value) {
  TRITONBACKEND_Request maker;
  maker.number(name, value);
  return maker.inputs[0].tensor;
}

/// A call as the engine's model or postprocessing got it, when it got it.
struct Inbox {
  void put(FakeCallPtr call) {
    std::lock_guard lock(mutex);
    calls.push_back(std::move(call));
    changed.notify_all();
  }
  FakeCallPtr wait_for(size_t index) {
    std::unique_lock lock(mutex);
    const auto has_come = [&] { return calls.size() > index; };
    if (!changed.wait_for(lock, std::chrono::seconds(20), has_come))
      throw Error(ErrorCode::kTimedOut, concat("no call ", index));
    return calls[index];
  }
  size_t size() {
    std::lock_guard lock(mutex);
    return calls.size();
  }
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<FakeCallPtr> calls;
};

/// Preprocessing and postprocessing answer at once, the engine when the test says so.
struct Server {
  explicit Server(triton::BlsSettings settings = small_settings())
      : instance(std::make_unique<triton::BlsInstance>(nullptr, nullptr, std::move(settings))) {
    fake_model("pre", [this](const FakeCallPtr& call) {
      preprocessed.put(call);
      call->respond({text_tensor("IDS", "ids of " + text_of(call->find("QUERY")))});
    });
    fake_model("engine", [this](const FakeCallPtr& call) { generated.put(call); });
    fake_model("post", [this](const FakeCallPtr& call) {
      texted.put(call);
      call->respond({text_tensor("OUTPUT", "<" + text_of(call->find("TOKENS")) + ">")});
    });
  }
  ~Server() { close(); }
  void close() {
    instance.reset();
    fake_no_models();
    EXPECT_EQ(fake_call_objects(), 0);
    EXPECT_EQ(fake_counts().errors.load(), 0);
    EXPECT_EQ(fake_counts().factories.load(), 0);
    EXPECT_EQ(fake_counts().responses.load(), 0);
  }
  static RequestPtr make_request(const std::string& text = "abc") {
    auto request = std::make_unique<TRITONBACKEND_Request>();
    request->id = "of the client";
    request->text("text_input", text).number("max_tokens", 5).flag("stream", true);
    for (const char* name : {"text_output", "batch_index", "sequence_index", "cum_log_probs"})
      request->outputs.emplace_back(name);
    return request;
  }
  void send(const RequestPtr& request) const {
    TRITONBACKEND_Request* pointer = request.get();
    instance->execute(&pointer, 1);
  }
  static const std::vector<FakeAnswer>& ended(const RequestPtr& request) {
    request->wait_until_released();
    std::lock_guard lock(request->mutex);
    EXPECT_EQ(request->num_released, 1);
    EXPECT_EQ(request->num_finals, 1);
    EXPECT_EQ(request->num_statistics, 1);
    return request->answers;
  }
  /// Of a request that ends at once.
  FakeAnswer error_of(const RequestPtr& request) const {
    send(request);
    const auto& answers = ended(request);
    EXPECT_EQ(answers.size(), 1u);
    EXPECT(answers.back().error.has_value() && !request->success);
    return answers.back();
  }

  Inbox preprocessed, generated, texted;
  std::unique_ptr<triton::BlsInstance> instance;
};

std::vector<std::string> texts(const std::vector<FakeAnswer>& answers) {
  std::vector<std::string> all;
  for (const FakeAnswer& answer : answers) all.push_back(text_of(answer.find("text_output")));
  return all;
}

bool equal(const std::vector<std::string>& left, const std::vector<std::string>& right) {
  return left == right;
}

void tensors_go_by_their_names() {
  Server server;
  const RequestPtr request = Server::make_request();
  request->parameters = {{"tenant", "team"}};
  request->outputs = {"text_output", "cum_log_probs"};
  server.send(request);
  const FakeCallPtr first = server.preprocessed.wait_for(0);
  EXPECT_EQ(first->inputs.size(), 2u);
  EXPECT_EQ(text_of(first->find("QUERY")), "abc");
  EXPECT(equal(first->outputs, {"IDS"}));
  const FakeCallPtr generation = server.generated.wait_for(0);
  EXPECT_EQ(generation->id, "of the client");
  EXPECT_EQ(generation->parameters["tenant"], "team");
  EXPECT_EQ(generation->inputs.size(), 2u);  // seed was not given
  EXPECT_EQ(text_of(generation->find("input_ids")), "ids of abc");
  EXPECT_EQ(generation->find("streaming")->bytes.size(), 1u);
  EXPECT(
      equal(generation->outputs, {"output_ids", "batch_index", "sequence_index", "cum_log_probs"}));
  generation->respond({text_tensor("output_ids", "x"), number_tensor("batch_index", 3)}, false);
  generation->respond({text_tensor("output_ids", "y"), number_tensor("cum_log_probs", -2)});
  const auto& answers = Server::ended(request);
  EXPECT(request->success);
  EXPECT(equal(texts(answers), {"<x>", "<y>"}));
  EXPECT(!answers[0].is_final && answers[1].is_final);
  EXPECT_EQ(answers[0].outputs.size(), 1u);  // batch_index was not asked for
  EXPECT_EQ(answers[1].find("cum_log_probs")->values<int32_t>()[0], -2);
  const FakeCallPtr piece = server.texted.wait_for(1);
  EXPECT_EQ(piece->inputs.size(), 1u);
  EXPECT_EQ(text_of(piece->find("TOKENS")), "y");
}

/// However fast the engine is: texts may overtake each other on their way through the server.
void one_piece_is_made_text_at_a_time() {
  Server server;
  fake_model("post", [&](const FakeCallPtr& call) { server.texted.put(call); });
  const RequestPtr request = Server::make_request();
  server.send(request);
  const FakeCallPtr generation = server.generated.wait_for(0);
  for (const char* piece : {"a", "b", "c"})
    generation->respond({text_tensor("output_ids", piece)}, /*is_final=*/*piece == 'c');
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(server.texted.size(), i + 1);
    const FakeCallPtr piece = server.texted.wait_for(i);
    piece->respond({text_tensor("OUTPUT", text_of(piece->find("TOKENS")))});
  }
  EXPECT(equal(texts(Server::ended(request)), {"a", "b", "c"}));
}

/// A stream may end without a last piece.
void an_end_by_flags_alone() {
  for (const int num_pieces : {0, 1}) {
    Server server;
    const RequestPtr request = Server::make_request();
    server.send(request);
    const FakeCallPtr generation = server.generated.wait_for(0);
    if (num_pieces == 1) generation->respond({text_tensor("output_ids", "a")}, false);
    generation->end();
    EXPECT_EQ(Server::ended(request).size(), static_cast<size_t>(num_pieces));
  }
}

void pieces_accumulate_by_row_and_sequence() {
  triton::BlsSettings settings = small_settings();
  settings.accumulate_tokens = true;
  Server server(settings);
  const RequestPtr request = Server::make_request();
  request->outputs = {"text_output"};
  server.send(request);
  const FakeCallPtr generation = server.generated.wait_for(0);
  const auto say = [&](const char* piece, int row, int sequence) {
    generation->respond({text_tensor("output_ids", piece), number_tensor("batch_index", row),
                         number_tensor("sequence_index", sequence)},
                        /*is_final=*/*piece == 'e');
  };
  say("a", 0, 0);
  say("b", 1, 0);
  say("c", 0, 1);
  say("d", 0, 0);
  say("e", 1, 0);
  EXPECT(equal(texts(Server::ended(request)), {"<a>", "<b>", "<c>", "<a><d>", "<b><e>"}));
}

void a_model_that_is_not_decoupled_answers_once() {
  Server server(small_settings(/*decoupled=*/false));
  const RequestPtr request = Server::make_request();
  server.send(request);
  server.generated.wait_for(0)->respond({text_tensor("output_ids", "a")}, false);
  server.generated.wait_for(0)->end();
  EXPECT(equal(texts(Server::ended(request)), {"<a>"}));
  EXPECT(request->answers[0].is_final);

  const RequestPtr stream = Server::make_request();
  server.send(stream);
  const FakeCallPtr generation = server.generated.wait_for(1);
  generation->respond({text_tensor("output_ids", "a")}, false);
  generation->respond({text_tensor("output_ids", "b")}, false);
  EXPECT(generation->cancelled);
  generation->end();
  const auto& answers = Server::ended(stream);
  EXPECT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].error.value_or(""),
            "engine sent more than one response; a request with several rows or sequences, or a "
            "stream, needs a model that is decoupled");

  const RequestPtr nothing = Server::make_request();
  server.send(nothing);
  server.generated.wait_for(2)->end();
  EXPECT_EQ(Server::ended(nothing)[0].error.value_or(""), "engine gave no response");
}

void bad_requests_reach_no_model() {
  Server server;
  const auto message = [&](const RequestPtr& request) {
    const FakeAnswer answer = server.error_of(request);
    EXPECT_EQ(answer.code, TRITONSERVER_ERROR_INVALID_ARG);
    return answer.error.value_or("");
  };
  EXPECT_EQ(message(Server::make_request("")), "text_input is empty");
  const RequestPtr longer = Server::make_request();
  longer->inputs[1].tensor = number_tensor("max_tokens", -3);
  EXPECT_EQ(message(longer), "max_tokens is -3, expected at least 1");
  const RequestPtr other = Server::make_request();
  other->number("num_draft_tokens", 4);
  EXPECT_EQ(message(other), "input tensor num_draft_tokens is not supported yet");
  const RequestPtr broken = Server::make_request();
  broken->inputs[0].tensor.bytes[0] = 200;
  EXPECT_EQ(message(broken), "tensor text_input: a text leads beyond its 7 bytes");
  EXPECT_EQ(server.preprocessed.size(), 0u);

  const RequestPtr defaults = Server::make_request();
  defaults->number("num_draft_tokens", 0).text("image_url_input", "");
  server.send(defaults);
  server.generated.wait_for(0)->respond({text_tensor("output_ids", "a")});
  EXPECT(!Server::ended(defaults)[0].error.has_value());
}

void errors_of_each_step() {
  Server server;
  fake_model("pre",
             [](const FakeCallPtr& call) { call->fail(TRITONSERVER_ERROR_INVALID_ARG, "words"); });
  FakeAnswer answer = server.error_of(Server::make_request());
  EXPECT_EQ(answer.error.value_or(""), "words");
  EXPECT_EQ(answer.code, TRITONSERVER_ERROR_INVALID_ARG);
  fake_model("pre", {});  // it is there and takes nothing
  answer = server.error_of(Server::make_request());
  EXPECT_EQ(answer.error.value_or(""), "not ready");
  EXPECT_EQ(answer.code, TRITONSERVER_ERROR_UNAVAILABLE);
  fake_no_models();
  EXPECT_EQ(server.error_of(Server::make_request()).code, TRITONSERVER_ERROR_NOT_FOUND);
  fake_model("pre", [](const FakeCallPtr& call) { call->respond({}); });
  answer = server.error_of(Server::make_request());
  EXPECT_EQ(answer.error.value_or(""), "unknown model");
}

/// An error of one row ends the others, and is told when they have; nothing is sent meanwhile.
void an_error_of_a_row_waits_for_the_others() {
  Server server;
  const RequestPtr request = Server::make_request();
  server.send(request);
  const FakeCallPtr generation = server.generated.wait_for(0);
  generation->respond({text_tensor("output_ids", "a")}, false);
  EXPECT(!generation->cancelled);
  generation->fail(TRITONSERVER_ERROR_UNAVAILABLE, "no blocks", /*is_final=*/false);
  EXPECT(generation->cancelled);  // the others' text is for nobody
  generation->respond({text_tensor("output_ids", "b")}, false);
  generation->fail(TRITONSERVER_ERROR_INTERNAL, "another", /*is_final=*/false);
  EXPECT_EQ(request->num_finals, 0);
  generation->respond({text_tensor("output_ids", "c")});
  const auto& answers = Server::ended(request);
  EXPECT_EQ(answers.size(), 2u);
  EXPECT_EQ(answers[1].error.value_or(""), "no blocks");
  EXPECT_EQ(answers[1].code, TRITONSERVER_ERROR_UNAVAILABLE);
}

void text_that_fails_ends_the_generation() {
  Server server;
  fake_model("post",
             [](const FakeCallPtr& call) { call->fail(TRITONSERVER_ERROR_INTERNAL, "no text"); });
  const RequestPtr request = Server::make_request();
  server.send(request);
  const FakeCallPtr generation = server.generated.wait_for(0);
  EXPECT(!generation->cancelled);
  generation->respond({text_tensor("output_ids", "a")}, false);
  EXPECT(generation->cancelled);
  EXPECT_EQ(request->num_finals, 0);  // the engine still runs
  generation->respond({text_tensor("output_ids", "b")});
  const auto& answers = Server::ended(request);
  EXPECT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].error.value_or(""), "no text");
}

void a_response_without_memory_is_an_error() {
  Server server;
  const RequestPtr request = Server::make_request();
  server.send(request);
  const FakeCallPtr generation = server.generated.wait_for(0);
  fake_refuse_outputs(1);
  generation->respond({text_tensor("output_ids", "a")}, false);
  generation->respond({text_tensor("output_ids", "b")});
  EXPECT_EQ(Server::ended(request).back().error.value_or(""), "OutputBuffer: no memory for it");

  const RequestPtr last = Server::make_request();
  server.send(last);
  fake_refuse_outputs(1);
  server.generated.wait_for(1)->respond({text_tensor("output_ids", "a")});
  EXPECT_EQ(Server::ended(last).back().error.value_or(""), "OutputBuffer: no memory for it");
  EXPECT_EQ(fake_counts().dropped.load(), 0);
}

bool soon(const std::function<bool()>& holds) {
  for (int i = 0; i < 2000 && !holds(); ++i) std::this_thread::sleep_for(milliseconds(1));
  return holds();
}

/// It is asked for without any response of the engine, hears nothing more, and the final response
/// comes a while after the cancellation.
void a_client_that_leaves_ends_the_generation() {
  Server server;
  const RequestPtr request = Server::make_request(), other = Server::make_request();
  server.send(request);
  server.send(other);
  const FakeCallPtr generation = server.generated.wait_for(0);
  request->cancelled = true;
  EXPECT(soon([&] { return generation->cancelled.load(); }));
  const auto before = std::chrono::steady_clock::now();
  generation->respond({text_tensor("output_ids", "a")}, false);
  generation->respond({text_tensor("output_ids", "b")});
  const auto& answers = Server::ended(request);
  EXPECT(std::chrono::steady_clock::now() - before >= triton::kQuietTime);
  EXPECT_EQ(answers.size(), 1u);
  EXPECT(!server.generated.wait_for(1)->cancelled);
  server.generated.wait_for(1)->respond({text_tensor("output_ids", "c")});
  EXPECT(equal(texts(Server::ended(other)), {"<c>"}));
}

void a_client_that_leaves_before_the_generation() {
  Server server;
  fake_model("pre", [&](const FakeCallPtr& call) { server.preprocessed.put(call); });
  const RequestPtr request = Server::make_request();
  server.send(request);
  request->cancelled = true;
  EXPECT(soon([&] { return request->num_told_cancelled > 0; }));
  std::this_thread::sleep_for(milliseconds(5));
  server.preprocessed.wait_for(0)->respond({text_tensor("IDS", "x")});
  const FakeCallPtr generation = server.generated.wait_for(0);
  EXPECT(generation->cancelled);
  generation->respond({text_tensor("output_ids", "")});
  EXPECT_EQ(Server::ended(request).size(), 1u);
}

/// An instance that goes ends what runs and waits for it.
void nothing_outlives_its_instance() {
  Server server;
  const RequestPtr request = Server::make_request();
  server.send(request);
  const FakeCallPtr generation = server.generated.wait_for(0);
  std::thread engine([&] {
    EXPECT(soon([&] { return generation->cancelled.load(); }));
    generation->respond({text_tensor("output_ids", "a")});
  });
  server.close();
  EXPECT_EQ(request->num_released, 1);
  engine.join();
}

/// Clients, engine and text on threads of their own.
void many_at_once() {
  constexpr int kNumClients = 8, kNumRequests = 50, kNumPieces = 5;
  Server server;
  std::vector<std::thread> threads;
  std::mutex mutex;
  const auto later = [&](std::function<void()> call) {
    std::lock_guard lock(mutex);
    threads.emplace_back(std::move(call));
  };
  fake_model("engine", [&](const FakeCallPtr& call) {
    later([call] {
      for (int i = 0; i < kNumPieces; ++i)
        call->respond({text_tensor("output_ids", std::to_string(i))}, i + 1 == kNumPieces);
    });
  });
  std::vector<std::thread> clients;
  std::atomic<int> num_right = 0;
  for (int client = 0; client < kNumClients; ++client) {
    clients.emplace_back([&, client] {
      for (int i = 0; i < kNumRequests; ++i) {
        const RequestPtr request = Server::make_request();
        server.send(request);
        if ((client + i) % 3 == 0) request->cancelled = true;
        const auto& answers = Server::ended(request);
        num_right +=
            request->cancelled || equal(texts(answers), {"<0>", "<1>", "<2>", "<3>", "<4>"});
      }
    });
  }
  for (std::thread& client : clients) client.join();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_right.load(), kNumClients * kNumRequests);
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases(
      {
          {"tensors_go_by_their_names", tensors_go_by_their_names},
          {"one_piece_is_made_text_at_a_time", one_piece_is_made_text_at_a_time},
          {"an_end_by_flags_alone", an_end_by_flags_alone},
          {"pieces_accumulate_by_row_and_sequence", pieces_accumulate_by_row_and_sequence},
          {"a_model_that_is_not_decoupled_answers_once",
           a_model_that_is_not_decoupled_answers_once},
          {"bad_requests_reach_no_model", bad_requests_reach_no_model},
          {"errors_of_each_step", errors_of_each_step},
          {"an_error_of_a_row_waits_for_the_others", an_error_of_a_row_waits_for_the_others},
          {"text_that_fails_ends_the_generation", text_that_fails_ends_the_generation},
          {"a_response_without_memory_is_an_error", a_response_without_memory_is_an_error},
          {"a_client_that_leaves_ends_the_generation", a_client_that_leaves_ends_the_generation},
          {"a_client_that_leaves_before_the_generation",
           a_client_that_leaves_before_the_generation},
          {"nothing_outlives_its_instance", nothing_outlives_its_instance},
          {"many_at_once", many_at_once},
      },
      argc, argv);
}
