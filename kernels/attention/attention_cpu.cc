// Divides a step among the threads: a task is a tile of one sequence's queries with one kv head
// (the query heads that share it go together). A range of keys is always worked off in segments at
// fixed positions, merged in order; where tasks are too few for the threads, segments of generated
// tokens become tasks of their own. Either way the bits are the same.
#include <algorithm>
#include <cmath>

#include "kernels/attention/attend.h"
#include "kernels/attention/attention.h"
#include "kernels/core/check.h"
#include "kernels/core/cpu/convert.h"
#include "kernels/core/cpu/isa.h"
#include "kernels/core/cpu/math.h"
#include "kernels/core/cpu/parallel.h"

namespace inflight::cpu {
namespace {

// Query rows of a task, if a group of heads is not larger.
constexpr int64_t kTaskRows = 48;
// Below so many tasks for each thread, segments are divided too.
constexpr int64_t kMinTasksPerThread = 4;

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
constexpr int64_t divide_up(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

/// Softmax state of some rows over some keys.
struct Partial {
  float* maxima;   // [rows]
  float* sums;     // [rows]
  float* outputs;  // [rows, stride]
};

/// Sizes that follow from the op's shapes.
struct Geometry {
  explicit Geometry(const AttentionParams& params)
      : group(params.num_heads / params.num_kv_heads),
        tile_queries(std::max<int64_t>(1, kTaskRows / group)),
        max_rows(tile_queries * group),
        stride(round_up(params.head_size, kRowAlignment)),
        max_segments(
            divide_up(params.block_tables.shape[1] * params.kv_cache.shape[3], kSegmentKeys)) {}

  int64_t group;         // query heads to a kv head
  int64_t tile_queries;  // tokens to a task
  int64_t max_rows;      // tile_queries * group
  int64_t stride;        // floats of a padded row
  int64_t max_segments;  // of the longest sequence

  int64_t partial_floats(int64_t rows) const { return rows * (stride + 2); }
  /// Queries, first, visible, scores and factors, and two partials.
  int64_t thread_floats() const {
    return round_up(max_rows * (stride + 2 + kKeyTile + 1) + 2 * partial_floats(max_rows), 16);
  }
  Partial partial_at(float* data, int64_t rows) const {
    return {.maxima = data + rows * stride, .sums = data + rows * (stride + 1), .outputs = data};
  }
};

/// The first of a sequence's rows; of the sequence after the last, the number of rows.
int64_t first_row(const AttentionParams& params, int64_t sequence) {
  return params.query_starts ? params.query_starts.as<int32_t>()[sequence] : sequence;
}

/// The keys that some adjacent rows of a sequence read: [0, sinks) and [first, end).
struct KeySpan {
  int64_t sinks, first, end;

  /// Rows at positions [position, position + count).
  KeySpan(const AttentionParams& params, int64_t position, int64_t count)
      : sinks(0), first(0), end(position + count) {
    if (params.window == 0 || position - params.window + 1 <= params.num_sinks) return;
    sinks = params.num_sinks;
    first = position - params.window + 1;
  }
  int64_t count() const { return sinks + end - first; }
  // Segments are at fixed positions: those that have a key, in order.
  int64_t sink_segments() const { return divide_up(sinks, kSegmentKeys); }
  int64_t first_segment() const { return std::max(first / kSegmentKeys, sink_segments()); }
  int64_t segments() const {
    return sink_segments() + divide_up(end, kSegmentKeys) - first_segment();
  }
  /// Where segment `index` of them begins.
  int64_t segment_begin(int64_t index) const {
    const int64_t skipped = index < sink_segments() ? 0 : first_segment() - sink_segments();
    return (index + skipped) * kSegmentKeys;
  }
};

/// The step as numbered tasks: sequence by sequence, in a sequence tile by tile, in a tile head by
/// head, in a head segment by segment if these are divided.
struct Tasks {
  const AttentionParams& params;
  const Geometry& geometry;
  bool divides_segments = false;

  int64_t num_queries(int64_t sequence) const {
    return first_row(params, sequence + 1) - first_row(params, sequence);
  }
  int64_t kv_length(int64_t sequence) const { return params.kv_lengths.as<int32_t>()[sequence]; }
  int64_t segments(int64_t sequence) const {
    return divides_segments && num_queries(sequence) == 1
               ? KeySpan(params, kv_length(sequence) - 1, 1).segments()
               : 1;
  }
  int64_t count(int64_t sequence) const {
    return divide_up(num_queries(sequence), geometry.tile_queries) * params.num_kv_heads *
           segments(sequence);
  }
  int64_t count() const {
    int64_t total = 0;
    for (int64_t b = 0; b < params.kv_lengths.shape[0]; ++b) total += count(b);
    return total;
  }
};

void check_contents(const AttentionParams& params) {
  const auto* lengths = params.kv_lengths.as<int32_t>();
  const int64_t num_sequences = params.kv_lengths.shape[0];
  const int64_t capacity = params.block_tables.shape[1] * params.kv_cache.shape[3];
  const int64_t first = first_row(params, 0), end = first_row(params, num_sequences);
  check(first == 0 && end == params.q.shape[0], "attention: query_starts must go from 0 to ",
        params.q.shape[0], ", got ", first, " to ", end);
  for (int64_t b = 0; b < num_sequences; ++b) {
    const int64_t queries = first_row(params, b + 1) - first_row(params, b);
    check(queries >= 0 && queries <= lengths[b] && lengths[b] <= capacity, "attention: sequence ",
          b, " has ", queries, " rows, ", lengths[b], " tokens and room for ", capacity);
  }
}

class Step {
 public:
  Step(const AttentionParams& params, OpContext& context)
      : params_(params),
        geometry_(params),
        tasks_{params_, geometry_},
        pool_(*context.pool),
        kernel_(attend_kernel(best_isa(), params.kv_cache.dtype)),
        scratch_(static_cast<float*>(context.workspace.data)),
        partials_(scratch_ + pool_.num_threads() * geometry_.thread_floats()) {
    const int64_t few = kMinTasksPerThread * pool_.num_threads();
    tasks_.divides_segments = pool_.num_threads() > 1 && tasks_.count() < few;
  }

  void run() {
    const int64_t count = tasks_.count();
    pool_.parallel_for(
        count,
        [&](int64_t begin, int64_t end, int thread) {
          // From the last on: a prompt's later tiles see more keys and are better begun early.
          int64_t sequence = 0, task = count - 1 - begin;
          while (task >= tasks_.count(sequence)) task -= tasks_.count(sequence++);
          for (int64_t number = count - 1 - begin; number > count - 1 - end; --number, --task) {
            while (task < 0) task += tasks_.count(--sequence);
            run_task(number, sequence, task, thread);
          }
        },
        grain_for(bytes_per_task(count)));
    if (!tasks_.divides_segments) return;
    int64_t first = 0;
    for (int64_t b = 0; b < params_.kv_lengths.shape[0]; ++b) {
      const int64_t segments = tasks_.segments(b);
      for (int64_t head = 0; segments > 1 && head < params_.num_kv_heads; ++head)
        merge_segments(b, head, first + head * segments, segments);
      first += tasks_.count(b);
    }
  }

 private:
  int64_t bytes_per_task(int64_t count) const {
    int64_t keys = 0;
    for (int64_t b = 0; b < params_.kv_lengths.shape[0]; ++b) {
      const int64_t queries = tasks_.num_queries(b);
      const int64_t last_tile = std::min(queries, geometry_.tile_queries);
      keys += KeySpan(params_, tasks_.kv_length(b) - last_tile, last_tile).count() *
              divide_up(queries, geometry_.tile_queries);
    }
    const int64_t rows_cost = 1 + std::min(geometry_.max_rows, params_.q.shape[0]) / 8;
    return keys * params_.num_kv_heads * params_.head_size * 2 *
           static_cast<int64_t>(size_of(params_.kv_cache.dtype)) * rows_cost /
           std::max<int64_t>(count, 1);
  }

  Partial segment_partial(int64_t task) const {
    return geometry_.partial_at(partials_ + task * geometry_.partial_floats(geometry_.group),
                                geometry_.group);
  }

  /// Task `number` of the step is `task` of the sequence's.
  void run_task(int64_t number, int64_t sequence, int64_t task, int thread) {
    const int64_t segments = tasks_.segments(sequence);
    const int64_t segment = task % segments, head = task / segments % params_.num_kv_heads;
    const int64_t tile = task / segments / params_.num_kv_heads;
    const int64_t first = tile * geometry_.tile_queries;
    const int64_t queries = std::min(geometry_.tile_queries, tasks_.num_queries(sequence) - first);
    const int64_t rows = queries * geometry_.group, stride = geometry_.stride;

    float* memory = scratch_ + thread * geometry_.thread_floats();
    float* padded = memory;
    auto* first_keys = reinterpret_cast<int32_t*>(padded + rows * stride);
    int32_t* visible = first_keys + rows;
    float* scores = reinterpret_cast<float*>(visible + rows);
    float* after_scores = scores + rows * (kKeyTile + 1);
    const Partial total = geometry_.partial_at(after_scores, rows);
    const Partial part = geometry_.partial_at(after_scores + geometry_.partial_floats(rows), rows);

    const int64_t token = first_row(params_, sequence) + first;
    const int64_t position = tasks_.kv_length(sequence) - tasks_.num_queries(sequence) + first;
    load_queries(padded, token, queries, head);
    for (int64_t r = 0; r < rows; ++r) {
      visible[r] = static_cast<int32_t>(position + r / geometry_.group + 1);
      first_keys[r] = static_cast<int32_t>(std::max<int64_t>(visible[r] - params_.window, 0));
    }

    const TensorView& cache = params_.kv_cache;
    const auto element = static_cast<int64_t>(size_of(cache.dtype));
    AttendArgs args{.rows = rows,
                    .head_size = params_.head_size,
                    .stride = stride,
                    .queries = padded,
                    .first = params_.window > 0 ? first_keys : nullptr,
                    .visible = visible,
                    .num_sinks = params_.num_sinks,
                    .scale = params_.scale,
                    .cache = cache.as<uint8_t>() + head * cache.strides[2] * element,
                    .block_bytes = cache.strides[0] * element,
                    .value_bytes = cache.strides[1] * element,
                    .tokens_per_block = cache.shape[3],
                    .block_table = params_.block_tables.as<int32_t>() +
                                   sequence * params_.block_tables.shape[1],
                    .begin = 0,
                    .end = 0,
                    .scores = scores,
                    .maxima = nullptr,
                    .sums = nullptr,
                    .outputs = nullptr};
    const KeySpan span(params_, position, queries);
    const auto attend_segment = [&](int64_t index, const Partial& to) {
      args.begin = span.segment_begin(index);
      args.end = std::min(args.begin + kSegmentKeys, span.end);
      args.maxima = to.maxima;
      args.sums = to.sums;
      args.outputs = to.outputs;
      kernel_(args);
    };
    if (segments > 1) {
      attend_segment(segment, segment_partial(number));
      return;
    }
    attend_segment(0, total);
    for (int64_t index = 1; index < span.segments(); ++index) {
      attend_segment(index, part);
      merge(total, part, rows);
    }
    store_outputs(total, token, queries, head);
  }

  void merge_segments(int64_t sequence, int64_t head, int64_t first_task, int64_t segments) {
    const Partial total = segment_partial(first_task);
    for (int64_t segment = 1; segment < segments; ++segment)
      merge(total, segment_partial(first_task + segment), geometry_.group);
    store_outputs(total, first_row(params_, sequence), 1, head);
  }

  /// Adds the state over later keys to that over earlier ones; a row may have seen none of either.
  void merge(const Partial& total, const Partial& part, int64_t rows) const {
    for (int64_t r = 0; r < rows; ++r) {
      if (part.maxima[r] == -INFINITY) continue;
      const float maximum = std::max(total.maxima[r], part.maxima[r]);
      const float before = fast_exp(total.maxima[r] - maximum);
      const float after = fast_exp(part.maxima[r] - maximum);
      total.maxima[r] = maximum;
      total.sums[r] = total.sums[r] * before + part.sums[r] * after;
      float* to = total.outputs + r * geometry_.stride;
      const float* from = part.outputs + r * geometry_.stride;
      for (int64_t d = 0; d < geometry_.stride; ++d) to[d] = to[d] * before + from[d] * after;
    }
  }

  /// Rows are query by query, within a query head by head.
  template <typename T>
  T* row_of(const TensorView& tensor, int64_t token, int64_t head, int64_t row) const {
    const int64_t query_head = head * geometry_.group + row % geometry_.group;
    return tensor.as<T>() +
           ((token + row / geometry_.group) * params_.num_heads + query_head) * params_.head_size;
  }

  void load_queries(float* to, int64_t token, int64_t queries, int64_t head) const {
    dispatch_floating(params_.q.dtype, [&]<typename T>(T) {
      for (int64_t r = 0; r < queries * geometry_.group; ++r, to += geometry_.stride) {
        const T* from = row_of<T>(params_.q, token, head, r);
        for (int64_t d = 0; d < params_.head_size; ++d) to[d] = to_float(from[d]);
        std::fill(to + params_.head_size, to + geometry_.stride, 0.0f);
      }
    });
  }

  void store_outputs(const Partial& total, int64_t token, int64_t queries, int64_t head) const {
    dispatch_floating(params_.y.dtype, [&]<typename T>(T) {
      for (int64_t r = 0; r < queries * geometry_.group; ++r) {
        T* to = row_of<T>(params_.y, token, head, r);
        const float* from = total.outputs + r * geometry_.stride;
        for (int64_t d = 0; d < params_.head_size; ++d)
          to[d] = from_float<T>(from[d] / total.sums[r]);
      }
    });
  }

  const AttentionParams& params_;
  const Geometry geometry_;
  Tasks tasks_;
  ThreadPool& pool_;
  const AttendKernel kernel_;
  float* scratch_;   // thread_floats for each thread
  float* partials_;  // one of `group` rows for each divided task
};

}  // namespace

size_t attention_workspace_bytes(const AttentionParams& largest, int num_threads) {
  const Geometry geometry(largest);
  const int64_t divided_tasks =
      num_threads > 1 ? kMinTasksPerThread * num_threads * geometry.max_segments : 0;
  return sizeof(float) * (num_threads * geometry.thread_floats() +
                          divided_tasks * geometry.partial_floats(geometry.group));
}

void attention(const AttentionParams& params, OpContext& context) {
  check_contents(params);
  check_internal(
      context.workspace.bytes >= attention_workspace_bytes(params, context.pool->num_threads()),
      "attention: workspace of ", context.workspace.bytes, " bytes is too small");
  Step(params, context).run();
}

}  // namespace inflight::cpu
