#include "backend/simulation/replica.h"

#include <algorithm>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/error.h"

namespace inflight::simulation {

void validate(const ReplicaConfig& config) {
  check(config.num_blocks >= 1, "num_blocks ", config.num_blocks, " < 1");
  check(config.max_steps_in_flight >= 1 && config.max_steps_in_flight <= 2, "max_steps_in_flight ",
        config.max_steps_in_flight, " is neither 1 nor 2");
  scheduler::validate(config.limits);
  validate(config.cost);
}

Replica::Replica(int16_t index, const Trace& trace, const ReplicaConfig& config,
                 std::vector<RequestRecord>& records, Timeline& timeline)
    : trace_(trace),
      config_(config),
      records_(records),
      timeline_(timeline),
      index_(index),
      planner_(trace, config.tokens_per_block, config.num_blocks, config.limits),
      ring_(config.max_steps_in_flight) {
  validate(config_);
}

bool Replica::is_idle() const {
  return inbox_.empty() && num_in_flight_ == 0 && planner_.num_waiting() == 0 &&
         planner_.num_running() == 0;
}

ReplicaLoad Replica::load() const {
  return {num_waiting_, num_running_, waiting_prompt_tokens_ + planner_.running_prompt_tokens(),
          context_tokens_};
}

bool Replica::submit(int64_t request) {
  const TraceRequest& asked = trace_.request(request);
  RequestRecord& record = records_[request];
  check_internal(record.state == RequestState::kNotSent, "request ", request, " was sent twice");
  record.replica = index_;
  record.arrival = asked.arrival;
  try {
    planner_.check_can_run(asked);
  } catch (const Error&) {
    record.state = RequestState::kRefused;
    return false;
  }
  record.state = RequestState::kLive;
  if (is_idle()) now_ = std::max(now_, asked.arrival);
  timeline_.add_level(&TimelineBin::waiting, num_waiting_, waiting_since_, asked.arrival);
  waiting_since_ = asked.arrival;
  ++num_waiting_;
  waiting_prompt_tokens_ += asked.prompt_len;
  context_tokens_ += asked.prompt_len;
  inbox_.push_back(request);
  return true;
}

void Replica::advance_to(double time) {
  while (now_ < time && round()) {
  }
}

void Replica::drain() {
  while (round()) {
  }
}

bool Replica::round() {
  receive();
  if (is_idle()) return false;
  PlannedStep& next = ring_[(first_ + num_in_flight_) % ring_.size()];
  admitted_.clear();
  const bool planned = planner_.plan(next, admitted_);
  if (planned) launch(next);
  check_internal(planned || num_in_flight_ > 0, "replica ", index_, " stands still with ",
                 planner_.num_running(), " requests running and ", planner_.num_waiting(),
                 " waiting");
  if (!planned || num_in_flight_ == ring_.size()) {
    commit(ring_[first_]);
    first_ = (first_ + 1) % ring_.size();
    --num_in_flight_;
    planner_.release_ended();
    if (config_.check_invariants) planner_.check_invariants();
  }
  return true;
}

void Replica::receive() {
  while (!inbox_.empty() && trace_.request(inbox_.front()).arrival <= now_) {
    const TraceRequest& asked = trace_.request(inbox_.front());
    auto sequence = std::make_unique<Sequence>();
    sequence->request = inbox_.front();
    sequence->priority = asked.priority;
    sequence->prompt_len = asked.prompt_len;
    sequence->num_output = asked.num_output;
    sequence->max_total_len = asked.prompt_len + asked.max_output;
    planner_.add_waiting(std::move(sequence));
    inbox_.pop_front();
  }
}

void Replica::launch(PlannedStep& step) {
  if (!admitted_.empty()) {
    const auto count = static_cast<int32_t>(admitted_.size());
    timeline_.add_level(&TimelineBin::waiting, num_waiting_, waiting_since_, now_);
    timeline_.add_level(&TimelineBin::running, num_running_, running_since_, now_);
    waiting_since_ = running_since_ = now_;
    num_waiting_ -= count;
    num_running_ += count;
    for (Sequence* sequence : admitted_) {
      waiting_prompt_tokens_ -= sequence->prompt_len;
      records_[sequence->request].admitted = now_;
    }
  }
  now_ += config_.cost.host_seconds(step.work);
  const double start = std::max(now_, device_free_);
  const double seconds = config_.cost.device_seconds(step.work);
  step.end = device_free_ = start + seconds;
  const CacheLevels levels = planner_.cache_levels();
  timeline_.add_level(&TimelineBin::busy, 1, start, step.end);
  timeline_.add_level(&TimelineBin::used_blocks, levels.used, start, step.end);
  timeline_.add_level(&TimelineBin::cached_blocks, levels.cached, start, step.end);
  TimelineBin& bin = timeline_.at(start);
  ++bin.steps;
  bin.prompt_tokens += step.step.num_tokens - step.step.num_generating;
  bin.cached_tokens += levels.hit_tokens - std::exchange(hit_tokens_, levels.hit_tokens);
  ++num_in_flight_;
}

void Replica::commit(PlannedStep& step) {
  now_ = std::max(now_, step.end);
  planner_.commit(step);
  for (size_t i = 0; i < step.sequences.size(); ++i) {
    Sequence& sequence = *step.sequences[i];
    const scheduler::ScheduledSequence& part = step.step.sequences[i];
    // One that ended after this step was launched has a token too many here.
    if (part.makes_token() && !sequence.has_ended) make_token(sequence);
  }
}

void Replica::make_token(Sequence& sequence) {
  RequestRecord& record = records_[sequence.request];
  if (sequence.num_generated == 0) {
    record.first_token = now_;
  } else {
    record.longest_gap = std::max(record.longest_gap, now_ - sequence.newest_token);
  }
  sequence.newest_token = now_;
  sequence.tokens.push_back(trace_.output_token(sequence.request, sequence.num_generated));
  record.num_generated = ++sequence.num_generated;
  ++context_tokens_;
  ++timeline_.at(now_).generated_tokens;
  if (sequence.num_generated < sequence.num_output) return;
  sequence.has_ended = true;
  record.state = RequestState::kFinished;
  record.finished = now_;
  context_tokens_ -= sequence.prompt_len + sequence.num_generated;
  timeline_.add_level(&TimelineBin::running, num_running_, running_since_, now_);
  running_since_ = now_;
  --num_running_;
}

}  // namespace inflight::simulation
