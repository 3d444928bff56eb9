#include "backend/plan/cuda_graphs.h"

#include <algorithm>
#include <string>

#include "kernels/core/error.h"
#include "kernels/core/log.h"

namespace inflight::plan {
namespace {

constexpr int kExactTo = 8;   // powers of two up to here
constexpr int kFineTo = 128;  // multiples of kFine up to here
constexpr int kFine = 8;
constexpr int kCoarse = 32;

constexpr int kFewKeys = 512, kFewSequences = 64;  // graph_columns

constexpr int kPromptRows = 32;  // multiples of these
constexpr int kMaxPromptRows = 512;

int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

int graph_batch_size(int num_sequences, int max_batch_size) {
  int size = 1;
  if (num_sequences <= kExactTo) {
    while (size < num_sequences) size *= 2;
  } else {
    size = round_up(num_sequences, num_sequences <= kFineTo ? kFine : kCoarse);
  }
  return std::min(size, max_batch_size);
}

int graph_columns(int num_sequences, int num_columns, int tokens_per_block, int max_columns) {
  const int few = std::min(kFewKeys / tokens_per_block, max_columns);
  return num_sequences <= kFewSequences && num_columns <= few ? few : max_columns;
}

int graph_prompt_rows(int num_tokens, int max_num_tokens) {
  if (num_tokens > kMaxPromptRows) return 0;
  return std::min(round_up(num_tokens, kPromptRows), max_num_tokens);
}

void CudaGraphs::run(const StepKind& kind, const StepLaunches& step) {
  Slot& slot = slots_[kind];
  if (slot.graph) {
    slot.graph->change(stream_, step.first);
    if (step.last) slot.graph->change(stream_, step.last);
  } else if (slot.has_run && !slot.refused) {
    record(kind, slot, step);
  }
  slot.has_run = true;
  if (slot.graph) {
    slot.graph->launch(stream_);
  } else {
    step();
  }
}

void CudaGraphs::forget() {
  stream_.synchronize();
  slots_.clear();
  num_graphs_ = 0;
  bytes_ = 0;
}

void CudaGraphs::record(const StepKind& kind, Slot& slot, const StepLaunches& step) {
  slot.refused = true;
  const std::string what = concat("CUDA graph for steps of ", kind.num_tokens, " rows in ",
                                  kind.num_sequences, " sequences, tables of ", kind.num_columns,
                                  " blocks", kind.has_last ? ", and their greedy tokens" : "");
  if (num_graphs_ >= kMaxGraphs || bytes_ >= kMaxBytes) {
    log(LogLevel::kInfo, "no ", what, ": ", num_graphs_, " graphs with ", bytes_ >> 20,
        " MiB are kept, the most are ", kMaxGraphs, " with ", kMaxBytes >> 20, " MiB");
    return;
  }
  const int64_t free_before = device_memory(stream_.device()).free_bytes;
  try {
    slot.graph.emplace(stream_, step);
  } catch (const Error& error) {
    log(LogLevel::kWarning, "no ", what, ": ", error.what());
    return;
  }
  const int64_t bytes = free_before - device_memory(stream_.device()).free_bytes;
  ++num_graphs_;
  bytes_ += std::max<int64_t>(bytes, 0);
  log(LogLevel::kVerbose, what, ": ", bytes >> 10, " KiB, ", num_graphs_, " graphs with ",
      bytes_ >> 20, " MiB in all");
}

}  // namespace inflight::plan
