#include "backend/plan/plan_runner.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "backend/plan/arena.h"
#include "backend/plan/cuda_graphs.h"
#include "backend/plan/fixed_inputs.h"
#include "backend/plan/signature.h"
#include "kernels/core/check.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/registry.h"

namespace inflight::plan {

namespace {
/// Sizes up to here are many, and soon met.
constexpr int kFewRows = 1024;

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
        plan_(engine.ranks.at(rank)),
        limits_(limits),
        max_blocks_((limits.max_seq_len + engine.kv_cache.tokens_per_block - 1) /
                    engine.kv_cache.tokens_per_block),
        arena_(checked(plan_, limits, engine.limits), limits, context.device()),
        device_context_(context),
        context_(context.op_context()) {
    check_kv_layers(engine, kv_layers);
    names_ = make_views(weights, kv_layers);
    set_shapes(limits.max_num_tokens, limits.max_batch_size);
    bind_rows((engine.directory / "engine.json").string() + ": ranks[" + std::to_string(rank) +
              "].plan");
    context_.workspace = arena_.workspace();
    if (context.is_cuda()) {
      arena_.clear(context.stream());
      fixed_inputs_.emplace(limits, max_blocks_, num_groups(), context.stream());
      if (cuda_graphs) graphs_.emplace(context.stream());
    }
  }

  void set_kv_layers(const std::vector<TensorView>& kv_layers) {
    check_kv_layers(engine_, kv_layers);
    const size_t first = views_.size() - kv_layers.size();
    std::copy(kv_layers.begin(), kv_layers.end(), views_.begin() + static_cast<ptrdiff_t>(first));
  }

  void warm_up() {
    // In float32 a kernel serves all sizes.
    if (!fixed_inputs_ || engine_.dtype == DType::kFloat32) return;
    bool is_next_half = false;  // 8192, 6144, 4096, 3072, ...
    for (int rows = limits_.max_num_tokens; rows > kFewRows; is_next_half = !is_next_half) {
      prepare(fixed_inputs_->shaped(rows, 1));
      // Algorithms are chosen by time, and zeros or equal rows draw less power: on them the wrong
      // one is ahead. Last rows first, so that none reads what the embedding made of one token.
      arena_.fill_random(engine_.dtype, device_context_.stream());
      std::set<std::string> known;  // layers are alike
      for (size_t i = calls_.size(); i-- > 0;) {
        std::string kind;
        for (size_t row = first_row(i); row < calls_[i].end_row; ++row)
          kind += kind_of(plan_.rows[row]);
        if (known.insert(std::move(kind)).second) calls_[i].op(context_);
      }
      rows = is_next_half ? rows * 2 / 3 : rows * 3 / 4;
    }
    arena_.clear(device_context_.stream());
    device_context_.stream().synchronize();
  }

  void let_grids_wait() {
    if (context_.grids_may_wait) return;
    context_.grids_may_wait = true;
    if (graphs_) graphs_->forget();
  }

  TensorView run(const StepInputs& inputs) {
    check_step("num_tokens", inputs.num_tokens, limits_.max_num_tokens);
    check_step("num_sequences", inputs.num_sequences, limits_.max_batch_size);
    for (const StepInputSpec& spec : kStepInputs) check_input(spec, inputs.*spec.view, inputs);
    check(static_cast<int>(inputs.more_groups.size()) == num_groups() - 1, "a step has slots of ",
          inputs.more_groups.size() + 1, " groups of layers, the engine has ", num_groups());
    for (const KvGroupInputs& group : inputs.more_groups) {
      check_input(spec_of(&StepInputs::slots), group.slots, inputs);
      check_input(spec_of(&StepInputs::block_tables), group.block_tables, inputs);
    }
    if (fixed_inputs_) return run_from_fixed_inputs(inputs);
    prepare(inputs);
    run_rows();
    return *logits_;
  }

  int max_blocks_per_sequence() const { return max_blocks_; }
  int64_t arena_bytes() const {
    return arena_.bytes() + (fixed_inputs_ ? fixed_inputs_->bytes() : 0);
  }
  int64_t workspace_bytes() const { return static_cast<int64_t>(arena_.workspace().bytes); }

 private:
  /// A view of the table whose shape a step decides.
  struct Sized {
    TensorView* view;
    const ValueSpec* spec;
  };

  /// Rows of the plan from where the call before ends.
  struct Call {
    BoundOp op;
    size_t end_row;
  };

  int num_groups() const { return static_cast<int>(engine_.kv_cache.groups.size()); }

