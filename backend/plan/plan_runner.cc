#include "backend/plan/plan_runner.h"

#include <algorithm>
#include <optional>
#include <span>
#include <string_view>

#include "backend/plan/bound_plan.h"
#include "backend/plan/cuda_graphs.h"
#include "backend/plan/fixed_inputs.h"
#include "kernels/core/check.h"
#include "kernels/core/row_ranges.h"

namespace inflight::plan {

namespace {
/// Up to here our own kernels serve all sizes.
constexpr int kFewRows = 16;

void check_limit(std::string_view name, int value, int limit) {
  check(value >= 1 && value <= limit, name, " must be from 1 to ", limit,
        ", the limit that the engine was built with, got ", value);
}

void check_kv_layers(const EngineFile& engine, std::span<const TensorView> layers) {
  const KvCacheSpec& spec = engine.kv_cache;
  check(layers.size() == spec.layers.size(), "got the cache of ", layers.size(),
        " layers, the engine has ", spec.layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    const TensorView& view = layers[i];
    check(view && view.dtype == spec.dtype && view.rank == 5 && view.shape[1] == 2 &&
              view.shape[2] == spec.layers[i].num_kv_heads &&
              view.shape[3] == spec.tokens_per_block && view.shape[4] == spec.layers[i].head_size,
          "the cache of layer ", i, " must be ", name_of(spec.dtype), " [num_blocks, 2, ",
          spec.layers[i].num_kv_heads, ", ", spec.tokens_per_block, ", ", spec.layers[i].head_size,
          "]");
  }
}
}  // namespace

class PlanRunner::Impl {
 public:
  Impl(const EngineFile& engine, int rank, const Weights& weights, const DeviceContext& context,
       const StepLimits& limits, const std::vector<TensorView>& kv_layers, bool cuda_graphs)
      : engine_(engine),
        limits_(limits),
        device_context_(context),
        bound_(engine, rank, weights, context.op_context(), checked(limits, kv_layers, engine),
               kv_layers) {
    if (context.is_cuda()) {
      bound_.arena().clear(context.stream());
      fixed_inputs_.emplace(limits, max_blocks_per_sequence(), bound_.num_groups(),
                            context.stream());
      if (cuda_graphs) graphs_.emplace(context.stream());
    }
  }

  void set_kv_layers(const std::vector<TensorView>& kv_layers) {
    check_kv_layers(engine_, kv_layers);
    bound_.set_kv_layers(kv_layers);
  }

  void warm_up() {
    // In float32 a kernel serves all sizes.
    if (!fixed_inputs_ || engine_.dtype == DType::kFloat32) return;
    for (int64_t end = limits_.max_num_tokens; end > kFewRows; end = row_range_below(end)) {
      // Some kernels of our own begin or end to serve within a range.
      for (const int64_t size : {end, row_range_below(end) + 1}) {
        const auto rows = static_cast<int>(size);
        run_each_kind(rows, 1);                                         // of a prompt
        if (rows <= limits_.max_batch_size) run_each_kind(rows, rows);  // of generated tokens
      }
    }
    bound_.arena().clear(device_context_.stream());
    device_context_.stream().synchronize();
  }

  void let_grids_wait() {
    if (bound_.context().grids_may_wait) return;
    bound_.context().grids_may_wait = true;
    if (graphs_) graphs_->forget();
  }

  TensorView run(const StepInputs& inputs, const LastLaunch& last) {
    check_step("num_tokens", inputs.num_tokens, limits_.max_num_tokens);
    check_step("num_sequences", inputs.num_sequences, limits_.max_batch_size);
    for (const StepInputSpec& spec : kStepInputs) check_input(spec, inputs.*spec.view, inputs);
    check(static_cast<int>(inputs.more_groups.size()) == bound_.num_groups() - 1,
          "a step has slots of ", inputs.more_groups.size() + 1,
          " groups of layers, the engine has ", bound_.num_groups());
    for (const KvGroupInputs& group : inputs.more_groups) {
      check_input(spec_of(&StepInputs::slots), group.slots, inputs);
      check_input(spec_of(&StepInputs::block_tables), group.block_tables, inputs);
    }
    if (fixed_inputs_) return run_from_fixed_inputs(inputs, last);
    bound_.prepare(inputs);
    bound_.run();
    if (last) last(bound_.logits());
    return bound_.logits();
  }

  int max_blocks_per_sequence() const { return bound_.max_blocks_per_sequence(); }
  int64_t arena_bytes() const {
    return bound_.arena().bytes() + (fixed_inputs_ ? fixed_inputs_->bytes() : 0);
  }
  int64_t workspace_bytes() const { return static_cast<int64_t>(bound_.arena().workspace().bytes); }

 private:
  static const StepLimits& checked(const StepLimits& limits,
                                   const std::vector<TensorView>& kv_layers,
                                   const EngineFile& engine) {
    check_limit("max_batch_size", limits.max_batch_size, engine.limits.max_batch_size);
    check_limit("max_num_tokens", limits.max_num_tokens, engine.limits.max_num_tokens);
    check_limit("max_seq_len", limits.max_seq_len, engine.limits.max_seq_len);
    check_kv_layers(engine, kv_layers);
    return limits;
  }

