#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kernels/core/philox.h"
#include "kernels/sampling/row_cpu.h"
#include "kernels/sampling/sample.h"

namespace inflight::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// A thread's part of the workspace.
struct Scratch {
  float* block_maxima;  // [num_row_blocks(V)]
  int32_t* ids;         // [V] candidates, ascending
  float* values;        // [V] their logits
  float* weights;       // [V] their weights, or those of the whole row
};

/// The tokens that the filters may still keep, in order of ids.
struct Candidates {
  int32_t* ids;
  float* values;
  float* weights;
  int64_t count;

  /// Keeps those for which keep(index) holds.
  template <typename Keep>
  void filter(const Keep& keep) {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i) {
      const bool keep_it = keep(i);
      ids[kept] = ids[i];
      values[kept] = values[i];
      weights[kept] = weights[i];
      kept += keep_it;
    }
    count = kept;
  }
};

struct RowParams {
  float temperature;
  int64_t top_k;
  float top_p;
  float min_p;
};

struct RowDraw {
  int32_t token;
  double sum;  // of the kept weights
  int64_t num_kept;
};

/// The least logit that passes a filter which drops weights below `weight`, 0 < weight <= 1.
float logit_of_weight(double weight, float maximum, float temperature) {
  const double logit = maximum + static_cast<double>(temperature) * std::log(weight);
  return static_cast<float>(std::max<double>(logit, std::numeric_limits<float>::lowest()));
}

/// Keeps the smallest set of the likeliest candidates whose weights sum to at least `target`. No
/// candidate is below `least`.
void keep_nucleus(Candidates& c, float least, float maximum, float temperature, double target) {
  // mass(values >= low) >= target > mass(values >= high): the edge lies in [low, high). What is
  // below the first `low` has no weight.
  float low = std::max(least, logit_of_weight(1e-40, maximum, temperature));
  float high = std::nextafter(maximum, kInfinity);
  const Mass all = mass_from(c.values, c.weights, c.count, low);
  if (all.weight < target) return;  // by rounding
  Mass above;                       // of values >= high
  int64_t edge_count = all.count;   // values in [low, high)
  constexpr int64_t kFew = 512;
  bool tied = false;  // every value in [low, high) is `low`
  while (edge_count > kFew) {
    const float middle = low / 2 + std::min(high, std::numeric_limits<float>::max()) / 2;
    if (middle <= low || middle >= high) {
      tied = true;
      break;
    }
    const Mass upper = mass_from(c.values, c.weights, c.count, middle);
    if (upper.weight >= target) {
      low = middle;
      edge_count = upper.count - above.count;
    } else {
      high = middle;
      edge_count -= upper.count - above.count;
      above = upper;
    }
  }
  double mass = above.weight;
  if (tied) {  // in order of ids
    c.filter([&](int64_t i) {
      if (c.values[i] != low) return c.values[i] > low;
      const bool keep = mass < target;
      mass += c.weights[i];
      return keep;
    });
    return;
  }
  std::array<int32_t, kFew> edge;
  int64_t edge_size = 0;
  for (int32_t i = 0; i < c.count && edge_size < edge_count; ++i) {
    if (c.values[i] >= low && c.values[i] < high) edge[edge_size++] = i;
  }
  std::sort(edge.begin(), edge.begin() + edge_size, [&](int32_t a, int32_t b) {
    return c.values[a] != c.values[b] ? c.values[a] > c.values[b] : a < b;
  });
  float last_value = high;
  int32_t last = -1;  // index of the last one kept
  for (int64_t i = 0; i < edge_size && mass < target; ++i) {
    last = edge[i];
    last_value = c.values[last];
    mass += c.weights[last];
  }
  c.filter([&](int64_t i) {  // without a branch to mispredict
    return (c.values[i] > last_value) | ((c.values[i] == last_value) & (i <= last));
  });
}

