// What weights cost in resident memory: nothing of our own when read in place, and once, not
// twice, when assembled.

#include <fstream>
#include <memory>
#include <sstream>

#include "backend/plan/weights.h"
#include "kernels/core/cpu/parallel.h"
#include "tests/cpp/testing.h"
#include "tests/cpp/tiny_engine.h"

namespace inflight {
namespace {

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kRows = 8192, kColumns = 1024;        // of each of two tensors
constexpr int64_t kTensorBytes = kRows * kColumns * 4;  // 32 MiB
constexpr int64_t kSlack = 4 * kMiB;

/// Bytes of a field of /proc/self/status, such as "RssAnon:".
int64_t status_bytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    std::istringstream words(line);
    std::string name;
    int64_t kilobytes = 0;
    if (words >> name >> kilobytes && name == field) return kilobytes * 1024;
  }
  return 0;
}

struct Growth {
  int64_t anonymous_before = status_bytes("RssAnon:");
  int64_t mapped_before = status_bytes("RssFile:");
  int64_t anonymous() const { return status_bytes("RssAnon:") - anonymous_before; }
  int64_t mapped() const { return status_bytes("RssFile:") - mapped_before; }
};

/// An engine over two tensors of 32 MiB, with one weight.
plan::EngineFile write_engine(const std::filesystem::path& folder, const std::string& weight) {
  const std::filesystem::path file = folder / "model.safetensors";
  const std::string shape = concat("[", kRows, ",", kColumns, "]");
  testing::write_file(
      file, testing::padded_header(
                concat(R"({"a":{"dtype":"F32","shape":)", shape, R"(,"data_offsets":[0,)",
                       kTensorBytes, R"(]},"b":{"dtype":"F32","shape":)", shape,
                       R"(,"data_offsets":[)", kTensorBytes, ",", 2 * kTensorBytes, "]}}")));
  std::ofstream(file, std::ios::binary | std::ios::app)
      << std::string(static_cast<size_t>(2 * kTensorBytes), '\1');
  testing::write_file(
      folder / "engine.json",
      testing::engine_json(
          testing::checkpoint_entry(file),
          concat(R"({"rank":0,"arena_bytes":4096,"values":{"logits":{"dtype":"float32",
"shape":["B",8],"offset":0}},"weights":{"w":)",
                 weight, R"(},"plan":[{"op":"gather_rows","inputs":{"x":"w","rows":"last_rows"},
"outputs":{"y":"logits"},"attributes":{}}],"outputs":{"logits":"logits"}})")));
  return plan::load_engine_file(folder);
}

float touch(const TensorView& view) {
  volatile float sum = 0;
  for (size_t i = 0; i < view.bytes(); i += 4096) sum = sum + view.as<char>()[i];
  return sum;
}

void in_place() {
  const testing::TemporaryFolder folder;
  const plan::EngineFile engine = write_engine(
      folder.path(), concat(R"({"dtype":"float32","shape":[)", 2 * kRows, ",", kColumns,
                            R"(],"recipe":{"axis":0,"sources":[{"tensor":"a"},{"tensor":"b"}]}})"));
  cpu::ThreadPool pool(2);
  const Growth growth;
  auto weights = std::make_unique<plan::Weights>(engine, 0, Device{}, pool);
  EXPECT_EQ(weights->bytes_mapped(), 2 * kTensorBytes);
  EXPECT_EQ(weights->bytes_allocated(), 0);
  EXPECT(growth.anonymous() < kSlack);
  EXPECT(growth.mapped() < kSlack);  // nothing is read before it is needed
  touch(weights->view("w"));
  EXPECT(growth.anonymous() < kSlack);
  EXPECT(growth.mapped() > 2 * kTensorBytes - kSlack);
  weights.reset();
  EXPECT(growth.anonymous() < kSlack);
  EXPECT(growth.mapped() < kSlack);
}

void assembled() {
  const testing::TemporaryFolder folder;
  const plan::EngineFile engine = write_engine(
      folder.path(), concat(R"({"dtype":"bfloat16","shape":[)", kRows, ",", 2 * kColumns,
                            R"(],"recipe":{"axis":1,"sources":[{"tensor":"b"},{"tensor":"a"}]}})"));
  cpu::ThreadPool pool(2);
  const Growth growth;
  auto weights = std::make_unique<plan::Weights>(engine, 0, Device{}, pool);
  EXPECT_EQ(weights->bytes_mapped(), 0);
  EXPECT_EQ(weights->bytes_allocated(), kTensorBytes);
  EXPECT(growth.anonymous() > kTensorBytes - kSlack);
  EXPECT(growth.anonymous() < kTensorBytes + kSlack);
  EXPECT(growth.mapped() < kSlack);  // the sources are gone again
  weights.reset();
  EXPECT(growth.anonymous() < kSlack);
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  return inflight::testing::run_cases(
      {{"in_place", inflight::in_place}, {"assembled", inflight::assembled}}, argc, argv);
}
