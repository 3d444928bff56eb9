// A recording (see Graph in device.h) of which some kernels get other arguments from launch to
// launch.
#pragma once

#include <functional>
#include <map>
#include <memory>

#include "kernels/core/device.h"

namespace inflight {

class ChangingGraph {
 public:
  /// Records what `work` puts into `stream` instead of running it. Rethrows what it raises.
  ChangingGraph(const Stream& stream, const std::function<void()>& work);

  /// What launches from now on run in the place of a kernel that was recorded once: the same kernel
  /// with the arguments and the grid that `work` launches it with, and what else its launch says as
  /// it was recorded. Launches before are not touched. Runs nothing.
  void change(const Stream& stream, const std::function<void()>& work);

  void launch(const Stream& stream) const;

 private:
  struct Destroy {
    void operator()(void* handle) const noexcept;
  };
  struct DestroyLaunchable {
    void operator()(void* handle) const noexcept;
  };
  using Recording = std::unique_ptr<void, Destroy>;  // cudaGraph_t
  static Recording record(const Stream& stream, const std::function<void()>& work);

  Recording recording_;                                  // what the nodes below are of
  std::unique_ptr<void, DestroyLaunchable> launchable_;  // cudaGraphExec_t
  std::map<const void*, void*> changed_;  // cudaGraphNode_t by kernel, of those changed so far
};

}  // namespace inflight
