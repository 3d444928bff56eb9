#include "backend/triton/load_turns.h"

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace inflight::triton {

namespace {

using Clock = std::chrono::steady_clock;

/// Of a thread that was to end and does not: the server's order is another than is known.
constexpr std::chrono::seconds kLongestEnd{1};

struct Calls {
  ~Calls() {
    for (const std::function<void()>& call : calls) call();
  }
  std::vector<std::function<void()>> calls;
};

/// glibc keeps the library loaded until it was called.
void at_thread_exit(std::function<void()> call) {
  thread_local Calls last;
  last.calls.push_back(std::move(call));
}

}  // namespace

class LoadTurns::Turns {
 public:
  using Key = std::pair<std::string, uint64_t>;
  struct Load {
    Key key;
    std::thread::id thread;
    int num_instances = 0;
  };
  using Loads = std::map<const void*, Load>;

  void begin(const void* model, Key key) {
    std::unique_lock lock(mutex_);
    const Load& load = loads_[model] = {std::move(key), std::this_thread::get_id()};
    take(model, load.key, lock);
  }

  void begin_instance(const void* model) {
    std::lock_guard lock(mutex_);
    const auto load = loads_.find(model);
    if (load == loads_.end()) return;
    ++load->second.num_instances;
    const auto turn = turns_.find(load->second.key);
    if (turn != turns_.end() && turn->second.model == model) give_back(turn);
  }

  void end_instance(const void* model) {
    std::unique_lock lock(mutex_);
    const auto load = loads_.find(model);
    if (load != loads_.end() && --load->second.num_instances == 0)
      take(model, load->second.key, lock);
  }

  /// The key of the turn that has yet to be given back, and its number.
  std::optional<std::pair<Key, uint64_t>> end(const void* model) {
    std::unique_lock lock(mutex_);
    const auto load = loads_.find(model);
    if (load == loads_.end()) return std::nullopt;  // it did not begin
    const auto [key, thread, num_instances] = std::move(load->second);
    loads_.erase(load);
    take(model, key, lock);
    const auto turn = turns_.find(key);
    if (thread == std::this_thread::get_id()) {
      give_back(turn);
      return std::nullopt;
    }
    turn->second.model = nullptr;  // its address may be the next one's
    turn->second.ends = Clock::now() + kLongestEnd;
    return std::pair(key, turn->second.number);
  }

  void give_back(const Key& key, uint64_t number) {
    std::lock_guard lock(mutex_);
    const auto turn = turns_.find(key);
    if (turn != turns_.end() && turn->second.number == number) give_back(turn);
  }

 private:
  struct Turn {
    const void* model;
    uint64_t number;
    Clock::time_point ends = Clock::time_point::max();
  };

  void take(const void* model, const Key& key, std::unique_lock<std::mutex>& lock) {
    for (;;) {
      const auto turn = turns_.find(key);
      if (turn == turns_.end() || turn->second.ends <= Clock::now()) break;
      if (turn->second.model == model) return;
      if (turn->second.ends == Clock::time_point::max())
        changed_.wait(lock);
      else
        changed_.wait_until(lock, turn->second.ends);
    }
    turns_[key] = {model, ++num_turns_};
  }

  void give_back(std::map<Key, Turn>::iterator turn) {
    turns_.erase(turn);
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  Loads loads_;
  std::map<Key, Turn> turns_;
  uint64_t num_turns_ = 0;
};

LoadTurns::LoadTurns() : turns_(std::make_shared<Turns>()) {}
LoadTurns::~LoadTurns() = default;

void LoadTurns::model_begun(const void* model, const std::string& name, uint64_t version) {
  turns_->begin(model, {name, version});
}
void LoadTurns::instance_begins(const void* model) { turns_->begin_instance(model); }
void LoadTurns::instance_ended(const void* model) { turns_->end_instance(model); }

void LoadTurns::model_ends(const void* model) {
  const auto turn = turns_->end(model);
  if (turn)
    at_thread_exit([turns = turns_, key = turn->first, number = turn->second] {
      turns->give_back(key, number);
    });
}

}  // namespace inflight::triton
