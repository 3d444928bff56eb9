// One rank's plan bound to an arena of its own: rows are calls over a table of views, whose shapes
// and inputs a step decides. Owns the arena and the table; plan, weights and caches belong to
// others and outlive it. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/plan/arena.h"
#include "backend/plan/engine_file.h"
#include "backend/plan/step_inputs.h"
#include "backend/plan/weights.h"
#include "kernels/core/op_run.h"
#include "kernels/core/tensor_view.h"
#include "kernels/step_inputs/step_opening.h"

namespace inflight::plan {

class BoundPlan {
 public:
  /// For steps up to `limits`, at most the engine's. `kv_layers` as PlanRunner's, checked. Ops run
  /// in `context`, with this plan's workspace. Raises Error if a row cannot run, naming it.
  BoundPlan(const EngineFile& engine, int rank, const Weights& weights, const OpContext& context,
            const StepLimits& limits, const std::vector<TensorView>& kv_layers);
  BoundPlan(const BoundPlan&) = delete;
  BoundPlan& operator=(const BoundPlan&) = delete;

  void set_kv_layers(const std::vector<TensorView>& kv_layers);
  /// What `run` runs from now on: these inputs, and shapes of their sizes.
  void prepare(const StepInputs& inputs);
  /// All rows, in order; without those of the opening, if it is done.
  void run(bool is_open = false);
  /// Of all rows that differ in no more than their data one, the last ones first.
  void run_each_kind();

  /// What the rows begin with, for step_inputs to do; null: nothing of that kind.
  const StepOpening* opening() const { return opening_ ? &*opening_ : nullptr; }
  const TensorView& logits() const { return *logits_; }
  const Arena& arena() const { return arena_; }
  OpContext& context() { return context_; }
  int max_blocks_per_sequence() const { return max_blocks_; }
  int num_groups() const { return static_cast<int>(engine_.kv_cache.groups.size()); }

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
  /// Calls [begin, end) as one, in some steps.
  struct Run {
    size_t begin, end;
    std::function<bool(OpContext&, void*)> call;
  };

  ByName<const TensorView*> make_views(const Weights& weights,
                                       const std::vector<TensorView>& kv_layers);
  TensorView largest_input(const StepInputSpec& spec) const;
  std::vector<OpCall> check_rows(const std::string& where);
  void bind_all(const std::vector<OpCall>& rows);
  void bind(std::span<const OpCall> rows, size_t first_row);
  size_t first_row(size_t call) const { return call == 0 ? 0 : calls_[call - 1].end_row; }
  std::string kind_of(const OpRow& row) const;
  void set_shapes(int64_t num_tokens, int64_t num_sequences);

  const EngineFile& engine_;
  const Plan& plan_;
  const StepLimits limits_;
  const int max_blocks_;
  Arena arena_;
  OpContext context_;
  std::vector<TensorView> views_;
  ByName<const TensorView*> names_;  // of views_
  std::vector<Sized> sized_;
  const TensorView* logits_ = nullptr;
  std::vector<Call> calls_;
  std::vector<Run> runs_;               // one behind the other
  std::optional<StepOpening> opening_;  // of the first rows, which are in no run
};

}  // namespace inflight::plan
