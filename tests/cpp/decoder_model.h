// The layers of a small decoder as rows of a plan on a GPU, for tests of what does all of them at
// once.
#pragma once

#include <cmath>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/registry.h"
#include "tests/cpp/layer_linears.h"

namespace inflight::testing {

struct DecoderShape {
  int num_layers = 2;
  int64_t hidden = 512, inner = 1408;
  int64_t num_heads = 8, num_kv_heads = 2, head_size = 64;
  int64_t vocabulary = 0;     // 0: no head
  bool has_qkv_bias = false;  // as Qwen2 has
};

/// A step that generates a token for each of `lengths` sequences; 0: a row of padding.
class DecoderModel {
 public:
  DecoderModel(const DecoderShape& shape, const std::vector<int32_t>& lengths)
      : shape_(shape), num_rows_(static_cast<int64_t>(lengths.size())), lengths_(lengths) {
    const int64_t size = shape.head_size;
    const int64_t qkv_columns = (shape.num_heads + 2 * shape.num_kv_heads) * size;
    const TensorView& x = add(matrix(num_rows_, shape.hidden, 1));
    std::vector<float> angles;
    for (int64_t i = 0; i < num_rows_ * size; ++i) {
      const double angle = static_cast<double>((i % (size / 2) + 1) * (i / size + 3));
      angles.push_back(static_cast<float>(i % size < size / 2 ? std::cos(angle) : std::sin(angle)));
    }
    const TensorView& cos_sin = put(angles, DType::kFloat32, {num_rows_, size});
    std::vector<int32_t> tables, slots, starts, rows;
    for (int32_t row = 0; row < num_rows_; ++row) {
      for (int32_t i = 0; i < kBlocks; ++i)
        tables.push_back((row * kBlocks + i) * 11 % num_blocks());  // no divisor of theirs
      const int32_t last = lengths[row] - 1;
      slots.push_back(last < 0 ? -1
                               : tables[row * kBlocks + last / kTokens] * kTokens + last % kTokens);
      starts.push_back(row);
      rows.push_back(row);
    }
    starts.push_back(static_cast<int32_t>(num_rows_));
    const TensorView& block_tables = put(tables, DType::kInt32, {num_rows_, kBlocks});
    const TensorView& slot_view = put(slots, DType::kInt32, {num_rows_});
    const TensorView& query_starts = put(starts, DType::kInt32, {num_rows_ + 1});
    const TensorView& last_rows = put(rows, DType::kInt32, {num_rows_});
    const TensorView& kv_lengths = put(lengths, DType::kInt32, {num_rows_});
    const Attributes norm = {{"epsilon", 1e-5}};
    Attributes heads = {
        {"num_heads", shape.num_heads}, {"num_kv_heads", shape.num_kv_heads}, {"head_size", size}};
    Attributes scaled = heads;
    scaled.emplace("scale", 1 / std::sqrt(static_cast<double>(size)));

    const TensorView* residual = &x;
    for (int layer = 0; layer < shape.num_layers; ++layer) {
      const bool is_last = layer + 1 == shape.num_layers;
      caches_.push_back(matrix(num_blocks(), 2 * shape.num_kv_heads * kTokens * size, 1));
      const TensorView& cache = views_.emplace_back(
          TensorView::dense(caches_.back().memory.data(), DType::kBFloat16,
                            {num_blocks(), 2, shape.num_kv_heads, kTokens, size}, kGpu));
      const TensorView& qkv = output(qkv_columns);
      std::map<std::string, const TensorView*, std::less<>> of_qkv = {
          {"x", residual},
          {"weight", &weight(qkv_columns, shape.hidden)},
          {"norm_weight", &norm_weight()},
          {"y", &qkv}};
      if (shape.has_qkv_bias) of_qkv.emplace("bias", &bias(qkv_columns));
      row("fused_linear", std::move(of_qkv), norm);
      const TensorView& attended = output(shape.num_heads * size);
      const TensorView* added = residual;
      if (is_last) {  // where only the last rows go on
        const TensorView &q = output(shape.num_heads * size),
                         &last_q = output(shape.num_heads * size);
        row("rope_kv_append",
            {{"qkv", &qkv},
             {"cos_sin", &cos_sin},
             {"slots", &slot_view},
             {"kv_cache", &cache},
             {"q", &q}},
            heads);
        row("gather_rows", {{"x", &q}, {"rows", &last_rows}, {"y", &last_q}}, {});
        row("attention",
            {{"q", &last_q},
             {"kv_cache", &cache},
             {"block_tables", &block_tables},
             {"kv_lengths", &kv_lengths},
             {"y", &attended}},
            scaled);
        added = &output(shape.hidden);
        row("gather_rows", {{"x", residual}, {"rows", &last_rows}, {"y", added}}, {});
      } else {
        row("rope_attention",
            {{"qkv", &qkv},
             {"cos_sin", &cos_sin},
             {"slots", &slot_view},
             {"kv_cache", &cache},
             {"block_tables", &block_tables},
             {"query_starts", &query_starts},
             {"kv_lengths", &kv_lengths},
             {"y", &attended}},
            scaled);
      }
      const TensorView &middle = output(shape.hidden), &inner = output(shape.inner),
                       &y = output(shape.hidden);
      row("fused_linear",
          {{"x", &attended},
           {"weight", &weight(shape.hidden, shape.num_heads * size)},
           {"residual", added},
           {"y", &middle}},
          {});
      row("fused_linear",
          {{"x", &middle},
           {"weight", &weight(2 * shape.inner, shape.hidden)},
           {"norm_weight", &norm_weight()},
           {"y", &inner}},
          {{"epsilon", 1e-5}, {"gated", true}});
      row("fused_linear",
          {{"x", &inner},
           {"weight", &weight(shape.hidden, shape.inner)},
           {"residual", &middle},
           {"y", &y}},
          {});
      residual = &y;
    }
    result_ = residual;
    if (shape.vocabulary > 0) {
      Buffer& memory = buffers_.emplace_back(num_rows_ * shape.vocabulary * 4, kGpu);
      result_ = &views_.emplace_back(
          TensorView::dense(memory.data(), DType::kFloat32, {num_rows_, shape.vocabulary}, kGpu));
      row("fused_linear",
          {{"x", residual},
           {"weight", &weight(shape.vocabulary, shape.hidden)},
           {"norm_weight", &norm_weight()},
           {"y", result_}},
          norm);
    }
    context = device_.op_context();
    size_t bytes = 0;
    for (const OpCall& call : rows_)
      bytes = std::max(bytes, call.op->workspace_bytes(call.args, kGpu, 1));
    workspace_ = Buffer(bytes, kGpu);
    context.workspace = {workspace_.data(), bytes};
    run = find_run(rows_);
    memory_ = Buffer(run.memory_bytes, kGpu);
    fill_async(memory_.data(), 0, memory_.bytes(), stream());
  }

