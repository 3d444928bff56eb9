// The checkpoint's files, mapped and held against the engine file; finds a tensor by name. Owns the
// mappings; read-only after construction.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/plan/engine_file.h"
#include "backend/plan/safetensors.h"

namespace inflight::plan {

/// FNV-1a 64 over the header (`header_end` bytes, its length included) and 64 samples of the data
/// behind it. Tells a changed file from the one that an engine was built from; no proof against
/// those who want to deceive.
uint64_t fingerprint(std::span<const uint8_t> file, size_t header_end);

class Checkpoint {
 public:
  /// Raises Error naming the file if one is missing, no safetensors file, or not the one recorded.
  explicit Checkpoint(const std::vector<CheckpointFile>& files);

  struct Tensor {
    const MappedFile* file = nullptr;
    const StoredTensor* stored = nullptr;
    const uint8_t* data() const { return file->bytes().data() + stored->begin; }
  };
  /// Raises not_found, or invalid_argument if several files hold the name; starting with `who`.
  Tensor find(std::string_view name, std::string_view who) const;

 private:
  struct File {
    std::string name;
    MappedFile mapping;
    SafetensorsHeader header;
  };
  std::vector<File> files_;
};

}  // namespace inflight::plan
