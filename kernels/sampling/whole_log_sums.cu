#include "kernels/sampling/row_search.cuh"
#include "kernels/sampling/whole_log_sums.h"

namespace inflight::cuda {
namespace {

struct Args {
  const float* logits;
  int64_t stride;
  int length;
  const int32_t* entries;
  const int32_t* rows;
  const float* temperatures;
  const int32_t* tokens;
  float* log_sums;
  int32_t* num_kept;
};

/// A cluster a row.
__global__ void __launch_bounds__(kRowThreads, 2) whole_log_sums_kernel(const Args args) {
  extern __shared__ __align__(16) std::byte memory[];
  auto& shared = *reinterpret_cast<RowShared*>(memory);
  const Cluster blocks = Cluster::of_this_block();
  blocks.sync();  // all of its blocks are there
  wait_for_previous();
  const int i = args.entries[blockIdx.x / blocks.size];
  const int32_t place = args.rows[i];
  if (args.tokens[place] < 0) return;  // all blocks of the cluster
  const float temperature = args.temperatures[i];
  const float scale = scale_of(temperature == 0.0f ? 1.0f : temperature);
  RowCluster cluster({args.logits + place * args.stride, args.length}, blocks, shared);
  cluster.measure(scale, nullptr);
  let_next_start();
  if (!cluster.is_leader()) return cluster.serve();
  const float maximum = cluster.maximum();
  if (threadIdx.x == 0) shared.softmax = {maximum, scale};
  __syncthreads();
  cluster.finish();
  const double sum = total_of(cluster);
  if (threadIdx.x == 0) {
    args.log_sums[i] = static_cast<float>(log(sum));
    args.num_kept[i] = args.length;
  }
}

}  // namespace

void whole_log_sums(const WholeLogSumsParams& p, OpContext& context) {
  const int64_t length = p.logits.shape[1], count = p.entries.shape[0];
  check_row_length("whole_log_sums", length);
  const Args args{p.logits.as<float>(),    p.logits.strides[0],    static_cast<int>(length),
                  p.entries.as<int32_t>(), p.rows.as<int32_t>(),   p.temperatures.as<float>(),
                  p.tokens.as<int32_t>(),  p.log_sums.as<float>(), p.num_kept.as<int32_t>()};
  const int cluster = row_cluster(count, context);
  allow_shared_bytes(whole_log_sums_kernel, sizeof(RowShared));
  launch(
      whole_log_sums_kernel,
      {dim3(static_cast<unsigned>(count * cluster)), dim3(kRowThreads), sizeof(RowShared), cluster},
      context, args);
}

}  // namespace inflight::cuda
