// Those that wait to run, in the order in which they may: larger priority first; within a priority
// those that were preempted, by arrival, then a request of the tenant that has been served least
// (scheduler/fair_share.h), by arrival within a tenant. Every operation costs at most the logarithm
// of the number of tenants that wait, however many requests do. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "backend/planning/planned_sequence.h"
#include "backend/scheduler/fair_share.h"

namespace inflight::planning {

class WaitingQueue {
 public:
  explicit WaitingQueue(scheduler::ServiceLedger& ledger) : ledger_(ledger) {}

  /// One that comes, with its tenant set.
  void push(PlannedSequence& sequence);
  /// One that ran and was preempted.
  void push_preempted(PlannedSequence& sequence);
  /// Takes it out of the line, wherever it stands; not while a Round is open.
  void erase(PlannedSequence& sequence);

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  /// Of them, preempted.
  size_t num_preempted() const { return num_preempted_; }
  /// The first `most` of all, in no promised order within a priority.
  void for_each(size_t most, const std::function<void(const PlannedSequence&)>& visit) const;

 private:
  struct Level;
  struct Lane;
  /// By what the tenant has been served (a key that is too old is too small: it comes too early
  /// and is looked at again), then by who came first.
  struct ServedLess {
    bool operator()(const Lane* a, const Lane* b) const {
      return a->key != b->key ? a->key < b->key : a->first_id < b->first_id;
    }
  };
  using Order = std::set<Lane*, ServedLess>;
  /// A line of one priority and tenant, or of the preempted of one priority.
  struct Lane {
    scheduler::TenantId tenant = -1;  // -1: the preempted
    int64_t key = 0;                  // what the tenant had been served when it was last looked at
    uint64_t first_id = 0;            // of the first in line, where it is in the level's order
    PlannedSequence* first = nullptr;
    PlannedSequence* last = nullptr;
    Level* level = nullptr;
    Order::node_type node;  // while it is out of the order: to come back takes no memory
  };
  struct Level {
    int32_t priority = 0;
    Lane preempted;
    std::unordered_map<scheduler::TenantId, std::unique_ptr<Lane>> lanes;  // none is empty
    Order order;
  };

  /// A lane in a round, with the next that it shows.
  struct Entry {
    int64_t key;  // as if those it has shown had been served
    uint64_t id;  // of the next
    Lane* lane;
    PlannedSequence* sequence;
  };

 public:
  /// Shows candidates one after another, as if each that was shown were to run. Only one at a time;
  /// between its begin and its end the queue is not changed.
  class Round {
   public:
    explicit Round(WaitingQueue& queue);
    ~Round();
    Round(const Round&) = delete;
    Round& operator=(const Round&) = delete;
    /// Null at the end.
    PlannedSequence* next();

   private:
    static bool may_precede(const Lane& lane, const Entry& entry);
    void begin_level();
    void pull();

    WaitingQueue& queue_;
    std::map<int32_t, Level, std::greater<>>::iterator level_;
    PlannedSequence* preempted_ = nullptr;
  };

 private:
  Level& level_of(int32_t priority);
  static void append(Lane& lane, PlannedSequence& sequence);
  static void unlink(Lane& lane, PlannedSequence& sequence);
  void put_in_order(Lane& lane);
  static void take_out_of_order(Lane& lane);

  scheduler::ServiceLedger& ledger_;
  std::map<int32_t, Level, std::greater<>> levels_;               // none is empty
  std::unordered_map<scheduler::TenantId, int64_t> num_waiting_;  // by tenant, none 0
  size_t size_ = 0;
  size_t num_preempted_ = 0;
  // A round's, used again.
  std::vector<Entry> heap_;
  std::vector<Lane*> pulled_;
};

}  // namespace inflight::planning
