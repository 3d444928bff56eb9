// What the leader of a row does alone, or decides between passes: sorting, running sums, and the
// search for an edge among the row's keys by rank or by mass. All threads of its block call these
// and get the results.
#pragma once

#include "kernels/sampling/row_passes.cuh"

namespace inflight::cuda {

static_assert(kMaxChunks <= kCapacity && kCapacity == 4 * kRowThreads && kBins == 4 * kRowThreads);

/// The row's maximum, NaN if there is any.
__device__ __forceinline__ float row_maximum(RowShared& shared, int num_chunks) {
  float maximum = -INFINITY;
  for (int chunk = threadIdx.x; chunk < num_chunks; chunk += kRowThreads)
    maximum = max_or_nan(maximum, shared.maxima[chunk]);
  maximum = warp_max_or_nan(maximum);
  auto* warp_maxima = reinterpret_cast<float*>(shared.warp_counts);
  if (threadIdx.x % 32 == 0) warp_maxima[threadIdx.x / 32] = maximum;
  __syncthreads();
  return warp_max_or_nan(warp_maxima[threadIdx.x % kRowWarps]);
}

/// Sorts keys[0, count), largest first: bitonic. (Batcher, "Sorting networks and their
/// applications", AFIPS 1968.)
__device__ inline void sort_keys(uint64_t* keys, int count) {
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

/// The k-th largest of the chunks' maxima, 1 <= k <= num_chunks: at least k elements reach it.
__device__ inline float kth_maximum(RowShared& shared, int num_chunks, int k) {
  for (int i = threadIdx.x; i < num_chunks; i += kRowThreads)
    shared.keys[i] = least_key(shared.maxima[i]);
  __syncthreads();
  sort_keys(shared.keys, num_chunks);
  const float value = value_of_key(shared.keys[k - 1]);
  __syncthreads();
  return value;
}

/// Of histograms over [low, high]: each bin's keys.
__device__ __forceinline__ int shift_for(uint64_t low, uint64_t high) {
  const int bits = 64 - __clzll(static_cast<long long>(high - low));
  return max(0, bits - 11);
}

struct Edge {
  uint64_t key;
  int count;
};

/// The k-th largest key in [low, high], k >= 1; the last one where there are fewer. `count` is its
/// rank, 0 if there is none.
__device__ inline Edge find_by_rank(RowCluster& cluster, uint64_t low, uint64_t high, int k) {
  RowShared& shared = cluster.shared;
  int above = 0;
  for (bool is_first = true;; is_first = false) {
    const int shift = shift_for(low, high);
    cluster.run({PassKind::kHistogram, shift, low, high});
    const int top_bin = kBins - 1 - 4 * static_cast<int>(threadIdx.x);
    uint32_t mine = 0;
    for (int j = 0; j < 4; ++j) mine += shared.histogram[top_bin - j];
    const Scan scan = block_scan(mine, shared);
    if (is_first) {
      k = min(k, static_cast<int>(scan.total));
      if (k == 0) return {high, 0};
    }
    int before = above + static_cast<int>(scan.before);
    for (int j = 0; j < 4; ++j) {
      const int size = shared.histogram[top_bin - j];
      if (before < k && before + size >= k) {
        shared.result = static_cast<uint64_t>(top_bin - j) << 32 | before;
        shared.count = size;
      }
      before += size;
    }
    __syncthreads();
    low += (shared.result >> 32) << shift;
    high = min(high, low + ((uint64_t{1} << shift) - 1));
    above = static_cast<int>(shared.result & 0xffffffffu);
    const int size = shared.count;
    __syncthreads();
    if (size > kCapacity) continue;
    cluster.run({PassKind::kCollect, 0, low, high});
    sort_keys(shared.keys, size);
    const uint64_t key = shared.keys[k - above - 1];
    __syncthreads();
    return {key, k};
  }
}

/// The key at which the mass of the larger ones and itself first reaches `target`, of those in
/// [low, high]; `low` if rounding keeps it below. No key is above `high`.
__device__ inline uint64_t find_by_mass(RowCluster& cluster, uint64_t low, uint64_t high,
                                        double target) {
  RowShared& shared = cluster.shared;
  const Softmax softmax = shared.softmax;
  for (int level = 0;; ++level) {
    const int shift = shift_for(low, high);
    cluster.run({PassKind::kHistogram, shift, low, high});
    const double mass_above = cluster.mass_above();
    // A bin's mass lies between those of its least and largest keys, times its size. The edge lies
    // between where the upper bounds and where the lower ones reach the target. Later bins are so
    // narrow that their middle does.
    const double slack = level < 2 ? 4e-6 : 0.0;
    const int top_bin = kBins - 1 - 4 * static_cast<int>(threadIdx.x);
    double upper[4], lower[4], upper_sum = 0, lower_sum = 0;
    for (int j = 0; j < 4; ++j) {
      const uint64_t first = low + (static_cast<uint64_t>(top_bin - j) << shift);
      const uint64_t last = min(high, first + ((uint64_t{1} << shift) - 1));
      const uint32_t count = shared.histogram[top_bin - j];
      upper[j] = lower[j] = 0;
      if (count > 0) {
        upper[j] = static_cast<double>(count) * softmax(value_of_key(last));
        lower[j] = static_cast<double>(count) * softmax(value_of_key(first));
        if (level >= 2) upper[j] = lower[j] = (upper[j] + lower[j]) / 2;
      }
      upper_sum += upper[j];
      lower_sum += lower[j];
    }
    double upper_before = mass_above + block_scan(upper_sum, shared).before;
    double lower_before = mass_above + block_scan(lower_sum, shared).before;
    if (threadIdx.x == 0) shared.high_bin = shared.low_bin = -1;
    __syncthreads();
    for (int j = 0; j < 4; ++j) {
      upper_before += upper[j];
      lower_before += lower[j];
      const int bin = top_bin - j;
      if (upper_before >= target * (1 - slack)) atomicMax(&shared.high_bin, bin);
      if (lower_before >= target * (1 + slack)) atomicMax(&shared.low_bin, bin);
    }
    __syncthreads();
    const int high_bin = shared.high_bin, low_bin = max(shared.low_bin, 0);
    if (high_bin < 0) return low;
    int members = 0;
    for (int bin = low_bin + threadIdx.x; bin <= high_bin; bin += kRowThreads)
      members += shared.histogram[bin];
    members = static_cast<int>(block_scan(members, shared).total);
    high = min(high, low + (static_cast<uint64_t>(high_bin + 1) << shift) - 1);
    low += static_cast<uint64_t>(low_bin) << shift;
    if (members == 0) return low;
    if (members > kCapacity) continue;
    cluster.run({PassKind::kCollect, 0, low, high});
    const double above = cluster.mass_above();
    sort_keys(shared.keys, members);
    running_sums(members, shared, [&](int i) { return softmax(value_of_key(shared.keys[i])); });
    const int kept = count_if(
        members, [&](int i) { return above + (i == 0 ? 0 : shared.prefix[i - 1]) < target; });
    const uint64_t key = kept == 0 ? high + 1 : shared.keys[kept - 1];
    __syncthreads();
    return key;
  }
}

}  // namespace inflight::cuda
