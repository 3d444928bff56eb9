#include "backend/executor/engine.h"

#include <chrono>
#include <condition_variable>
#include <future>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "backend/executor/admission.h"
#include "backend/executor/cache_groups.h"
#include "backend/executor/config.h"
#include "backend/executor/engine_loop.h"
#include "backend/executor/inbox.h"
#include "backend/executor/logits_budget.h"
#include "backend/executor/model_executor.h"
#include "backend/executor/prefix_transfer.h"
#include "backend/executor/response_queue.h"
#include "backend/executor/watchdog.h"
#include "backend/kv_cache/geometry.h"
#include "backend/plan/engine_file.h"
#include "kernels/core/check.h"
#include "kernels/core/log.h"

namespace inflight::executor {
namespace {

struct Loaded {
  EngineInfo info;
  std::unique_ptr<ModelExecutor> executor;
  std::string memory_plan;
};

Loaded load(const EngineConfig& config) {
  plan::EngineFile file = plan::load_engine_file(config.engine_dir);
  Loaded loaded;
  loaded.info = effective_limits(config, file);
  auto executor = std::make_unique<RankExecutor>(std::move(file), config, loaded.info);
  const int32_t longest = kv_cache::Geometry(loaded.info.tokens_per_block)
                              .num_blocks(kv_cache::max_cached_tokens(loaded.info.max_seq_len));
  if (shown_pool(loaded.info) < 0 && loaded.info.num_blocks < longest) {
    log(LogLevel::kWarning, "the KV cache of ", loaded.info.num_blocks,
        " blocks is smaller than one sequence of max_seq_len ", loaded.info.max_seq_len, " (",
        longest, " blocks): longer requests will be refused");
  }
  if (config.kv_cache_host_memory_bytes > 0 && loaded.info.num_host_blocks == 0) {
    log(LogLevel::kWarning, "kv_cache_host_memory_bytes is without effect: this engine ",
        loaded.info.enable_kv_cache_reuse ? "has layers with windows, whose blocks do not go there"
                                          : "does not use blocks of earlier prompts again");
  }
  loaded.memory_plan = memory_table(loaded.info, executor->free_bytes());
  loaded.executor = std::move(executor);
  log(LogLevel::kInfo, "loaded ", config.engine_dir.string(), " (", loaded.info.architecture, ", ",
      loaded.info.dtype, ", ", loaded.info.device, ")\n", loaded.memory_plan);
  return loaded;
}

/// How long an idle engine looks for a request before it sleeps: as long as a caller takes who asks
/// again at once. A device that computes by itself leaves a processor for it.
std::chrono::microseconds idle_spin(const ModelExecutor& executor) {
  return std::chrono::microseconds(executor.max_steps_in_flight() > 1 ? 300 : 0);
}

/// What an engine thread that hangs is given, at most, to come back before the engine ends without
/// it: no longer than the step that hangs was given.
constexpr std::chrono::milliseconds kMaxHangPatience{2000};

std::unique_ptr<kv_cache::CacheEventLog> make_event_log(const EngineConfig& config) {
  const int64_t size = config.kv_cache_event_buffer_max_size;
  check(size >= 0, "kv_cache_event_buffer_max_size is ", size, ", must be 0 (none) or more");
  return size == 0 ? nullptr : std::make_unique<kv_cache::CacheEventLog>(size);
}

LoopOptions loop_options(const EngineConfig& config, kv_cache::CacheEventLog* events) {
  return {.check_invariants = config.check_invariants,
          .queue_timeout = config.queue_timeout,
          .keeps_dump = config.step_timeout.count() > 0,
          .events = events};
}

}  // namespace

class Engine::Impl {
 public:
  Impl(Loaded loaded, const EngineConfig& config)
      : info(std::move(loaded.info)),
        memory_plan(std::move(loaded.memory_plan)),
        limits(scheduler_limits(info, config)),
        executor(std::move(loaded.executor)),
        events(make_event_log(config)),
        logits(logits_limit(config, free_host_bytes())),
        inbox(config.max_queue_size, idle_spin(*executor)),
        responses(config.callbacks_return_at_once),
        loop(info, limits, loop_options(config, events.get()), *executor, inbox, responses),
        step_timeout(config.step_timeout) {
    thread = std::thread([this] { run(); });
    if (step_timeout.count() > 0)
      watchdog.emplace(step_timeout, loop.heartbeat(), [this](auto took) { abandon(took); });
  }

