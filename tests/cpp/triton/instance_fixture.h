// An instance of the backend over the scripted model and the server in memory, and what its tests
// ask of answers.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/triton/backend_state.h"
#include "backend/triton/instance_state.h"
#include "tests/cpp/engine_fixture.h"
#include "tests/cpp/triton/fake_triton.h"

namespace inflight::testing {

using RequestPtr = std::unique_ptr<TRITONBACKEND_Request>;
using Ids = std::vector<int32_t>;

struct Backend {
  /// `beside`: another instance of the same server.
  explicit Backend(bool decoupled = true, executor::EngineConfig config = {},
                   const Backend* beside = nullptr, triton::ModelSettings others = {},
                   const EngineInfo& info = small_info())
      : settings(std::move(others)) {
    if (beside != nullptr)
      families = beside->families;
    else
      families = std::make_shared<triton::MetricFamilies>();
    settings.name = "tensorrt_llm";
    settings.version = 1;
    settings.reader.decoupled = decoupled;
    auto engine =
        std::make_unique<Engine>(info, config, std::make_unique<ScriptedExecutor>(info, script));
    state = std::make_unique<triton::InstanceState>(
        nullptr, settings, *families, std::move(engine),
        [this] { shared->take_out_of_service(nullptr, settings.name); });
  }
  ~Backend() { close(); }
  void close() {
    script->gate.open();
    state.reset();
    shared.reset();  // waits for what it still does
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

  // But for the families, which instances may share here.
  std::optional<triton::BackendState> shared{std::in_place};
  triton::ModelSettings settings;
  std::shared_ptr<triton::MetricFamilies> families;
  std::shared_ptr<Script> script = std::make_shared<Script>();
  std::unique_ptr<triton::InstanceState> state;
};

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

#define EXPECT_CONTAINS(text, part)                                                       \
  do {                                                                                    \
    const std::string whole = (text);                                                     \
    if (!contains(whole, part))                                                           \
      ::inflight::testing::fail(__FILE__, __LINE__, "'", part, "' not in '", whole, "'"); \
  } while (false)

inline Ids output_ids(const FakeAnswer& answer) {
  const FakeTensor* tensor = answer.find("output_ids");
  return tensor == nullptr ? Ids{} : tensor->values<int32_t>();
}

/// Of a request with a text context that has an answer, and may get more.
inline int64_t engine_request_id(TRITONBACKEND_Request& request) {
  std::lock_guard lock(request.mutex);
  return request.answers.at(0).find("response_state")->values<int64_t>()[0];
}

inline Ids joined(const std::vector<FakeAnswer>& answers) {
  Ids all;
  for (const FakeAnswer& answer : answers) {
    const Ids ids = output_ids(answer);
    all.insert(all.end(), ids.begin(), ids.end());
  }
  return all;
}

}  // namespace inflight::testing
