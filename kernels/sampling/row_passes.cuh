// Passes over a row that a cluster makes together. The leader (block 0) decides between passes and
// has the results in its shared memory; the other blocks serve until it is done.
#pragma once

#include "kernels/sampling/row.cuh"

namespace inflight::cuda {

inline constexpr int kBins = 2048;
inline constexpr int kCapacity = 2048;  // elements that the leader can hold and sort
inline constexpr int kWarpCapacity = kCapacity / kRowWarps;  // elements that a warp can collect
inline constexpr int kMostCollected = 128;          // so large a top_k leaves most rows room there
inline constexpr uint64_t kNoLimit = ~uint64_t{0};  // as `high`: nothing is above

enum class PassKind {
  kCollect,    // the keys in [low, high] to the leader's list; of each chunk the mass above high
  kHistogram,  // counts of keys in [low, high]; the mass above high
  kMasses,     // of each chunk: the mass of keys >= low
  kDone,
};

struct Pass {
  PassKind kind;
  uint64_t low;
  uint64_t high;
  // Of histograms: bins of equal width in values below `top` if per_value is not 0, the last one
  // with all that is lower; else in keys, of 2^shift.
  int shift;
  float top;
  float per_value;
  bool is_backward;  // the end of the row first: the last pass left it in the caches

  __device__ __forceinline__ int bin_of(uint64_t key, float value) const {
    if (per_value == 0.0f) return static_cast<int>((key - low) >> shift);
    return kBins - 1 - static_cast<int>(fminf((top - value) * per_value, kBins - 1));
  }
};

/// The distribution's shape: weight_of(x, maximum, scale).
struct Softmax {
  float maximum;
  float scale;
  __device__ __forceinline__ float operator()(float x) const {
    return weight_of(x, maximum, scale);
  }
};

/// A block's shared memory. What only the leader has is marked L.
struct RowShared {
  float maxima[kMaxChunks];   // of this block's chunks; L: of all
  float sums[kMaxChunks];     // L: masses of chunks
  uint32_t histogram[kBins];  // of this block's chunks; L: of all once merged
  uint64_t keys[kCapacity];   // L
  union {
    double prefix[kCapacity];       // L: running sums of the keys' weights
    uint64_t collected[kCapacity];  // of measure_and_collect, until they are narrowed: by warp
  };
  uint32_t num_collected[kRowWarps];
  float warp_maxima[8 * kRowWarps];  // L: of all blocks' warps
  float bounds[8];                   // L: that the blocks collected from
  double warp_mass[kRowWarps];       // of this block's chunks
  double warp_sums[kRowWarps];       // of block_scan
  uint64_t result;                   // of whoever finds it
  int high_bin;
  int low_bin;
  int last_bin;  // that holds a key
  int num_keys;  // L: found; those beyond kCapacity are not in keys
  int count;     // L: of keys above high; of kMasses: >= low
  Pass pass;
  Softmax softmax;  // before a pass that asks for masses
};

/// A value that at least k of the block's threads' values reach, -infinity if k is more than there
/// are threads: close below the k-th largest, for all but the low bits are searched.
__device__ inline float bound_of_rank(float value, int k) {
  const uint32_t own = ordered(value);
  uint32_t bound = 0;
#pragma unroll 1
  for (uint32_t bit = 1u << 31; bit >= 1u << 14; bit >>= 1) {
    if (__syncthreads_count(own >= (bound | bit)) >= k) bound |= bit;
  }
  return value_of(max(bound, ordered(-INFINITY)));
}

class RowCluster {
 public:
  __device__ RowCluster(Row row, Cluster cluster, RowShared& shared)
      : row(row), cluster(cluster), shared(shared), leader(cluster.at(&shared, 0)) {}

  __device__ bool is_leader() const { return cluster.rank == 0; }

