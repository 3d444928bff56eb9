#include "backend/executor/response_queue.h"

#include <chrono>
#include <exception>
#include <iterator>

#include "kernels/core/log.h"

namespace inflight::executor {
namespace {

/// Non-streaming tokens wait for their request's end, but not in unbounded number.
constexpr size_t kMaxIdleTokens = 1 << 14;

/// What the engine thread delivers itself takes it a few microseconds at most.
constexpr size_t kMaxPartsHere = 8;
constexpr size_t kMaxTokensHere = 1024;

template <typename T>
void move_append(std::vector<T>& to, std::vector<T>& from) {
  if (to.empty()) {
    to.swap(from);
  } else {
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
  }
  from.clear();
}

/// Gauges and a look for cancelled requests are no reason to wake a thread after every step.
constexpr std::chrono::milliseconds kStatsInterval{5};

/// A user's callback must not raise; one that does shall not take the server with it.
template <typename Call>
void guarded(Call&& call) {
  try {
    call();
  } catch (const std::exception& error) {
    log(LogLevel::kError, "a response callback raised: ", error.what());
  }
}

}  // namespace

ResponseChannel::ResponseChannel(RequestId id, const Request& request, ResponseCallback callback,
                                 int64_t arrival_ns)
    : id_(id),
      streaming_(request.streaming),
      log_probs_(request.sampling.num_logprobs >= 0),
      prompt_len_(request.input_ids.size()),
      callback_(std::move(callback)) {
  part_.id = id;
  part_.times.arrival_ns = arrival_ns;
}

void ResponseQueue::Batch::append(Batch& newer) {
  move_append(starts, newer.starts);
  move_append(allocations, newer.allocations);
  move_append(tokens, newer.tokens);
  move_append(top, newer.top);
  move_append(logits, newer.logits);
  move_append(endings, newer.endings);
  if (newer.stats) stats = newer.stats;
  num_parts += newer.num_parts;
  urgent |= newer.urgent;
  newer.stats.reset();
  newer.num_parts = 0;
  newer.urgent = false;
}

void ResponseQueue::Batch::clear() {
  starts.clear();
  allocations.clear();
  tokens.clear();
  top.clear();
  logits.clear();
  endings.clear();
  stats.reset();
  num_parts = 0;
  urgent = false;
}

ResponseQueue::ResponseQueue(bool callbacks_return_at_once)
    : callbacks_return_at_once_(callbacks_return_at_once), thread_([this] { run(); }) {}

void ResponseQueue::stop() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    if (!abandoned_) published_.append(gathering_);
    closed_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void ResponseQueue::on_step(std::function<void(const EngineStats&)> callback) {
  std::lock_guard lock(mutex_);
  step_callback_ = std::move(callback);
}

void ResponseQueue::on_wait(std::function<void()> callback) {
  std::lock_guard lock(mutex_);
  wait_callback_ = std::move(callback);
}

ResponseChannel& ResponseQueue::adopt(std::unique_ptr<ResponseChannel>&& channel) {
  ResponseChannel& adopted = *channel;
  std::lock_guard lock(mutex_);
  open_[&adopted] = std::move(channel);
  const bool ends_a_rest = wait_callback_ && open_.size() == 1;
  if (abandoned_ || ends_a_rest) wake_.notify_one();
  return adopted;
}

void ResponseQueue::abandon(const Error& error) {
  {
    std::lock_guard lock(mutex_);
    if (!abandoned_) abandoned_ = error;
  }
  wake_.notify_one();
}

void ResponseQueue::started(ResponseChannel& channel, int64_t time_ns) {
  gathering_.starts.push_back({&channel, time_ns});
}

void ResponseQueue::allocated(ResponseChannel& channel, ContextBlocks blocks) {
  gathering_.allocations.push_back({&channel, blocks});
}

void ResponseQueue::token(ResponseChannel& channel, const decoding::SampledToken& token,
                          std::span<const float> logits, int64_t time_ns) {
  const auto num_top = channel.log_probs_ ? static_cast<int32_t>(token.top_ids.size()) : 0;
  gathering_.tokens.push_back({&channel, time_ns, token.id, token.log_prob, num_top});
  for (int32_t i = 0; i < num_top; ++i) {
    gathering_.top.emplace_back(token.top_ids[i], token.top_log_probs[i]);
  }
  if (!logits.empty()) {
    gathering_.logits.push_back({&channel, 0, {logits.begin(), logits.end()}});
    gathering_.urgent = true;
  }
  if (channel.streaming_) ++gathering_.num_parts;
  gathering_.urgent |= channel.streaming_;
}

void ResponseQueue::context_logits(ResponseChannel& channel, std::span<const float> logits,
                                   int num_tokens) {
  gathering_.logits.push_back({&channel, num_tokens, {logits.begin(), logits.end()}});
  gathering_.urgent = true;  // they are large: not to be kept here
}

void ResponseQueue::ended(ResponseChannel& channel, FinishReason reason, std::optional<Error> error,
                          std::vector<int32_t> matched_ids) {
  gathering_.endings.push_back({&channel, reason, std::move(error), std::move(matched_ids)});
  ++gathering_.num_parts;
  gathering_.urgent = true;
}

void ResponseQueue::publish(const EngineStats* stats, bool rests) {
  bool wake = false, deliver_here = false;
  {
    std::lock_guard lock(mutex_);
    if (abandoned_) {
      gathering_.clear();
      return;
    }
    const bool was_urgent = published_.urgent;
    if (stats != nullptr && step_callback_) {
      gathering_.stats = *stats;
      const Clock::time_point now = Clock::now();
      gathering_.urgent |= rests || now >= stats_due_;
      if (gathering_.urgent) stats_due_ = now + kStatsInterval;
    }
    if (published_.tokens.size() + gathering_.tokens.size() > kMaxIdleTokens) {
      gathering_.urgent = true;
    }
    published_.append(gathering_);
    wake = published_.urgent && !was_urgent;
    if (wake && can_deliver_here()) {
      wake = false;
      deliver_here = engine_delivers_ = true;
      std::swap(delivering_here_, published_);
    }
  }
  if (wake) wake_.notify_one();
  if (!deliver_here) return;
  deliver(delivering_here_);
  forget(delivering_here_);
  delivering_here_.clear();
  std::lock_guard lock(mutex_);
  engine_delivers_ = false;
  if (abandoned_ || closed_) wake_.notify_one();
}

bool ResponseQueue::can_deliver_here() const {
  return callbacks_return_at_once_ && !is_delivering_ && !step_callback_ && !wait_callback_ &&
         published_.logits.empty() && published_.num_parts <= kMaxPartsHere &&
         published_.tokens.size() <= kMaxTokensHere;
}

void ResponseQueue::wait(std::unique_lock<std::mutex>& lock) {
  const auto has_work = [this] {
    if (engine_delivers_ && abandoned_) return false;  // one at a time
    return published_.urgent || closed_ || (abandoned_ && !open_.empty());
  };
  while (!has_work()) {
    if (!wait_callback_ || open_.empty()) {
      wake_.wait(lock);
    } else if (wake_.wait_for(lock, kStatsInterval) == std::cv_status::timeout && !has_work()) {
      lock.unlock();
      guarded(wait_callback_);
      lock.lock();
    }
  }
}

void ResponseQueue::run() {
  Batch batch;
  std::function<void(const EngineStats&)> step_callback;
  std::optional<Error> abandoned;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      is_delivering_ = false;
      wait(lock);
      abandoned = abandoned_;
      if (published_.empty() && (!abandoned || open_.empty())) return;
      is_delivering_ = true;
      std::swap(batch, published_);
      step_callback = step_callback_;
    }
    deliver(batch);
    forget(batch);
    if (abandoned) end_abandoned(*abandoned);
    if (batch.stats && step_callback) guarded([&] { step_callback(*batch.stats); });
    batch.clear();
  }
}

