// Passes over a row that a cluster makes together. The leader (block 0) decides between passes and
// has the results in its shared memory; the other blocks serve until it is done.
#pragma once

#include "kernels/sampling/row.cuh"

namespace inflight::cuda {

inline constexpr int kBins = 2048;
inline constexpr int kCapacity = 2048;              // elements that the leader can hold and sort
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
  float maxima[kMaxChunks];     // of this block's chunks; L: of all
  float sums[kMaxChunks];       // L: masses of chunks
  uint32_t histogram[kBins];    // of this block's chunks; L: of all once merged
  uint64_t keys[kCapacity];     // L
  double prefix[kCapacity];     // L: running sums of the keys' weights
  double warp_mass[kRowWarps];  // of this block's chunks
  double warp_sums[kRowWarps];  // of block_scan
  uint32_t warp_counts[kRowWarps];
  uint64_t result;  // of whoever finds it
  int high_bin;
  int low_bin;
  int last_bin;  // that holds a key
  int num_keys;  // L: found; those beyond kCapacity are not in keys
  int count;     // L: of keys above high; of kMasses: >= low
  Pass pass;
  Softmax softmax;  // before a pass that asks for masses
};

class RowCluster {
 public:
  __device__ RowCluster(Row row, Cluster cluster, RowShared& shared)
      : row(row), cluster(cluster), shared(shared), leader(cluster.at(&shared, 0)) {}

  __device__ bool is_leader() const { return cluster.rank == 0; }

  /// All blocks: every chunk's maximum, NaN included, and, if `scale` is not 0, the sum of its
  /// weights against its own maximum. In the order of the lanes' elements, so in any cluster alike.
  /// `chunk_maxima`, if not null, gets the maxima, too.
  __device__ void measure(float scale, float* chunk_maxima) {
    row.stream(Turns(row.num_chunks(), cluster), [&](int chunk, const float (&values)[kPerLane]) {
      const float maximum = warp_max_or_nan(lane_max(values));
      float sum = 0;
      if (scale != 0.0f && maximum > -INFINITY) {
        float parts[4] = {};
#pragma unroll
        for (int j = 0; j < kPerLane; ++j) parts[j % 4] += weight_of(values[j], maximum, scale);
        sum = warp_sum((parts[0] + parts[1]) + (parts[2] + parts[3]));
      }
      if (threadIdx.x % 32 == 0) {
        shared.maxima[chunk] = maximum;
        leader->maxima[chunk] = maximum;
        leader->sums[chunk] = sum;
        if (chunk_maxima != nullptr) chunk_maxima[chunk] = maximum;
      }
    });
    cluster.sync();
  }
  /// Instead of `measure`: the maxima that it gave before.
  __device__ void recall(const float* chunk_maxima) {
    for (int chunk = threadIdx.x; chunk < row.num_chunks(); chunk += kRowThreads)
      shared.maxima[chunk] = chunk_maxima[chunk];
    cluster.sync();
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
      other->softmax = shared.softmax;
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
          collect(key, is_inside);
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

  __device__ __forceinline__ void collect(uint64_t key, bool is_inside) {
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
