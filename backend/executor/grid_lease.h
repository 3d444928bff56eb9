// An engine's right to launch grids whose thread blocks wait for each other
// (OpContext::grids_may_wait): one engine's for a GPU at a time, of all processes, since two such
// grids at once may each keep some of the other's blocks from starting. Owned by the rank that
// launches; its thread alone. It must outlive what was launched.
#pragma once

#include <filesystem>

#include "kernels/core/dtype.h"
#include "kernels/core/file_lease.h"
#include "kernels/core/tensor_view.h"

namespace inflight::executor {

class GridLease {
 public:
  /// `file` as file_for answers it.
  explicit GridLease(std::filesystem::path file) : lease_(std::move(file)) {}

  /// The file that stands for the device. Empty where no engine has such grids (on the CPU, before
  /// Hopper, in float32) or may have them: under MPS other processes' kernels, of which nothing is
  /// known here, run beside ours.
  static std::filesystem::path file_for(Device device, DType dtype);

  bool is_held() const { return lease_.is_held(); }
  /// Asks for it, now and then, until it is held; says in the log what came of the first time and,
  /// later, that it was got. True if this call got it.
  bool take(FileLease::Time now = std::chrono::steady_clock::now());

 private:
  FileLease lease_;
  bool was_refused_ = false;
};

}  // namespace inflight::executor
