// A safetensors file: the read-only mapping and its validated header. No byte of a file leads to
// more than an Error. Owns the mapping; knows nothing of engines or recipes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/core/dtype.h"

namespace inflight::plan {

/// A tensor's entry in the header. Its bytes lie in [begin, end) of the file, row-major.
struct StoredTensor {
  std::string stored_dtype;    // as the file spells it: "BF16", "F8_E4M3", ...
  std::optional<DType> dtype;  // absent: legal in the format, unknown to us
  std::vector<int64_t> shape;
  size_t begin = 0;
  size_t end = 0;
};

struct SafetensorsHeader {
  size_t end = 0;  // bytes before the data: 8 + length of the JSON
  std::map<std::string, StoredTensor, std::less<>> tensors;
  std::map<std::string, std::string> metadata;
};

/// Bytes before the data of a whole file. Raises invalid_argument (starting with `file`) if the
/// file is shorter, or the header longer than the format allows.
size_t safetensors_header_end(std::span<const uint8_t> bytes, std::string_view file);

/// Parses and validates the header of a whole file: every tensor's size fits its shape and dtype,
/// the data is covered without gap or overlap, names are unique.
SafetensorsHeader parse_safetensors(std::span<const uint8_t> bytes, std::string_view file);

/// A file mapped read-only. It must not shrink while mapped.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  std::span<const uint8_t> bytes() const { return {data_, size_}; }
  /// Brings [begin, end) into memory in one go, where the system knows how.
  void populate(size_t begin, size_t end) const;
  /// Tells the system that [begin, end) is not needed soon: the pages leave resident memory, and
  /// reading them again still works.
  void release(size_t begin, size_t end) const;

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace inflight::plan
