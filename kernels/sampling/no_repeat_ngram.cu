#include "kernels/core/cuda/launch.cuh"
#include "kernels/sampling/no_repeat_ngram.h"

namespace inflight::cuda {
namespace {

constexpr int kThreads = 1024;

struct Args {
  float* logits;
  int64_t stride;
  int length;
  const int32_t* rows;
  const int32_t* sizes;
  const int32_t* history;
  const int32_t* history_starts;
  const int32_t* previous_tokens;
  int num_previous;
};

/// A block a row, a thread a place where the newest ids may stand already.
__global__ void __launch_bounds__(kThreads) no_repeat_ngram_kernel(const Args args) {
  let_next_start();
  const int i = blockIdx.x;
  const int begin = args.history_starts[i], end = args.history_starts[i + 1];
  const int prefix = args.sizes[i] - 1;
  float* const row = args.logits + args.rows[i] * args.stride;
  const auto id_at = [&](int at) {
    const int32_t id = args.history[at];
    return id < 0 && ~id < args.num_previous ? args.previous_tokens[~id] : id;
  };
  wait_for_previous();
  for (int at = begin + static_cast<int>(threadIdx.x); at < end - prefix; at += kThreads) {
    int matched = 0;
    while (matched < prefix && id_at(at + matched) == id_at(end - prefix + matched)) ++matched;
    if (matched < prefix) continue;
    const int32_t id = id_at(at + prefix);
    if (static_cast<unsigned>(id) < static_cast<unsigned>(args.length)) row[id] = -INFINITY;
  }
}

}  // namespace

void no_repeat_ngram(const NoRepeatNgramParams& p, OpContext& context) {
  const Args args{p.logits.as<float>(),
                  p.logits.strides[0],
                  static_cast<int>(p.logits.shape[1]),
                  p.rows.as<int32_t>(),
                  p.sizes.as<int32_t>(),
                  p.history.as<int32_t>(),
                  p.history_starts.as<int32_t>(),
                  p.previous_tokens.as<int32_t>(),
                  p.previous_tokens.rank == 1 ? static_cast<int>(p.previous_tokens.shape[0]) : 0};
  launch(no_repeat_ngram_kernel, {dim3(static_cast<unsigned>(p.rows.shape[0])), dim3(kThreads)},
         context, args);
}

}  // namespace inflight::cuda
