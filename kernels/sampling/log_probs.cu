#include "kernels/sampling/log_probs.h"
#include "kernels/sampling/row_search.cuh"

namespace inflight::cuda {
namespace {

struct Args {
  const float* logits;
  int64_t stride;
  int length;
  const int32_t* rows;
  const float* temperatures;
  const int32_t* tokens;
  const float* maxima;
  const float* log_sums;
  const int32_t* num_kept;
  const float* chunk_maxima;
  const int32_t* num_top;
  const int32_t* top_starts;
  float* log_probs;
  int32_t* top_counts;
  int32_t* top_ids;
  float* top_log_probs;
};

/// Calls write(rank, key) for the `wanted` likeliest finite logits, in order; returns how many
/// there are. The leader's part.
template <typename Write>
__device__ int write_top(RowCluster& cluster, int wanted, const Write& write) {
  constexpr int kBatch = kCapacity / 2;
  RowShared& shared = cluster.shared;
  const int num_chunks = cluster.row.num_chunks();
  uint64_t low = least_key(-FLT_MAX);
  uint64_t high = ~uint64_t{0};
  if (wanted <= num_chunks) low = max(low, least_key(kth_maximum(shared, num_chunks, wanted)));
  // One batch, unless many are wanted or they are crowded in few chunks.
  for (int written = 0;;) {
    const auto find_edge = [&] {
      return find_by_rank(cluster, low, high, 0.0f, 0.0f, min(kBatch, wanted - written));
    };
    uint64_t edge = low;
    if (written > 0 || wanted > num_chunks) {
      const Edge found = find_edge();
      if (found.count == 0) return written;
      edge = found.key;
    }
    cluster.run({PassKind::kCollect, edge, high});
    if (shared.num_keys > kCapacity) {
      edge = find_edge().key;
      cluster.run({PassKind::kCollect, edge, high});
    }
    const int found = shared.num_keys;
    sort_keys(shared.keys, found);
    const int count = min(found, wanted - written);
    for (int i = threadIdx.x; i < count; i += kRowThreads) write(written + i, shared.keys[i]);
    __syncthreads();
    written += count;
    if (written == wanted || found == 0) return written;
    high = edge - 1;
    if (high < low) return written;
  }
}

/// A cluster a row.
__global__ void __launch_bounds__(kRowThreads, 2) log_probs_kernel(const Args args) {
  extern __shared__ __align__(16) std::byte memory[];
  auto& shared = *reinterpret_cast<RowShared*>(memory);
  const Cluster blocks = Cluster::of_this_block();
  blocks.sync();  // all of its blocks are there
  wait_for_previous();
  const int i = blockIdx.x / blocks.size;
  const int32_t place = args.rows[i];
  const int32_t token = args.tokens[place];
  const int32_t num_top = args.num_top[i];
  const bool is_first = threadIdx.x == 0 && blocks.rank == 0;
  if (is_first) args.top_counts[i] = 0;
  if (num_top < 0 || token < 0) return;
  const float temperature = args.temperatures[i];
  const float divisor = temperature == 0.0f ? 1.0f : temperature;
  const float maximum = args.maxima[i];
  const float log_sum = args.log_sums[i];
  const auto log_prob = [&](float x) { return (x - maximum) / divisor - log_sum; };
  const float* row = args.logits + place * args.stride;
  if (is_first) args.log_probs[i] = log_prob(row[token]);
  const int wanted = min(num_top, args.num_kept[i]);
  if (wanted == 0) return;

  RowCluster cluster({row, args.length}, blocks, shared);
  if (args.chunk_maxima == nullptr) {
    cluster.measure(0.0f, nullptr);
  } else {
    cluster.recall(args.chunk_maxima + i * cluster.row.num_chunks());
  }
  let_next_start();
  if (!cluster.is_leader()) return cluster.serve();
  const int start = args.top_starts[i];
  const int count = write_top(cluster, wanted, [&](int rank, uint64_t key) {
    const int id = id_of_key(key);
    args.top_ids[start + rank] = id;
    args.top_log_probs[start + rank] = log_prob(row[id]);
  });
  if (is_first) args.top_counts[i] = count;
  cluster.finish();
}

}  // namespace

void log_probs(const LogProbsParams& p, OpContext& context) {
  const int64_t length = p.logits.shape[1];
  check_row_length("log_probs", length);
  const Args args{
      p.logits.as<float>(),       p.logits.strides[0],        static_cast<int>(length),
      p.rows.as<int32_t>(),       p.temperatures.as<float>(), p.tokens.as<int32_t>(),
      p.maxima.as<float>(),       p.log_sums.as<float>(),     p.num_kept.as<int32_t>(),
      p.chunk_maxima.as<float>(), p.num_top.as<int32_t>(),    p.top_starts.as<int32_t>(),
      p.log_probs.as<float>(),    p.top_counts.as<int32_t>(), p.top_ids.as<int32_t>(),
      p.top_log_probs.as<float>()};
  // With the maxima at hand little is read.
  const int cluster = p.chunk_maxima.data != nullptr ? 1 : row_cluster(p.rows.shape[0], context);
  allow_shared_bytes(log_probs_kernel, sizeof(RowShared));
  launch(log_probs_kernel,
         {dim3(static_cast<unsigned>(p.rows.shape[0] * cluster)), dim3(kRowThreads),
          sizeof(RowShared), cluster},
         context, args);
}

}  // namespace inflight::cuda