  static const Plan& checked(const Plan& plan, const StepLimits& limits, const StepLimits& engine) {
    check_limit("max_batch_size", limits.max_batch_size, engine.max_batch_size);
    check_limit("max_num_tokens", limits.max_num_tokens, engine.max_num_tokens);
    check_limit("max_seq_len", limits.max_seq_len, engine.max_seq_len);
    return plan;
  }

  static void check_step(std::string_view name, int value, int limit) {
    check(value >= 1 && value <= limit, "a step's ", name, " must be from 1 to ", limit, ", got ",
          value);
  }

  /// Fills the table: step inputs at the front, those of further groups behind them, then values,
  /// weights and, last, caches.
  ByName<const TensorView*> make_views(const Weights& weights,
                                       const std::vector<TensorView>& kv_layers) {
    ByName<const TensorView*> names;
    views_.reserve(kStepInputs.size() + 2 * (num_groups() - 1) + plan_.values.size() +
                   plan_.weights.size() + kv_layers.size());  // ops keep the addresses
    const auto add = [&](std::string name, const TensorView& view) {
      views_.push_back(view);
      names.emplace(std::move(name), &views_.back());
    };
    for (const StepInputSpec& spec : kStepInputs) {
      add(std::string(spec.name), largest_input(spec));
    }
    for (int group = 1; group < num_groups(); ++group) {
      for (const auto view : {&StepInputs::slots, &StepInputs::block_tables}) {
        const StepInputSpec& spec = spec_of(view);
        add(group_input_name(spec.name, group), largest_input(spec));
      }
    }
    for (const auto& [name, spec] : plan_.values) {
      TensorView view;
      view.data = arena_.at(spec);
      view.dtype = spec.dtype;
      view.device = context_.device;
      view.rank = static_cast<int>(spec.shape.size());
      add(name, view);
      sized_.push_back({&views_.back(), &spec});
      if (name == plan_.logits) logits_ = &views_.back();
    }
    for (const auto& [name, spec] : plan_.weights) add(name, weights.view(name));
    for (size_t i = 0; i < kv_layers.size(); ++i) {
      add(concat(kKvCachePrefix, i), kv_layers[i]);
    }
    return names;
  }

  /// The view that stands for a step input at load; its data is never read.
  TensorView largest_input(const StepInputSpec& spec) const {
    static int32_t unread = 0;
    TensorView view = TensorView::dense(
        &unread, DType::kInt32, {spec.length(limits_.max_num_tokens, limits_.max_batch_size)},
        context_.device);
    if (spec.shape == StepInputShape::kBlockTables) view.shape[view.rank++] = max_blocks_;
    view.set_dense_strides();
    return view;
  }

  void bind_rows(const std::string& where) {
    const int num_threads = context_.pool == nullptr ? 1 : context_.pool->num_threads();
    const OpDef* run_op = nullptr;
    std::vector<OpArgs> run;  // of the rows just before
    for (size_t i = 0; i < plan_.rows.size(); ++i) {
      const OpRow& row = plan_.rows[i];
      try {
        const OpDef* op = find_op(row.op);
        check(op != nullptr, "no such op");
        check_signature(row, op->signature);
        std::map<std::string, const TensorView*, std::less<>> tensors;
        for (const Arguments* arguments : {&row.inputs, &row.outputs}) {
          for (const auto& [argument, name] : *arguments) {
            tensors.emplace(argument, names_.find(name)->second);
          }
        }
        const OpArgs args(std::move(tensors), row.attributes);
        op->check(args);
        arena_.reserve_workspace(op->workspace_bytes(args, context_.device, num_threads));
        if (op != run_op) bind_run(run_op, run, i);
        run_op = op;
        run.push_back(args);
      } catch (const Error& error) {
        throw Error(error.code(), concat(where, "[", i, "] (", row.op, "): ", error.what()));
      }
    }
    bind_run(run_op, run, plan_.rows.size());
  }

  /// Binds rows of one op that follow each other, those before `end_row`, and forgets them.
  void bind_run(const OpDef* op, std::vector<OpArgs>& run, size_t end_row) {
    if (run.size() > 1 && op->bind_run != nullptr) {
      calls_.push_back({op->bind_run(run), end_row});
    } else {
      size_t row = end_row - run.size();
      for (const OpArgs& args : run) calls_.push_back({op->bind(args), ++row});
    }
    run.clear();
  }

  size_t first_row(size_t call) const { return call == 0 ? 0 : calls_[call - 1].end_row; }

