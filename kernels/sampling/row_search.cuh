// What the leader of a row does alone, or decides between passes: sorting, running sums, and the
// search for an edge among the row's keys by rank or by mass. All threads of its block call these
// and get the results.
#pragma once

#include "kernels/sampling/row_passes.cuh"

namespace inflight::cuda {

static_assert(kMaxChunks <= kCapacity && kCapacity == 4 * kRowThreads && kBins == 4 * kRowThreads);

/// How many of values[0, count) exceed `own`, counted by `team` neighbouring threads.
template <typename T>
__device__ __forceinline__ int rank_of(const T* values, int count, T own, int team) {
  int rank = 0;
#pragma unroll 4
  for (int i = threadIdx.x % team; i < count; i += team) rank += values[i] > own;
  for (int offset = team / 2; offset > 0; offset /= 2)
    rank += __shfl_xor_sync(kFullWarp, rank, offset);
  return rank;
}

/// Sorts the distinct keys[0, count), largest first. Few by counting; many by a bitonic network.
/// (Batcher, "Sorting networks and their applications", AFIPS 1968.)
__device__ inline void sort_keys(uint64_t* keys, int count) {
  if (count <= kRowThreads / 2) {
    const int team = count <= kRowThreads / 16  ? 16
                     : count <= kRowThreads / 8 ? 8
                     : count <= kRowThreads / 4 ? 4
                                                : 2;
    const int i = threadIdx.x / team;
    __syncthreads();
    const uint64_t key = i < count ? keys[i] : 0;
    const int rank = rank_of(keys, count, key, team);
    __syncthreads();
    if (i < count && threadIdx.x % team == 0) keys[rank] = key;
    __syncthreads();
    return;
  }
  int size = 2;
  while (size < count) size *= 2;
  for (int i = count + threadIdx.x; i < size; i += kRowThreads) keys[i] = 0;
  __syncthreads();
  for (int run = 2; run <= size; run *= 2) {
    for (int step = run / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < size / 2; i += kRowThreads) {
        const int a = 2 * i - (i & (step - 1)), b = a + step;
        const uint64_t x = keys[a], y = keys[b];
        if ((x < y) == ((a & run) == 0)) {
          keys[a] = y;
          keys[b] = x;
        }
      }
      __syncthreads();
    }
  }
}

/// Sorts the first `count` keys with ids ahead of values: the lowest ids first.
__device__ inline void sort_by_id(uint64_t* keys, int count) {
  for (int i = threadIdx.x; i < count; i += kRowThreads) keys[i] = keys[i] << 32 | keys[i] >> 32;
  __syncthreads();
  sort_keys(keys, count);
}

struct Scan {
  double before;  // of the threads before this one
  double total;
};
__device__ inline Scan block_scan(double x, RowShared& shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const double below = __shfl_up_sync(kFullWarp, x, offset);
    if (lane >= offset) x += below;
  }
  if (lane == 31) shared.warp_sums[warp] = x;
  const double before_in_warp = __shfl_up_sync(kFullWarp, x, 1);
  __syncthreads();
  Scan scan{0, 0};
  for (int i = 0; i < kRowWarps; ++i) {
    if (i == warp) scan.before = scan.total;
    scan.total += shared.warp_sums[i];
  }
  if (lane > 0) scan.before += before_in_warp;
  __syncthreads();
  return scan;
}

/// prefix[i] = weight(0) + ... + weight(i) for i < count <= kCapacity, in float64; returns the sum.
template <typename Weight>
__device__ __forceinline__ double running_sums(int count, RowShared& shared, const Weight& weight) {
  const int each = (count + kRowThreads - 1) / kRowThreads;
  const int begin = threadIdx.x * each, end = min(begin + each, count);
  double sum = 0;
  for (int i = begin; i < end; ++i) {
    sum += weight(i);
    shared.prefix[i] = sum;
  }
  const Scan scan = block_scan(sum, shared);
  for (int i = begin; i < end; ++i) shared.prefix[i] += scan.before;
  __syncthreads();
  return scan.total;
}

