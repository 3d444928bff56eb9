// The scheduler's answer: which sequences run now, and which tokens of each. Pure values.
#pragma once

#include <cstdint>
#include <ostream>
#include <vector>

namespace inflight::scheduler {

/// Tokens [first_position, first_position + num_tokens) of one sequence.
struct ScheduledSequence {
  uint64_t id = 0;
  int32_t index = 0;  // in EngineView::running, or running.size() + place in EngineView::waiting
  int32_t first_position = 0;
  int32_t num_tokens = 0;
  bool is_prompt_chunk = false;  // false: a generating sequence's newest token
  bool is_last_chunk = false;    // of the prompt
  bool logits_of_all = false;    // of a prompt's chunk: each of its tokens has a row of logits

  /// Rows of logits; without logits_of_all the last token's, needed or not.
  int32_t num_logits() const { return logits_of_all ? num_tokens : 1; }

  /// Whether a new token comes out of it.
  bool makes_token() const { return !is_prompt_chunk || is_last_chunk; }
  bool operator==(const ScheduledSequence&) const = default;
};

struct Step {
  std::vector<ScheduledSequence> sequences;  // generating ones first, then prompt chunks
  int32_t num_tokens = 0;                    // of all
  int32_t num_generating = 0;                // the first so many of `sequences`
  int32_t num_admitted = 0;  // the first so many of EngineView::waiting, which run from now on

  bool is_empty() const { return sequences.empty(); }
  bool operator==(const Step&) const = default;
};

/// "step of 34 tokens, 1 admitted: 7@120 8@64+32(prompt) 9@0+1(prompt, last)"
std::ostream& operator<<(std::ostream& out, const Step& step);

}  // namespace inflight::scheduler
