// Who runs a sequence, by its public id: whoever hears that a client has left tells it here. One a
// server, of the backend; any thread. Knows no Triton.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>

namespace inflight::triton {

class Departures {
 public:
  using Listener = std::function<void(uint64_t public_id)>;

  /// Of the sequences from `id_base` to the next 2^32. The listener must not call back.
  void listen(uint64_t id_base, Listener listener);
  /// After it the listener is not called, nor is it being called.
  void forget(uint64_t id_base);
  /// Ids that nobody listens for are those of models that have gone.
  void client_left(uint64_t public_id);

 private:
  std::mutex mutex_;
  std::map<uint64_t, Listener> listeners_;
};

}  // namespace inflight::triton