  /// The row's op and the sizes of what it reads and writes, now.
  std::string kind_of(const OpRow& row) const {
    std::string kind = row.op;
    for (const Arguments* arguments : {&row.inputs, &row.outputs}) {
      for (const auto& [argument, name] : *arguments) {
        const TensorView& view = *names_.find(name)->second;
        kind += concat(" ", argument, name_of(view.dtype));
        for (int i = 0; i < view.rank; ++i) kind += concat(",", view.shape[i]);
      }
    }
    return kind;
  }

  void check_input(const StepInputSpec& spec, const TensorView& view,
                   const StepInputs& inputs) const {
    const bool is_table = spec.shape == StepInputShape::kBlockTables;
    const int64_t length = spec.length(inputs.num_tokens, inputs.num_sequences);
    check(view && view.dtype == DType::kInt32 && view.device == context_.device &&
              view.is_dense() && view.rank == (is_table ? 2 : 1) && view.shape[0] == length,
          "step input ", spec.name, " must be int32 of ", length, " rows, dense, on the device");
    check(!is_table || (view.shape[1] >= 1 && view.shape[1] <= max_blocks_),
          "step input block_tables must have 1 to ", max_blocks_, " columns, got ", view.shape[1]);
  }

  /// Steps with one row a sequence, and short prompts alone, are padded to the sizes that are
  /// recorded, recorded or not, so that a token does not depend on that choice.
  TensorView run_from_fixed_inputs(const StepInputs& staged) {
    int num_tokens = staged.num_tokens, num_sequences = staged.num_sequences;
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
    } else if (num_sequences == 1 && engine_.dtype != DType::kFloat32) {
      // In float32 each row more costs what a row costs.
      const int rows = graph_prompt_rows(num_tokens, limits_.max_num_tokens);
      is_recorded = rows > 0;
      if (is_recorded) num_tokens = rows;
    }
    prepare(fixed_inputs_->move(staged, num_tokens, num_sequences, context_));
    if (is_recorded && graphs_) {
      graphs_->run(num_tokens, num_sequences, run_rows_);
    } else {
      run_rows();
    }
    TensorView logits = *logits_;
    logits.shape[0] = staged.num_sequences;
    return logits;
  }

  void prepare(const StepInputs& inputs) {
    size_t next = 0;
    for (const StepInputSpec& spec : kStepInputs) views_[next++] = inputs.*spec.view;
    for (const KvGroupInputs& group : inputs.more_groups) {
      views_[next++] = group.slots;
      views_[next++] = group.block_tables;
    }
    set_shapes(inputs.num_tokens, inputs.num_sequences);
  }

  void run_rows() {
    for (const Call& call : calls_) call.op(context_);
  }

  void set_shapes(int64_t num_tokens, int64_t num_sequences) {
    for (const Sized& sized : sized_) {
      for (int i = 0; i < sized.view->rank; ++i) {
        sized.view->shape[i] = sized.spec->shape[i].at(num_tokens, num_sequences);
      }
      sized.view->set_dense_strides();
    }
  }

  const EngineFile& engine_;
  const Plan& plan_;
  const StepLimits limits_;
  const int max_blocks_;
  Arena arena_;
  const DeviceContext& device_context_;
  OpContext context_;
  std::vector<TensorView> views_;
  ByName<const TensorView*> names_;  // of views_
  std::vector<Sized> sized_;
  const TensorView* logits_ = nullptr;
  std::vector<Call> calls_;
  // CUDA only.
  std::optional<FixedInputs> fixed_inputs_;
  std::optional<CudaGraphs> graphs_;
  const std::function<void()> run_rows_ = [this] { run_rows(); };
};

PlanRunner::PlanRunner(const EngineFile& engine, int rank, const Weights& weights,
                       const DeviceContext& context, const StepLimits& limits,
                       std::vector<TensorView> kv_layers, bool cuda_graphs)
    : impl_(
          std::make_unique<Impl>(engine, rank, weights, context, limits, kv_layers, cuda_graphs)) {}
PlanRunner::~PlanRunner() = default;

TensorView PlanRunner::run(const StepInputs& inputs) { return impl_->run(inputs); }
void PlanRunner::set_kv_layers(const std::vector<TensorView>& kv_layers) {
  impl_->set_kv_layers(kv_layers);
}
void PlanRunner::warm_up() { impl_->warm_up(); }
void PlanRunner::let_grids_wait() { impl_->let_grids_wait(); }
int PlanRunner::max_blocks_per_sequence() const { return impl_->max_blocks_per_sequence(); }
int64_t PlanRunner::arena_bytes() const { return impl_->arena_bytes(); }
int64_t PlanRunner::workspace_bytes() const { return impl_->workspace_bytes(); }

}  // namespace inflight::plan