  static void check_step(std::string_view name, int value, int limit) {
    check(value >= 1 && value <= limit, "a step's ", name, " must be from 1 to ", limit, ", got ",
          value);
  }

  void check_input(const StepInputSpec& spec, const TensorView& view,
                   const StepInputs& inputs) const {
    const bool is_table = spec.shape == StepInputShape::kBlockTables;
    const int64_t length = spec.length(inputs.num_tokens, inputs.num_sequences);
    check(view && view.dtype == DType::kInt32 && view.device == device_context_.device() &&
              view.is_dense() && view.rank == (is_table ? 2 : 1) && view.shape[0] == length,
          "step input ", spec.name, " must be int32 of ", length, " rows, dense, on the device");
    const int most = max_blocks_per_sequence();
    check(!is_table || (view.shape[1] >= 1 && view.shape[1] <= most),
          "step input block_tables must have 1 to ", most, " columns, got ", view.shape[1]);
  }

  void run_each_kind(int num_tokens, int num_sequences) {
    bound_.prepare(fixed_inputs_->shaped(num_tokens, num_sequences, max_blocks_per_sequence()));
    // Algorithms are chosen by time, and zeros or equal rows draw less power: on them the wrong
    // one is ahead. Last rows first, so that none reads what the embedding made of one token.
    bound_.arena().fill_random(engine_.dtype, device_context_.stream());
    bound_.run_each_kind();
  }

  /// Steps with one row a sequence, and short prompts alone, are padded to the sizes that are
  /// recorded, recorded or not, so that a token does not depend on that choice.
  TensorView run_from_fixed_inputs(const StepInputs& staged, const LastLaunch& last) {
    int num_tokens = staged.num_tokens, num_sequences = staged.num_sequences;
    int num_columns = max_blocks_per_sequence();
    bool is_recorded = false;
    if (staged.rows_share_cache) {
      // A row that is no sequence's tells it from a step that generates, whose rows an op may put
      // into the cache when others have read it.
      if (num_tokens == num_sequences) ++num_tokens;
      check_step("num_tokens and a row of padding", num_tokens, limits_.max_num_tokens);
    } else if (num_tokens == num_sequences) {
      const int most = std::min(limits_.max_batch_size, limits_.max_num_tokens);
      num_tokens = num_sequences = graph_batch_size(num_sequences, most);
      is_recorded = true;
      num_columns = graph_columns(num_sequences, static_cast<int>(staged.block_tables.shape[1]),
                                  engine_.kv_cache.tokens_per_block, num_columns);
    } else if (num_sequences == 1 && engine_.dtype != DType::kFloat32) {
      // In float32 each row more costs what a row costs.
      const int rows = graph_prompt_rows(num_tokens, limits_.max_num_tokens);
      is_recorded = rows > 0;
      if (is_recorded) num_tokens = rows;
    }
    bound_.prepare(fixed_inputs_->shaped(num_tokens, num_sequences, num_columns));
    const StepOpening* opening = num_tokens <= kMaxOpeningTokens ? bound_.opening() : nullptr;
    StepLaunches step = {
        .first = [&] { fixed_inputs_->move(staged, opening, bound_.context()); },
        .rows = [&] { bound_.run(opening != nullptr); },
    };
    if (last) step.last = [&] { last(bound_.logits()); };
    if (is_recorded && graphs_) {
      graphs_->run({num_tokens, num_sequences, num_columns, static_cast<bool>(last)}, step);
    } else {
      step();
    }
    TensorView logits = bound_.logits();
    logits.shape[0] = staged.num_sequences;
    return logits;
  }

  const EngineFile& engine_;
  const StepLimits limits_;
  const DeviceContext& device_context_;
  BoundPlan bound_;
  // CUDA only.
  std::optional<FixedInputs> fixed_inputs_;
  std::optional<CudaGraphs> graphs_;
};

PlanRunner::PlanRunner(const EngineFile& engine, int rank, const Weights& weights,
                       const DeviceContext& context, const StepLimits& limits,
                       std::vector<TensorView> kv_layers, bool cuda_graphs)
    : impl_(
          std::make_unique<Impl>(engine, rank, weights, context, limits, kv_layers, cuda_graphs)) {}
PlanRunner::~PlanRunner() = default;

TensorView PlanRunner::run(const StepInputs& inputs, const LastLaunch& last) {
  return impl_->run(inputs, last);
}
void PlanRunner::set_kv_layers(const std::vector<TensorView>& kv_layers) {
  impl_->set_kv_layers(kv_layers);
}
void PlanRunner::warm_up() { impl_->warm_up(); }
void PlanRunner::let_grids_wait() { impl_->let_grids_wait(); }
int PlanRunner::max_blocks_per_sequence() const { return impl_->max_blocks_per_sequence(); }
int64_t PlanRunner::arena_bytes() const { return impl_->arena_bytes(); }
int64_t PlanRunner::workspace_bytes() const { return impl_->workspace_bytes(); }

}  // namespace inflight::plan
