// Keeps the end of a model's load apart from the beginning of its next one. Triton's core (2.37 to
// mid-2026, metric_model_reporter.cc) shares counters between loads of one name and version, and
// finds them by a weak pointer: a load that begins while the last owner of an earlier one is
// destroyed is handed counters that are freed then, and writes to them ever after. It makes them
// after ModelInitialize, and has made them when it calls ModelInstanceInitialize; it frees them
// behind the last ModelInstanceFinalize or, which no call tells of, behind ModelFinalize, at the
// end of the thread made for it. Only one load of a name and version is in either stretch at a
// time; both take microseconds. One a server, of the backend; any thread. Knows no Triton.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace inflight::triton {

class LoadTurns {
 public:
  LoadTurns();
  ~LoadTurns();

  /// Last in ModelInitialize, if it succeeds: waits for its turn. `model` is any pointer that no
  /// other model has until it ends.
  void model_begun(const void* model, const std::string& name, uint64_t version);
  /// First in ModelInstanceInitialize.
  void instance_begins(const void* model);
  /// Last in ModelInstanceFinalize, which follows each ModelInstanceInitialize, whether or not that
  /// succeeded. The model's last instance waits for its turn.
  void instance_ended(const void* model);
  /// In ModelFinalize, which follows each ModelInitialize likewise. The turn ends with the calling
  /// thread, unless this is the one that began the model: then the load has failed, and no other
  /// begins before the call that loads it has returned. If the thread lives on, others wait for a
  /// second.
  void model_ends(const void* model);

 private:
  class Turns;
  std::shared_ptr<Turns> turns_;  // a thread that ends may outlive the server's use of the backend
};

}  // namespace inflight::triton
