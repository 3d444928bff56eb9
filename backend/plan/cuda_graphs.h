// Recorded launches of steps, one recording for each kind: of those that generate, and of a short
// prompt alone, which would wait for the host. A step is padded to the next size that is recorded,
// so that few recordings serve all. CUDA only; one thread.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>

#include "kernels/core/changing_graph.h"

namespace inflight::plan {

/// The smallest recorded size that holds `num_sequences`, at most `max_batch_size`: 1, 2, 4, 8,
/// then multiples of 8 up to 128, then multiples of 32.
int graph_batch_size(int num_sequences, int max_batch_size);

/// Columns of the recorded tables of a step that generates and needs `num_columns`: as many as 512
/// tokens take where these are enough and sequences not more than 64, since ops may do short ones
/// in another way; else `max_columns`.
int graph_columns(int num_sequences, int num_columns, int tokens_per_block, int max_columns);

/// Likewise for the rows of one prompt: multiples of 32 up to 512. 0: such a prompt is not
/// recorded, for the device has long enough to do with it.
int graph_prompt_rows(int num_tokens, int max_num_tokens);

/// Steps of a kind launch the same, but for arguments of their first and last launches.
struct StepKind {
  int num_tokens, num_sequences, num_columns;  // of StepInputs
  bool has_last;                               // StepLaunches::last
  auto operator<=>(const StepKind&) const = default;
};

/// What a step puts into the stream, in this order.
struct StepLaunches {
  std::function<void()> first;  // a kernel with arguments of each step's own
  std::function<void()> rows;   // the same for each step of a kind
  std::function<void()> last;   // as first; or none

  void operator()() const {
    first();
    rows();
    if (last) last();
  }
};

class CudaGraphs {
 public:
  /// Not more than this is kept; kinds beyond it run as they would without recordings.
  static constexpr size_t kMaxGraphs = 160;
  static constexpr int64_t kMaxBytes = int64_t{512} << 20;  // of device memory, as the driver says

  explicit CudaGraphs(const Stream& stream) : stream_(stream) {}

  /// Puts a step into the stream: the first one of a kind by launching it, the second by recording
  /// it, later ones from the recording. One that cannot be recorded goes on being launched.
  void run(const StepKind& kind, const StepLaunches& step);

  /// Drops all of them once the device has run what it was given: launches of a kind are others
  /// from now on.
  void forget();

  int64_t bytes() const { return bytes_; }

 private:
  struct Slot {
    bool has_run = false;
    bool refused = false;
    std::optional<ChangingGraph> graph;
  };
  void record(const StepKind& kind, Slot& slot, const StepLaunches& step);

  const Stream& stream_;
  std::map<StepKind, Slot> slots_;
  size_t num_graphs_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace inflight::plan
