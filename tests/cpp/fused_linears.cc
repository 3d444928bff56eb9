// A run of fused_linears, which one kernel may do at once on a GPU, gives the same bits as they do
// one by one: again and again, called and recorded, between other work of its stream and beside
// that of others, and leaves its counters at zero. Of more rows two kernels may share a norm, which
// rounds elsewhere: close then, and always the same. Nothing to test without a GPU.
#include <atomic>
#include <bit>
#include <cstdint>
#include <thread>
#include <vector>

#include "tests/cpp/layer_linears.h"

namespace inflight {
namespace {

using testing::kGpu;
using testing::Layer;
using testing::LayerShape;

[[maybe_unused]] constexpr int64_t kMostExactRows = 4;  // of which one kernel does a layer's

using Bits = std::vector<std::vector<uint16_t>>;

/// Whether each differs by a few roundings from what the other one has.
[[maybe_unused]] bool are_close(const Bits& some, const Bits& others) {
  for (size_t i = 0; i < some.size(); ++i) {
    double apart = 0, all = 0;
    for (size_t j = 0; j < some[i].size(); ++j) {
      const auto value = [](uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); };
      const double one = value(some[i][j]), other = value(others[i][j]);
      apart += (one - other) * (one - other);
      all += other * other;
    }
    if (!(apart <= all * 1e-4)) return false;
  }
  return true;
}

/// All of a layer's linears and all runs of parts of them.
[[maybe_unused]] void check_layer(const LayerShape& shape, int64_t rows) {
  Layer layer(shape, rows);
  const auto one_by_one = layer.one_by_one();
  for (size_t first = 0; first < layer.links.size(); ++first) {
    for (size_t count = 1; first + count <= layer.links.size(); ++count) {
      const auto run = std::span(layer.links).subspan(first, count);
      auto want = one_by_one;
      if (rows > kMostExactRows) {
        layer.one_by_one();  // what the run begins with
        fused_linears(run, layer.context);
        want = layer.download();
        EXPECT(are_close(want, one_by_one));
      }
      const Graph graph = Graph::record(layer.stream, [&] { fused_linears(run, layer.context); });
      for (int lap = 0; lap < 10; ++lap) {
        layer.poison(first, count);
        if (lap % 2 == 0) {
          fused_linears(run, layer.context);
        } else {
          graph.launch(layer.stream);
        }
        EXPECT(layer.download() == want);
      }
    }
  }
  layer.check_counters();
}

void check_layers([[maybe_unused]] int64_t rows) {
#ifdef INFLIGHT_CUDA
  if (num_cuda_devices() == 0) return;
  check_layer({.hidden = 512, .width = 1408, .qkv = 776}, rows);
  check_layer({.hidden = 64, .width = 192, .qkv = 72}, rows);
  check_layer({.hidden = 2048, .width = 3200, .qkv = 3072}, rows);
#endif
}

/// What other engines of the device do meanwhile: linears of many rows and of one, which never
/// wait, in streams of their own.
[[maybe_unused]] void keep_busy(const std::atomic<bool>& is_over, int64_t rows) {
  use_device(kGpu);
  Layer layer({.hidden = 2048, .width = 3200, .qkv = 3072}, rows);
  layer.context.grids_may_wait = false;
  fused_linears(layer.links, layer.context);
  const auto want = layer.download();
  EXPECT(are_close(want, layer.one_by_one()));
  while (!is_over) {
    for (int i = 0; i < 20; ++i) fused_linears(layer.links, layer.context);
    EXPECT(layer.download() == want);
  }
}

void check_beside_others() {
#ifdef INFLIGHT_CUDA
  if (num_cuda_devices() == 0) return;
  constexpr int kLaps = 100, kLayers = 4;
  Layer layer({.hidden = 2048, .width = 3200, .qkv = 3072}, 1);
  Layer prompt({.hidden = 2048, .width = 3200, .qkv = 3072}, 96);  // in the same stream
  Layer few({.hidden = 2048, .width = 3200, .qkv = 3072}, 3);      // too
  const auto want = layer.one_by_one();
  std::atomic<bool> is_over = false;
  std::thread many([&] { keep_busy(is_over, 192); }), one([&] { keep_busy(is_over, 1); });
  const auto run = [&] {
    for (int i = 0; i < kLayers; ++i) fused_linears(layer.links, layer.context);
  };
  const Graph graph = Graph::record(layer.stream, run);
  for (OpContext* context : {&prompt.context, &few.context}) {
    context->stream = layer.context.stream;
    context->counters = layer.context.counters;
  }
  for (int lap = 0; lap < kLaps; ++lap) {
    layer.poison(0, layer.links.size());
    if (lap % 3 == 0) fused_linears(prompt.links, prompt.context);
    if (lap % 7 == 0) fused_linears(few.links, few.context);
    if (lap % 2 == 0) {
      run();
    } else {
      graph.launch(layer.stream);
    }
    if (lap % 5 == 0) EXPECT(layer.download() == want);
  }
  EXPECT(layer.download() == want);
  layer.check_counters();
  is_over = true;
  many.join();
  one.join();
#endif
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  using namespace inflight;
  return testing::run_cases({{"one_row", [] { check_layers(1); }},
                             {"two_rows", [] { check_layers(2); }},
                             {"four_rows", [] { check_layers(4); }},
                             {"five_rows", [] { check_layers(5); }},
                             {"nine_rows", [] { check_layers(9); }},
                             {"beside_others", check_beside_others}},
                            argc, argv);
}