  /// All blocks: every chunk's maximum, NaN included, and, if `scale` is not 0, the sum of its
  /// weights against its own maximum. In the order of the lanes' elements, so in any cluster alike.
  /// `chunk_maxima`, if not null, gets the maxima, too.
  __device__ void measure(float scale, float* chunk_maxima) {
    float warp_maximum = -INFINITY;
    row.stream(Turns(row.num_chunks(), cluster), [&](int chunk, const float (&values)[kPerLane]) {
      const float maximum = warp_max_or_nan(lane_max(values));
      float sum = 0;
      if (scale != 0.0f && maximum > -INFINITY) {
        float parts[4] = {};
#pragma unroll
        for (int j = 0; j < kPerLane; ++j) parts[j % 4] += weight_of(values[j], maximum, scale);
        sum = warp_sum((parts[0] + parts[1]) + (parts[2] + parts[3]));
      }
      warp_maximum = max_or_nan(warp_maximum, maximum);
      if (threadIdx.x % 32 == 0) {
        note_maximum(chunk, maximum, chunk_maxima);
        leader->sums[chunk] = sum;
      }
    });
    end_measure(warp_maximum);
  }
  /// All blocks: the chunks' maxima as `measure` does, and in the same pass, in lists by warp, all
  /// that reaches a bound which at least `top_k` of the row's elements reach, 1 <= top_k <=
  /// kMostCollected: the top_k-th largest of the maxima of what each thread reads first. Blocks
  /// have bounds of their own.
  __device__ void measure_and_collect(int top_k, float* chunk_maxima) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const Turns turns(row.num_chunks(), cluster);
    float even[kPerLane], odd[kPerLane];
    float first = -INFINITY;
    if (turns.count > 0) row.load(turns.chunk(0), even);
    if (turns.count > 1) row.load(turns.chunk(1), odd);
    if (turns.count > 0) first = lane_max(even);
    if (turns.count > 1) first = max_or_nan(first, lane_max(odd));
    const float bound = bound_of_rank(first, top_k);
    if (threadIdx.x == 0) leader->bounds[cluster.rank] = bound;
    float warp_maximum = -INFINITY;
    int count = 0;
    const auto take = [&](int chunk, const float (&values)[kPerLane]) {
      float parts[4];
      const float maximum = warp_max_or_nan(lane_max(values, parts));
      warp_maximum = max_or_nan(warp_maximum, maximum);
      if (lane == 0) note_maximum(chunk, maximum, chunk_maxima);
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        if (!__any_sync(kFullWarp, parts[part] >= bound)) continue;
#pragma unroll
        for (int j = part; j < kPerLane; j += 4) {
          const unsigned inside = __ballot_sync(kFullWarp, values[j] >= bound);
          if (inside == 0) continue;
          const int at = count + __popc(inside & ((1u << lane) - 1));
          if (values[j] >= bound && at < kWarpCapacity)
            shared.collected[warp * kWarpCapacity + at] =
                key_of(values[j], chunk * kChunk + j * 32 + lane);
          count += __popc(inside);
        }
      }
    };
    for (int turn = 0; turn < turns.count; turn += 2) {
      take(turns.chunk(turn), even);
      if (turn + 2 < turns.count) row.load(turns.chunk(turn + 2), even);
      if (turn + 1 >= turns.count) break;
      take(turns.chunk(turn + 1), odd);
      if (turn + 3 < turns.count) row.load(turns.chunk(turn + 3), odd);
    }
    if (lane == 0) shared.num_collected[warp] = count;
    end_measure(warp_maximum);
  }
  /// The leader, after measure_and_collect: into its list what reaches `bound` and all blocks'
  /// bounds, so at least the top_k likeliest. False if a list overflows.
  __device__ bool narrow_collected(uint64_t bound) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (unsigned block = 0; block < cluster.size; ++block)
      bound = max(bound, least_key(shared.bounds[block]));
    if (threadIdx.x == 0) shared.num_keys = 0;
    __syncthreads();
    bool overflows = false;
    for (unsigned block = 0; block < cluster.size; ++block) {
      const int count = cluster.at(shared.num_collected, block)[warp];
      const uint64_t* keys = cluster.at(shared.collected, block) + warp * kWarpCapacity;
      overflows |= count > kWarpCapacity;
      for (int first = 0; first < min(count, kWarpCapacity); first += 32) {
        const uint64_t key = first + lane < min(count, kWarpCapacity) ? keys[first + lane] : 0;
        add_to_list(key, key >= bound);
      }
    }
    return !__syncthreads_or(overflows) && shared.num_keys <= kCapacity;
  }
  /// Instead of `measure`: the maxima that it gave before.
  __device__ void recall(const float* chunk_maxima) {
    for (int chunk = threadIdx.x; chunk < row.num_chunks(); chunk += kRowThreads)
      shared.maxima[chunk] = chunk_maxima[chunk];
    cluster.sync();
  }
  /// The leader: the row's maximum, NaN if there is any, after a measurement.
  __device__ float maximum() const {
    float maximum = -INFINITY;
    for (int i = threadIdx.x % 32; i < static_cast<int>(cluster.size) * kRowWarps; i += 32)
      maximum = max_or_nan(maximum, shared.warp_maxima[i]);
    return warp_max_or_nan(maximum);
  }

  /// The leader: one more pass by all blocks.
  __device__ void run(Pass pass) {
    __syncthreads();  // all threads have read what the last one left
    is_backward_ = !is_backward_;
    pass.is_backward = is_backward_;
    tell(pass);
    if (threadIdx.x == 0) shared.num_keys = shared.count = 0;
    cluster.sync();
    work(pass);
    cluster.sync();
    if (pass.kind == PassKind::kHistogram) merge_histograms();
  }
  /// The leader, when it needs no more passes: lets the other blocks go.
  __device__ void finish() {
    if (is_finished_) return;
    is_finished_ = true;
    tell({PassKind::kDone});
    cluster.sync();
  }
  /// The other blocks.
  __device__ void serve() {
    while (true) {
      cluster.sync();
      const Pass pass = shared.pass;
      if (pass.kind == PassKind::kDone) return;
      work(pass);
      cluster.sync();
    }
  }
  /// The leader, after a pass: the mass above its range. Every thread gets it.
  __device__ double mass_above() const {
    double mass = 0;
    for (unsigned block = 0; block < cluster.size; ++block) {
      const double* masses = cluster.at(shared.warp_mass, block);
      for (int warp = 0; warp < kRowWarps; ++warp) mass += masses[warp];
    }
    return mass;
  }

  const Row row;
  const Cluster cluster;
  RowShared& shared;
  RowShared* const leader;

 private:
  bool is_backward_ = false;  // of the leader's last pass
  bool is_finished_ = false;

  /// Calls function(chunk) for this warp's chunks.
  template <typename Function>
  __device__ __forceinline__ void for_chunks(bool is_backward, const Function& function) const {
    const Turns turns(row.num_chunks(), cluster);
    for (int turn = 0; turn < turns.count; ++turn)
      function(turns.chunk(is_backward ? turns.count - 1 - turn : turn));
  }

  __device__ void tell(const Pass& pass) {
    if (threadIdx.x < cluster.size) {
      RowShared* other = cluster.at(&shared, threadIdx.x);
      other->pass = pass;
      if (threadIdx.x > 0) other->softmax = shared.softmax;
    }
  }

  __device__ void work(const Pass& pass) {
    const int lane = threadIdx.x % 32;
    if (pass.kind == PassKind::kHistogram) {
      for (int bin = threadIdx.x; bin < kBins; bin += kRowThreads) shared.histogram[bin] = 0;
      __syncthreads();
    }
    const Softmax softmax = shared.softmax;
    const float least = value_of_key(pass.low);
    const bool asks_above = pass.high != kNoLimit;
    double mass = 0;
    int count = 0;
    for_chunks(pass.is_backward, [&](int chunk) {
      if (shared.maxima[chunk] < least) {
        if (pass.kind != PassKind::kHistogram && lane == 0) leader->sums[chunk] = 0;
        return;
      }
      float values[kPerLane];
      row.load(chunk, values);
      float chunk_mass = 0;
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        const uint64_t key = key_of(values[j], chunk * kChunk + j * 32 + lane);
        if (pass.kind == PassKind::kMasses) {
          if (key >= pass.low) {
            chunk_mass += softmax(values[j]);
            ++count;
          }
          continue;
        }
        if (key > pass.high) {
          chunk_mass += softmax(values[j]);
          ++count;
        }
        const bool is_inside = key >= pass.low && key <= pass.high;
        if (pass.kind == PassKind::kHistogram) {
          if (is_inside) atomicAdd(&shared.histogram[pass.bin_of(key, values[j])], 1u);
        } else {
          add_to_list(key, is_inside);
        }
      }
      if (!asks_above) return;
      mass += chunk_mass;
      if (pass.kind == PassKind::kHistogram) return;
      chunk_mass = warp_sum(chunk_mass);
      if (lane == 0) leader->sums[chunk] = chunk_mass;
    });
    if (!asks_above) return;
    count = __reduce_add_sync(kFullWarp, count);
    if (lane == 0 && count > 0) atomicAdd(&leader->count, count);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) mass += __shfl_xor_sync(kFullWarp, mass, offset);
    if (lane == 0) shared.warp_mass[threadIdx.x / 32] = mass;
  }

  __device__ __forceinline__ void note_maximum(int chunk, float maximum, float* chunk_maxima) {
    shared.maxima[chunk] = maximum;
    leader->maxima[chunk] = maximum;
    if (chunk_maxima != nullptr) chunk_maxima[chunk] = maximum;
  }
  __device__ void end_measure(float warp_maximum) {
    if (threadIdx.x % 32 == 0)
      leader->warp_maxima[cluster.rank * kRowWarps + threadIdx.x / 32] = warp_maximum;
    cluster.sync();
  }

  /// To the leader's list; all lanes of a warp call it.
  __device__ __forceinline__ void add_to_list(uint64_t key, bool is_inside) {
    const unsigned inside = __ballot_sync(kFullWarp, is_inside);
    if (inside == 0) return;
    const int lane = threadIdx.x % 32;
    int first = 0;
    if (lane == 0) first = atomicAdd(&leader->num_keys, __popc(inside));
    const int at = __shfl_sync(kFullWarp, first, 0) + __popc(inside & ((1u << lane) - 1));
    if (is_inside && at < kCapacity) leader->keys[at] = key;
  }

  __device__ void merge_histograms() {
    for (int bin = threadIdx.x; bin < kBins; bin += kRowThreads) {
      uint32_t sum = shared.histogram[bin];
      for (unsigned block = 1; block < cluster.size; ++block)
        sum += cluster.at(shared.histogram, block)[bin];
      shared.histogram[bin] = sum;
    }
    __syncthreads();
  }
};

}  // namespace inflight::cuda
