#include "backend/simulation/replica.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "backend/kv_cache/invariants.h"
#include "backend/scheduler/schedule.h"
#include "kernels/core/check.h"
#include "kernels/core/error.h"

namespace inflight::simulation {
namespace {

constexpr size_t kLookahead = 1024;  // requests; farther than any policy looks

}  // namespace

void validate(const ReplicaConfig& config) {
  check(config.num_blocks >= 1, "num_blocks ", config.num_blocks, " < 1");
  check(config.num_host_blocks >= 0, "num_host_blocks ", config.num_host_blocks, " < 0");
  check(config.block_bytes >= 0, "block_bytes ", config.block_bytes, " < 0");
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
      cache_(kv_cache::Geometry(config.tokens_per_block), config.num_blocks,
             {.enable_reuse = config.enable_reuse,
              .vocab_size = trace.vocab_size(),
              .num_host_blocks = config.num_host_blocks,
              .block_bytes = static_cast<int64_t>(config.block_bytes)}),
      planner_(config.limits, cache_),
      ring_(config.max_steps_in_flight) {
  // What the engine measures; 0 is unknown.
  const auto rate = [](double seconds) { return seconds > 0 ? 1 / seconds : 0; };
  costs_ = {.bytes_per_second = rate(config.cost.per_host_copy_byte),
            .tokens_per_second = rate(config.cost.per_row)};
  cache_.set_costs(costs_);
}

bool Replica::is_idle() const {
  return inbox_.empty() && num_in_flight_ == 0 && planner_.is_idle();
}

ReplicaLoad Replica::load() const {
  int64_t to_read = waiting_prompt_tokens_;
  for (const scheduler::SequenceView& view : planner_.running().views())
    to_read += std::max(0, view.prompt_len - view.num_computed);
  return {num_waiting_, num_running_, to_read, context_tokens_};
}

bool Replica::submit(int64_t request) {
  const TraceRequest& asked = trace_.request(request);
  RequestRecord& record = records_[request];
  check_internal(record.state == RequestState::kNotSent, "request ", request, " was sent twice");
  record.replica = index_;
  record.arrival = asked.arrival;
  try {
    scheduler::check_can_run(asked.prompt_len, asked.prompt_len + asked.max_output,
                             {.geometry = cache_.geometry(), .num_blocks = cache_.num_blocks()},
                             config_.limits);
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
  StepInFlight& next = ring_[(first_ + num_in_flight_) % ring_.size()];
  const bool planned = planner_.plan(next.plan, num_in_flight_ > 0);
  if (planned) {
    note_started(next.plan);
    launch(next);
  }
  check_internal(planned || num_in_flight_ > 0, "replica ", index_, " stands still with ",
                 planner_.running().size(), " requests running and ", planner_.num_waiting(),
                 " waiting");
  if (!planned || num_in_flight_ == ring_.size()) {
    commit(ring_[first_]);
    first_ = (first_ + 1) % ring_.size();
    --num_in_flight_;
    release();
  }
  return true;
}

void Replica::receive() {
  // Where all are alike nothing looks far down the queue: the rest need not have their prompts in
  // memory yet.
  const size_t most = trace_.has_priorities()
                          ? std::numeric_limits<size_t>::max()
                          : static_cast<size_t>(config_.limits.max_running()) + kLookahead;
  while (!inbox_.empty() && trace_.request(inbox_.front()).arrival <= now_ &&
         planner_.num_waiting() < most) {
    const auto id = static_cast<uint64_t>(inbox_.front());
    const auto place = live_.emplace(id, std::make_unique<Sequence>(trace_, inbox_.front()));
    planner_.arrive(*place.first->second, {});
    inbox_.pop_front();
  }
}

void Replica::note_started(const planning::PlannedStep& plan) {
  if (plan.started.empty()) return;
  const auto count = static_cast<int32_t>(plan.started.size());
  timeline_.add_level(&TimelineBin::waiting, num_waiting_, waiting_since_, now_);
  timeline_.add_level(&TimelineBin::running, num_running_, running_since_, now_);
  waiting_since_ = running_since_ = now_;
  num_waiting_ -= count;
  num_running_ += count;
  for (const planning::PlannedSequence* sequence : plan.started) {
    RequestRecord& record = records_[sequence->id()];
    record.admitted = now_;
    record.num_cached = cache_.num_cached_tokens(sequence->table);
    timeline_.at(now_).cached_tokens += record.num_cached;
    waiting_prompt_tokens_ -= sequence->prompt_len();
  }
}

StepWork Replica::work_of(const planning::PlannedStep& plan) {
  StepWork work{.num_rows = plan.work.num_tokens,
                .num_sequences = static_cast<int32_t>(plan.sequences.size()),
                .generation_keys = plan.work.generation_keys,
                .prompt_pairs = plan.work.prompt_pairs};
  for (const scheduler::ScheduledSequence& part : plan.step.sequences)
    work.num_logits += part.num_logits();
  int64_t num_host_copies = 0;
  for (const kv_cache::BlockCopy& copy : cache_.copies())
    num_host_copies += copy.from_tier != copy.to_tier ? 1 : 0;
  work.host_copy_bytes = static_cast<int64_t>(num_host_copies * config_.block_bytes);
  return work;
}

void Replica::launch(StepInFlight& step) {
  const StepWork work = work_of(step.plan);
  cache_.clear_copies();
  now_ += config_.cost.host_seconds(work);
  step.start = std::max(now_, device_free_);
  step.end = device_free_ = step.start + config_.cost.device_seconds(work);
  timeline_.add_level(&TimelineBin::busy, 1, step.start, step.end);
  timeline_.add_level(&TimelineBin::used_blocks, cache_.num_used_blocks(), step.start, step.end);
  timeline_.add_level(&TimelineBin::cached_blocks, cache_.num_cached_blocks(), step.start,
                      step.end);
  TimelineBin& bin = timeline_.at(step.start);
  ++bin.steps;
  bin.prompt_tokens += step.plan.work.num_prompt_tokens;
  const int64_t preemptions = planner_.num_preemptions();
  bin.preemptions += preemptions - std::exchange(preemptions_, preemptions);
  ++num_in_flight_;
}

void Replica::commit(StepInFlight& step) {
  now_ = std::max(now_, step.end);
  planner_.commit(step.plan);
  planner_.measured(step.plan.work, 1e3 * (step.end - step.start));
  if (step.plan.work.num_prompt_tokens == 0) costs_.generation_seconds = step.end - step.start;
  cache_.set_costs(costs_);
  for (size_t i = 0; i < step.plan.sequences.size(); ++i) {
    auto& sequence = static_cast<Sequence&>(*step.plan.sequences[i]);
    // One that ended after this step was launched has a token too many here.
    if (step.plan.step.sequences[i].makes_token() && !sequence.has_ended()) make_token(sequence);
  }
}

void Replica::make_token(Sequence& sequence) {
  RequestRecord& record = records_[sequence.request()];
  const int32_t position = record.num_generated++;
  if (position == 0) {
    record.first_token = now_;
  } else {
    record.longest_gap = std::max(record.longest_gap, now_ - sequence.newest_token);
  }
  sequence.newest_token = now_;
  sequence.append(trace_.output_token(sequence.request(), position));
  ++context_tokens_;
  ++timeline_.at(now_).generated_tokens;
  if (record.num_generated < trace_.request(sequence.request()).num_output) return;
  record.state = RequestState::kFinished;
  record.finished = now_;
  record.num_preemptions = sequence.num_preemptions();
  context_tokens_ -= sequence.prompt_len() + record.num_generated;
  timeline_.add_level(&TimelineBin::running, num_running_, running_since_, now_);
  running_since_ = now_;
  --num_running_;
  planner_.end(sequence);
}

void Replica::release() {
  gone_.clear();
  planner_.release(gone_);
  for (const planning::PlannedSequence* sequence : gone_) live_.erase(sequence->id());
  if (config_.check_invariants) kv_cache::check_invariants(cache_.snapshot());
}

}  // namespace inflight::simulation
