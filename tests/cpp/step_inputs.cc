// Moving a step's inputs, on every device there is: ids of the previous step, padding, wider
// tables, and what a plan begins with.
#include "kernels/step_inputs/step_inputs.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/core/changing_graph.h"
#include "kernels/core/cpu/parallel.h"
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

template <typename T = int32_t>
std::vector<T> read(const TensorView& view, const Stream& stream) {
  std::vector<T> values(view.num_elements());
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

/// What a plan begins with, for so many tokens and rows of padding behind them.
void opening(Device device, int64_t tokens, int64_t more_tokens,
             const std::optional<DynamicRope>& dynamic) {
  constexpr int64_t kIds = 600, kWidth = 20, kHalf = 3;
  constexpr float kScaling = 0.5f;
  cpu::ThreadPool pool(2);
  const DeviceContext device_context(device, &pool);
  OpContext context = device_context.op_context();
  const int64_t rows = tokens + more_tokens;
  Staging staging(device, 1 << 18);
  const auto [previous, previous_view] = staging.place<int32_t>(DType::kInt32, {4});
  std::iota(previous, previous + 4, 500);
  const Arrays from(staging, tokens, 1, 1), to(staging, rows, 1, 1);
  const auto [table, table_view] = staging.place<float>(DType::kFloat32, {kIds, kWidth});
  const auto [x, x_view] = staging.place<float>(DType::kFloat32, {rows, kWidth});
  const auto [cos_sin, cos_sin_view] = staging.place<float>(DType::kFloat32, {rows, 2 * kHalf});
  std::iota(table, table + kIds * kWidth, 1.0f);
  std::fill_n(x, rows * kWidth, -77.0f);
  std::fill_n(cos_sin, rows * 2 * kHalf, -77.0f);
  std::vector<int32_t> ids(rows), positions(rows), lengths(rows, 1);
  for (int64_t t = 0; t < tokens; ++t) {
    const bool is_of_step_before = t % 5 == 0;
    const auto place = static_cast<int32_t>(t % 4);
    ids[t] = is_of_step_before ? 500 + place : static_cast<int32_t>(t * 7 % 605);  // not all exist
    from.host[0][t] = is_of_step_before ? ~place : ids[t];
    positions[t] = from.host[1][t] = static_cast<int32_t>(3 * t % 50);
    lengths[t] = from.host[2][t] = static_cast<int32_t>(t % 30);
  }
  const StepOpening opening = {.embedding = {.ids = to.views[0], .table = table_view, .y = x_view},
                               .rope_table = RopeTableParams{.positions = to.views[1],
                                                             .rope_lengths = to.views[2],
                                                             .cos_sin = cos_sin_view,
                                                             .inv_freq = {1.0f, 0.25f, 0.01f},
                                                             .attention_scaling = kScaling,
                                                             .dynamic = dynamic}};
  if (device_context.is_cuda()) staging.upload(device_context.stream());
  step_inputs({from.arrays(), to.arrays(), previous_view, &opening}, context);

  const auto values_of = [&](const TensorView& view) {
    if (device_context.is_cuda()) return read<float>(view, device_context.stream());
    return std::vector<float>(view.as<float>(), view.as<float>() + view.num_elements());
  };
  std::vector<float> expected(rows * kWidth, 0.0f);
  for (int64_t i = 0; i < rows * kWidth; ++i) {
    const int64_t id = ids[i / kWidth];
    if (id < kIds) expected[i] = static_cast<float>(1 + id * kWidth + i % kWidth);
  }
  EXPECT(values_of(x_view) == expected);
  const std::vector<float> made = values_of(cos_sin_view);
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t i = 0; i < kHalf; ++i) {
      double inv_freq = opening.rope_table->inv_freq[i];
      if (dynamic && lengths[t] > dynamic->original_max_position) {
        const double trained = static_cast<double>(dynamic->original_max_position);
        const double stretch = dynamic->factor * lengths[t] / trained - (dynamic->factor - 1);
        const double base = dynamic->base * std::pow(stretch, 2.0 * kHalf / (2 * kHalf - 2));
        inv_freq = std::pow(base, -2.0 * static_cast<double>(i) / (2 * kHalf));
      }
      const double angle = positions[t] * inv_freq;
      EXPECT(std::abs(made[2 * t * kHalf + i] - kScaling * std::cos(angle)) < 1e-5);
      EXPECT(std::abs(made[(2 * t + 1) * kHalf + i] - kScaling * std::sin(angle)) < 1e-5);
    }
  }
}

