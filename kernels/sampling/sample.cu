#include "kernels/core/philox.h"
#include "kernels/sampling/row_search.cuh"
#include "kernels/sampling/sample.h"

namespace inflight::cuda {
namespace {

struct Args {
  const float* logits;
  int64_t stride;
  int length;
  const int32_t* rows;
  const float* temperatures;
  const int32_t* top_ks;
  const float* top_ps;
  const float* min_ps;
  const int64_t* seeds;
  const int64_t* positions;
  const int32_t* num_top;
  int32_t* tokens;
  float* maxima;
  float* log_sums;
  int32_t* num_kept;
  float* chunk_maxima;
};

struct RowParams {
  float temperature;
  int top_k;
  float top_p;
  float min_p;
  bool use_top_k;
  bool use_top_p;
  bool wants_log_probs;
  double uniform;  // in [0, 1)

  __device__ bool is_greedy() const { return temperature == 0.0f; }
  __device__ bool has_filter() const { return use_top_k || use_top_p || min_p > 0.0f; }
  /// Whether the first pass collects what top_k can keep.
  __device__ bool collects() const { return !is_greedy() && use_top_k && top_k <= kMostCollected; }
  /// The scale of the chunks' sums in the first pass; 0 where they are not needed.
  __device__ float measured_scale() const {
    if (is_greedy()) return wants_log_probs ? scale_of(1.0f) : 0.0f;
    const bool needs_sum = !use_top_k && (use_top_p || min_p <= 0.0f);
    return needs_sum ? scale_of(temperature) : 0.0f;
  }
};

struct Draw {
  int token;
  double sum;  // of the kept weights
  int num_kept;
};

__device__ int first_maximum(RowCluster& cluster) {
  RowShared& shared = cluster.shared;
  const float maximum = shared.softmax.maximum;
  if (threadIdx.x == 0) shared.count = INT32_MAX;
  __syncthreads();
  for (int i = threadIdx.x; i < cluster.row.num_chunks(); i += kRowThreads) {
    if (shared.maxima[i] == maximum) atomicMin(&shared.count, i);
  }
  __syncthreads();
  const int id = shared.count * kChunk + threadIdx.x;
  __syncthreads();
  if (threadIdx.x == 0) shared.count = INT32_MAX;
  __syncthreads();
  if (id < cluster.row.length && cluster.row.logits[id] == maximum) atomicMin(&shared.count, id);
  __syncthreads();
  return shared.count;
}

/// Draws among the keys >= `edge` of the whole row, given the running sums of the chunks' masses.
__device__ int draw_in_row(RowCluster& cluster, uint64_t edge, double uniform, double sum) {
  RowShared& shared = cluster.shared;
  const Softmax softmax = shared.softmax;
  const int chunk = index_at_mass(cluster.row.num_chunks(), uniform * sum, shared);
  const double rest = uniform * sum - (chunk == 0 ? 0 : shared.prefix[chunk - 1]);
  __syncthreads();
  running_sums(kChunk, shared, [&](int i) {
    const int id = chunk * kChunk + i;
    if (id >= cluster.row.length) return 0.0f;
    const float x = __ldcg(cluster.row.logits + id);
    return key_of(x, id) >= edge ? softmax(x) : 0.0f;
  });
  return chunk * kChunk + index_at_mass(kChunk, rest, shared);
}

/// The keys >= `edge`, or as many of the likeliest as can be kept, in the leader's list: largest
/// first, with the running sums of their weights. False if they are too many.
__device__ bool collect_sorted(RowCluster& cluster, uint64_t edge, bool is_collected) {
  RowShared& shared = cluster.shared;
  if (!is_collected || !cluster.narrow_collected(edge)) {
    cluster.run({PassKind::kCollect, edge, kNoLimit});
    if (shared.num_keys > kCapacity) return false;
  }
  const int count = shared.num_keys;
  const Softmax softmax = shared.softmax;
  sort_keys(shared.keys, count);
  running_sums(count, shared, [&](int i) { return softmax(value_of_key(shared.keys[i])); });
  return true;
}

/// Draws among the first `count` keys of the sorted list.
__device__ Draw draw_in_list(RowCluster& cluster, int count, double uniform) {
  RowShared& shared = cluster.shared;
  const Softmax softmax = shared.softmax;
  const double sum = shared.prefix[count - 1];
  __syncthreads();
  sort_by_id(shared.keys, count);
  running_sums(count, shared,
               [&](int i) { return softmax(value_of(static_cast<uint32_t>(shared.keys[i]))); });
  const int index = index_at_mass(count, uniform * sum, shared);
  return {static_cast<int>(~static_cast<uint32_t>(shared.keys[index] >> 32)), sum, count};
}

/// The likeliest keys that hold all that the filters can keep, if that is cheap to tell. `sum` is
/// of all weights, where top_p alone needs it. Returns the draw, or a token < 0.
__device__ Draw draw_from_few(RowCluster& cluster, const RowParams& p, uint64_t floor,
                              uint64_t min_p_key, double sum) {
  constexpr Draw kNone{-1, 0, 0};
  RowShared& shared = cluster.shared;
  const int num_chunks = cluster.row.num_chunks();
  uint64_t bound = floor;
  if (p.use_top_k) {
    if (p.top_k <= num_chunks) {
      bound = max(bound, least_key(kth_maximum(shared, num_chunks, p.top_k)));
    } else if (cluster.row.length > kCapacity && !p.collects()) {
      return kNone;
    }
  } else if (p.use_top_p) {
    if (p.top_p * sum > 192) return kNone;
    if (cluster.row.length > kCapacity)
      bound = max(bound,
                  least_key(kth_maximum(shared, num_chunks, min(num_chunks, sum < 8 ? 64 : 192))));
  } else {
    bound = min_p_key;
  }
  if (!collect_sorted(cluster, bound, p.collects())) return kNone;
  int count = shared.num_keys;
  if (p.use_top_k) {
    if (count > p.top_k) {
      const float least = value_of_key(shared.keys[p.top_k - 1]);
      count = count_if(count, [&](int i) { return value_of_key(shared.keys[i]) >= least; });
    }
    sum = shared.prefix[count - 1];
  }
  if (p.use_top_p) {
    const double target = p.top_p * sum;
    if (!p.use_top_k && bound != floor && shared.prefix[count - 1] < target) return kNone;
    count = count_if(count, [&](int i) { return (i == 0 ? 0 : shared.prefix[i - 1]) < target; });
  }
  cluster.finish();
  count = count_if(count, [&](int i) { return shared.keys[i] >= min_p_key; });
  return draw_in_list(cluster, count, p.uniform);
}

/// By searches over the whole row, which read it several times.
__device__ Draw draw_from_many(RowCluster& cluster, const RowParams& p, uint64_t floor,
                               uint64_t min_p_key, double sum) {
  RowShared& shared = cluster.shared;
  const int num_chunks = cluster.row.num_chunks();
  const uint64_t high = least_key(shared.softmax.maximum) | 0xffffffffu;
  Edge edge{floor, 0, 0};
  // Of the chunks, into `sums`; returns the whole.
  const auto find_masses = [&] {
    if (edge.num_listed > 0) {
      add_listed(cluster, edge.num_listed);
    } else {
      cluster.run({PassKind::kMasses, edge.key, high});
      edge.count = shared.count;
    }
    return running_sums(num_chunks, shared, [&](int i) { return shared.sums[i]; });
  };
  if (p.use_top_k) {
    const float bottom = 4 * least_maximum(shared, num_chunks) - 3 * shared.softmax.maximum;
    edge = find_by_rank(cluster, floor, high, shared.softmax.maximum, bottom, p.top_k);
    edge.key = edge.key >> 32 << 32;  // all that tie
    if (edge.num_listed > 0) {
      const int num_keys = shared.num_keys;
      const int num_listed = count_if(num_keys, [&](int i) { return shared.keys[i] >= edge.key; });
      edge.count += num_listed - edge.num_listed;
      edge.num_listed = num_listed;
    }
    if (p.use_top_p) sum = find_masses();
  } else if (p.use_top_p) {
    // What is lighter than this sums to less than what top_p drops, with room for rounding.
    const double lightest = 0.5 * (1.0 - p.top_p) * sum / cluster.row.length;
    edge.key =
        max(edge.key,
            least_key(logit_of_weight(fmin(lightest, 1.0), shared.softmax.maximum, p.temperature)));
  }
  if (p.use_top_p) edge = find_by_mass(cluster, edge.key, high, p.top_p * sum);
  if (min_p_key > edge.key) edge = {min_p_key, 0, 0};
  sum = find_masses();
  return {draw_in_row(cluster, edge.key, p.uniform, sum), sum, edge.count};
}

/// The leader's part, after the first pass.
__device__ void draw_row(RowCluster& cluster, const RowParams& p, const Args& args, int i,
                         int32_t& token) {
  RowShared& shared = cluster.shared;
  const float maximum = cluster.maximum();
  if (!(maximum < INFINITY) || maximum == -INFINITY) {
    if (threadIdx.x == 0) token = maximum == -INFINITY ? kNoToken : kBadLogits;
    return;
  }
  if (threadIdx.x == 0) shared.softmax = {maximum, scale_of(p.is_greedy() ? 1.0f : p.temperature)};
  __syncthreads();
  Draw draw{-1, 1.0, cluster.row.length};
  if (p.is_greedy()) {
    cluster.finish();
    draw.token = first_maximum(cluster);
    __syncthreads();
    if (p.wants_log_probs) draw.sum = total_of(cluster);
  } else {
    const double sum = p.measured_scale() != 0.0f ? total_of(cluster) : 0.0;
    if (!p.has_filter()) {
      cluster.finish();
      draw.sum = sum;
      draw.token = draw_in_row(cluster, 0, p.uniform, sum);
    } else {
      const uint64_t floor = least_key(-FLT_MAX);  // banned ids are never kept
      uint64_t min_p_key = floor;
      if (p.min_p > 0.0f) min_p_key = least_key(logit_of_weight(p.min_p, maximum, p.temperature));
      draw = draw_from_few(cluster, p, floor, min_p_key, sum);
      if (draw.token < 0) draw = draw_from_many(cluster, p, floor, min_p_key, sum);
    }
  }
  if (threadIdx.x == 0) {
    token = draw.token;
    args.maxima[i] = maximum;
    args.log_sums[i] = static_cast<float>(log(draw.sum));
    args.num_kept[i] = draw.num_kept;
  }
}

/// A cluster a row. Sums: float32 over a lane's 16 elements of a chunk and over the lanes, float64
/// over chunks; of a list of candidates float64 throughout.
__global__ void __launch_bounds__(kRowThreads, 2) sample_kernel(const Args args) {
  extern __shared__ __align__(16) std::byte memory[];
  auto& shared = *reinterpret_cast<RowShared*>(memory);
  const Cluster blocks = Cluster::of_this_block();
  const int i = blockIdx.x / blocks.size;
  const int32_t place = args.rows[i];
  __shared__ RowParams p;  // not in registers, which are short
  if (threadIdx.x == 0) {
    p.temperature = args.temperatures[i];
    p.top_k = args.top_ks[i];
    p.top_p = args.top_ps[i];
    p.min_p = args.min_ps[i];
    p.use_top_k = p.top_k > 0 && p.top_k < args.length;
    p.use_top_p = p.top_p < 1.0f;
    p.wants_log_probs = args.num_top[i] >= 0;
    p.uniform = philox_uniform(static_cast<uint64_t>(args.seeds[i]),
                               static_cast<uint64_t>(args.positions[i]));
  }
  blocks.sync();  // all of its blocks are there
  wait_for_previous();
  RowCluster cluster({args.logits + place * args.stride, args.length}, blocks, shared);
  float* const chunk_maxima = args.chunk_maxima == nullptr || args.num_top[i] <= 0
                                  ? nullptr
                                  : args.chunk_maxima + i * cluster.row.num_chunks();
  if (p.collects()) {
    cluster.measure_and_collect(p.top_k, chunk_maxima);
  } else {
    cluster.measure(p.measured_scale(), chunk_maxima);
  }
  // Not before: blocks that wait would take the places of blocks that read.
  let_next_start();
  if (cluster.is_leader()) {
    draw_row(cluster, p, args, i, args.tokens[place]);
    cluster.finish();
  } else {
    cluster.serve();
  }
}

}  // namespace

void sample(const SampleParams& p, OpContext& context) {
  const int64_t length = p.logits.shape[1];
  check_row_length("sample", length);
  const Args args{p.logits.as<float>(),      p.logits.strides[0],        static_cast<int>(length),
                  p.rows.as<int32_t>(),      p.temperatures.as<float>(), p.top_ks.as<int32_t>(),
                  p.top_ps.as<float>(),      p.min_ps.as<float>(),       p.seeds.as<int64_t>(),
                  p.positions.as<int64_t>(), p.num_top.as<int32_t>(),    p.tokens.as<int32_t>(),
                  p.maxima.as<float>(),      p.log_sums.as<float>(),     p.num_kept.as<int32_t>(),
                  p.chunk_maxima.as<float>()};
  const int cluster = row_cluster(p.rows.shape[0], context);
  allow_shared_bytes(sample_kernel, sizeof(RowShared));
  launch(sample_kernel,
         {dim3(static_cast<unsigned>(p.rows.shape[0] * cluster)), dim3(kRowThreads),
          sizeof(RowShared), cluster},
         context, args);
}

}  // namespace inflight::cuda