void ResponseQueue::forget(const Batch& batch) {
  if (batch.endings.empty()) return;
  std::lock_guard lock(mutex_);
  for (const Ending& ending : batch.endings) open_.erase(ending.channel);
}

void ResponseQueue::end_abandoned(const Error& error) {
  const size_t first = given_up_.size();
  {
    std::lock_guard lock(mutex_);
    for (auto& [address, channel] : open_) given_up_.push_back(std::move(channel));
    open_.clear();
  }
  num_given_up_ = static_cast<int64_t>(given_up_.size());  // before anybody hears of one
  for (size_t i = first; i < given_up_.size(); ++i) {
    ResponseChannel& channel = *given_up_[i];
    channel.part_.is_final = true;
    channel.part_.finish_reason = FinishReason::kError;
    channel.part_.error = error;
    send(channel);
  }
}

void ResponseQueue::deliver(Batch& batch) {
  for (const Start& start : batch.starts) {
    start.channel->part_.times.first_scheduled_ns = start.time_ns;
  }
  for (const Allocation& allocation : batch.allocations) {
    ContextBlocks& blocks = allocation.channel->part_.context_blocks;
    blocks.allocated += allocation.blocks.allocated;
    blocks.reused += allocation.blocks.reused;
  }
  collect_logits(batch);
  collect_tokens(batch);
  for (Ending& ending : batch.endings) {
    ResponseChannel& channel = *ending.channel;
    channel.dirty_ = false;  // sent here, as one part with its last tokens
    channel.part_.is_final = true;
    // Of a prompt that was not read to its end nothing is told.
    if (channel.num_context_logits_ < channel.prompt_len_) channel.part_.context_logits = {};
    channel.part_.finish_reason = ending.reason;
    channel.part_.error = std::move(ending.error);
    channel.part_.matched_ids = std::move(ending.matched_ids);
  }
  for (ResponseChannel* channel : dirty_) {
    if (channel->dirty_) send(*channel);
  }
  dirty_.clear();
  for (Ending& ending : batch.endings) send(*ending.channel);
}

