#include "backend/executor/model_executor.h"

#include <utility>

#include "backend/executor/cache_groups.h"
#include "backend/executor/config.h"
#include "backend/executor/prefix_transfer.h"

namespace inflight::executor {
namespace {

/// Calls `allocate`; a lack of memory is raised again saying what it was for.
template <typename Allocate>
void with_purpose(const std::string& purpose, const Allocate& allocate) {
  try {
    allocate();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kResourceExhausted) throw;
    throw Error(error.code(), concat(purpose, ": ", error.what()));
  }
}

}  // namespace

RankExecutor::RankExecutor(plan::EngineFile engine, const EngineConfig& config, EngineInfo& info)
    : engine_(std::move(engine)) {
  if (engine_.ranks.size() != 1) {
    throw Error(ErrorCode::kUnsupported,
                concat("the engine ", engine_.directory.string(), " has ", engine_.ranks.size(),
                       " ranks, this version runs 1"));
  }
  const Device device = parse_device(config.device);
  worker_ = std::make_unique<RankWorker>(engine_, 0, device, config.num_threads,
                                         parse_load_format(config.load_format));
  const plan::StepLimits limits{.max_batch_size = info.max_batch_size,
                                .max_num_tokens = info.max_num_tokens,
                                .max_seq_len = info.max_seq_len};
  with_purpose(concat("arena and workspace for max_num_tokens ", limits.max_num_tokens,
                      " and max_batch_size ", limits.max_batch_size),
               [&] { worker_->prepare(limits, config.enable_cuda_graphs); });
  info.reserved_bytes = reserved_bytes(device);
  free_bytes_ = executor::free_bytes(device, info.reserved_bytes);
  info.block_bytes = worker_->bytes_per_block();
  set_pool_blocks(info, pool_blocks(config, info, free_bytes_));
  const bool on_cpu = device.type == DeviceType::kCpu;
  const int64_t free_on_host = on_cpu ? free_bytes_ - pool_bytes(info) : free_host_bytes();
  info.num_host_blocks = host_blocks(config, info, info.block_bytes, free_on_host);
  with_purpose(
      concat("KV cache of ", info.num_blocks, " blocks and ", info.num_host_blocks, " on the host"),
      [&] {
        std::vector<int32_t> blocks;
        for (const KvGroupInfo& group : info.kv_groups)
          blocks.push_back(static_cast<int32_t>(group.num_blocks));
        worker_->make_kv_cache(blocks, static_cast<int32_t>(info.num_host_blocks));
      });
  worker_->warm_up();
  info.weight_bytes_mapped = worker_->weights().bytes_mapped();
  info.weight_bytes_allocated = worker_->weights().bytes_allocated();
  info.arena_bytes = worker_->arena_bytes();
  info.workspace_bytes = worker_->workspace_bytes();
  info.kv_cache_bytes = worker_->kv_cache_bytes();
  info.onboard_bytes_per_second = worker_->onboard_bytes_per_second();
  info.cache_layout = cache_layout(engine_);
  info.kv_cache_host_bytes = worker_->kv_cache_host_bytes();
  info.pinned_bytes = worker_->pinned_bytes();
}

Staging& RankExecutor::staging() {
  Staging& staging = worker_->staging(next_slot_);
  staging.reset();
  return staging;
}

void RankExecutor::launch(const plan::StepInputs& inputs, std::span<const decoding::SampleRow> rows,
                          std::span<const decoding::LogitsRows> wanted_logits,
                          std::span<const kv_cache::BlockCopy> copies) {
  try {
    worker_->copy_blocks(copies);
    worker_->launch(inputs, rows, wanted_logits, next_slot_);
  } catch (...) {
    is_usable_ = worker_->settle();
    throw;
  }
  next_slot_ = after(next_slot_);
}

void RankExecutor::make_copies(std::span<const kv_cache::BlockCopy> copies) {
  try {
    worker_->copy_blocks(copies);
    worker_->copier().finish();
  } catch (...) {
    is_usable_ = worker_->settle();
    throw;
  }
}

void RankExecutor::read_block(kv_cache::Tier tier, int32_t block, std::span<std::byte> to) {
  worker_->copier().read(tier, block, to);
}

void RankExecutor::write_block(kv_cache::Tier tier, int32_t block,
                               std::span<const std::byte> from) {
  worker_->copier().write(tier, block, from);
}

std::span<const decoding::SampledToken> RankExecutor::wait() {
  try {
    const std::span<const decoding::SampledToken> tokens = worker_->results(oldest_slot_);
    waited_slot_ = oldest_slot_;
    oldest_slot_ = after(oldest_slot_);
    return tokens;
  } catch (...) {
    is_usable_ = worker_->settle();
    oldest_slot_ = next_slot_;
    throw;
  }
}

}  // namespace inflight::executor
