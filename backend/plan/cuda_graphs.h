// Recorded launches of steps, one recording for each size: of those that generate, and of a short
// prompt alone, which would wait for the host. A step is padded to the next size that is recorded,
// so that few recordings serve all. CUDA only; one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <utility>

#include "kernels/core/device.h"

namespace inflight::plan {

/// The smallest recorded size that holds `num_sequences`, at most `max_batch_size`: 1, 2, 4, 8,
/// then multiples of 8 up to 128, then multiples of 32.
int graph_batch_size(int num_sequences, int max_batch_size);

/// Likewise for the rows of one prompt: multiples of 32 up to 512. 0: such a prompt is not
/// recorded, for the device has long enough to do with it.
int graph_prompt_rows(int num_tokens, int max_num_tokens);

class CudaGraphs {
 public:
  /// Not more than this is kept; sizes beyond it run as they would without recordings.
  static constexpr size_t kMaxGraphs = 96;
  static constexpr int64_t kMaxBytes = int64_t{512} << 20;  // of device memory, as the driver says

  explicit CudaGraphs(const Stream& stream) : stream_(stream) {}

  /// Puts into the stream what `work` would: the first step of a size by calling it, the second by
  /// recording it, later ones from the recording. `work` must launch the same for each step of a
  /// size. One that cannot be recorded goes on being called.
  void run(int num_tokens, int num_sequences, const std::function<void()>& work);

  /// Drops all of them once the device has run what it was given: launches of a size are others
  /// from now on.
  void forget();

  int64_t bytes() const { return bytes_; }

 private:
  struct Slot {
    bool has_run = false;
    bool refused = false;
    std::optional<Graph> graph;
  };
  using Size = std::pair<int, int>;  // rows, sequences
  void record(Size size, Slot& slot, const std::function<void()>& work);

  const Stream& stream_;
  std::map<Size, Slot> slots_;
  size_t num_graphs_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace inflight::plan