/// The sum of all weights, where the chunks' sums are against their own maxima.
__device__ inline double total_of(RowCluster& cluster) {
  RowShared& shared = cluster.shared;
  const Softmax softmax = shared.softmax;
  for (int i = threadIdx.x; i < cluster.row.num_chunks(); i += kRowThreads)
    shared.sums[i] *= softmax(shared.maxima[i]);
  __syncthreads();
  return running_sums(cluster.row.num_chunks(), shared, [&](int i) { return shared.sums[i]; });
}

/// The first i whose running sum exceeds `target`; the last one with a weight if rounding keeps
/// them all below. -1 if none has one.
__device__ inline int index_at_mass(int count, double target, RowShared& shared) {
  if (threadIdx.x == 0) shared.count = -1;
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kRowThreads) {
    const double before = i == 0 ? 0 : shared.prefix[i - 1];
    if (shared.prefix[i] > before && before <= target) atomicMax(&shared.count, i);
  }
  __syncthreads();
  const int index = shared.count;
  __syncthreads();
  return index;
}

/// How many i < count satisfy `holds`.
template <typename Predicate>
__device__ __forceinline__ int count_if(int count, const Predicate& holds) {
  int sum = 0;
  for (int first = 0; first < count; first += kRowThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    sum += __syncthreads_count(i < count && holds(i));
  }
  return sum;
}

/// At most the k-th largest of the chunks' maxima, 1 <= k <= num_chunks, and close to it: at least
/// k elements reach it. The list is lost if there are more chunks than threads.
__device__ inline float kth_maximum(RowShared& shared, int num_chunks, int k) {
  if (num_chunks <= kRowThreads) {
    const int own = threadIdx.x;
    return bound_of_rank(own < num_chunks ? shared.maxima[own] : -INFINITY, k);
  }
  for (int i = threadIdx.x; i < num_chunks; i += kRowThreads)
    shared.keys[i] = key_of(shared.maxima[i], i);
  __syncthreads();
  sort_keys(shared.keys, num_chunks);
  const float value = value_of_key(shared.keys[k - 1]);
  __syncthreads();
  return value;
}

/// Cuts a range of keys into bins for kHistogram and turns bins back into ranges of keys.
struct Bins {
  Pass pass;
  float margin;  // of values, for what rounding may do to bin_of

  /// Bins of equal width down to the value `bottom`, if that can be told from rounding; else, and
  /// after a few levels, of keys, which always narrow the range.
  __device__ Bins(uint64_t low, uint64_t high, float top, float bottom, int level) {
    const int bits = 64 - __clzll(static_cast<long long>(high - low));
    const float width = top - bottom;
    const bool by_value = level < 4 && width > fmaxf(1e-3f * fabsf(top), 1e-30f) && width < 1e30f;
    pass = {PassKind::kHistogram, low, high,
            max(0, bits - 11),    top, by_value ? kBins / width : 0.0f};
    margin = by_value ? 4e-7f * (fabsf(top) + width) : 0.0f;
  }
  /// The least and the largest key that bin may hold.
  __device__ uint64_t low_of(int bin) const {
    if (pass.per_value == 0.0f) return pass.low + (static_cast<uint64_t>(bin) << pass.shift);
    if (bin == 0) return pass.low;
    return max(pass.low, least_key(pass.top - (kBins - bin) / pass.per_value - margin));
  }
  __device__ uint64_t high_of(int bin) const {
    if (pass.per_value == 0.0f) {
      const uint64_t last = (uint64_t{1} << pass.shift) - 1;
      return min(pass.high, pass.low + (static_cast<uint64_t>(bin) << pass.shift) + last);
    }
    if (bin == kBins - 1) return pass.high;
    const float value = pass.top - (kBins - 1 - bin) / pass.per_value + margin;
    return min(pass.high, least_key(value) | 0xffffffffu);
  }
};

