#include <algorithm>

#include "kernels/core/cuda/launch.cuh"
#include "kernels/sampling/penalties.h"

namespace inflight::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRange = 16384;  // ids of a block: their counts fit shared memory

struct Args {
  float* logits;
  int64_t stride;
  int length;
  const int32_t* rows;
  const float* repetition;
  const float* presence;
  const float* frequency;
  const int32_t* history;
  const int32_t* history_starts;
  const int32_t* generated_starts;
  const int32_t* previous_tokens;
  int num_previous;
  const int32_t* banned;
  const int32_t* banned_starts;
};

/// Block (x, y): row x, ids from y * kRange on. Only cells of ids in the history are ever read, and
/// these are set first.
__global__ void __launch_bounds__(kThreads) penalties_kernel(const Args args) {
  extern __shared__ int32_t counts[];  // times an id was generated; kDone once its logit is changed
  constexpr int32_t kDone = -1;
  wait_for_previous();
  let_next_start();
  const int i = blockIdx.x;
  const int first_id = blockIdx.y * kRange;
  const unsigned num_ids = min(kRange, args.length - first_id);
  float* row = args.logits + args.rows[i] * args.stride + first_id;
  const int begin = args.history_starts[i], end = args.history_starts[i + 1];
  const int generated = args.generated_starts[i];
  /// Of history[at], from first_id on; num_ids or more if it is another block's or no id.
  const auto id_at = [&](int at) {
    int id = args.history[at];
    if (id < 0 && ~id < args.num_previous) id = args.previous_tokens[~id];
    return static_cast<unsigned>(id - first_id);
  };
  for (int at = begin + threadIdx.x; at < end; at += kThreads) {
    const unsigned id = id_at(at);
    if (id < num_ids) counts[id] = 0;
  }
  __syncthreads();
  for (int at = generated + threadIdx.x; at < end; at += kThreads) {
    const unsigned id = id_at(at);
    if (id < num_ids) atomicAdd(&counts[id], 1);
  }
  __syncthreads();
  const float repetition = args.repetition[i];
  const float presence = args.presence[i];
  const float frequency = args.frequency[i];
  for (int at = begin + threadIdx.x; at < end; at += kThreads) {
    const unsigned id = id_at(at);
    if (id >= num_ids) continue;
    const int32_t count = atomicExch(&counts[id], kDone);
    if (count == kDone) continue;
    float logit = row[id];
    logit = logit > 0 ? logit / repetition : logit * repetition;
    // Without fused products, as the CPU does it.
    if (count > 0) {
      const float by_count = __fmul_rn(frequency, static_cast<float>(count));
      logit = __fadd_rn(logit, -__fadd_rn(presence, by_count));
    }
    row[id] = logit;
  }
  __syncthreads();  // bans come last
  for (int at = args.banned_starts[i] + threadIdx.x; at < args.banned_starts[i + 1];
       at += kThreads) {
    const unsigned id = static_cast<unsigned>(args.banned[at] - first_id);
    if (id < num_ids) row[id] = -INFINITY;
  }
}

}  // namespace

void penalties(const PenaltiesParams& p, OpContext& context) {
  const auto length = static_cast<int>(p.logits.shape[1]);
  const Args args{p.logits.as<float>(),
                  p.logits.strides[0],
                  length,
                  p.rows.as<int32_t>(),
                  p.repetition.as<float>(),
                  p.presence.as<float>(),
                  p.frequency.as<float>(),
                  p.history.as<int32_t>(),
                  p.history_starts.as<int32_t>(),
                  p.generated_starts.as<int32_t>(),
                  p.previous_tokens.as<int32_t>(),
                  p.previous_tokens.rank == 1 ? static_cast<int>(p.previous_tokens.shape[0]) : 0,
                  p.banned.as<int32_t>(),
                  p.banned_starts.as<int32_t>()};
  const unsigned ranges = (length + kRange - 1) / kRange;
  const size_t shared_bytes = sizeof(int32_t) * std::min(length, kRange);
  allow_shared_bytes(penalties_kernel, shared_bytes);
  launch(penalties_kernel,
         {dim3(static_cast<unsigned>(p.rows.shape[0]), ranges), dim3(kThreads), shared_bytes},
         context, args);
}

}  // namespace inflight::cuda
