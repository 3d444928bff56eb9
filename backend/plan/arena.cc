#include "backend/plan/arena.h"

#include <algorithm>
#include <vector>

#include "kernels/core/load.h"

namespace inflight::plan {

namespace {

constexpr int64_t kAlignment = 64;  // that of a plan's offsets

/// A value's bytes in steps of this size, with those up to the next offset that one may have.
int64_t room_of(const ValueSpec& value, const StepLimits& limits) {
  const int64_t bytes = value.bytes(limits.max_num_tokens, limits.max_batch_size);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

size_t activation_bytes(const ByName<ValueSpec>& values, const ByName<int64_t>& offsets,
                        const StepLimits& limits) {
  int64_t end = 0;
  for (const auto& [name, value] : values)
    end = std::max(end, offsets.find(name)->second + room_of(value, limits));
  return static_cast<size_t>(end);
}

}  // namespace

ByName<int64_t> drawn_together(const ByName<ValueSpec>& values, const StepLimits& planned,
                               const StepLimits& limits) {
  struct Place {
    int64_t planned_begin, planned_end, begin, end;
    const std::string* name;
  };
  std::vector<Place> places;
  for (const auto& [name, value] : values)
    places.push_back(
        {.planned_begin = value.offset,
         .planned_end = value.offset + value.bytes(planned.max_num_tokens, planned.max_batch_size),
         .begin = 0,
         .end = room_of(value, limits),
         .name = &name});
  std::ranges::stable_sort(places, {}, &Place::planned_begin);
  ByName<int64_t> offsets;
  for (size_t i = 0; i < places.size(); ++i) {
    Place& place = places[i];
    for (size_t j = 0; j < i; ++j)
      if (places[j].planned_end <= place.planned_begin)
        place.begin = std::max(place.begin, places[j].end);
    place.end += place.begin;
    offsets.emplace(*place.name, place.begin);
  }
  return offsets;
}

Arena::Arena(const ByName<ValueSpec>& values, const StepLimits& planned, const StepLimits& limits,
             Device device)
    : offsets_(drawn_together(values, planned, limits)),
      activations_(activation_bytes(values, offsets_, limits), device) {}

void Arena::reserve_workspace(size_t bytes) {
  if (bytes > workspace_.bytes()) workspace_ = Buffer(bytes, activations_.device());
}

void Arena::reserve_run_memory(size_t bytes) {
  if (bytes > run_memory_.bytes()) run_memory_ = Buffer(bytes, activations_.device());
}

void Arena::clear(const Stream& stream) const {
  for (const Buffer* buffer : {&activations_, &workspace_, &run_memory_}) {
    fill_async(buffer->data(), 0, buffer->bytes(), stream);
  }
}

void Arena::fill_random(DType dtype, const Stream& stream) const {
  fill_random_async(activations_.data(), dtype,
                    static_cast<int64_t>(activations_.bytes() / size_of(dtype)),
                    RandomValues::normal(1, 1.0f), stream);
}

}  // namespace inflight::plan