/// The least of the chunks' maxima above -infinity.
__device__ inline float least_maximum(RowShared& shared, int num_chunks) {
  if (threadIdx.x == 0) shared.result = ~uint64_t{0};
  __syncthreads();
  for (int i = threadIdx.x; i < num_chunks; i += kRowThreads) {
    if (shared.maxima[i] > -INFINITY)
      atomicMin(reinterpret_cast<unsigned long long*>(&shared.result), least_key(shared.maxima[i]));
  }
  __syncthreads();
  return value_of_key(shared.result);
}

struct Edge {
  uint64_t key;
  int count;  // of the keys above it and itself; 0 if there is no key at all
  /// > 0: the list holds that many keys down to `key`, and `sums` has the masses of those above
  /// them. 0: neither holds anything.
  int num_listed;
};

/// The k-th largest key in [low, high], k >= 1; the last one where there are fewer. `high` is no
/// less than any key or there must be no need of `sums`. `bottom`: see Bins.
__device__ inline Edge find_by_rank(RowCluster& cluster, uint64_t low, uint64_t high, float top,
                                    float bottom, int k) {
  RowShared& shared = cluster.shared;
  int outside = 0;  // keys above the range asked for
  for (int level = 0;; ++level) {
    const Bins bins(low, high, level == 0 ? top : value_of_key(high),
                    level == 0 ? bottom : value_of_key(low), level);
    cluster.run(bins.pass);
    const int above = shared.count - outside;
    const int top_bin = kBins - 1 - 4 * static_cast<int>(threadIdx.x);
    uint32_t mine = 0;
    for (int j = 0; j < 4; ++j) mine += shared.histogram[top_bin - j];
    const Scan scan = block_scan(mine, shared);
    if (level == 0) {
      outside = above;
      k = min(k, static_cast<int>(scan.total));
      if (k == 0) return {high, 0, 0};
    }
    int before = (level == 0 ? 0 : above) + static_cast<int>(scan.before);
    for (int j = 0; j < 4; ++j) {
      const int size = shared.histogram[top_bin - j];
      if (before < k && before + size >= k) {
        shared.high_bin = top_bin - j;
        shared.low_bin = size;
      }
      before += size;
    }
    __syncthreads();
    const int bin = shared.high_bin, size = shared.low_bin;
    low = bins.low_of(bin);
    high = bins.high_of(bin);
    __syncthreads();
    if (size > kCapacity) continue;
    // With all that tie with the least value, if they are not too many.
    uint64_t least = low >> 32 << 32;
    cluster.run({PassKind::kCollect, least, high});
    if (shared.num_keys > kCapacity && least != low) {
      least = low;
      cluster.run({PassKind::kCollect, least, high});
    }
    if (shared.num_keys > kCapacity) continue;
    const int num_keys = shared.num_keys, num_above = shared.count - outside;
    sort_keys(shared.keys, num_keys);
    const int at = min(max(k - num_above - 1, 0), num_keys - 1);
    const uint64_t key = shared.keys[at];
    __syncthreads();
    return {key, k, least == low && static_cast<uint32_t>(low) != 0 ? 0 : at + 1};
  }
}

