#include "backend/scheduler/step.h"

namespace inflight::scheduler {

std::ostream& operator<<(std::ostream& out, const Step& step) {
  out << "step of " << step.num_tokens << " tokens, " << step.num_admitted << " admitted:";
  for (const ScheduledSequence& part : step.sequences) {
    out << ' ' << part.id << '@' << part.first_position;
    if (part.is_prompt_chunk)
      out << '+' << part.num_tokens << (part.is_last_chunk ? "(prompt, last)" : "(prompt)");
  }
  return out;
}

}  // namespace inflight::scheduler
