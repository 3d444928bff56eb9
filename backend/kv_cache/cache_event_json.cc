#include "backend/kv_cache/cache_event_json.h"

#include <memory>
#include <type_traits>
#include <variant>

namespace inflight::kv_cache {
namespace {

int level_of(Tier tier) { return tier == Tier::kHost ? 1 : 0; }

/// Numbers and fixed names alone: nothing needs an escape.
class Writer {
 public:
  explicit Writer(std::string& out) : out_(out) {}

  Writer& operator<<(const char* text) {
    out_ += text;
    return *this;
  }
  template <typename Integer>
    requires std::is_integral_v<Integer>
  Writer& operator<<(Integer number) {
    out_ += std::to_string(number);
    return *this;
  }
  template <typename Range, typename One>
  void list(const Range& range, const One& one) {
    out_ += '[';
    bool is_first = true;
    for (const auto& each : range) {
      if (!is_first) out_ += ", ";
      is_first = false;
      one(each);
    }
    out_ += ']';
  }

 private:
  std::string& out_;
};

void write(Writer& out, const CacheCreated& event) {
  out << R"({"type": "created", "num_blocks_per_cache_level": [)" << event.num_device_blocks << ", "
      << event.num_host_blocks << "]}";
}

void write(Writer& out, const BlocksStored& event) {
  out << R"({"type": "stored", "parent_hash": )";
  if (event.parent_hash)
    out << *event.parent_hash;
  else
    out << "null";
  out << R"(, "blocks": )";
  out.list(event.blocks, [&](const StoredBlock& block) {
    out << R"({"type": "stored_block", "block_hash": )" << block.hash << R"(, "tokens": )";
    out.list(block.token_ids, [&](int32_t id) {
      out << R"({"type": "unique_token", "token_id": )" << id << R"(, "token_extra_id": 0})";
    });
    out << R"(, "cache_level": )" << level_of(block.tier) << R"(, "priority": )" << block.priority
        << "}";
  });
  out << "}";
}

void write(Writer& out, const BlocksRemoved& event) {
  out << R"({"type": "removed", "block_hashes": )";
  out.list(event.hashes, [&](uint64_t hash) { out << hash; });
  out << "}";
}

void write(Writer& out, const BlockMoved& event) {
  out << R"({"type": "updated", "block_hash": )" << event.hash
      << R"(, "cache_level": {"type": "event_diff", "old_value": )" << level_of(event.from)
      << R"(, "new_value": )" << level_of(event.to) << R"(}, "priority": null})";
}

void write(Writer& out, const EventsLost& event) {
  out << R"({"type": "lost", "num_events": )" << event.num_events << "}";
}

}  // namespace

std::string to_json(const CacheEvents& events, int64_t id_base) {
  std::string json;
  Writer out(json);
  out.list(events, [&](const std::shared_ptr<const CacheEvent>& event) {
    out << R"({"event_id": )" << id_base + event->id << R"(, "data": )";
    std::visit([&](const auto& data) { write(out, data); }, event->data);
    out << "}";
  });
  return json;
}

}  // namespace inflight::kv_cache
