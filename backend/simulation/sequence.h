// A request of the trace while a replica has it.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "backend/planning/planned_sequence.h"
#include "backend/simulation/trace.h"

namespace inflight::simulation {

/// Holds what the planned sequence only points to; a base, so that it is there first.
struct PromptIds {
  std::vector<int32_t> prompt;
};

class Sequence : PromptIds, public planning::PlannedSequence {
 public:
  Sequence(const Trace& trace, int64_t request) : Sequence(trace, request, ids(trace, request)) {}

  int64_t request() const { return static_cast<int64_t>(id()); }

  double newest_token = 0;  // when it came, s

 private:
  Sequence(const Trace& trace, int64_t request, PromptIds prompt)
      : PromptIds(std::move(prompt)),
        PlannedSequence({.id = static_cast<uint64_t>(request),
                         .priority = trace.request(request).priority,
                         .prompt_ids = PromptIds::prompt,
                         .max_new_tokens = trace.request(request).max_output}) {}
  static PromptIds ids(const Trace& trace, int64_t request) {
    PromptIds made;
    trace.append_prompt(request, made.prompt);
    return made;
  }
};

}  // namespace inflight::simulation
