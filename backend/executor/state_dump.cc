#include "backend/executor/state_dump.h"

#include <ostream>

namespace inflight::executor {

namespace {

constexpr size_t kMaxRows = 256;

StateDump::Row row_of(const planning::PlannedSequence& sequence,
                      const kv_cache::KvCacheManager& cache) {
  const bool is_running = sequence.is_running();
  return {
      .id = sequence.id(),
      .is_running = is_running,
      .priority = sequence.priority(),
      .prompt_len = sequence.prompt_len(),
      .num_generated = static_cast<int32_t>(sequence.generated().size()),
      .max_new_tokens = sequence.max_new_tokens(),
      .num_blocks = is_running ? static_cast<int32_t>(cache.block_table(sequence.table).size()) : 0,
      .num_steps_in_flight = is_running ? cache.num_open_reservations(sequence.table) : 0};
}

}  // namespace

void dump_state(const EngineState& state, const scheduler::Step& step, StateDump& dump) {
  dump.iteration = state.stats.iteration;
  dump.num_blocks = state.cache.num_blocks();
  dump.num_free_blocks = state.cache.num_free_blocks() + state.cache.num_cached_blocks();
  dump.step = step;
  dump.num_running = state.planner.running().size();
  dump.num_waiting = state.planner.num_waiting();
  dump.rows.clear();
  for (const planning::PlannedSequence* sequence : state.planner.running().sequences()) {
    if (dump.rows.size() == kMaxRows) break;
    dump.rows.push_back(row_of(*sequence, state.cache));
  }
  state.planner.waiting().for_each(kMaxRows - dump.rows.size(),
                                   [&](const planning::PlannedSequence& sequence) {
                                     dump.rows.push_back(row_of(sequence, state.cache));
                                   });
}

std::ostream& operator<<(std::ostream& out, const StateDump& dump) {
  out << "after " << dump.iteration << " steps: " << dump.num_running << " running, "
      << dump.num_waiting << " waiting, " << dump.num_free_blocks << " of " << dump.num_blocks
      << " blocks free; newest " << dump.step;
  for (const StateDump::Row& row : dump.rows) {
    out << "\n  " << row.id << (row.is_running ? " running" : " waiting") << ": prompt of "
        << row.prompt_len << ", " << row.num_generated << " of " << row.max_new_tokens
        << " generated, " << row.num_blocks << " blocks, " << row.num_steps_in_flight
        << " steps in flight, priority " << row.priority;
  }
  const size_t num_all = dump.num_running + dump.num_waiting;
  if (num_all > dump.rows.size()) out << "\n  and " << num_all - dump.rows.size() << " more";
  return out;
}

}  // namespace inflight::executor