/// The key at which the mass of the larger ones and itself first reaches `target`, of those in
/// [low, high]; `low` if rounding keeps it below. No key is above `high`.
__device__ inline Edge find_by_mass(RowCluster& cluster, uint64_t low, uint64_t high,
                                    double target) {
  RowShared& shared = cluster.shared;
  const Softmax softmax = shared.softmax;
  for (int level = 0;; ++level) {
    const Bins bins(low, high, value_of_key(high), value_of_key(low), level);
    cluster.run(bins.pass);
    const double mass_above = cluster.mass_above();
    // A bin's mass lies between those of its least and largest keys, times its size. The edge lies
    // between where the upper bounds and where the lower ones reach the target. Later bins are so
    // narrow that their middle does.
    const double slack = level < 2 ? 3e-7 : 0.0;
    const int top_bin = kBins - 1 - 4 * static_cast<int>(threadIdx.x);
    double upper[4], lower[4], upper_sum = 0, lower_sum = 0;
    for (int j = 0; j < 4; ++j) {
      const uint32_t count = shared.histogram[top_bin - j];
      upper[j] = lower[j] = 0;
      if (count > 0) {
        const float most = fminf(value_of_key(bins.high_of(top_bin - j)), softmax.maximum);
        upper[j] = static_cast<double>(count) * softmax(most);
        lower[j] = static_cast<double>(count) * softmax(value_of_key(bins.low_of(top_bin - j)));
        if (level >= 2) upper[j] = lower[j] = (upper[j] + lower[j]) / 2;
      }
      upper_sum += upper[j];
      lower_sum += lower[j];
    }
    double upper_before = mass_above + block_scan(upper_sum, shared).before;
    double lower_before = mass_above + block_scan(lower_sum, shared).before;
    if (threadIdx.x == 0) {
      shared.high_bin = shared.low_bin = -1;
      shared.last_bin = kBins;
    }
    __syncthreads();
    for (int j = 0; j < 4; ++j) {
      upper_before += upper[j];
      lower_before += lower[j];
      const int bin = top_bin - j;
      if (shared.histogram[bin] > 0) atomicMin(&shared.last_bin, bin);
      if (upper_before >= target * (1 - slack)) atomicMax(&shared.high_bin, bin);
      if (lower_before >= target * (1 + slack)) atomicMax(&shared.low_bin, bin);
    }
    __syncthreads();
    // Where bounds or rounding keep the sum below the target, the edge is at the last key.
    const int last_bin = shared.last_bin;
    if (last_bin == kBins) return {low, 1, 0};
    const int high_bin = shared.high_bin < 0 ? last_bin : shared.high_bin;
    const int low_bin = shared.low_bin < 0 ? last_bin : shared.low_bin;
    int members = 0;
    for (int bin = low_bin + threadIdx.x; bin <= high_bin; bin += kRowThreads)
      members += shared.histogram[bin];
    members = static_cast<int>(block_scan(members, shared).total);
    high = bins.high_of(high_bin);
    low = bins.low_of(low_bin);
    if (members == 0) return {low, 1, 0};
    if (members > kCapacity) continue;
    cluster.run({PassKind::kCollect, low, high});
    const int num_keys = shared.num_keys, num_above = shared.count;
    if (num_keys > kCapacity) continue;
    const double above = cluster.mass_above();
    sort_keys(shared.keys, num_keys);
    running_sums(num_keys, shared, [&](int i) { return softmax(value_of_key(shared.keys[i])); });
    const int kept = count_if(
        num_keys, [&](int i) { return above + (i == 0 ? 0 : shared.prefix[i - 1]) < target; });
    const uint64_t key = kept == 0 ? high + 1 : shared.keys[kept - 1];
    __syncthreads();
    return {key, num_above + kept, kept};
  }
}

/// Adds the weights of the list's first `count` keys to their chunks' sums.
__device__ inline void add_listed(RowCluster& cluster, int count) {
  RowShared& shared = cluster.shared;
  const Softmax softmax = shared.softmax;
  sort_by_id(shared.keys, count);
  running_sums(count, shared,
               [&](int i) { return softmax(value_of(static_cast<uint32_t>(shared.keys[i]))); });
  const auto mass_before = [&](int id) {  // of lower ids in the list
    int begin = 0, end = count;
    while (begin < end) {
      const int middle = (begin + end) / 2;
      const bool is_before =
          static_cast<int>(~static_cast<uint32_t>(shared.keys[middle] >> 32)) < id;
      begin = is_before ? middle + 1 : begin;
      end = is_before ? end : middle;
    }
    return begin == 0 ? 0.0 : shared.prefix[begin - 1];
  };
  for (int chunk = threadIdx.x; chunk < cluster.row.num_chunks(); chunk += kRowThreads) {
    const double mass = mass_before((chunk + 1) * kChunk) - mass_before(chunk * kChunk);
    shared.sums[chunk] += static_cast<float>(mass);
  }
  __syncthreads();
}

}  // namespace inflight::cuda