  ~Impl() { shut_down(); }

  void run() {
    loop.run();
    if (!loop.is_healthy()) report_failure(loop.cause_of_death());
    std::unique_lock lock(end_mutex);
    has_ended = true;
    const bool owns_itself = is_orphan;
    end_changed.notify_all();
    lock.unlock();
    if (owns_itself) delete this;
  }

  /// Whether the engine thread, which hangs, owns this from now on.
  bool leave_to_thread() {
    std::lock_guard lock(end_mutex);
    is_orphan = !has_ended;
    return is_orphan;
  }

  /// The engine thread does not come back from a step: its requests are ended without it.
  void abandon(std::chrono::milliseconds took) {
    const std::string why = concat("the engine hangs: a step has taken ", took.count(),
                                   " ms so far, step_timeout_ms is ", step_timeout.count());
    log(LogLevel::kError, why, "\n", loop.newest_dump());
    loop.give_up();
    inbox.close(Error(ErrorCode::kUnavailable, why));
    std::vector<Arrival> arrivals;
    std::vector<RequestId> cancels;
    std::vector<EngineTask> tasks;
    inbox.take(arrivals, cancels, tasks, /*wait=*/false);
    for (const EngineTask& task : tasks) task(nullptr, nullptr);
    for (Arrival& arrival : arrivals) responses.adopt(std::move(arrival.channel));
    {
      std::lock_guard lock(end_mutex);
      is_abandoned = true;
      stats_at_abandonment = loop.stats();
    }
    end_changed.notify_all();
    responses.abandon(Error(ErrorCode::kInternal, why));
    report_failure(why);
  }

  void report_failure(const std::string& why) {
    std::function<void(const std::string&)> callback;
    {
      std::lock_guard lock(failure_mutex);
      callback = std::exchange(failure_callback, nullptr);  // a thread that comes back is no news
    }
    if (callback) callback(why);
  }

  kv_cache::CacheEventLog& event_log() {
    check(events != nullptr, "kv_cache_event_buffer_max_size is 0: no events are kept");
    return *events;
  }

  void shut_down() {
    std::lock_guard lock(shut_down_mutex);
    if (events) events->close();
    if (!thread.joinable()) return;
    inbox.close(Error(ErrorCode::kCancelled, "the engine is shutting down"));
    std::unique_lock ending(end_mutex);
    end_changed.wait(ending, [this] { return has_ended || is_abandoned; });
    const bool came_back = end_changed.wait_for(ending, std::min(kMaxHangPatience, step_timeout),
                                                [this] { return has_ended; });
    ending.unlock();
    watchdog.reset();
    if (came_back) {
      thread.join();
    } else {
      log(LogLevel::kError, "the engine's thread still hangs: it and its memory are left behind");
      thread.detach();
    }
    responses.stop();  // delivers what is left; callbacks may still ask the rest of the engine
  }

