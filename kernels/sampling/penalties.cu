#include <algorithm>

#include "kernels/core/cuda/launch.cuh"
#include "kernels/sampling/penalties.h"

namespace inflight::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kLeastSlots = 1024;

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

constexpr int32_t kEmpty = -1;

/// Times each id was generated. Of a usual history: of all ids at once, in a hash table with open
/// addressing. Of a long one: of so many ids in turn that the table has a slot for each.
template <int kSlots>
struct Counts {
  static constexpr int kMaxHashed = kSlots / 4 * 3;  // ids of a history that it holds with room

  int32_t* ids;     // [kSlots]; kEmpty, or whose slot it is
  int32_t* counts;  // [kSlots]; negative once the id's logit is changed
  unsigned mask;    // slots of the hash table - 1; 0: the slots are those of ids from `first` on
  int first;

  __device__ unsigned start_of(int id) const { return (id * 0x9E3779B1u >> 16) & mask; }
  /// The id's slot, taken if it is new; -1 if its turn is another.
  __device__ int insert(int id) const {
    if (mask == 0) return static_cast<unsigned>(id - first) < kSlots ? id - first : -1;
    for (unsigned slot = start_of(id);; slot = (slot + 1) & mask) {
      const int32_t there = atomicCAS(&ids[slot], kEmpty, id);
      if (there == kEmpty || there == id) return static_cast<int>(slot);
    }
  }
};

/// A block a row. Until it waits it reads the step's inputs alone, which is most of its time.
template <int kSlots>
__global__ void __launch_bounds__(kThreads) penalties_kernel(const Args args) {
  extern __shared__ int32_t memory[];
  let_next_start();
  const int i = blockIdx.x;
  const int begin = args.history_starts[i], end = args.history_starts[i + 1];
  const int generated = args.generated_starts[i];
  const float repetition = args.repetition[i];
  const float presence = args.presence[i];
  const float frequency = args.frequency[i];
  float* const row = args.logits + args.rows[i] * args.stride;
  const bool is_hashed = end - begin <= Counts<kSlots>::kMaxHashed;
  int slots = kLeastSlots;
  while (slots < kSlots && slots / 2 < end - begin) slots *= 2;
  Counts<kSlots> counts{memory, memory + kSlots, is_hashed ? slots - 1u : 0u, 0};
  /// history[at], or a number that is no id.
  const auto id_at = [&](int at) {
    int id = args.history[at];
    if (id < 0 && ~id < args.num_previous) id = args.previous_tokens[~id];
    return id < args.length ? id : -1;
  };
  bool has_waited = false;
  for (; counts.first < args.length; counts.first += is_hashed ? args.length : kSlots) {
    for (int slot = threadIdx.x; slot < slots; slot += kThreads) {
      counts.ids[slot] = kEmpty;
      counts.counts[slot] = 0;
    }
    __syncthreads();
    for (int at = generated + threadIdx.x; at < end; at += kThreads) {
      if (const int id = id_at(at); id >= 0) {
        if (const int slot = counts.insert(id); slot >= 0) atomicAdd(&counts.counts[slot], 1);
      }
    }
    __syncthreads();
    if (!has_waited) wait_for_previous();
    has_waited = true;
    for (int at = begin + threadIdx.x; at < end; at += kThreads) {
      const int id = id_at(at);
      if (id < 0) continue;
      float logit = row[id];  // on its way meanwhile
      const int slot = counts.insert(id);
      if (slot < 0) continue;
      const int32_t count = atomicExch(&counts.counts[slot], -1);
      if (count < 0) continue;
      logit = logit > 0 ? logit / repetition : logit * repetition;
      // Without fused products, as the CPU does it.
      if (count > 0) {
        const float by_count = __fmul_rn(frequency, static_cast<float>(count));
        logit = __fadd_rn(logit, -__fadd_rn(presence, by_count));
      }
      row[id] = logit;
    }
    __syncthreads();
  }
  wait_for_previous();
  // Bans come last.
  for (int at = args.banned_starts[i] + threadIdx.x; at < args.banned_starts[i + 1];
       at += kThreads) {
    const auto id = static_cast<unsigned>(args.banned[at]);
    if (id < static_cast<unsigned>(args.length)) row[id] = -INFINITY;
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
  const auto launch_with = [&]<int kSlots>() {
    constexpr size_t kBytes = 2 * sizeof(int32_t) * kSlots;
    allow_shared_bytes(penalties_kernel<kSlots>, kBytes);
    launch(penalties_kernel<kSlots>,
           {dim3(static_cast<unsigned>(p.rows.shape[0])), dim3(kThreads), kBytes}, context, args);
  };
  // As many slots as a power of two may have in a thread block's shared memory.
  const bool has_room = context.compute_capability == 80 || context.compute_capability == 90 ||
                        context.compute_capability == 100;
  has_room ? launch_with.template operator()<16384>() : launch_with.template operator()<8192>();
}

}  // namespace inflight::cuda