RowDraw draw(const float* row, int64_t length, float maximum, const RowParams& p, double uniform,
             const Scratch& scratch) {
  const bool use_top_k = p.top_k > 0 && p.top_k < length;
  const bool use_top_p = p.top_p < 1.0f;
  if (!use_top_k && !use_top_p && p.min_p <= 0.0f) {
    const double sum = exp_weights(row, length, maximum, p.temperature, scratch.weights);
    const int64_t index = index_at_mass(scratch.weights, length, uniform * sum);
    return {static_cast<int32_t>(index), sum, length};
  }

  const float min_p_logit =
      p.min_p > 0.0f ? logit_of_weight(p.min_p, maximum, p.temperature) : -kInfinity;
  Candidates c{scratch.ids, scratch.values, scratch.weights, 0};
  float threshold = min_p_logit;
  double sum_before_top_p = 0;
  if (use_top_k) {
    threshold = kth_largest(row, length, scratch.block_maxima, p.top_k, scratch.values);
  } else if (use_top_p) {
    sum_before_top_p = exp_weights(row, length, maximum, p.temperature, nullptr);
    // What is lighter than this sums to less than what top_p drops, with room for rounding.
    const double lightest = 0.5 * (1.0 - p.top_p) * sum_before_top_p / static_cast<double>(length);
    threshold =
        std::max(threshold, logit_of_weight(std::min(lightest, 1.0), maximum, p.temperature));
  }
  c.count = collect(row, length, scratch.block_maxima, threshold, c.ids, c.values);
  double sum = exp_weights(c.values, c.count, maximum, p.temperature, c.weights);
  if (use_top_p) {
    if (use_top_k) sum_before_top_p = sum;
    keep_nucleus(c, threshold, maximum, p.temperature, p.top_p * sum_before_top_p);
  }
  if (p.min_p > 0.0f) c.filter([&](int64_t i) { return c.values[i] >= min_p_logit; });
  sum = mass_from(c.values, c.weights, c.count, -kInfinity).weight;
  return {c.ids[index_at_mass(c.weights, c.count, uniform * sum)], sum, c.count};
}

Scratch take_scratch(void* workspace, int64_t length) {
  Carver carver(workspace);
  Scratch scratch;
  scratch.block_maxima = carver.take<float>(num_row_blocks(length));
  scratch.ids = carver.take<int32_t>(length);
  scratch.values = carver.take<float>(length);
  scratch.weights = carver.take<float>(length);
  return scratch;
}

}  // namespace

size_t sample_workspace_bytes(int64_t vocab_size) {
  return Carver::bytes_of<float>(num_row_blocks(vocab_size)) +
         3 * Carver::bytes_of<float>(vocab_size);
}

void sample(const SampleParams& params, OpContext& context) {
  const int64_t length = params.logits.shape[1];
  const size_t scratch_bytes = sample_workspace_bytes(length);
  for_each_row(context, params.rows.shape[0], length, [&](int64_t i, int thread) {
    const Scratch scratch = take_scratch(
        static_cast<std::byte*>(context.workspace.data) + thread * scratch_bytes, length);
    const int64_t place = params.rows.as<int32_t>()[i];
    const float* row = params.logits.as<float>() + place * params.logits.strides[0];
    int32_t& token = params.tokens.as<int32_t>()[place];
    const bool wants_log_probs = params.num_top.as<int32_t>()[i] >= 0;
    const float maximum = row_maxima(row, length, scratch.block_maxima);
    if (!(maximum < kInfinity)) {
      token = kBadLogits;
      return;
    }
    if (maximum == -kInfinity) {
      token = kNoToken;
      return;
    }
    const float temperature = params.temperatures.as<float>()[i];
    RowDraw result;
    if (temperature == 0.0f) {
      result.token = static_cast<int32_t>(first_equal(row, length, scratch.block_maxima, maximum));
      result.sum = wants_log_probs ? exp_weights(row, length, maximum, 1.0f, nullptr) : 1.0;
      result.num_kept = length;
    } else {
      const RowParams p{temperature, params.top_ks.as<int32_t>()[i], params.top_ps.as<float>()[i],
                        params.min_ps.as<float>()[i]};
      const double uniform =
          philox_uniform(static_cast<uint64_t>(params.seeds.as<int64_t>()[i]),
                         static_cast<uint64_t>(params.positions.as<int64_t>()[i]));
      result = draw(row, length, maximum, p, uniform, scratch);
    }
    token = result.token;
    params.maxima.as<float>()[i] = maximum;
    params.log_sums.as<float>()[i] = static_cast<float>(std::log(result.sum));
    params.num_kept.as<int32_t>()[i] = static_cast<int32_t>(result.num_kept);
  });
}

}  // namespace inflight::cpu
