#include <vector>

#include "kernels/core/changing_graph.h"
#include "kernels/core/check.h"
#include "kernels/core/cuda/error.h"

namespace inflight {

using cuda::check_cuda;

namespace {

cudaStream_t handle_of(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }
cudaGraph_t graph_of(void* recording) { return static_cast<cudaGraph_t>(recording); }

std::vector<cudaGraphNode_t> nodes_of(cudaGraph_t graph) {
  size_t count = 0;
  check_cuda(cudaGraphGetNodes(graph, nullptr, &count), "cudaGraphGetNodes");
  std::vector<cudaGraphNode_t> nodes(count);
  if (count > 0) check_cuda(cudaGraphGetNodes(graph, nodes.data(), &count), "cudaGraphGetNodes");
  return nodes;
}

/// What a node launches; no function if it is no kernel, or a library's that the runtime does not
/// know.
cudaKernelNodeParams kernel_of(cudaGraphNode_t node) {
  cudaKernelNodeParams params = {};
  cudaGraphNodeType type;
  check_cuda(cudaGraphNodeGetType(node, &type), "cudaGraphNodeGetType");
  if (type != cudaGraphNodeTypeKernel) return params;
  if (cudaGraphKernelNodeGetParams(node, &params) == cudaSuccess) return params;
  cudaGetLastError();
  return {};
}

/// From both ends, where the kernels are that change.
cudaGraphNode_t node_of(cudaGraph_t graph, const void* kernel) {
  const std::vector<cudaGraphNode_t> nodes = nodes_of(graph);
  for (size_t i = 0; i < nodes.size(); ++i) {
    cudaGraphNode_t node = nodes[i % 2 == 0 ? i / 2 : nodes.size() - 1 - i / 2];
    if (kernel_of(node).func == kernel) return node;
  }
  throw Error(ErrorCode::kInternal, "a kernel to change was not recorded");
}

}  // namespace

void ChangingGraph::Destroy::operator()(void* handle) const noexcept {
  cudaGraphDestroy(graph_of(handle));
}
void ChangingGraph::DestroyLaunchable::operator()(void* handle) const noexcept {
  cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(handle));
}

ChangingGraph::ChangingGraph(const Stream& stream, const std::function<void()>& work)
    : recording_(record(stream, work)) {
  cudaGraphExec_t exec = nullptr;
  check_cuda(cudaGraphInstantiate(&exec, graph_of(recording_.get()), 0), "cudaGraphInstantiate");
  launchable_.reset(exec);
}

ChangingGraph::Recording ChangingGraph::record(const Stream& stream,
                                               const std::function<void()>& work) {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamBeginCapture(handle_of(stream), cudaStreamCaptureModeThreadLocal),
             "cudaStreamBeginCapture");
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(handle_of(stream), &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  check_cuda(cudaStreamEndCapture(handle_of(stream), &graph), "cudaStreamEndCapture");
  return Recording(graph);
}

void ChangingGraph::change(const Stream& stream, const std::function<void()>& work) {
  const Recording change = record(stream, work);
  const std::vector<cudaGraphNode_t> launched = nodes_of(graph_of(change.get()));
  const cudaKernelNodeParams params =
      launched.size() == 1 ? kernel_of(launched[0]) : cudaKernelNodeParams{};
  check_internal(params.func != nullptr, "a change of a recording must launch one kernel");
  auto place = changed_.find(params.func);
  if (place == changed_.end())
    place = changed_.emplace(params.func, node_of(graph_of(recording_.get()), params.func)).first;
  check_cuda(cudaGraphExecKernelNodeSetParams(static_cast<cudaGraphExec_t>(launchable_.get()),
                                              static_cast<cudaGraphNode_t>(place->second), &params),
             "cudaGraphExecKernelNodeSetParams");
}

void ChangingGraph::launch(const Stream& stream) const {
  check_cuda(cudaGraphLaunch(static_cast<cudaGraphExec_t>(launchable_.get()), handle_of(stream)),
             "cudaGraphLaunch");
}

}  // namespace inflight
