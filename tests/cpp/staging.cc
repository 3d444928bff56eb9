// Staging on every device there is: arrays side by side, one copy, growth.
#include "kernels/core/staging.h"

#include <algorithm>
#include <vector>

#include "tests/cpp/testing.h"

namespace inflight {
namespace {

template <typename T>
std::vector<T> values_of(const TensorView& view) {
  std::vector<T> values(view.num_elements());
  if (view.device.type == DeviceType::kCuda) {
    const Stream stream(view.device);
    copy_async(values.data(), view.data, view.bytes(), stream);
    stream.synchronize();
  } else {
    std::copy_n(view.as<T>(), values.size(), values.begin());
  }
  return values;
}

void fill_and_read(Device device) {
  Staging staging(device, 3 * Staging::kAlignment);
  const bool is_cuda = device.type == DeviceType::kCuda;
  for (int round = 0; round < 3; ++round) {
    staging.reset();
    const auto [ids, ids_view] = staging.place<int32_t>(DType::kInt32, {3});
    const auto [seeds, seeds_view] = staging.place<int64_t>(DType::kInt64, {2, 1});
    staging.place<float>(DType::kFloat32, {0});
    EXPECT_EQ(staging.used_bytes(), 2 * Staging::kAlignment);
    EXPECT(ids_view.device == device && ids_view.is_dense() && seeds_view.rank == 2);
    EXPECT((static_cast<const void*>(ids) == ids_view.data) == !is_cuda);
    for (int i = 0; i < 3; ++i) ids[i] = 10 * round + i;
    for (int i = 0; i < 2; ++i) seeds[i] = int64_t{1} << (40 + round + i);
    if (is_cuda) {
      const Stream stream(device);
      staging.upload(stream);
      stream.synchronize();
    }
    EXPECT((values_of<int32_t>(ids_view) ==
            std::vector<int32_t>{10 * round, 10 * round + 1, 10 * round + 2}));
    EXPECT((values_of<int64_t>(seeds_view) ==
            std::vector<int64_t>{int64_t{1} << (40 + round), int64_t{1} << (41 + round)}));
  }
  EXPECT_EQ(staging.bytes(), 3 * Staging::kAlignment);
  EXPECT_RAISES(staging.place<float>(DType::kInt64, {1}), "as 4 bytes");
}

void a_step_that_outgrows_it(Device device) {
  Staging staging(device, Staging::kAlignment);
  for (int round = 0; round < 2; ++round) {
    staging.reset();
    std::vector<TensorView> views;
    for (int count : {16, 1000, 3}) {
      const auto [numbers, view] = staging.place<int32_t>(DType::kInt32, {count});
      for (int i = 0; i < count; ++i) numbers[i] = 7 * count + i + round;
      views.push_back(view);
    }
    if (device.type == DeviceType::kCuda) {
      const Stream stream(device);
      staging.upload(stream);
      stream.synchronize();
    }
    for (const TensorView& view : views) {
      const std::vector<int32_t> values = values_of<int32_t>(view);
      const auto count = static_cast<int32_t>(values.size());
      EXPECT_EQ(values.front(), 7 * count + round);
      EXPECT_EQ(values.back(), 7 * count + count - 1 + round);
    }
  }
  const size_t grown = staging.bytes();
  staging.reset();
  EXPECT_EQ(staging.bytes(), grown);
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  using namespace inflight;
  std::vector<testing::Case> cases = {{"cpu", [] { fill_and_read({}); }},
                                      {"cpu_growth", [] { a_step_that_outgrows_it({}); }}};
  if (num_cuda_devices() > 0) {
    const Device device{DeviceType::kCuda, 0};
    cases.push_back({"cuda", [=] { fill_and_read(device); }});
    cases.push_back({"cuda_growth", [=] { a_step_that_outgrows_it(device); }});
  }
  return testing::run_cases(cases, argc, argv);
}
