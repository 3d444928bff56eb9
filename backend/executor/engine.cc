#include "backend/executor/engine.h"

#include <chrono>
#include <mutex>
#include <thread>
#include <utility>

#include "backend/executor/admission.h"
#include "backend/executor/config.h"
#include "backend/executor/engine_loop.h"
#include "backend/executor/inbox.h"
#include "backend/executor/model_executor.h"
#include "backend/executor/response_queue.h"
#include "backend/kv_cache/geometry.h"
#include "backend/plan/engine_file.h"
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
  if (loaded.info.num_blocks < longest) {
    log(LogLevel::kWarning, "the KV cache of ", loaded.info.num_blocks,
        " blocks is smaller than one sequence of max_seq_len ", loaded.info.max_seq_len, " (",
        longest, " blocks): longer requests will be refused");
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

}  // namespace

class Engine::Impl {
 public:
  Impl(Loaded loaded, const EngineConfig& config)
      : info(std::move(loaded.info)),
        memory_plan(std::move(loaded.memory_plan)),
        limits(scheduler_limits(info, config)),
        executor(std::move(loaded.executor)),
        inbox(config.max_queue_size, idle_spin(*executor)),
        responses(config.callbacks_return_at_once),
        loop(info, limits, {config.check_invariants, config.queue_timeout}, *executor, inbox,
             responses),
        thread([this] { loop.run(); }) {}

  ~Impl() { shut_down(); }

  void shut_down() {
    std::lock_guard lock(shut_down_mutex);
    if (!thread.joinable()) return;
    inbox.close(Error(ErrorCode::kCancelled, "the engine is shutting down"));
    thread.join();
    responses.stop();  // delivers what is left; callbacks may still ask the rest of the engine
  }

  const EngineInfo info;
  const std::string memory_plan;
  const scheduler::Limits limits;
  std::unique_ptr<ModelExecutor> executor;
  Inbox inbox;
  ResponseQueue responses;
  EngineLoop loop;
  std::thread thread;
  std::mutex shut_down_mutex;
};

Engine::Engine(const EngineConfig& config) : impl_(std::make_unique<Impl>(load(config), config)) {}

Engine::Engine(const EngineInfo& info, const EngineConfig& config,
               std::unique_ptr<ModelExecutor> executor)
    : impl_(std::make_unique<Impl>(Loaded{info, std::move(executor), ""}, config)) {}

Engine::~Engine() = default;

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
  for (const Submission& submission : submissions)
    lengths.push_back(admit(*submission.request, impl_->info, impl_->limits));
  return impl_->inbox.submit(std::move(submissions), lengths, now_ns);
}

void Engine::cancel(RequestId id) { impl_->inbox.cancel(id); }

void Engine::shut_down() { impl_->shut_down(); }

const EngineInfo& Engine::info() const { return impl_->info; }

const std::string& Engine::memory_plan() const { return impl_->memory_plan; }

EngineStats Engine::stats() const { return impl_->loop.stats(); }

bool Engine::is_healthy() const { return impl_->loop.is_healthy(); }

void Engine::on_step(std::function<void(const EngineStats&)> callback) {
  impl_->responses.on_step(std::move(callback));
}

}  // namespace inflight::executor
