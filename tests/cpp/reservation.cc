// What Python cannot see of reservations: moves, unwinding by exceptions, and that tables which a
// step does not grow stay where they are. The rest is in tests/kv_cache.
#include "backend/kv_cache/reservation.h"

#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "backend/kv_cache/kv_cache_manager.h"
#include "tests/cpp/testing.h"

namespace inflight::kv_cache {
namespace {

void moved_reservation_closes_once() {
  KvCacheManager manager(Geometry(4), 8);
  const TableId table = manager.open();
  std::optional<Reservation> first = manager.reserve(std::vector<Growth>{{table, 0, 5}});
  Reservation second = std::move(*first);
  EXPECT(!first->is_open());
  EXPECT(second.is_open());
  first.reset();
  EXPECT_EQ(manager.num_used_blocks(), 2);
  second.commit();
  EXPECT_EQ(manager.num_cached_tokens(table), 5);
  EXPECT_EQ(manager.num_used_blocks(), 2);
}

void assigned_over_reservation_is_given_back() {
  KvCacheManager manager(Geometry(4), 8);
  const TableId table = manager.open(), other = manager.open();
  std::optional<Reservation> mine = manager.reserve(std::vector<Growth>{{table, 0, 4}});
  mine = manager.reserve(std::vector<Growth>{{other, 0, 12}});
  EXPECT(manager.block_table(table).empty());
  EXPECT_EQ(manager.num_used_blocks(), 3);
  mine->commit();
  mine.reset();
  EXPECT_EQ(manager.num_cached_tokens(other), 12);
}

void exception_in_a_step_gives_everything_back() {
  KvCacheManager manager(Geometry(4), 8);
  const TableId table = manager.open();
  manager.reserve(std::vector<Growth>{{table, 0, 3}})->commit();
  try {
    const auto running = manager.reserve(std::vector<Growth>{{table, 3, 1}});
    const auto planned = manager.reserve(std::vector<Growth>{{table, 4, 9}});
    EXPECT_EQ(manager.num_used_blocks(), 4);
    throw std::runtime_error("the device failed");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(manager.num_used_blocks(), 1);
  check_invariants(manager.snapshot());
  // The same positions can be run again.
  manager.reserve(std::vector<Growth>{{table, 3, 1}})->commit();
  EXPECT_EQ(manager.num_cached_tokens(table), 4);
  manager.release(table);
  EXPECT_EQ(manager.num_used_blocks(), 0);
}

void too_few_blocks_is_a_value() {
  KvCacheManager manager(Geometry(4), 3);
  const TableId a = manager.open(), b = manager.open();
  EXPECT(!manager.reserve(std::vector<Growth>{{a, 0, 8}, {b, 0, 5}}).has_value());
  EXPECT_EQ(manager.num_free_blocks(), 3);
  EXPECT(manager.block_table(a).empty());
  const auto fits = manager.reserve(std::vector<Growth>{{a, 0, 8}, {b, 0, 4}});
  EXPECT(fits.has_value());
  EXPECT_EQ(fits->num_blocks(), 3);
}

}  // namespace
}  // namespace inflight::kv_cache

int main(int argc, char** argv) {
  using namespace inflight::kv_cache;
  return inflight::testing::run_cases(
      {
          {"moved_reservation_closes_once", moved_reservation_closes_once},
          {"assigned_over_reservation_is_given_back", assigned_over_reservation_is_given_back},
          {"exception_in_a_step_gives_everything_back", exception_in_a_step_gives_everything_back},
          {"too_few_blocks_is_a_value", too_few_blocks_is_a_value},
      },
      argc, argv);
}
