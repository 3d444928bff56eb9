#include "backend/triton/bls_run.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "backend/triton/response_writer.h"
#include "backend/triton/triton_error.h"
#include "kernels/core/check.h"

namespace inflight::triton {

namespace {

using Tensors = std::vector<HostTensor>;

const HostTensor* find(const Tensors& tensors, std::string_view name) {
  const auto found = std::ranges::find(tensors, name, &HostTensor::name);
  return found == tensors.end() ? nullptr : &*found;
}

const HostTensor* find(const std::map<std::string, HostTensor>& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  return found == tensors.end() ? nullptr : &found->second;
}

/// What the step takes of tensors under the BLS's names, under its model's.
template <typename Found>
Tensors inputs_of(const BlsStep& step, const Found& tensors) {
  Tensors inputs;
  for (const auto& [model_tensor, bls_tensor] : step.inputs) {
    if (const HostTensor* tensor = find(tensors, bls_tensor)) {
      inputs.push_back(*tensor);
      inputs.back().name = model_tensor;
    }
  }
  return inputs;
}

/// What the step's model made, under the BLS's names.
Tensors outputs_of(const BlsStep& step, Tensors&& made) {
  Tensors outputs;
  for (const auto& [model_tensor, bls_tensor] : step.outputs) {
    const auto found = std::ranges::find(made, model_tensor, &HostTensor::name);
    if (found == made.end()) continue;
    outputs.push_back(std::move(*found));
    outputs.back().name = bls_tensor;
  }
  return outputs;
}

std::vector<std::string> output_names(const BlsStep& step) {
  std::vector<std::string> names;
  for (const BlsLink& link : step.outputs) names.push_back(link.model_tensor);
  return names;
}

bool takes(const BlsStep& step, std::string_view bls_tensor) {
  return std::ranges::find(step.inputs, bls_tensor, &BlsLink::bls_tensor) != step.inputs.end();
}

bool is_zero(uint8_t byte) { return byte == 0; }

/// Of the BLS's tensors, what no step looks at itself.
void check_request(const BlsSettings& settings, const Tensors& given) {
  for (const HostTensor& tensor : given) {
    if (takes(settings.preprocessing, tensor.name) || takes(settings.generation, tensor.name))
      continue;
    // Of no length, or of empty texts, or at its default.
    if (std::ranges::all_of(tensor.bytes, is_zero)) continue;
    throw Error(ErrorCode::kInvalidArgument,
                concat("input tensor ", tensor.name, " is not supported yet"));
  }
  if (const HostTensor* text = find(given, "text_input"))
    for (const std::string& row : text->texts()) check(!row.empty(), "text_input is empty");
  if (const HostTensor* lengths = find(given, "max_tokens")) {
    for (size_t at = 0; at + sizeof(int32_t) <= lengths->bytes.size(); at += sizeof(int32_t)) {
      int32_t length = 0;
      std::memcpy(&length, lengths->bytes.data() + at, sizeof(length));
      check(length > 0, "max_tokens is ", length, ", expected at least 1");
    }
  }
}

int64_t index_of(const Tensors& tensors, std::string_view name) {
  const HostTensor* tensor = find(tensors, name);
  return tensor == nullptr ? 0 : tensor->first();
}

/// Runs `step` where nothing may leave; `fail` gets what it raised.
template <typename Step, typename Fail>
void attempt(const Step& step, const Fail& fail) {
  try {
    step();
  } catch (const Error& error) {
    fail(error);
  } catch (const std::exception& error) {
    fail(Error(ErrorCode::kInternal, error.what()));
  }
}

}  // namespace

void BlsRun::start() {
  attempt([this] { preprocess(); }, [this](const Error& error) { fail(error); });
}

void BlsRun::look_for_client() {
  {
    std::lock_guard lock(mutex_);  // the end takes it, too, before the factory goes
    if (has_ended_ || is_unwanted_ || !live_->is_cancelled()) return;
  }
  cancel();
}

void BlsRun::cancel() {
  std::shared_ptr<ServerCall> generation;
  {
    std::lock_guard lock(mutex_);
    is_unwanted_ = true;
    generation = generation_;
  }
  if (generation) generation->cancel();
}

void BlsRun::preprocess() {
  wanted_ = triton::outputs_of(live_->request);
  Tensors given = triton::inputs_of(live_->request);
  check_request(settings_, given);
  for (HostTensor& tensor : given) tensors_.emplace(tensor.name, std::move(tensor));
  const BlsStep& step = settings_.preprocessing;
  calls_.ask({.model = step.model,
              .id = live_->id,
              .parameters = {},
              .inputs = inputs_of(step, tensors_),
              .outputs = output_names(step)},
             [self = shared_from_this()](CallResponse&& made) {
               if (made.error) return self->fail(*made.error);
               attempt([&] { self->generate(std::move(made.tensors)); },
                       [&](const Error& error) { self->fail(error); });
             });
}

void BlsRun::generate(Tensors&& made) {
  for (HostTensor& tensor : outputs_of(settings_.preprocessing, std::move(made)))
    tensors_.insert_or_assign(tensor.name, std::move(tensor));
  const BlsStep& step = settings_.generation;
  Tensors inputs = inputs_of(step, tensors_);
  tensors_.clear();
  {
    std::lock_guard lock(mutex_);
    engine_runs_ = true;
  }
  std::shared_ptr<ServerCall> generation;
  try {
    generation = calls_.send(
        {.model = step.model,
         .id = live_->id,
         .parameters = parameters_of(live_->request),
         .inputs = std::move(inputs),
         .outputs = output_names(step)},
        [self = shared_from_this()](CallResponse&& response) { self->take(std::move(response)); });
  } catch (...) {
    std::lock_guard lock(mutex_);
    engine_runs_ = false;
    throw;
  }
  bool is_unwanted = false;
  {
    std::lock_guard lock(mutex_);
    generation_ = generation;
    is_stepping_ = false;
    is_unwanted = is_unwanted_;
  }
  if (is_unwanted) generation->cancel();
  go_on();
}

void BlsRun::take(CallResponse&& response) {
  bool is_in_vain = false;
  {
    std::lock_guard lock(mutex_);
    engine_runs_ = !response.is_final;
    if (response.error && !failure_)  // of a row; the others' responses still come
      failure_ = std::move(response.error);
    else if (!response.tensors.empty())
      pieces_.push_back(std::move(response.tensors));
    is_in_vain = failure_ && engine_runs_ && !is_unwanted_;
  }
  if (is_in_vain) cancel();
  go_on();
}

void BlsRun::go_on() {
  std::optional<Tensors> piece, last;
  {
    std::lock_guard lock(mutex_);
    if (is_stepping_ || has_ended_) return;
    if (failure_) pieces_.clear();
    if (!pieces_.empty()) {
      piece = std::move(pieces_.front());
      pieces_.pop_front();
      is_stepping_ = true;
    } else if (engine_runs_) {
      return;
    } else {
      has_ended_ = true;
      last = std::move(only_answer_);
    }
  }
  if (!piece) return finish(std::move(last));
  attempt([&] { make_text(std::move(*piece)); }, [this](const Error& error) { fail(error); });
}

void BlsRun::make_text(Tensors&& made) {
  Tensors said = outputs_of(settings_.generation, std::move(made));
  const BlsStep& step = settings_.postprocessing;
  Tensors inputs = inputs_of(step, said);
  sequence_ = {index_of(said, "batch_index"), index_of(said, "sequence_index")};
  std::erase_if(said, [this](const HostTensor& tensor) { return !wanted_.contains(tensor.name); });
  beside_text_ = std::move(said);
  calls_.ask({.model = step.model,
              .id = live_->id,
              .parameters = {},
              .inputs = std::move(inputs),
              .outputs = output_names(step)},
             [self = shared_from_this()](CallResponse&& text) {
               if (text.error) return self->fail(*text.error);
               attempt([&] { self->answer(std::move(text.tensors)); },
                       [&](const Error& error) { self->fail(error); });
             });
}

void BlsRun::answer(Tensors&& text) {
  Tensors outputs = outputs_of(settings_.postprocessing, std::move(text));
  for (HostTensor& tensor : outputs)
    if (settings_.accumulate_tokens && tensor.name == "text_output") accumulate(tensor);
  std::ranges::move(beside_text_, std::back_inserter(outputs));
  bool is_last = false, is_unwanted = false;
  {
    std::lock_guard lock(mutex_);
    check(settings_.decoupled || !only_answer_, settings_.generation.model,
          " sent more than one response; a request with several rows or sequences, or a stream, "
          "needs a model that is decoupled");
    is_last = settings_.decoupled && !engine_runs_ && pieces_.empty() && !failure_;
    is_unwanted = is_unwanted_;
    has_ended_ = is_last;
    if (!settings_.decoupled) only_answer_ = std::move(outputs);
  }
  if (is_last) return finish(std::move(outputs));
  if (settings_.decoupled && !is_unwanted)
    send_tensors(live_->factory, outputs, wanted_, 0, unfilled_);
  {
    std::lock_guard lock(mutex_);
    is_stepping_ = false;
  }
  go_on();
}

void BlsRun::accumulate(HostTensor& text) {
  std::string& whole = so_far_[sequence_];
  for (const std::string& piece : text.texts()) whole += piece;
  text.set_texts({whole});
}

void BlsRun::fail(const Error& error) {
  {
    std::lock_guard lock(mutex_);
    if (!failure_) failure_ = error;
    is_stepping_ = false;
  }
  cancel();
  go_on();
}

void BlsRun::finish(std::optional<Tensors> last) {
  auto end = [self = shared_from_this(), last = std::move(last)] {
    TRITONBACKEND_ResponseFactory* factory = self->live_->factory;
    std::optional<Error> failure = self->failure_;
    if (!failure && last)
      attempt(
          [&] {
            send_tensors(factory, *last, self->wanted_, TRITONSERVER_RESPONSE_COMPLETE_FINAL,
                         self->unfilled_);
          },
          [&](const Error& error) { failure = error; });
    else if (!failure && self->settings_.decoupled)
      log_if_error(
          TRITONBACKEND_ResponseFactorySendFlags(factory, TRITONSERVER_RESPONSE_COMPLETE_FINAL),
          "ResponseFactorySendFlags");
    else if (!failure)
      failure = Error(ErrorCode::kInternal, self->settings_.generation.model + " gave no response");
    if (failure)
      send_error(factory, TRITONSERVER_ErrorNew(to_triton_code(failure->code()), failure->what()),
                 /*is_final=*/true, std::move(self->unfilled_));
    self->on_end_(*self, !failure);
  };
  if (live_->is_cancelled())
    quiet_.add(std::move(end));
  else
    end();
}

}  // namespace inflight::triton