void ResponseQueue::collect_logits(Batch& batch) {
  for (Logits& event : batch.logits) {
    Response& part = event.channel->part_;
    std::vector<float>& to = event.num_context > 0 ? part.context_logits : part.generation_logits;
    if (event.num_context > 0 && to.empty())
      to.reserve(event.channel->prompt_len_ * (event.values.size() / event.num_context));
    to.insert(to.end(), event.values.begin(), event.values.end());
    event.channel->num_context_logits_ += event.num_context;
    event.values = {};
  }
}

void ResponseQueue::collect_tokens(const Batch& batch) {
  auto top = batch.top.begin();
  for (const Token& event : batch.tokens) {
    ResponseChannel& channel = *event.channel;
    Response& part = channel.part_;
    part.token_ids.push_back(event.token);
    if (channel.log_probs_) {
      part.log_probs.push_back({event.log_prob, {top, top + event.num_top}});
      top += event.num_top;
      channel.cumulative_log_prob_ += event.log_prob;
    }
    if (part.times.first_token_ns == 0) part.times.first_token_ns = event.time_ns;
    part.times.last_token_ns = event.time_ns;
    if (channel.streaming_ && !channel.dirty_) {
      channel.dirty_ = true;
      dirty_.push_back(&channel);
    }
  }
}

void ResponseQueue::send(ResponseChannel& channel) {
  channel.dirty_ = false;
  channel.part_.cumulative_log_prob = static_cast<float>(channel.cumulative_log_prob_);
  Response next;
  next.id = channel.id_;
  next.times = channel.part_.times;
  next.context_blocks = channel.part_.context_blocks;
  guarded([&] { channel.callback_(std::move(channel.part_)); });
  channel.part_ = std::move(next);
}

}  // namespace inflight::executor
