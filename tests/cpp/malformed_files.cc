// Thousands of damaged safetensors and engine files: each loads or raises Error, nothing else.
// Reads out of range show under the address sanitizer. `test_malformed_files [case]...`
#include <memory>
#include <random>

#include "backend/plan/plan_runner.h"
#include "kernels/core/cpu/parallel.h"
#include "tests/cpp/testing.h"
#include "tests/cpp/tiny_engine.h"

namespace inflight {
namespace {

std::string read_file(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

class Damage {
 public:
  /// `text` with one to three changes in its first `length` bytes.
  std::string operator()(std::string text, size_t length) {
    for (int changes = 1 + below(3); changes > 0; --changes) {
      const size_t where = below(std::min(length, text.size()));
      switch (below(6)) {
        case 0:
          text[where] = static_cast<char>(text[where] ^ (1 << below(8)));
          break;
        case 1:
          text[where] = static_cast<char>(below(256));
          break;
        case 2:
          text.insert(where, 1 + below(4), kSyntax[below(sizeof(kSyntax) - 1)]);
          break;
        case 3:
          text.erase(where, 1 + below(6));
          break;
        default: {  // a number, to get past the syntax
          const size_t digit = text.find_first_of("0123456789", where);
          if (digit == std::string::npos) break;
          static const char* const numbers[] = {
              "0", "1", "-1", "7", "64", "4294967296", "1000000000", "9223372036854775807", "1e9"};
          text.replace(digit, text.find_first_not_of("0123456789", digit) - digit,
                       numbers[below(std::size(numbers))]);
        }
      }
      if (text.empty()) text = "x";
    }
    return text;
  }

  size_t below(size_t limit) { return random_() % limit; }

 private:
  static constexpr char kSyntax[] = "0123456789[]{},:\"-.eE TBnull";
  std::mt19937 random_{42};
};

/// Calls `load`; false if it raised Error.
template <typename Load>
bool loads(const Load& load) {
  try {
    load();
    return true;
  } catch (const Error&) {
    return false;
  }
}

void safetensors() {
  const testing::TinyEngine directory;
  const std::string whole = read_file(directory.path() / "model.safetensors");
  const size_t header_end = plan::safetensors_header_end(
      {reinterpret_cast<const uint8_t*>(whole.data()), whole.size()}, "whole");
  Damage damage;
  int num_accepted = 0;
  constexpr int kFiles = 30000;
  for (int i = 0; i < kFiles; ++i) {
    std::string file = damage(whole, header_end);
    if (i % 2 == 0 && file.size() > whole.size() - header_end + 8) {  // the length stays true
      const uint64_t length = file.size() - (whole.size() - header_end) - 8;
      std::memcpy(file.data(), &length, sizeof(length));
    }
    // Exactly as long as the file, so that no read behind it goes unnoticed.
    const auto bytes = std::make_unique<uint8_t[]>(file.size());
    std::memcpy(bytes.get(), file.data(), file.size());
    num_accepted += loads([&] {
      const plan::SafetensorsHeader header =
          plan::parse_safetensors({bytes.get(), file.size()}, "file");
      for (const auto& [name, tensor] : header.tensors) {
        EXPECT(tensor.begin >= header.end && tensor.begin <= tensor.end &&
               tensor.end <= file.size());
      }
    });
  }
  EXPECT(num_accepted > 0 && num_accepted < kFiles / 2);
}

void engine_files() {
  const testing::TinyEngine directory;
  const std::filesystem::path path = directory.path() / "engine.json";
  const std::string whole = read_file(path);
  std::vector<float> cache(4 * 2 * 8 * 4);
  const TensorView layer = TensorView::dense(cache.data(), DType::kFloat32, {4, 2, 1, 8, 4});
  cpu::ThreadPool pool(1);
  const DeviceContext context({}, &pool);
  Damage damage;
  int num_parsed = 0, num_bound = 0;
  constexpr int kFiles = 6000;
  for (int i = 0; i < kFiles; ++i) {
    testing::write_file(path, damage(whole, whole.size()));
    loads([&] {
      const plan::EngineFile engine = plan::load_engine_file(directory.path());
      ++num_parsed;
      const plan::Weights weights(engine, 0, {}, pool);
      const plan::PlanRunner runner(engine, 0, weights, context, engine.limits, {layer});
      ++num_bound;
    });
  }
  EXPECT(num_bound > 0 && num_bound < num_parsed && num_parsed < kFiles);
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  return inflight::testing::run_cases(
      {{"safetensors", inflight::safetensors}, {"engine_files", inflight::engine_files}}, argc,
      argv);
}
