#include "backend/plan/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "backend/plan/strict_json.h"

namespace inflight::plan {

namespace {
constexpr size_t kLengthBytes = 8;                 // the header's length, little-endian
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // of the reference implementation
constexpr size_t kMaxTensorRank = 32;

struct StoredDType {
  std::string_view name;
  size_t bytes;
  std::optional<DType> dtype;
};

constexpr std::array<StoredDType, 16> kStoredDTypes = {{
    {"BOOL", 1, DType::kBool},
    {"U8", 1, DType::kUInt8},
    {"I8", 1, DType::kInt8},
    {"F8_E5M2", 1, std::nullopt},
    {"F8_E4M3", 1, std::nullopt},
    {"F8_E8M0", 1, std::nullopt},
    {"I16", 2, std::nullopt},
    {"U16", 2, std::nullopt},
    {"F16", 2, DType::kFloat16},
    {"BF16", 2, DType::kBFloat16},
    {"I32", 4, DType::kInt32},
    {"U32", 4, std::nullopt},
    {"F32", 4, DType::kFloat32},
    {"F64", 8, std::nullopt},
    {"I64", 8, DType::kInt64},
    {"U64", 8, std::nullopt},
}};

/// One header entry; `data_bytes` is the length of the file behind the header.
StoredTensor parse_entry(const JsonValue& value, size_t header_end, size_t data_bytes) {
  JsonObject entry(value);
  StoredTensor tensor;

  const JsonValue dtype = entry.get("dtype");
  tensor.stored_dtype = dtype.string();
  const auto stored = std::find_if(kStoredDTypes.begin(), kStoredDTypes.end(),
                                   [&](auto& row) { return row.name == tensor.stored_dtype; });
  if (stored == kStoredDTypes.end()) dtype.refuse_type("a dtype of the safetensors format");
  tensor.dtype = stored->dtype;

  const JsonValue shape = entry.get("shape");
  if (shape.size() > kMaxTensorRank) shape.refuse(concat("more than ", kMaxTensorRank, " axes"));
  size_t num_bytes = stored->bytes;
  for (size_t i = 0; i < shape.size(); ++i) {
    tensor.shape.push_back(shape[i].integer(0));
    if (__builtin_mul_overflow(num_bytes, static_cast<size_t>(tensor.shape.back()), &num_bytes)) {
      shape.refuse("more bytes than can be addressed");
    }
  }

  const JsonValue offsets = entry.get("data_offsets");
  if (offsets.size() != 2) offsets.refuse_type("[begin, end]");
  const auto begin = static_cast<size_t>(offsets[0].integer(0));
  const auto end = static_cast<size_t>(offsets[1].integer(0));
  if (begin > end || end > data_bytes) {
    offsets.refuse(
        concat("[", begin, ", ", end, ") is not within the ", data_bytes, " bytes of data"));
  }
  if (end - begin != num_bytes) {
    offsets.refuse(concat(end - begin, " bytes, but shape and dtype take ", num_bytes));
  }
  tensor.begin = header_end + begin;
  tensor.end = header_end + end;
  entry.done();
  return tensor;
}

/// The format forbids gaps and overlaps: a file is read in one way only.
void check_coverage(const SafetensorsHeader& header, size_t file_bytes, std::string_view file) {
  using Item = std::pair<const std::string, StoredTensor>;
  std::vector<const Item*> order;
  order.reserve(header.tensors.size());
  for (const Item& item : header.tensors) order.push_back(&item);
  std::sort(order.begin(), order.end(), [](const Item* a, const Item* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  size_t covered = header.end;
  for (const Item* item : order) {
    check(item->second.begin == covered, file, ": ", item->first, ": data begins at byte ",
          item->second.begin - header.end, ", expected ", covered - header.end,
          " (tensors must neither overlap nor leave gaps)");
    covered = item->second.end;
  }
  check(covered == file_bytes, file, ": ", file_bytes - covered,
        " bytes behind the last tensor belong to none");
}
}  // namespace

size_t safetensors_header_end(std::span<const uint8_t> bytes, std::string_view file) {
  check(bytes.size() >= kLengthBytes, file, ": ", bytes.size(),
        " bytes are too few for a safetensors file");
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= uint64_t{bytes[i]} << (8 * i);
  check(length <= kMaxHeaderBytes, file, ": header of ", length, " bytes, limit ", kMaxHeaderBytes);
  check(length <= bytes.size() - kLengthBytes, file, ": header of ", length, " bytes in a file of ",
        bytes.size());
  return kLengthBytes + length;
}

SafetensorsHeader parse_safetensors(std::span<const uint8_t> bytes, std::string_view file) {
  SafetensorsHeader header;
  header.end = safetensors_header_end(bytes, file);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes,
                              header.end - kLengthBytes);
  check(text.starts_with('{'), file, ": the header does not begin with '{'");
  const nlohmann::json json = parse_json(text, file);
  JsonObject(JsonValue(json, file)).for_each([&](const std::string& name, const JsonValue& value) {
    if (name == "__metadata__") {
      JsonObject(value).for_each([&](const std::string& key, const JsonValue& entry) {
        header.metadata.emplace(key, entry.string());
      });
    } else {
      header.tensors.emplace(name, parse_entry(value, header.end, bytes.size() - header.end));
    }
  });
  check_coverage(header, bytes.size(), file);
  return header;
}

MappedFile::MappedFile(const std::filesystem::path& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    throw Error(errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kInvalidArgument,
                concat(path.string(), ": cannot be opened: ", std::strerror(errno)));
  }
  struct stat info{};
  const bool regular = fstat(file, &info) == 0 && S_ISREG(info.st_mode);
  void* mapping = nullptr;
  if (regular && info.st_size > 0) {
    mapping = mmap(nullptr, info.st_size, PROT_READ, MAP_SHARED, file, 0);
  }
  const int map_error = errno;
  close(file);  // the mapping keeps the file
  check(regular, path.string(), ": not a regular file");
  check(mapping != MAP_FAILED, path.string(), ": cannot be mapped: ", std::strerror(map_error));
  data_ = static_cast<const uint8_t*>(mapping);
  size_ = static_cast<size_t>(info.st_size);
}

MappedFile::~MappedFile() {
  if (data_) munmap(const_cast<uint8_t*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

void MappedFile::populate(size_t begin, size_t end) const {
#ifdef MADV_POPULATE_READ
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  begin = begin / page * page;
  if (begin < end) madvise(const_cast<uint8_t*>(data_) + begin, end - begin, MADV_POPULATE_READ);
#endif
}

void MappedFile::release(size_t begin, size_t end) const {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  begin = begin / page * page;
  // Advice only: a refusal changes nothing but memory use.
  if (begin < end) madvise(const_cast<uint8_t*>(data_) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace inflight::plan