  const EngineInfo info;
  const std::string memory_plan;
  const scheduler::Limits limits;
  std::unique_ptr<ModelExecutor> executor;
  const std::unique_ptr<kv_cache::CacheEventLog> events;  // null: none are kept
  const LogitsBudget logits;
  Inbox inbox;
  ResponseQueue responses;
  EngineLoop loop;
  const std::chrono::milliseconds step_timeout;
  std::mutex failure_mutex;
  std::function<void(const std::string&)> failure_callback;  // under failure_mutex
  std::mutex end_mutex;
  std::condition_variable end_changed;
  bool has_ended = false;            // the engine thread; under end_mutex
  bool is_abandoned = false;         // under end_mutex
  EngineStats stats_at_abandonment;  // under end_mutex
  bool is_orphan = false;            // the engine thread deletes this; under end_mutex
  std::thread thread;
  std::optional<Watchdog> watchdog;
  std::mutex shut_down_mutex;
};

Engine::Engine(const EngineConfig& config) : impl_(std::make_unique<Impl>(load(config), config)) {}

Engine::Engine(const EngineInfo& info, const EngineConfig& config,
               std::unique_ptr<ModelExecutor> executor)
    : impl_(std::make_unique<Impl>(Loaded{info, std::move(executor), ""}, config)) {}

Engine::~Engine() {
  impl_->shut_down();
  if (impl_->leave_to_thread()) (void)impl_.release();
}

RequestId Engine::submit(std::shared_ptr<const Request> request, ResponseCallback callback) {
  std::vector<Submission> one;
  one.push_back({std::move(request), std::move(callback)});
  return submit(std::move(one)).front();
}

std::vector<RequestId> Engine::submit(std::vector<Submission> submissions) {
  const int64_t now_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(
                             std::chrono::steady_clock::now().time_since_epoch())
                             .count();
  std::vector<int> lengths;
  for (Submission& submission : submissions) {
    const Request& request = *submission.request;
    lengths.push_back(admit(request, impl_->info, impl_->limits));
    const int64_t bytes = logits_bytes(request, impl_->info, lengths.back());
    if (bytes > 0)
      submission.callback = impl_->logits.charged(bytes, std::move(submission.callback));
  }
  return impl_->inbox.submit(std::move(submissions), lengths, now_ns);
}

namespace {

/// What `work(cache, executor)` answers or raises, on the engine thread.
template <typename Work>
auto on_engine_thread(Inbox& inbox, const Work& work) {
  using Result =
      decltype(work(std::declval<kv_cache::KvCacheManager&>(), std::declval<ModelExecutor&>()));
  std::optional<Result> result;
  std::optional<Error> error;  // the engine thread holds nothing of it when we read it
  std::promise<void> done;     // outlives the task: we wait
  inbox.run([&](kv_cache::KvCacheManager* cache, ModelExecutor* executor) {
    try {
      if (cache == nullptr) throw Error(ErrorCode::kUnavailable, "the engine has ended");
      result = work(*cache, *executor);
    } catch (const Error& raised) {
      error = raised;
    } catch (const std::exception& raised) {
      error.emplace(ErrorCode::kInternal, raised.what());
    }
    done.set_value();
  });
  done.get_future().get();
  if (error) throw *error;
  return *std::move(result);
}

}  // namespace

kv_cache::CacheEvents Engine::kv_cache_events(std::chrono::nanoseconds timeout) {
  return impl_->event_log().take(timeout);
}

kv_cache::CacheEvents Engine::read_kv_cache_events(int64_t first_id, int64_t max_tokens) {
  return impl_->event_log().read(first_id, max_tokens);
}

ExportedPrefix Engine::export_prefix(std::span<const int32_t> token_ids,
                                     const kv_cache::PrefixScope& scope) {
  return on_engine_thread(
      impl_->inbox, [&](kv_cache::KvCacheManager& cache, ModelExecutor& executor) {
        return executor::export_prefix(cache, executor, impl_->info, token_ids, scope);
      });
}

void Engine::import_prefix(const ExportedPrefix& prefix, const kv_cache::PrefixScope& scope) {
  on_engine_thread(impl_->inbox, [&](kv_cache::KvCacheManager& cache, ModelExecutor& executor) {
    executor::import_prefix(cache, executor, impl_->info, prefix, scope);
    return true;
  });
}

void Engine::cancel(RequestId id) { impl_->inbox.cancel(id); }

void Engine::shut_down() { impl_->shut_down(); }

const EngineInfo& Engine::info() const { return impl_->info; }

const std::string& Engine::memory_plan() const { return impl_->memory_plan; }

EngineStats Engine::stats() const {
  EngineStats stats = impl_->loop.stats();
  std::lock_guard lock(impl_->end_mutex);
  if (impl_->is_abandoned) {  // all have been answered, whatever that thread still holds and counts
    stats = impl_->stats_at_abandonment;
    stats.failed_requests += impl_->responses.num_given_up();
    stats.active_requests = stats.running_requests = stats.waiting_requests = 0;
    stats.scheduled_requests = stats.context_requests = stats.generation_requests = 0;
    stats.context_tokens = 0;
  }
  stats.is_healthy = impl_->loop.is_healthy();
  return stats;
}

bool Engine::is_healthy() const { return impl_->loop.is_healthy(); }

void Engine::on_failure(std::function<void(const std::string&)> callback) {
  std::lock_guard lock(impl_->failure_mutex);
  impl_->failure_callback = std::move(callback);
}

void Engine::on_step(std::function<void(const EngineStats&)> callback) {
  impl_->responses.on_step(std::move(callback));
}

void Engine::on_wait(std::function<void()> callback) {
  impl_->responses.on_wait(std::move(callback));
}

}  // namespace inflight::executor
