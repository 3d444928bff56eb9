#include "backend/plan/bound_plan.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "backend/plan/signature.h"
#include "kernels/core/check.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/registry.h"

namespace inflight::plan {

BoundPlan::BoundPlan(const EngineFile& engine, int rank, const Weights& weights,
                     const OpContext& context, const StepLimits& limits,
                     const std::vector<TensorView>& kv_layers)
    : engine_(engine),
      plan_(engine.ranks.at(rank)),
      limits_(limits),
      max_blocks_((limits.max_seq_len + engine.kv_cache.tokens_per_block - 1) /
                  engine.kv_cache.tokens_per_block),
      arena_(plan_.values, engine.limits, limits, context.device),
      context_(context) {
  names_ = make_views(weights, kv_layers);
  set_shapes(limits.max_num_tokens, limits.max_batch_size);
  bind_all(check_rows((engine.directory / "engine.json").string() + ": ranks[" +
                      std::to_string(rank) + "].plan"));
  context_.workspace = arena_.workspace();
}

void BoundPlan::set_kv_layers(const std::vector<TensorView>& kv_layers) {
  const size_t first = views_.size() - kv_layers.size();
  std::copy(kv_layers.begin(), kv_layers.end(), views_.begin() + static_cast<ptrdiff_t>(first));
}

void BoundPlan::prepare(const StepInputs& inputs) {
  size_t next = 0;
  for (const StepInputSpec& spec : kStepInputs) views_[next++] = inputs.*spec.view;
  for (const KvGroupInputs& group : inputs.more_groups) {
    views_[next++] = group.slots;
    views_[next++] = group.block_tables;
  }
  set_shapes(inputs.num_tokens, inputs.num_sequences);
}

void BoundPlan::run(bool is_open) {
  auto run = runs_.begin();
  for (size_t i = is_open ? opening_->num_rows() : 0; i < calls_.size();) {
    if (run != runs_.end() && run->begin == i) {
      const size_t end = run->end;
      if ((run++)->call(context_, arena_.run_memory())) {
        i = end;
        continue;
      }
    }
    calls_[i++].op(context_);
  }
}

void BoundPlan::run_each_kind() {
  std::set<std::string> known;  // layers are alike
  for (size_t i = calls_.size(); i-- > 0;) {
    std::string kind;
    for (size_t row = first_row(i); row < calls_[i].end_row; ++row)
      kind += kind_of(plan_.rows[row]);
    if (known.insert(std::move(kind)).second) calls_[i].op(context_);
  }
}

/// Fills the table: step inputs at the front, those of further groups behind them, then values,
/// weights and, last, caches.
ByName<const TensorView*> BoundPlan::make_views(const Weights& weights,
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
    view.data = arena_.at(name);
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
TensorView BoundPlan::largest_input(const StepInputSpec& spec) const {
  static int32_t unread = 0;
  TensorView view = TensorView::dense(&unread, DType::kInt32,
                                      {spec.length(limits_.max_num_tokens, limits_.max_batch_size)},
                                      context_.device);
  if (spec.shape == StepInputShape::kBlockTables) view.shape[view.rank++] = max_blocks_;
  view.set_dense_strides();
  return view;
}

/// All rows with their views, each of which its op accepts.
std::vector<OpCall> BoundPlan::check_rows(const std::string& where) {
  const int num_threads = context_.pool == nullptr ? 1 : context_.pool->num_threads();
  std::vector<OpCall> rows;
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
      rows.push_back({op, OpArgs(std::move(tensors), row.attributes)});
      op->check(rows.back().args);
      arena_.reserve_workspace(op->workspace_bytes(rows.back().args, context_.device, num_threads));
    } catch (const Error& error) {
      throw Error(error.code(), concat(where, "[", i, "] (", row.op, "): ", error.what()));
    }
  }
  return rows;
}

/// Calls for all rows, and the runs among them.
void BoundPlan::bind_all(const std::vector<OpCall>& rows) {
  size_t row = 0;
  const auto input = [&](auto view) -> const TensorView& {
    return *names_.find(spec_of(view).name)->second;
  };
  if (const auto found =
          find_step_opening(rows, input(&StepInputs::input_ids), input(&StepInputs::positions),
                            input(&StepInputs::rope_lengths)))
    opening_.emplace(*found);
  for (; opening_ && row < opening_->num_rows(); ++row) bind(std::span(rows).subspan(row, 1), row);
  while (row < rows.size()) {
    const std::span<const OpCall> rest = std::span(rows).subspan(row);
    OpRun run = find_run(rest);
    if (run.num_rows > 0) {
      const size_t begin = calls_.size();
      bind(rest.first(run.num_rows), row);
      arena_.reserve_run_memory(run.memory_bytes);
      runs_.push_back({begin, calls_.size(), std::move(run.call)});
      row += run.num_rows;
      continue;
    }
    size_t count = 1;  // rows of the op that no run begins with
    while (count < rest.size() && rest[count].op == rest[0].op &&
           find_run(rest.subspan(count)).num_rows == 0)
      ++count;
    bind(rest.first(count), row);
    row += count;
  }
}

/// Calls for rows that begin with the plan's `first_row`: one for those of an op that follow each
/// other, where it has such.
void BoundPlan::bind(std::span<const OpCall> rows, size_t first_row) {
  for (size_t begin = 0; begin < rows.size();) {
    const OpDef* op = rows[begin].op;
    std::vector<OpArgs> args;
    for (size_t i = begin; i < rows.size() && rows[i].op == op; ++i) args.push_back(rows[i].args);
    if (args.size() > 1 && op->bind_run != nullptr) {
      begin += args.size();
      calls_.push_back({op->bind_run(args), first_row + begin});
    } else {
      calls_.push_back({op->bind(rows[begin].args), first_row + begin + 1});
      ++begin;
    }
  }
}

/// The row's op and the sizes of what it reads and writes, now.
std::string BoundPlan::kind_of(const OpRow& row) const {
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

void BoundPlan::set_shapes(int64_t num_tokens, int64_t num_sequences) {
  for (const Sized& sized : sized_) {
    for (int i = 0; i < sized.view->rank; ++i) {
      sized.view->shape[i] = sized.spec->shape[i].at(num_tokens, num_sequences);
    }
    sized.view->set_dense_strides();
  }
}

}  // namespace inflight::plan
