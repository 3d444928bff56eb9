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

RankWorker::RankWorker(const plan::EngineFile& engine, int rank, Device device, int num_threads)
    : engine_(engine),
      rank_(rank),
      device_(device),
      pool_(num_threads),
      weights_(engine, rank, device, pool_) {}

int64_t RankWorker::bytes_per_block() const {
  const plan::KvCacheSpec& spec = engine_.kv_cache;
  return kv_cache::bytes_per_block(layer_specs(spec), kv_cache::Geometry(spec.tokens_per_block),
                                   spec.dtype);
}

void RankWorker::allocate(const plan::StepLimits& limits, int32_t num_blocks) {
  const plan::KvCacheSpec& spec = engine_.kv_cache;
  storage_.emplace(layer_specs(spec), kv_cache::Geometry(spec.tokens_per_block), spec.dtype,
                   num_blocks, device_);
  std::vector<TensorView> kv_layers;
  for (int layer = 0; layer < storage_->num_layers(); ++layer) {
    kv_layers.push_back(storage_->layer_view(layer));
  }
  runner_.emplace(engine_, rank_, weights_, device_, pool_, limits, std::move(kv_layers));
  sampler_.emplace(device_, &pool_, static_cast<int>(engine_.model.vocab_size),
                   limits.max_batch_size);
}

std::span<const decoding::SampledToken> RankWorker::run(const plan::StepInputs& inputs,
                                                        std::span<const decoding::SampleRow> rows) {
  const TensorView logits = runner_->run(inputs);
  return sampler_->sample(logits, rows);
}

}  // namespace inflight::executor
