// Moving a step's inputs, on every device there is: ids of the previous step, padding, wider
// tables.
#include "kernels/step_inputs/step_inputs.h"

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/core/changing_graph.h"
#include "kernels/core/device.h"
#include "kernels/core/staging.h"
#include "tests/cpp/testing.h"

namespace inflight {
namespace {

struct Arrays {
  Arrays(Staging& staging, int64_t tokens, int64_t sequences, int64_t columns, bool are_two = false)
      : has_second_group(are_two) {
    const std::array<int64_t, 7> lengths = {tokens,        tokens,    tokens,   tokens,
                                            sequences + 1, sequences, sequences};
    for (size_t i = 0; i < lengths.size(); ++i) {
      std::tie(host[i], views[i]) = staging.place<int32_t>(DType::kInt32, {lengths[i]});
    }
    std::tie(host[7], views[7]) = staging.place<int32_t>(DType::kInt32, {sequences, columns});
    std::tie(host[8], views[8]) = staging.place<int32_t>(DType::kInt32, {tokens});
    std::tie(host[9], views[9]) = staging.place<int32_t>(DType::kInt32, {sequences, columns});
    for (size_t i = 0; i < host.size(); ++i) std::fill_n(host[i], views[i].num_elements(), -77);
  }
  StepArrays arrays() const {
    StepArrays arrays = {views[0], views[1], views[2], views[3],
                         views[4], views[5], views[7], views[6]};
    if (has_second_group) arrays.more_groups[0] = {&views[8], &views[9]};
    return arrays;
  }
  bool has_second_group;
  std::array<int32_t*, 10> host;
  std::array<TensorView, 10> views;
};

using Values = std::vector<std::vector<int32_t>>;

std::vector<int32_t> read(const TensorView& view, const Stream& stream) {
  std::vector<int32_t> values(view.num_elements());
  copy_async(values.data(), view.data, view.bytes(), stream);
  stream.synchronize();
  return values;
}

Values moved(Device device, const Values& step, int64_t more_tokens, int64_t more_sequences,
             int64_t more_columns) {
  const DeviceContext device_context(device, nullptr);
  OpContext context = device_context.op_context();
  const auto tokens = static_cast<int64_t>(step[0].size());
  const auto sequences = static_cast<int64_t>(step[5].size());
  const auto columns = static_cast<int64_t>(step[7].size()) / sequences;
  Staging from_staging(device, 4096), to_staging(device, 4096);
  const auto [previous, previous_view] = from_staging.place<int32_t>(DType::kInt32, {4});
  for (int i = 0; i < 4; ++i) previous[i] = 500 + i;
  const bool are_two = step.size() > 8;
  const Arrays from(from_staging, tokens, sequences, columns, are_two);
  const Arrays to(to_staging, tokens + more_tokens, sequences + more_sequences,
                  columns + more_columns, are_two);
  for (size_t i = 0; i < step.size(); ++i) std::ranges::copy(step[i], from.host[i]);
  const bool is_cuda = device_context.is_cuda();
  if (is_cuda) {
    from_staging.upload(device_context.stream());
    to_staging.upload(device_context.stream());
  }
  step_inputs({from.arrays(), to.arrays(), previous_view}, context);
  Values result;
  for (size_t i = 0; i < step.size(); ++i) {
    const TensorView& view = to.views[i];
    if (is_cuda) {
      result.push_back(read(view, device_context.stream()));
    } else {
      result.emplace_back(view.as<int32_t>(), view.as<int32_t>() + view.num_elements());
    }
  }
  return result;
}

void mixed_step(Device device) {
  const Values step = {{~2, 11, 12, 13}, {9, 4, 5, 6}, {10, 8, 8, 8}, {41, 52, 53, 54},
                       {0, 1, 4},        {10, 7},      {0, 3},        {1, 2, 3, 4}};
  Values expected = step;
  expected[0][0] = 502;
  EXPECT(moved(device, step, 0, 0, 0) == expected);
  expected[7] = {1, 2, -77, 3, 4, -77};
  EXPECT(moved(device, step, 0, 0, 1) == expected);
}

void padded_generation(Device device) {
  const Values step = {{~3, ~0, 9},  {9, 4, 5},  {10, 8, 8}, {41, 52, 53},
                       {0, 1, 2, 3}, {10, 7, 6}, {0, 1, 2},  {1, 2, 3}};
  const Values expected = {{503, 500, 9, 0, 0}, {9, 4, 5, 0, 0},
                           {10, 8, 8, 1, 1},    {41, 52, 53, -1, -1},
                           {0, 1, 2, 3, 4, 5},  {10, 7, 6, 0, 0},
                           {0, 1, 2, 3, 4},     {1, -77, 2, -77, 3, -77, -77, -77, -77, -77}};
  EXPECT(moved(device, step, 2, 2, 1) == expected);
}

void groups(Device device) {
  const Values step = {{~3, 9}, {9, 5}, {10, 8},      {41, 53},   {0, 1, 2},
                       {10, 6}, {0, 1}, {1, 2, 3, 4}, {141, 153}, {11, 12, -1, 14}};
  const Values expected = {{503, 9, 0},    {9, 5, 0},
                           {10, 8, 1},     {41, 53, -1},
                           {0, 1, 2, 3},   {10, 6, 0},
                           {0, 1, 2},      {1, 2, -77, 3, 4, -77, -77, -77, -77},
                           {141, 153, -1}, {11, 12, -77, -1, 14, -77, -77, -77, -77}};
  EXPECT(moved(device, step, 1, 1, 1) == expected);
}

void padded_prompt(Device device) {
  const Values step = {{11, 12, 13}, {4, 5, 6}, {8, 8, 8}, {52, 53, 54}, {0, 3}, {7}, {2}, {3, 4}};
  const Values expected = {{11, 12, 13, 0, 0},
                           {4, 5, 6, 0, 0},
                           {8, 8, 8, 1, 1},
                           {52, 53, 54, -1, -1},
                           {0, 3},
                           {7},
                           {2},
                           {3, 4}};
  EXPECT(moved(device, step, 2, 0, 0) == expected);
}

/// A recording whose one kernel gets other arguments and another grid.
void changed_in_a_recording(Device device) {
  const DeviceContext device_context(device, nullptr);
  const Stream& stream = device_context.stream();
  OpContext context = device_context.op_context();
  constexpr int64_t kColumns = 400;  // several thread blocks where the first step has one
  Staging staging(device, 1 << 16);
  const Arrays small(staging, 1, 1, 1), large(staging, 3, 3, kColumns), to(staging, 3, 3, kColumns);
  std::fill_n(small.host[0], 1, 1);  // not of the step before
  std::fill_n(large.host[0], 3, 1);
  std::fill_n(small.host[1], 1, 7);
  std::fill_n(large.host[1], 3, 8);
  std::fill_n(large.host[7], 3 * kColumns, 9);
  const auto [flag, flag_view] = staging.place<int32_t>(DType::kInt32, {1});
  *flag = -77;
  staging.upload(stream);
  const auto move = [&](const Arrays& from) {
    step_inputs({from.arrays(), to.arrays(), {}}, context);
  };
  ChangingGraph graph(stream, [&] {
    move(small);
    fill_async(flag_view.data, 0, sizeof(int32_t), stream);
  });
  EXPECT(read(to.views[1], stream) == (std::vector<int32_t>({-77, -77, -77})));
  graph.launch(stream);
  EXPECT(read(to.views[1], stream) == (std::vector<int32_t>({7, 0, 0})));
  graph.change(stream, [&] { move(large); });
  EXPECT(read(to.views[1], stream) == (std::vector<int32_t>({7, 0, 0})));  // nothing has run
  const ChangingGraph moved = std::move(graph);
  moved.launch(stream);
  EXPECT(read(to.views[1], stream) == (std::vector<int32_t>({8, 8, 8})));
  EXPECT(read(to.views[7], stream) == (std::vector<int32_t>(3 * kColumns, 9)));
  EXPECT(read(flag_view, stream) == (std::vector<int32_t>({0})));
}

void not_to_change(Device device) {
  const DeviceContext device_context(device, nullptr);
  const Stream& stream = device_context.stream();
  OpContext context = device_context.op_context();
  Staging staging(device, 1 << 14);
  const Arrays from(staging, 1, 1, 1), to(staging, 1, 1, 1);
  std::fill_n(from.host[0], 1, 1);
  staging.upload(stream);
  const auto move = [&] { step_inputs({from.arrays(), to.arrays(), {}}, context); };
  const auto clear = [&] { fill_async(to.views[1].data, 0, to.views[1].bytes(), stream); };
  const auto twice = [&] {
    move();
    move();
  };
  ChangingGraph none(stream, clear), one(stream, move);
  EXPECT_RAISES(none.change(stream, move), "was not recorded");
  EXPECT_RAISES(one.change(stream, twice), "must launch one kernel");
  EXPECT_RAISES(one.change(stream, clear), "must launch one kernel");
  one.change(stream, move);
}

void refused() {
  Staging staging({}, 1 << 16);
  const DeviceContext device_context({}, nullptr);
  OpContext context = device_context.op_context();
  const Arrays two(staging, 2, 2, 3), three(staging, 3, 2, 3), narrow(staging, 2, 2, 2);
  const Arrays uneven(staging, 4, 3, 3);
  EXPECT_RAISES(step_inputs({two.arrays(), uneven.arrays(), {}}, context), "one row a sequence");
  EXPECT_RAISES(step_inputs({three.arrays(), two.arrays(), {}}, context), "one row a sequence");
  EXPECT_RAISES(step_inputs({two.arrays(), narrow.arrays(), {}}, context), "need 3 columns");
  Arrays wrong(staging, 2, 2, 3);
  wrong.views[1].shape[0] = 1;
  EXPECT_RAISES(step_inputs({wrong.arrays(), two.arrays(), {}}, context), "of 2 rows in 2");
  Arrays groups(staging, 2, 2, 3, true);
  EXPECT_RAISES(step_inputs({groups.arrays(), two.arrays(), {}}, context), "2 groups of slots");
  groups.views[8].shape[0] = 1;
  EXPECT_RAISES(step_inputs({groups.arrays(), groups.arrays(), {}}, context), "of 2 rows in 2");
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  using namespace inflight;
  std::vector<testing::Case> cases = {{"mixed_step_cpu", [] { mixed_step({}); }},
                                      {"padded_generation_cpu", [] { padded_generation({}); }},
                                      {"padded_prompt_cpu", [] { padded_prompt({}); }},
                                      {"groups_cpu", [] { groups({}); }},
                                      {"refused", refused}};
  if (num_cuda_devices() > 0) {
    const Device device{DeviceType::kCuda, 0};
    cases.push_back({"mixed_step_cuda", [=] { mixed_step(device); }});
    cases.push_back({"padded_generation_cuda", [=] { padded_generation(device); }});
    cases.push_back({"padded_prompt_cuda", [=] { padded_prompt(device); }});
    cases.push_back({"groups_cuda", [=] { groups(device); }});
    cases.push_back({"changed_in_a_recording", [=] { changed_in_a_recording(device); }});
    cases.push_back({"not_to_change", [=] { not_to_change(device); }});
  }
  return testing::run_cases(cases, argc, argv);
}
