#include "backend/triton/live_request.h"

#include "backend/triton/triton_error.h"

namespace inflight::triton {

LiveRequest::LiveRequest(TRITONBACKEND_Request* from, uint64_t now_ns)
    : request(from), start_ns(now_ns) {
  check_triton(TRITONBACKEND_ResponseFactoryNew(&factory, request), "ResponseFactoryNew");
}

LiveRequest::~LiveRequest() { delete_factory(); }

void LiveRequest::delete_factory() {
  if (factory == nullptr) return;
  log_if_error(TRITONBACKEND_ResponseFactoryDelete(factory), "ResponseFactoryDelete");
  factory = nullptr;
}

void LiveRequest::add_sequences(const IncomingRequest& incoming, const Receipts& receipts) {
  client_id = incoming.id;
  for (const IncomingSequence& sequence : incoming.sequences) {
    sequences.emplace_back().writer =
        std::make_unique<ResponseWriter>(factory, sequence.reply, sequence.request, receipts);
  }
  num_running = sequences.size();
}

bool LiveRequest::is_cancelled() const {
  bool cancelled = false;
  log_if_error(TRITONBACKEND_ResponseFactoryIsCancelled(factory, &cancelled),
               "ResponseFactoryIsCancelled");
  return cancelled;
}

}  // namespace inflight::triton
