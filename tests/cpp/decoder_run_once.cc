// Layers of a small decoder in one launch: few enough for compute-sanitizer. Nothing to test
// without a GPU.
#include "tests/cpp/decoder_model.h"

namespace inflight {
namespace {

void check_once([[maybe_unused]] const testing::DecoderShape& shape) {
#ifdef INFLIGHT_CUDA
  if (num_cuda_devices() == 0) return;
  for (const std::vector<int32_t>& lengths :
       {std::vector<int32_t>{600}, {33, 0, 700}, {5, 600, 1, 0, 33, 90, 16, 2}}) {
    testing::DecoderModel model(shape, lengths);
    model.poison();
    EXPECT(model.at_once());
    for (const float value : model.result()) EXPECT(std::isfinite(value));
  }
#endif
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  using namespace inflight;
  return testing::run_cases(
      {{"heads_of_64", [] { check_once({.vocabulary = 1000}); }},
       {"heads_of_128", [] { check_once({.num_heads = 4, .head_size = 128}); }}},
      argc, argv);
}