  const Stream& stream() const { return device_.stream(); }
  size_t num_plan_rows() const { return rows_.size(); }
  void one_by_one() {
    context.grids_may_wait = false;
    for (const OpCall& call : rows_) call.op->bind(call.args)(context);
  }
  bool at_once() {
    context.grids_may_wait = true;
    return run.call(context, memory_.data());
  }
  /// Nothing that the step makes is there.
  void poison() const { fill_async(result_->data, 0xff, result_->bytes(), stream()); }

  std::vector<float> result() const {
    std::vector<float> values(result_->num_elements());
    if (result_->dtype == DType::kFloat32) {
      copy_async(values.data(), result_->data, result_->bytes(), stream());
      stream().synchronize();
      return values;
    }
    std::vector<uint16_t> bits(values.size());
    copy_async(bits.data(), result_->data, result_->bytes(), stream());
    stream().synchronize();
    for (size_t i = 0; i < bits.size(); ++i)
      values[i] = std::bit_cast<float>(static_cast<uint32_t>(bits[i]) << 16);
    return values;
  }
  std::vector<std::vector<uint16_t>> caches() const {
    std::vector<std::vector<uint16_t>> all;
    for (const Matrix& cache : caches_) all.push_back(cache.download(stream()));
    return all;
  }
  void set_caches(const std::vector<std::vector<uint16_t>>& bits) const {
    for (size_t i = 0; i < bits.size(); ++i)
      copy_async(caches_[i].memory.data(), bits[i].data(), bits[i].size() * 2, stream());
    stream().synchronize();
  }

  OpContext context;
  OpRun run;

 private:
  static constexpr int32_t kTokens = 32, kBlocks = 80;  // of a block; of a sequence, at most

  int64_t num_blocks() const { return num_rows_ * kBlocks + 1; }
  Matrix matrix(int64_t rows, int64_t columns, float scale) const {
    return Matrix(rows, columns, scale, device_.stream());
  }
  const TensorView& add(Matrix added) {
    const TensorView view = added.view;
    buffers_.push_back(std::move(added.memory));
    return views_.emplace_back(view);
  }
  const TensorView& weight(int64_t rows, int64_t columns) {
    return add(matrix(rows, columns, std::sqrt(3.0f / static_cast<float>(columns))));
  }
  const TensorView& output(int64_t columns) { return add(matrix(num_rows_, columns, 1)); }
  const TensorView& row_of(int64_t columns, float scale) {
    const TensorView& view = add(matrix(1, columns, scale));
    return views_.emplace_back(TensorView::dense(view.data, view.dtype, {columns}, kGpu));
  }
  const TensorView& norm_weight() { return row_of(shape_.hidden, 2); }
  const TensorView& bias(int64_t columns) { return row_of(columns, 1); }
  template <typename Value>
  const TensorView& put(const std::vector<Value>& values, DType dtype,
                        std::initializer_list<int64_t> extents) {
    Buffer& memory = buffers_.emplace_back(values.size() * sizeof(Value), kGpu);
    copy_async(memory.data(), values.data(), memory.bytes(), stream());
    stream().synchronize();
    return views_.emplace_back(TensorView::dense(memory.data(), dtype, extents, kGpu));
  }
  void row(std::string_view op, std::map<std::string, const TensorView*, std::less<>> tensors,
           Attributes attributes) {
    rows_.push_back({find_op(op), OpArgs(std::move(tensors), std::move(attributes))});
  }

  const DecoderShape shape_;
  const int64_t num_rows_;
  const std::vector<int32_t> lengths_;
  DeviceContext device_{kGpu, nullptr};
  std::deque<Buffer> buffers_;
  std::deque<TensorView> views_;
  std::deque<Matrix> caches_;
  std::vector<OpCall> rows_;
  const TensorView* result_ = nullptr;
  Buffer workspace_, memory_;
};

}  // namespace inflight::testing
