#include "backend/plan/dummy_weights.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/check.h"
#include "kernels/core/cpu/convert.h"
#include "kernels/core/load.h"

namespace inflight::plan {
namespace {

constexpr float kBiasDeviation = 0.02f;
constexpr int64_t kGrainGroups = 4096;  // of four elements

uint64_t seed_of(std::string_view key) {
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (const char c : key) hash = (hash ^ static_cast<uint8_t>(c)) * 1099511628211u;
  return hash;
}

template <typename T>
void fill_on_cpu(T* out, int64_t count, const RandomValues& values, cpu::ThreadPool& pool) {
  const auto fill = [&](int64_t begin, int64_t end, int) {
    for (int64_t group = begin; group < end; ++group) {
      const auto sums = random_sums(values.seed, static_cast<uint64_t>(group));
      for (int64_t i = group * 4; i < std::min(count, group * 4 + 4); ++i) {
        const float value = values.centre + values.scale * static_cast<float>(sums[i % 4]);
        out[i] = cpu::from_float<T>(value);
      }
    }
  };
  pool.parallel_for((count + 3) / 4, fill, kGrainGroups);
}

RandomValues values_of(const WeightSpec& weight, std::string_view recipe_key, bool is_bias) {
  const uint64_t seed = seed_of(recipe_key);
  if (is_bias) return RandomValues::normal(seed, kBiasDeviation);
  if (weight.shape.size() == 1) return RandomValues::constant(1);
  const double row = static_cast<double>(std::max<int64_t>(weight.shape.back(), 1));
  return RandomValues::normal(seed, static_cast<float>(1 / std::sqrt(row)));
}

}  // namespace

std::set<std::string, std::less<>> bias_names(const Plan& plan) {
  std::set<std::string, std::less<>> names;
  for (const OpRow& row : plan.rows) {
    for (const auto& [argument, name] : row.inputs) {
      if (argument == "bias") names.insert(name);
    }
  }
  return names;
}

void fill_dummy(const WeightSpec& weight, std::string_view name, std::string_view recipe_key,
                bool is_bias, void* out, Device device, cpu::ThreadPool& pool) {
  if (!is_floating(weight.dtype)) {
    throw Error(ErrorCode::kUnsupported,
                concat("weight ", name, ": dummy weights cannot be ", name_of(weight.dtype)));
  }
  int64_t count = 1;
  for (const int64_t extent : weight.shape) count *= extent;
  const RandomValues values = values_of(weight, recipe_key, is_bias);
  if (device.type == DeviceType::kCuda) {
    const Stream stream(device);
    fill_random_async(out, weight.dtype, count, values, stream);
    stream.synchronize();
    return;
  }
  cpu::dispatch_floating(weight.dtype, [&](auto tag) {
    fill_on_cpu(static_cast<decltype(tag)*>(out), count, values, pool);
  });
}

}  // namespace inflight::plan
