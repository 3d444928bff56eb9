// Where values lie in an arena for smaller steps than their offsets were planned for.
#include "backend/plan/arena.h"

#include <random>

#include "tests/cpp/testing.h"

namespace inflight {
namespace {

using plan::ByName;
using plan::Dim;
using plan::StepLimits;
using plan::ValueSpec;

constexpr StepLimits kPlanned{.max_batch_size = 32, .max_num_tokens = 256, .max_seq_len = 64};

ValueSpec value(Dim::Kind rows, int64_t columns, int64_t offset) {
  return {.dtype = DType::kFloat32,
          .shape = {{.kind = rows, .fixed = 0}, {.kind = Dim::Kind::kFixed, .fixed = columns}},
          .offset = offset};
}

int64_t bytes(const ValueSpec& spec, const StepLimits& limits) {
  return spec.bytes(limits.max_num_tokens, limits.max_batch_size);
}

void example() {
  // x, then y behind it, then z in x's place and w behind what z takes of that.
  const ByName<ValueSpec> values = {{"x", value(Dim::Kind::kTokens, 16, 0)},
                                    {"y", value(Dim::Kind::kTokens, 16, 256 * 16 * 4)},
                                    {"z", value(Dim::Kind::kTokens, 8, 0)},
                                    {"w", value(Dim::Kind::kSequences, 16, 256 * 8 * 4)}};
  const StepLimits eighth{.max_batch_size = 4, .max_num_tokens = 32, .max_seq_len = 64};
  const ByName<int64_t> offsets = plan::drawn_together(values, kPlanned, eighth);
  EXPECT_EQ(offsets.find("x")->second, 0);
  EXPECT_EQ(offsets.find("y")->second, 32 * 16 * 4);
  EXPECT_EQ(offsets.find("z")->second, 0);
  EXPECT_EQ(offsets.find("w")->second, 32 * 8 * 4);
  EXPECT_EQ(plan::Arena(values, kPlanned, eighth, {}).bytes(), 2 * 32 * 16 * 4);
}

void any_values() {
  std::mt19937 random(3);
  const auto up_to = [&random](int64_t most) {
    return std::uniform_int_distribution<int64_t>(1, most)(random);
  };
  for (int round = 0; round < 300; ++round) {
    ByName<ValueSpec> values;
    for (int i = 0; i < 12; ++i) {
      const auto rows = up_to(3) == 1 ? Dim::Kind::kSequences : Dim::Kind::kTokens;
      values.emplace(std::to_string(i), value(rows, up_to(40), (up_to(400) - 1) * 64));
    }
    const StepLimits limits{.max_batch_size = static_cast<int>(up_to(32)),
                            .max_num_tokens = static_cast<int>(up_to(256)),
                            .max_seq_len = 64};
    const ByName<int64_t> offsets = plan::drawn_together(values, kPlanned, limits);
    const plan::Arena arena(values, kPlanned, limits, {});
    for (const auto& [a, first] : values) {
      const int64_t begin = offsets.find(a)->second, end = begin + bytes(first, limits);
      EXPECT_EQ(begin % 64, 0);
      EXPECT(begin >= 0 && begin <= first.offset && end <= arena.bytes());
      for (const auto& [b, second] : values) {
        if (first.offset + bytes(first, kPlanned) > second.offset) continue;
        EXPECT(end <= offsets.find(b)->second);
      }
    }
  }
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  return inflight::testing::run_cases(
      {{"example", inflight::example}, {"any_values", inflight::any_values}}, argc, argv);
}
