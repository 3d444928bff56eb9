#include "kernels/sampling/argmax.h"
#include "kernels/sampling/row.cuh"

namespace inflight::cuda {
namespace {

/// A cluster a row. Lanes keep the key of the best they saw; keys settle ties.
__global__ void __launch_bounds__(kRowThreads)
    argmax_kernel(const float* logits, int64_t stride, int length, int32_t* tokens) {
  const Cluster cluster = Cluster::of_this_block();
  __shared__ uint64_t block_keys[8];  // the leader's: of each block
  __shared__ uint64_t warp_keys[kRowWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned i = blockIdx.x / cluster.size;
  cluster.sync();  // all of its blocks are there
  wait_for_previous();
  const Row row{logits + i * stride, length};

  constexpr uint64_t kBad = ~uint64_t{0};  // above the key of any number
  float best = -INFINITY;
  int best_id = INT32_MAX;
  bool is_bad = false;
  row.stream(Turns(row.num_chunks(), cluster), [&](int chunk, const float (&values)[kPerLane]) {
    const float maximum = lane_max(values);
    if (maximum <= best) return;
    is_bad |= !(maximum < INFINITY);
    best = maximum;
#pragma unroll
    for (int j = kPerLane - 1; j >= 0; --j) {
      if (values[j] == maximum) best_id = chunk * kChunk + j * 32 + lane;
    }
  });
  let_next_start();  // not before: blocks that wait would take the places of blocks that read
  uint64_t key = is_bad ? kBad : key_of(best, best_id);
  const auto warp_best = [](uint64_t x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
      x = max(x, __shfl_xor_sync(kFullWarp, x, offset));
    return x;
  };
  key = warp_best(key);
  if (lane == 0) warp_keys[warp] = key;
  __syncthreads();
  if (warp == 0) {
    key = warp_best(lane < kRowWarps ? warp_keys[lane] : 0);
    if (lane == 0) *cluster.at(&block_keys[cluster.rank], 0) = key;
  }
  cluster.sync();
  if (cluster.rank == 0 && warp == 0) {
    key = warp_best(lane < cluster.size ? block_keys[lane] : 0);
    const bool is_none = value_of_key(key) == -INFINITY;
    if (lane == 0) tokens[i] = key == kBad ? kBadLogits : is_none ? kNoToken : id_of_key(key);
  }
}

}  // namespace

void argmax(const ArgmaxParams& params, OpContext& context) {
  const int64_t length = params.logits.shape[1];
  check_row_length("argmax", length);
  const int64_t count = params.logits.shape[0];
  const int cluster = row_cluster(count, context);
  launch(argmax_kernel,
         {dim3(static_cast<unsigned>(count * cluster)), dim3(kRowThreads), 0, cluster}, context,
         params.logits.as<float>(), params.logits.strides[0], static_cast<int>(length),
         params.tokens.as<int32_t>());
}

}  // namespace inflight::cuda
