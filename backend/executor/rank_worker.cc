#include "backend/executor/rank_worker.h"

#include <utility>
#include <vector>

namespace inflight::executor {
namespace {

std::vector<kv_cache::LayerSpec> layer_specs(const plan::KvCacheSpec& spec) {
  std::vector<kv_cache::LayerSpec> layers;
  for (const plan::KvLayerSpec& layer : spec.layers) {
    layers.push_back({layer.num_kv_heads, layer.head_size});
  }
  return layers;
}

}  // namespace

RankWorker::RankWorker(const plan::EngineFile& engine, int rank, Device device, int num_threads,
                       plan::LoadFormat format)
    : engine_(engine),
      rank_(rank),
      device_(device),
      pool_(num_threads),
      context_(device, &pool_),
      weights_(engine, rank, device, pool_, format) {}

int64_t RankWorker::bytes_per_block() const {
  const plan::KvCacheSpec& spec = engine_.kv_cache;
  return kv_cache::bytes_per_block(layer_specs(spec), kv_cache::Geometry(spec.tokens_per_block),
                                   spec.dtype);
}

std::vector<TensorView> RankWorker::new_storage(int32_t num_blocks) {
  const plan::KvCacheSpec& spec = engine_.kv_cache;
  storage_.reset();
  storage_.emplace(layer_specs(spec), kv_cache::Geometry(spec.tokens_per_block), spec.dtype,
                   num_blocks, device_);
  std::vector<TensorView> kv_layers;
  for (int layer = 0; layer < storage_->num_layers(); ++layer) {
    kv_layers.push_back(storage_->layer_view(layer));
  }
  return kv_layers;
}

void RankWorker::prepare(const plan::StepLimits& limits) {
  // Bound over a pool of one block, since the real one takes what all others leave.
  runner_.emplace(engine_, rank_, weights_, device_, pool_, limits, new_storage(1));
  sampler_.emplace(context_, static_cast<int>(engine_.model.vocab_size), limits.max_batch_size, 1);
  staging_.emplace(device_, size_t{64} << 10);
}

void RankWorker::make_kv_cache(int32_t num_blocks) {
  runner_->set_kv_layers(new_storage(num_blocks));
}

std::span<const decoding::SampledToken> RankWorker::run(const plan::StepInputs& inputs,
                                                        std::span<const decoding::SampleRow> rows) {
  staging_->reset();
  sampler_->prepare(rows, *staging_, 0);
  if (context_.is_cuda()) staging_->upload(context_.stream());
  sampler_->launch(runner_->run(inputs), {}, 0);
  return sampler_->results(0);
}

}  // namespace inflight::executor
