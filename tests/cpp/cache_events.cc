// The log of the cache's events: what is kept, joined, lost and read by several.
#include "backend/kv_cache/cache_events.h"

#include <string>
#include <vector>

#include "backend/kv_cache/cache_event_json.h"
#include "tests/cpp/testing.h"

namespace inflight::kv_cache {
namespace {

constexpr int64_t kAll = 1 << 30;

StoredBlock block(uint64_t hash, int32_t num_tokens = 2) {
  return {.hash = hash, .token_ids = std::vector<int32_t>(num_tokens, 7), .priority = 35};
}

std::vector<int64_t> ids_of(const CacheEvents& events) {
  std::vector<int64_t> ids;
  for (const auto& event : events) ids.push_back(event->id);
  return ids;
}

using Ids = std::vector<int64_t>;

void readers_take_nothing_away() {
  CacheEventLog log(10);
  log.created(8, 0);
  log.removed(1);
  EXPECT(ids_of(log.read(0, kAll)) == Ids({0, 1}));
  EXPECT(ids_of(log.read(1, kAll)) == Ids({1}));
  EXPECT(log.read(2, kAll).empty());
  EXPECT(ids_of(log.read(0, kAll)) == Ids({0, 1}));
  EXPECT(ids_of(log.read(3, kAll)) == Ids({0, 1}));  // of another log
  EXPECT(ids_of(log.take()) == Ids({0, 1}));
  EXPECT(log.read(0, kAll).empty());
}

void what_has_been_read_does_not_change() {
  CacheEventLog log(10);
  log.stored(std::nullopt, block(1));
  log.stored(1, block(2));  // joins it
  const CacheEvents read = log.read(0, kAll);
  EXPECT(ids_of(read) == Ids({0}));
  const std::string before = to_json(read);
  log.stored(2, block(3));
  EXPECT_EQ(to_json(read), before);
  EXPECT(ids_of(log.read(1, kAll)) == Ids({1}));
  log.removed(3);
  EXPECT(ids_of(log.read(2, kAll)) == Ids({2}));
  log.removed(2);
  EXPECT(ids_of(log.read(0, kAll)) == Ids({0, 1, 2, 3}));
}

void a_gap_tells_of_losses() {
  CacheEventLog log(3);
  for (uint64_t hash = 1; hash <= 5; ++hash) {
    log.moved(hash, Tier::kDevice, Tier::kHost);
  }
  EXPECT(ids_of(log.read(0, kAll)) == Ids({2, 3, 4}));
  EXPECT(ids_of(log.read(4, kAll)) == Ids({4}));
  const CacheEvents taken = log.take();
  EXPECT(ids_of(taken) == Ids({1, 2, 3, 4}));
  EXPECT_EQ(std::get<EventsLost>(taken[0]->data).num_events, 2);
}

void an_answer_has_a_bound() {
  CacheEventLog log(100);
  for (uint64_t hash = 1; hash <= 10; ++hash) log.stored(std::nullopt, block(hash, 32));
  EXPECT(ids_of(log.read(0, 64)) == Ids({0, 1}));
  EXPECT(ids_of(log.read(2, 65)) == Ids({2, 3, 4}));
  EXPECT(ids_of(log.read(5, 1)) == Ids({5}));
}

void as_text() {
  CacheEventLog log(10);
  log.created(8, 4);
  log.stored(5, block(0xffffffffffffffff, 1));
  log.moved(6, Tier::kHost, Tier::kDevice);
  log.removed(6);
  log.removed(7);
  EXPECT_EQ(
      to_json(log.read(0, kAll), 100),
      std::string(
          R"([{"event_id": 100, "data": {"type": "created", "num_blocks_per_cache_level": [8, 4]}}, )"
          R"({"event_id": 101, "data": {"type": "stored", "parent_hash": 5, "blocks": )"
          R"([{"type": "stored_block", "block_hash": 18446744073709551615, "tokens": )"
          R"([{"type": "unique_token", "token_id": 7, "token_extra_id": 0}], "cache_level": 0, )"
          R"("priority": 35}]}}, )"
          R"({"event_id": 102, "data": {"type": "updated", "block_hash": 6, "cache_level": )"
          R"({"type": "event_diff", "old_value": 1, "new_value": 0}, "priority": null}}, )"
          R"({"event_id": 103, "data": {"type": "removed", "block_hashes": [6, 7]}}])"));
  EXPECT_EQ(to_json({}), std::string("[]"));
}

}  // namespace
}  // namespace inflight::kv_cache

int main(int argc, char** argv) {
  using namespace inflight::kv_cache;
  return inflight::testing::run_cases(
      {
          {"readers_take_nothing_away", readers_take_nothing_away},
          {"what_has_been_read_does_not_change", what_has_been_read_does_not_change},
          {"a_gap_tells_of_losses", a_gap_tells_of_losses},
          {"an_answer_has_a_bound", an_answer_has_a_bound},
          {"as_text", as_text},
      },
      argc, argv);
}
