// Other models of the server in memory: a test says what each does with a request of the backend's,
// at once or later, on any thread.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "tests/cpp/triton/fake_triton.h"

namespace inflight::testing {

/// A request that the backend makes.
class FakeCall {
 public:
  std::string model, id;
  std::map<std::string, std::string> parameters;  // as texts
  std::vector<FakeTensor> inputs;
  std::vector<std::string> outputs;
  std::atomic<bool> cancelled = false;

  const FakeTensor* find(const std::string& name) const {
    for (const FakeTensor& input : inputs)
      if (input.name == name) return &input;
    return nullptr;
  }
  void respond(std::vector<FakeTensor> tensors, bool is_final = true);
  void fail(TRITONSERVER_Error_Code code, const std::string& message, bool is_final = true);
  void end();  // by flags alone
};
using FakeCallPtr = std::shared_ptr<FakeCall>;

/// What the model does with a call, on the thread that makes it. Without one there is no such
/// model.
void fake_model(const std::string& name, std::function<void(FakeCallPtr)> does);
void fake_no_models();

/// Requests, responses and allocators of calls that are alive.
int fake_call_objects();

}  // namespace inflight::testing
