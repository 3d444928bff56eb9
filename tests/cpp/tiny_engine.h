// An engine directory for test programs: a Llama of one layer with random float32 weights, in a
// folder that goes with the object.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "backend/plan/checkpoint.h"
#include "kernels/core/check.h"

namespace inflight::testing {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "inflight_XXXXXX").string();
    check_internal(mkdtemp(name.data()) != nullptr, "no temporary folder");
    path_ = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline std::string padded_header(std::string json) {
  json.append((8 - json.size() % 8) % 8, ' ');
  const uint64_t length = json.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + json;
}

/// `{"name": ..., "size": ..., "fingerprint": ...}` of a safetensors file.
inline std::string checkpoint_entry(const std::filesystem::path& file) {
  const plan::MappedFile mapping(file);
  const size_t header_end = plan::safetensors_header_end(mapping.bytes(), file.string());
  char digits[17];
  std::snprintf(digits, sizeof(digits), "%016llx",
                static_cast<unsigned long long>(plan::fingerprint(mapping.bytes(), header_end)));
  return concat(R"({"name":")", file.filename().string(), R"(","size":)", mapping.bytes().size(),
                R"(,"fingerprint":")", digits, R"("})");
}

/// engine.json around what differs between tests.
inline std::string engine_json(const std::string& checkpoint_entry, const std::string& rank) {
  return concat(
      R"({"format_version":1,"inflight_version":"0.1.0","model":{"architecture":"LlamaForCausalLM",
"vocab_size":13,"hidden_size":8,"num_layers":1,"num_heads":2,"num_kv_heads":1,"head_size":4,
"intermediate_size":12,"max_position_embeddings":32,"bos_token_id":null,"eos_token_ids":[],
"pad_token_id":null,"tie_word_embeddings":false,"facts":{}},"limits":{"max_batch_size":4,
"max_num_tokens":16,"max_seq_len":32,"max_beam_width":1},"dtype":"float32","quantization":null,
"kv_cache":{"dtype":"float32","tokens_per_block":8,"layers":[{"num_kv_heads":1,"head_size":4}]},
"parallel":{"tensor":1,"pipeline":1,"expert":1},"checkpoint":{"path":".","files":[)",
      checkpoint_entry, R"(]},"ranks":[)", rank, "]}");
}

inline void write_file(const std::filesystem::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

class TinyEngine {
 public:
  TinyEngine() {
    weight("embedding", {13, 8});
    for (const char* norm : {"norm1", "norm2", "norm3"}) weight(norm, {8});
    weight("qkv", {16, 8});
    weight("out", {8, 8});
    weight("gate_up", {24, 8});
    weight("down", {8, 12});
    weight("head", {13, 8});
    const std::filesystem::path file = folder_.path() / "model.safetensors";
    write_file(file, padded_header("{" + header_ + "}") + data_);

    const std::string heads = R"("num_heads":2,"num_kv_heads":1,"head_size":4)";
    row("embedding", R"("ids":"input_ids","table":"embedding")", {{"y", "x", "T", 8}});
    row("rope_table", R"("positions":"positions","rope_lengths":"rope_lengths")",
        {{"cos_sin", "rope", "T", 4}}, R"("inv_freq":[1.0,0.01],"attention_scaling":1.0)");
    row("rms_norm", R"("x":"x","weight":"norm1")", {{"y", "n1", "T", 8}}, R"("epsilon":1e-5)");
    row("linear", R"("x":"n1","weight":"qkv")", {{"y", "qkv_out", "T", 16}});
    row("rope_kv_append",
        R"("qkv":"qkv_out","cos_sin":"rope","slots":"slots","kv_cache":"kv_cache.0")",
        {{"q", "q", "T", 8}}, heads);
    row("attention",
        R"("q":"q","kv_cache":"kv_cache.0","block_tables":"block_tables",)"
        R"("query_starts":"query_starts","kv_lengths":"kv_lengths")",
        {{"y", "attended", "T", 8}}, heads + R"(,"scale":0.5)");
    row("linear", R"("x":"attended","weight":"out")", {{"y", "o", "T", 8}});
    row("add_rms_norm", R"("x":"o","residual":"x","weight":"norm2")",
        {{"y", "n2", "T", 8}, {"sum", "x2", "T", 8}}, R"("epsilon":1e-5)");
    row("linear", R"("x":"n2","weight":"gate_up")", {{"y", "gated", "T", 24}});
    row("silu_mul", R"("gate_up":"gated")", {{"y", "hidden", "T", 12}});
    row("linear", R"("x":"hidden","weight":"down")", {{"y", "d", "T", 8}});
    row("add_rms_norm", R"("x":"d","residual":"x2","weight":"norm3")", {{"y", "n3", "T", 8}},
        R"("epsilon":1e-5)");
    row("gather_rows", R"("x":"n3","rows":"last_rows")", {{"y", "last", "B", 8}});
    row("linear", R"("x":"last","weight":"head")", {{"y", "logits", "B", 13}});
    write_file(folder_.path() / "engine.json",
               engine_json(checkpoint_entry(file),
                           concat(R"({"rank":0,"arena_bytes":)", arena_bytes_, R"(,"values":{)",
                                  values_, R"(},"weights":{)", weights_, R"(},"plan":[)", rows_,
                                  R"(],"outputs":{"logits":"logits"}})")));
  }

  const std::filesystem::path& path() const { return folder_.path(); }

 private:
  struct Output {
    const char* argument;
    const char* value;
    const char* rows;  // "T" or "B"
    int columns;
  };

  void weight(const std::string& name, const std::vector<int>& shape) {
    std::string extents;
    int count = 1;
    for (int extent : shape) {
      extents += concat(extents.empty() ? "" : ",", extent);
      count *= extent;
    }
    const size_t begin = data_.size();
    for (int i = 0; i < count; ++i) {
      const float value = std::normal_distribution<float>(shape.size() == 1, 0.3f)(random_);
      data_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    }
    header_ += concat(header_.empty() ? "" : ",", '"', name, R"(":{"dtype":"F32","shape":[)",
                      extents, R"(],"data_offsets":[)", begin, ",", data_.size(), "]}");
    weights_ += concat(weights_.empty() ? "" : ",", '"', name, R"(":{"dtype":"float32","shape":[)",
                       extents, R"(],"recipe":{"axis":0,"sources":[{"tensor":")", name, R"("}]}})");
  }

  void row(const std::string& op, const std::string& inputs, const std::vector<Output>& outputs,
           const std::string& attributes = "") {
    std::string written;
    for (const Output& output : outputs) {
      values_ += concat(values_.empty() ? "" : ",", '"', output.value,
                        R"(":{"dtype":"float32","shape":[")", output.rows, "\",", output.columns,
                        R"(],"offset":)", arena_bytes_, "}");
      arena_bytes_ += 16 * output.columns * 4;  // max_num_tokens rows; a multiple of 64
      written +=
          concat(written.empty() ? "" : ",", '"', output.argument, "\":\"", output.value, '"');
    }
    rows_ += concat(rows_.empty() ? "" : ",", R"({"op":")", op, R"(","inputs":{)", inputs,
                    R"(},"outputs":{)", written, R"(},"attributes":{)", attributes, "}}");
  }

  TemporaryFolder folder_;
  std::mt19937 random_{1};
  std::string header_, data_, weights_, values_, rows_;
  int64_t arena_bytes_ = 0;
};

}  // namespace inflight::testing