void openings(Device device) {
  opening(device, 3, 2, std::nullopt);
  opening(device, 40, 0, DynamicRope{.base = 100, .factor = 2, .original_max_position = 8});
  opening(device, 301, 19, std::nullopt);  // more than thread blocks
}

void found_openings() {
  alignas(16) static float memory[1 << 10];
  const auto view = [](DType dtype, std::vector<int64_t> shape) {
    TensorView result = TensorView::dense(memory, dtype, {shape[0]}, {});
    if (shape.size() > 1) result.shape[result.rank++] = shape[1];
    result.set_dense_strides();
    return result;
  };
  const TensorView ids = view(DType::kInt32, {4}), positions = ids, lengths = ids, other = ids;
  const TensorView table = view(DType::kFloat32, {8, 4}), y = view(DType::kFloat32, {4, 4});
  const TensorView odd_table = view(DType::kFloat32, {8, 3}), odd_y = view(DType::kFloat32, {4, 3});
  const auto embedding_row = [](const TensorView& ids, const TensorView& table,
                                const TensorView& y) {
    static const OpDef op = embedding_op();
    return OpCall{&op, OpArgs({{"ids", &ids}, {"table", &table}, {"y", &y}}, {})};
  };
  const auto rope_row = [&](const TensorView& positions, size_t num_frequencies) {
    static const OpDef op = rope_table_op();
    return OpCall{&op,
                  OpArgs({{"positions", &positions}, {"rope_lengths", &lengths}, {"cos_sin", &y}},
                         {{"inv_freq", std::vector<double>(num_frequencies, 1.0)},
                          {"attention_scaling", 1.0}})};
  };
  const auto num_found = [&](const std::vector<OpCall>& rows) {
    const auto opening = find_step_opening(rows, ids, positions, lengths);
    return opening ? opening->num_rows() : 0;
  };
  const OpCall embed = embedding_row(ids, table, y), rope = rope_row(positions, 2);
  EXPECT(num_found({embed, rope, rope}) == 2);
  EXPECT(num_found({embed}) == 1);
  EXPECT(num_found({embed, embed}) == 1);
  EXPECT(num_found({embed, rope_row(other, 2)}) == 1);
  EXPECT(num_found({embed, rope_row(positions, kMaxOpeningFrequencies + 1)}) == 1);
  EXPECT(num_found({rope, embed}) == 0);
  EXPECT(num_found({embedding_row(other, table, y), rope}) == 0);
  EXPECT(num_found({embedding_row(ids, odd_table, odd_y), rope}) == 0);
  EXPECT(num_found({}) == 0);
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
  const TensorView table = groups.views[9];  // of 2 rows
  const StepOpening opening = {.embedding = {.ids = two.views[0], .table = table, .y = table},
                               .rope_table = std::nullopt};
  EXPECT_RAISES(step_inputs({two.arrays(), three.arrays(), {}, &opening}, context),
                "an opening of 2 rows for a step of 3");
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
                                      {"openings_cpu", [] { openings({}); }},
                                      {"found_openings", found_openings},
                                      {"refused", refused}};
  if (num_cuda_devices() > 0) {
    const Device device{DeviceType::kCuda, 0};
    cases.push_back({"mixed_step_cuda", [=] { mixed_step(device); }});
    cases.push_back({"padded_generation_cuda", [=] { padded_generation(device); }});
    cases.push_back({"padded_prompt_cuda", [=] { padded_prompt(device); }});
    cases.push_back({"groups_cuda", [=] { groups(device); }});
    cases.push_back({"openings_cuda", [=] { openings(device); }});
    cases.push_back({"changed_in_a_recording", [=] { changed_in_a_recording(device); }});
    cases.push_back({"not_to_change", [=] { not_to_change(device); }});
  }
  return testing::run_cases(cases, argc, argv);
}
