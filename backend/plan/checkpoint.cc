#include "backend/plan/checkpoint.h"

#include <utility>

#include "kernels/core/check.h"

namespace inflight::plan {

namespace {
constexpr uint64_t kOffsetBasis = 14695981039346656037u;
constexpr uint64_t kPrime = 1099511628211u;
constexpr size_t kNumSamples = 64;
constexpr size_t kSampleBytes = 64;

uint64_t fnv1a(uint64_t hash, std::span<const uint8_t> bytes) {
  for (uint8_t byte : bytes) hash = (hash ^ byte) * kPrime;
  return hash;
}
}  // namespace

uint64_t fingerprint(std::span<const uint8_t> file, size_t header_end) {
  const uint64_t header = fnv1a(kOffsetBasis, file.first(header_end));
  const std::span<const uint8_t> data = file.subspan(header_end);
  if (data.size() < kSampleBytes) return fnv1a(header, data);
  uint64_t hash = header;
  for (size_t i = 0; i < kNumSamples; ++i) {
    const size_t begin = i * (data.size() - kSampleBytes) / (kNumSamples - 1);
    hash = fnv1a(hash, data.subspan(begin, kSampleBytes));
  }
  return hash;
}

Checkpoint::Checkpoint(const std::vector<CheckpointFile>& files) {
  for (const CheckpointFile& file : files) {
    const std::string name = file.path.string();
    MappedFile mapping(file.path);
    const std::span<const uint8_t> bytes = mapping.bytes();
    const auto unchanged = [&] {
      return static_cast<int64_t>(bytes.size()) == file.size &&
             fingerprint(bytes, safetensors_header_end(bytes, name)) == file.fingerprint;
    };
    check(unchanged(), name, ": checkpoint has changed since the engine was built (", bytes.size(),
          " bytes now, ", file.size, " then); build the engine again");
    SafetensorsHeader header = parse_safetensors(bytes, name);
    mapping.release(0, bytes.size());  // the samples brought their neighbours into memory
    files_.push_back({name, std::move(mapping), std::move(header)});
  }
}

Checkpoint::Tensor Checkpoint::find(std::string_view name, std::string_view who) const {
  Tensor tensor;
  const File* holder = nullptr;
  for (const File& file : files_) {
    const auto found = file.header.tensors.find(name);
    if (found == file.header.tensors.end()) continue;
    check(holder == nullptr, who, ": checkpoint tensor ", name, ": both ",
          holder ? holder->name : "", " and ", file.name, " hold it");
    holder = &file;
    tensor = {&file.mapping, &found->second};
  }
  if (!holder) {
    throw Error(ErrorCode::kNotFound,
                concat(who, ": checkpoint tensor ", name, ": no file holds it"));
  }
  return tensor;
}

}  // namespace inflight::plan
