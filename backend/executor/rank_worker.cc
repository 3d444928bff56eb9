#include "backend/executor/rank_worker.h"

#include <exception>
#include <utility>

#include "backend/executor/batch_builder.h"
#include "kernels/core/check.h"

namespace inflight::executor {
namespace {

// For parameters and the histories of penalties; more is taken when a step needs it.
constexpr size_t kSamplerStagingBytes = size_t{256} << 10;

std::vector<kv_cache::LayerSpec> layer_specs(const plan::KvCacheSpec& spec,
                                             std::span<const int> indices) {
  std::vector<kv_cache::LayerSpec> layers;
  for (int layer : indices)
    layers.push_back({spec.layers[layer].num_kv_heads, spec.layers[layer].head_size});
  return layers;
}

}  // namespace

RankWorker::RankWorker(const plan::EngineFile& engine, int rank, Device device, int num_threads,
                       plan::LoadFormat format)
    : engine_(engine),
      rank_(rank),
      device_(device),
      pool_(num_threads),
      grid_lease_(GridLease::file_for(device, engine.dtype)),
      context_(device, &pool_),
      weights_(engine, rank, device, pool_, format) {}

int64_t RankWorker::bytes_per_block() const {
  const plan::KvCacheSpec& spec = engine_.kv_cache;
  int64_t bytes = 0;
  for (const plan::KvGroup& group : spec.groups)
    bytes += kv_cache::bytes_per_block(layer_specs(spec, group.layers),
                                       kv_cache::Geometry(spec.tokens_per_block), spec.dtype);
  return bytes;
}

std::vector<TensorView> RankWorker::new_storage(std::span<const int32_t> num_blocks,
                                                int32_t num_host_blocks) {
  const plan::KvCacheSpec& spec = engine_.kv_cache;
  check_internal(
      num_blocks.size() == spec.groups.size() && (num_host_blocks == 0 || num_blocks.size() == 1),
      num_blocks.size(), " pools and ", num_host_blocks, " blocks on the host for ",
      spec.groups.size(), " groups of layers");
  copier_.reset();
  storages_.clear();
  std::vector<TensorView> kv_layers(spec.layers.size());
  for (size_t g = 0; g < spec.groups.size(); ++g) {
    const std::vector<int>& layers = spec.groups[g].layers;
    storages_.push_back(std::make_unique<kv_cache::KvStorage>(
        layer_specs(spec, layers), kv_cache::Geometry(spec.tokens_per_block), spec.dtype,
        num_blocks[g], device_, num_host_blocks));
    for (size_t i = 0; i < layers.size(); ++i)
      kv_layers[layers[i]] = storages_[g]->layer_view(static_cast<int>(i));
  }
  copier_.emplace(*storages_[0], context_);
  return kv_layers;
}

int64_t RankWorker::kv_cache_bytes() const {
  int64_t bytes = 0;
  for (const auto& storage : storages_) bytes += storage->bytes();
  return bytes;
}

void RankWorker::prepare(const plan::StepLimits& limits, bool cuda_graphs) {
  // Bound over pools of one block, since the real one takes what all others leave.
  const std::vector<int32_t> one(engine_.kv_cache.groups.size(), 1);
  runner_.emplace(engine_, rank_, weights_, context_, limits, new_storage(one, 0), cuda_graphs);
  take_grid_lease();
  sampler_.emplace(context_, static_cast<int>(engine_.model.vocab_size), limits.max_batch_size,
                   num_slots());
  logits_copies_.emplace(context_, static_cast<int>(engine_.model.vocab_size), num_slots());
  const size_t staging_bytes =
      BatchBuilder::staging_bytes(limits.max_num_tokens, limits.max_batch_size,
                                  runner_->max_blocks_per_sequence(),
                                  static_cast<int>(engine_.kv_cache.groups.size())) +
      kSamplerStagingBytes;
  for (int slot = 0; slot < num_slots(); ++slot) stagings_.emplace_back(device_, staging_bytes);
  if (!context_.is_cuda()) return;
  upload_stream_.emplace(device_);
  for (int slot = 0; slot < num_slots(); ++slot) uploaded_.emplace_back(device_);
}

void RankWorker::take_grid_lease() {
  if (grid_lease_.take()) runner_->let_grids_wait();
}

void RankWorker::make_kv_cache(std::span<const int32_t> num_blocks, int32_t num_host_blocks) {
  runner_->set_kv_layers(new_storage(num_blocks, num_host_blocks));
  onboard_bytes_per_second_ = copier_->measure_onboarding();
}

void RankWorker::warm_up() {
  if (!context_.is_cuda()) return;
  use_device(device_);
  runner_->warm_up();
}

int64_t RankWorker::pinned_bytes() const {
  int64_t bytes = 0;
  if (!context_.is_cuda()) return bytes;
  for (const Staging& staging : stagings_) bytes += static_cast<int64_t>(staging.bytes());
  return bytes;
}

void RankWorker::copy_blocks(std::span<const kv_cache::BlockCopy> copies) {
  if (context_.is_cuda()) use_device(device_);
  copier_->launch(copies);
}

void RankWorker::launch(const plan::StepInputs& inputs, std::span<const decoding::SampleRow> rows,
                        std::span<const decoding::LogitsRows> wanted_logits, int slot) {
  sampler_->prepare(rows, stagings_[slot], slot);
  plan::StepInputs step = inputs;
  if (context_.is_cuda()) {
    use_device(device_);
    take_grid_lease();
    stagings_[slot].upload(*upload_stream_);
    uploaded_[slot].record(*upload_stream_);
    uploaded_[slot].make_wait(context_.stream());
    step.previous_tokens = sampler_->tokens((slot + num_slots() - 1) % num_slots());
  }
  const plan::LastLaunch draw = [&](const TensorView& logits) {
    sampler_->enqueue(logits, step.previous_tokens, slot);
  };
  const bool draws_in_run = sampler_->is_one_launch(slot);
  const TensorView logits = runner_->run(step, draws_in_run ? draw : plan::LastLaunch());
  logits_copies_->launch(logits, wanted_logits, slot);
  if (!draws_in_run) draw(logits);
  sampler_->fetch(slot);
}

std::span<const decoding::SampledToken> RankWorker::results(int slot) {
  return sampler_->results(slot);
}

bool RankWorker::settle() noexcept {
  if (copier_ && !copier_->is_intact()) return false;
  if (!context_.is_cuda()) return true;
  try {
    use_device(device_);
    if (upload_stream_) upload_stream_->synchronize();
    if (copier_) copier_->synchronize();
    context_.stream().synchronize();
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace inflight::executor
