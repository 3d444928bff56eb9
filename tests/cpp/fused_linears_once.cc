// The linears of small layers, four to a launch where the device does that: few enough for
// compute-sanitizer. Nothing to test without a GPU.
#include "tests/cpp/layer_linears.h"

namespace inflight {
namespace {

void check_once([[maybe_unused]] int64_t rows) {
#ifdef INFLIGHT_CUDA
  if (num_cuda_devices() == 0) return;
  for (const testing::LayerShape& shape :
       {testing::LayerShape{.hidden = 512, .width = 1408, .qkv = 776},
        testing::LayerShape{.hidden = 64, .width = 192, .qkv = 72}}) {
    testing::Layer layer(shape, rows);
    const auto want = layer.one_by_one();
    layer.poison(0, layer.links.size());
    fused_linears(layer.links, layer.context);
    EXPECT(layer.download() == want);
    layer.check_counters();
  }
#endif
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  using namespace inflight;
  return testing::run_cases(
      {{"one_row", [] { check_once(1); }}, {"four_rows", [] { check_once(4); }}}, argc, argv);
}
