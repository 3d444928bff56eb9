// changing_graph.h in a build without CUDA.
#include "kernels/core/changing_graph.h"
#include "kernels/core/no_cuda.h"

namespace inflight {

void ChangingGraph::Destroy::operator()(void*) const noexcept {}
void ChangingGraph::DestroyLaunchable::operator()(void*) const noexcept {}

ChangingGraph::ChangingGraph(const Stream&, const std::function<void()>&) { no_cuda(); }
void ChangingGraph::change(const Stream&, const std::function<void()>&) { no_cuda(); }
void ChangingGraph::launch(const Stream&) const { no_cuda(); }

}  // namespace inflight
