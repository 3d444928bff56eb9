// Loads of one model that follow each other closely. The test is Triton's core: it calls the entry
// points in its order, on a thread for each load, and shares counters between loads as it does
// (metric_model_reporter.cc): found by a weak pointer, taken from the page when their last owner is
// being destroyed, which takes a while here. A model owns them, too, to the end of the thread on
// which it ends.
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/cpp/testing.h"
#include "tests/cpp/triton/fake_triton.h"

extern "C" {
TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend*);
TRITONSERVER_Error* TRITONBACKEND_Finalize(TRITONBACKEND_Backend*);
TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model*);
TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model*);
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance*);
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance*);
}

namespace inflight::testing {
namespace {

constexpr auto kRemoval = std::chrono::milliseconds(2);

/// What the core counts with, on a page of metrics.
class Page {
 public:
  struct Reporter {
    ~Reporter() {
      std::this_thread::sleep_for(kRemoval);
      std::lock_guard lock(page.mutex_);
      page.counters_.erase(name);
    }
    Page& page;
    std::string name;
    std::shared_ptr<int> counter;  // the core's is a pointer to what the page owns
  };

  std::shared_ptr<Reporter> find_or_make(const std::string& name) {
    std::lock_guard making(making_);
    if (auto found = reporters_[name].lock()) return found;
    std::lock_guard lock(mutex_);
    std::shared_ptr<int>& counter = counters_[name];
    if (counter == nullptr) counter = std::make_shared<int>(0);
    auto made = std::make_shared<Reporter>(*this, name, counter);
    reporters_[name] = made;
    return made;
  }

  bool shows(const Reporter& reporter) {
    std::lock_guard lock(mutex_);
    const auto found = counters_.find(reporter.name);
    return found != counters_.end() && found->second == reporter.counter;
  }

 private:
  std::mutex making_, mutex_;
  std::map<std::string, std::weak_ptr<Reporter>> reporters_;
  std::map<std::string, std::shared_ptr<int>> counters_;
};

bool succeeded(TRITONSERVER_Error* error) {
  if (error == nullptr) return true;
  TRITONSERVER_ErrorDelete(error);
  return false;
}

/// A model as the core keeps it, from its load to its end.
class Loaded {
 public:
  Loaded(Page& page, const std::string& name, int num_instances = 1,
         const std::string& config = R"({"parameters": {"role": {"string_value": "relay"}}})") {
    model_.name = name;
    model_.config = config;
    has_begun_ = succeeded(TRITONBACKEND_ModelInitialize(&model_));
    if (has_begun_) reporter_ = page.find_or_make(name);
    for (int i = 0; has_begun_ && i < num_instances; ++i) {
      reporters_.push_back(page.find_or_make(name));
      instances_.push_back(std::make_unique<TRITONBACKEND_ModelInstance>(&model_));
      EXPECT(succeeded(TRITONBACKEND_ModelInstanceInitialize(instances_.back().get())));
    }
  }
  ~Loaded() {
    while (!instances_.empty()) end_one_instance();
    EXPECT(succeeded(TRITONBACKEND_ModelFinalize(&model_)));
  }

  void end_one_instance() {
    EXPECT(succeeded(TRITONBACKEND_ModelInstanceFinalize(instances_.back().get())));
    reporters_.pop_back();
    instances_.pop_back();
  }
  bool has_begun() const { return has_begun_; }
  const Page::Reporter& reporter() const { return *reporter_; }

 private:
  std::shared_ptr<Page::Reporter> reporter_;
  TRITONBACKEND_Model model_;
  std::vector<std::unique_ptr<TRITONBACKEND_ModelInstance>> instances_;
  std::vector<std::shared_ptr<Page::Reporter>> reporters_;
  bool has_begun_ = false;
};

struct Backend {
  Backend() { EXPECT(succeeded(TRITONBACKEND_Initialize(nullptr))); }
  ~Backend() { EXPECT(succeeded(TRITONBACKEND_Finalize(nullptr))); }
};

void a_load_keeps_its_counters_while_an_earlier_one_ends() {
  Backend backend;
  Page page;
  for (int num_instances = 1; num_instances <= 2; ++num_instances) {
    auto loaded = std::make_unique<Loaded>(page, "model", num_instances);
    for (int i = 0; i < 60; ++i) {
      std::thread end([earlier = std::move(loaded)]() mutable { earlier.reset(); });
      std::this_thread::sleep_for(kRemoval * (i % 6) / 4);
      loaded = std::make_unique<Loaded>(page, "model", num_instances);
      end.join();
      EXPECT(page.shows(loaded->reporter()));
    }
  }
}

void many_at_once() {
  Backend backend;
  Page page;
  std::vector<std::thread> threads;
  std::atomic<int> num_lost{0};
  for (int thread = 0; thread < 4; ++thread)
    threads.emplace_back([&] {
      for (int i = 0; i < 30; ++i) {
        auto loaded = std::make_unique<Loaded>(page, "model");
        num_lost += !page.shows(loaded->reporter());
        std::thread([&] { loaded.reset(); }).join();
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_lost.load(), 0);
}

void other_models_do_not_wait() {
  Backend backend;
  Page page;
  auto two = std::make_unique<Loaded>(page, "model", 2);
  two->end_one_instance();  // as one that is left out by a new configuration: the model serves on
  const Loaded same(page, "model");
  const Loaded other(page, "other");
  EXPECT(page.shows(same.reporter()));
}

void a_load_that_fails_holds_up_nobody() {
  Backend backend;
  Page page;
  const char* two_relays = R"({"instance_group": [{"count": 2}],
                               "parameters": {"role": {"string_value": "relay"}}})";
  for (int i = 0; i < 3; ++i) {
    EXPECT(!Loaded(page, "model", 2, two_relays).has_begun());
    EXPECT(Loaded(page, "model", 0).has_begun());  // the core fails between the two
    const Loaded loaded(page, "model");
    EXPECT(page.shows(loaded.reporter()));
  }
}

/// A core that ends models on a thread which lives on, as none that is known does.
void a_thread_that_does_not_end_is_not_waited_for_long() {
  Backend backend;
  Page page;
  std::unique_ptr<Loaded> earlier;
  std::thread([&] { earlier = std::make_unique<Loaded>(page, "model"); }).join();
  earlier.reset();
  const auto begin = std::chrono::steady_clock::now();
  const Loaded loaded(page, "model");
  EXPECT(page.shows(loaded.reporter()));
  EXPECT(std::chrono::steady_clock::now() - begin < std::chrono::seconds(10));
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases(
      {
          {"a_load_keeps_its_counters_while_an_earlier_one_ends",
           a_load_keeps_its_counters_while_an_earlier_one_ends},
          {"a_thread_that_does_not_end_is_not_waited_for_long",
           a_thread_that_does_not_end_is_not_waited_for_long},
          {"many_at_once", many_at_once},
          {"other_models_do_not_wait", other_models_do_not_wait},
          {"a_load_that_fails_holds_up_nobody", a_load_that_fails_holds_up_nobody},
      },
      argc, argv);
}
