#include "backend/executor/engine_loop.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "backend/decoding/stop.h"
#include "backend/executor/clock.h"
#include "backend/executor/logits_reader.h"
#include "backend/executor/statistics.h"
#include "backend/kv_cache/invariants.h"
#include "kernels/core/log.h"

namespace inflight::executor {
namespace {

FinishReason finish_reason(decoding::StopReason reason) {
  switch (reason) {
    case decoding::StopReason::kEndId:
      return FinishReason::kEndId;
    case decoding::StopReason::kStopWord:
      return FinishReason::kStopWord;
    case decoding::StopReason::kLength:
      return FinishReason::kLength;
    case decoding::StopReason::kNone:
      break;
  }
  return FinishReason::kNone;
}

}  // namespace

EngineLoop::EngineLoop(const EngineInfo& info, const scheduler::Limits& limits,
                       const LoopOptions& options, ModelExecutor& executor, Inbox& inbox,
                       ResponseQueue& responses)
    : options_(options),
      block_bytes_(info.block_bytes),
      onboard_bytes_per_second_(info.onboard_bytes_per_second),
      shown_pool_(shown_pool(info)),
      executor_(executor),
      inbox_(inbox),
      responses_(responses),
      state_(info, limits, options.queue_timeout, executor.max_steps_in_flight(), options.events) {
  state_.stats.max_blocks = info.num_blocks;
  state_.stats.max_host_blocks = state_.cache.num_host_blocks();
  state_.stats.tokens_per_block = info.tokens_per_block;
  publish(false);
}

EngineStats EngineLoop::stats() const {
  std::lock_guard lock(stats_mutex_);
  return published_stats_;
}

std::string EngineLoop::cause_of_death() const {
  std::lock_guard lock(stats_mutex_);
  return cause_of_death_;
}

StateDump EngineLoop::newest_dump() const {
  std::lock_guard lock(stats_mutex_);
  return dump_;
}

void EngineLoop::run() {
  try {
    while (receive()) {
      const int64_t start_ns = now_in_ns();
      heartbeat_.beat(start_ns);
      waited_ns_ = 0;
      const bool made_step = make_step();
      release();
      state_.stats.host_seconds += 1e-9 * static_cast<double>(now_in_ns() - start_ns - waited_ns_);
      publish(made_step);
    }
    end_all(FinishReason::kCancelled, std::nullopt);
    const bool made_steps = drain();
    release();
    publish(made_steps);
  } catch (const std::exception& error) {
    die(error.what());
  }
  heartbeat_.rest();
}

bool EngineLoop::make_step() {
  std::optional<std::string> failure;
  bool launched = false;
  try {
    launched = plan();
    if (launched) launch();
  } catch (const std::exception& error) {
    failure = error.what();
  }
  // A failed step is the newest: those before it end first, as they would have without it.
  bool made_step = false;
  while (state_.steps.any_in_flight() && (failure || !launched || state_.steps.is_full())) {
    try {
      wait();
    } catch (const std::exception& error) {
      if (failure) fail_step(state_.steps.planned(), *failure);
      fail_steps_in_flight(error.what());
      return false;
    }
    commit();
    made_step = true;
    if (!failure) break;
  }
  if (failure) fail_step(state_.steps.planned(), *failure);
  return made_step;
}

bool EngineLoop::receive() {
  const bool wait = state_.planner.is_idle() && !state_.steps.any_in_flight();
  if (wait) heartbeat_.rest();
  const bool open = inbox_.take(state_.arrivals, state_.cancels, state_.tasks, wait);
  take_arrivals();
  for (EngineTask& task : state_.tasks) std::exchange(task, nullptr)(&state_.cache, &executor_);
  const bool any_tasks = !state_.tasks.empty();
  state_.tasks.clear();
  if (any_tasks) publish(false);
  for (RequestId id : state_.cancels) {
    const auto found = state_.sequences.find(id);
    if (found != state_.sequences.end() && !found->second.has_ended()) {
      end(found->second, FinishReason::kCancelled);
    }
  }
  state_.cancels.clear();
  end_overdue();
  if (any_ended_) {  // cancelled or overdue: they need not wait for the next step's end to hear of
                     // it
    release();
    publish(false);
  }
  return open;
}

void EngineLoop::take_arrivals() {
  for (Arrival& arrival : state_.arrivals) {
    ResponseChannel& channel = responses_.adopt(std::move(arrival.channel));
    const RequestId id = arrival.id;
    Sequence& sequence =
        state_.sequences.try_emplace(id, std::move(arrival), channel, &state_.memory).first->second;
    state_.deadlines.add(sequence);
    state_.planner.arrive(sequence, sequence.request().tenant);
  }
  state_.arrivals.clear();
}

void EngineLoop::end_overdue() {
  if (state_.deadlines.empty()) return;
  const int64_t now_ns = now_in_ns();
  while (Sequence* const sequence = state_.deadlines.overdue(now_ns)) {
    Ending ending = ending_of_overdue(*sequence, options_.queue_timeout, now_ns);
    end(*sequence, ending.reason, std::move(ending.error));
  }
}

bool EngineLoop::plan() {
  StepInFlight& next = state_.steps.planned();
  state_.cache.set_time(std::chrono::nanoseconds(now_in_ns()));
  const bool is_planned = state_.planner.plan(next.plan, state_.steps.any_in_flight());
  const int64_t now_ns = next.plan.started.empty() ? 0 : now_in_ns();
  for (planning::PlannedSequence* planned : next.plan.started) {
    auto& sequence = static_cast<Sequence&>(*planned);
    sequence.has_left_queue = true;
    inbox_.left_queue();
    responses_.started(*sequence.channel, now_ns);
  }
  for (const auto& [sequence, num_blocks, num_reused] : next.plan.allocated)
    responses_.allocated(*static_cast<Sequence*>(sequence)->channel,
                         {.allocated = num_blocks, .reused = num_reused});
  next.sequences.clear();
  for (planning::PlannedSequence* sequence : next.plan.sequences)
    next.sequences.push_back(static_cast<Sequence*>(sequence));
  return is_planned;
}

void EngineLoop::launch() {
  StepInFlight& step = state_.steps.planned();
  step.builder.build(step.plan.step, step.sequences, step.plan.in_flight_tokens, state_.cache,
                     executor_.staging());
  if (options_.keeps_dump) {
    std::lock_guard lock(stats_mutex_);
    dump_state(state_, step.plan.step, dump_);
  }
  const int64_t start_ns = now_in_ns();
  executor_.launch(step.builder.inputs(), step.builder.rows(), step.builder.wanted_logits(),
                   state_.cache.copies());
  state_.cache.clear_copies();
  if (!state_.steps.any_in_flight()) device_busy_since_ns_ = start_ns;
  state_.steps.launched();
  // Where only one is in flight the step runs inside launch.
  if (executor_.max_steps_in_flight() == 1) waited_ns_ += now_in_ns() - start_ns;
}

void EngineLoop::wait() {
  const int64_t start_ns = now_in_ns();
  tokens_ = executor_.wait();
  const int64_t end_ns = now_in_ns();
  waited_ns_ += end_ns - start_ns;
  const int64_t step_ns = end_ns - device_busy_since_ns_;
  state_.stats.device_seconds += 1e-9 * static_cast<double>(step_ns);
  const double step_ms = executor_.step_ms().value_or(1e-6 * static_cast<double>(step_ns));
  state_.planner.measured(state_.steps.oldest().plan.work, step_ms);
  device_busy_since_ns_ = end_ns;
  const scheduler::Step& step = state_.steps.oldest().plan.step;
  const double num_prompt_tokens = step.num_tokens - step.num_generating;
  prompt_rate_.add(num_prompt_tokens, 1e-3 * step_ms * num_prompt_tokens / step.num_tokens);
  if (num_prompt_tokens == 0) generation_seconds_ = 1e-3 * step_ms;
  state_.cache.set_costs(
      {onboard_bytes_per_second_, prompt_rate_.per_second(), generation_seconds_});
}

void EngineLoop::commit() {
  StepInFlight& step = state_.steps.oldest();
  check_internal(tokens_.size() == step.builder.rows().size(), "the step made ", tokens_.size(),
                 " tokens instead of ", step.builder.rows().size());
  state_.planner.commit(step.plan);
  const int64_t now_ns = now_in_ns();
  LogitsReader logits(executor_.logits(), step.builder.wanted_logits());
  size_t next_token = 0;
  for (size_t i = 0; i < step.sequences.size(); ++i) {
    Sequence& sequence = *step.sequences[i];
    const scheduler::ScheduledSequence& part = step.plan.step.sequences[i];
    // After a preemption a prompt's tokens may run a second time.
    int32_t num_new = 0;
    if (part.is_prompt_chunk)
      num_new = sequence.count_new_prompt_tokens(part.first_position, part.num_tokens);
    state_.stats.prompt_tokens += num_new;
    if (part.logits_of_all) {
      const std::span<const float> rows = logits.next();
      if (!sequence.has_ended() && num_new > 0)
        responses_.context_logits(*sequence.channel,
                                  rows.last(rows.size() / part.num_tokens * num_new), num_new);
    }
    if (!part.makes_token()) continue;
    const decoding::SampledToken& token = tokens_[next_token++];
    const std::span<const float> row =
        sequence.request().return_generation_logits ? logits.next() : std::span<const float>();
    // One that ended after this step was launched has a token too many here.
    if (!sequence.has_ended()) commit_token(sequence, token, row, now_ns);
  }
  count_step(step.plan.step, state_.stats);
  state_.steps.ended();
}

void EngineLoop::commit_token(Sequence& sequence, const decoding::SampledToken& token,
                              std::span<const float> logits, int64_t now_ns) {
  if (token.status != decoding::SampleStatus::kOk) {
    const bool callers = token.status == decoding::SampleStatus::kNoToken;
    end(sequence, FinishReason::kError,
        Error(callers ? ErrorCode::kInvalidArgument : ErrorCode::kInternal,
              decoding::message_of(token.status)));
    return;
  }
  sequence.append(token.id);
  const decoding::Stop stop = decoding::stop_after(sequence.request().stop, sequence.generated(),
                                                   sequence.max_new_tokens());
  const FinishReason reason = finish_reason(stop.reason);
  if (reason != FinishReason::kEndId) {
    ++state_.stats.generated_tokens;
    responses_.token(*sequence.channel, token, logits, now_ns);
  }
  if (reason != FinishReason::kNone) {
    end(sequence, reason, std::nullopt, {stop.matched.begin(), stop.matched.end()});
  }
}

void EngineLoop::release() {
  state_.planner.release(state_.gone);
  for (const planning::PlannedSequence* sequence : state_.gone)
    state_.sequences.erase(sequence->id());
  state_.gone.clear();
  any_ended_ = false;
  if (options_.check_invariants) kv_cache::check_invariants(state_.cache.snapshot());
}

void EngineLoop::end(Sequence& sequence, FinishReason reason, std::optional<Error> error,
                     std::vector<int32_t> matched_ids) {
  switch (reason) {
    case FinishReason::kCancelled:
      ++state_.stats.cancelled_requests;
      break;
    case FinishReason::kDeadline:
      ++state_.stats.timed_out_requests;
      break;
    case FinishReason::kError:
      if (error && error->code() == ErrorCode::kTimedOut)
        ++state_.stats.timed_out_requests;
      else
        ++state_.stats.failed_requests;
      break;
    default:
      ++state_.stats.finished_requests;
  }
  if (!std::exchange(sequence.has_left_queue, true)) inbox_.left_queue();
  state_.deadlines.remove(sequence);
  state_.planner.end(sequence);
  responses_.ended(*sequence.channel, reason, std::move(error), std::move(matched_ids));
  sequence.channel = nullptr;
  any_ended_ = true;
}

void EngineLoop::end_all(FinishReason reason, const std::optional<Error>& error) {
  for (auto& [id, sequence] : state_.sequences) {
    if (!sequence.has_ended()) end(sequence, reason, error);
  }
}

void EngineLoop::fail_step(StepInFlight& step, const std::string& what) {
  // Without a step there is nobody to blame, and the next plan would fail alike.
  check_internal(!step.plan.sequences.empty(), what);
  log(LogLevel::kError, "a step failed (", step.plan.step, "): ", what);
  state_.planner.give_back(step.plan);
  state_.planner.forget_cached();  // what it was to copy, or has half written
  const Error error(ErrorCode::kInternal, concat("the step that ran this request failed: ", what));
  for (planning::PlannedSequence* sequence : step.plan.sequences) {
    if (!sequence->has_ended()) end(static_cast<Sequence&>(*sequence), FinishReason::kError, error);
  }
  step.plan.sequences.clear();
  check_internal(executor_.is_usable(), "the device cannot run further steps: ", what);
}

void EngineLoop::fail_steps_in_flight(const std::string& what) {
  while (state_.steps.any_in_flight()) {  // newest first, as reservations are given back
    StepInFlight& step = state_.steps.newest();
    state_.steps.failed();
    fail_step(step, what);
  }
}

bool EngineLoop::drain() {
  const bool any = state_.steps.any_in_flight();
  while (state_.steps.any_in_flight()) {
    try {
      wait();
    } catch (const std::exception& error) {
      fail_steps_in_flight(error.what());
      return false;
    }
    commit();
  }
  return any;
}

void EngineLoop::die(const std::string& what) {
  const std::string cause = concat("the engine has died: ", what);
  {
    std::lock_guard lock(stats_mutex_);
    cause_of_death_ = cause;
    try {
      dump_state(state_, state_.steps.planned().plan.step, dump_);
      log(LogLevel::kError, cause, "\n", dump_);
    } catch (const std::exception&) {  // what it died of may be a lack of memory
    }
  }
  healthy_ = false;
  inbox_.close(Error(ErrorCode::kUnavailable, cause));
  // What is half done stays as it is, and the planner is asked for nothing more: it may have been
  // interrupted anywhere. Only the requests still need their ending, those not yet taken included.
  for (const auto& [id, sequence] : state_.sequences)
    if (sequence.channel != nullptr) ++state_.stats.failed_requests;
  refuse_arrivals();
  inbox_.take(state_.arrivals, state_.cancels, state_.tasks, false);
  refuse_arrivals();
  publish(false);
  responses_.abandon(Error(ErrorCode::kInternal, cause));
}

void EngineLoop::refuse_arrivals() {
  for (const EngineTask& task : state_.tasks)
    if (task) task(nullptr, nullptr);
  state_.tasks.clear();
  for (Arrival& arrival : state_.arrivals) {
    if (state_.sequences.contains(arrival.id)) continue;
    if (arrival.channel) responses_.adopt(std::move(arrival.channel));
    ++state_.stats.failed_requests;
  }
  state_.arrivals.clear();
}

void EngineLoop::publish(bool made_step) {
  EngineStats& stats = state_.stats;
  take_statistics(state_, shown_pool_, block_bytes_, stats);
  if (!healthy_)  // all have been answered, or are now
    stats.active_requests = stats.running_requests = stats.waiting_requests =
        stats.paused_requests = 0;
  const EngineStats of_step = stats;
  if (state_.planner.is_idle()) {
    stats.scheduled_requests = stats.context_requests = stats.generation_requests = 0;
    stats.context_tokens = 0;
  }
  {
    std::lock_guard lock(stats_mutex_);
    published_stats_ = stats;
  }
  // Statistics first: who has seen its final part finds the blocks free.
  responses_.publish(made_step ? &of_step : nullptr,
                     state_.planner.is_idle() && !state_.steps.any_in_flight());
}

}  // namespace inflight::executor
