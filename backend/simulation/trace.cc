#include "backend/simulation/trace.h"

#include <cmath>
#include <limits>

#include "kernels/core/check.h"

namespace inflight::simulation {
namespace {

/// splitmix64's finaliser (Steele, Lea, Flood 2014): a bijection that mixes well.
uint64_t mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

}  // namespace

Trace::Trace(std::vector<TraceRequest> requests, std::vector<Segment> segments,
             std::vector<int32_t> literal_ids, int32_t vocab_size)
    : requests_(std::move(requests)),
      segments_(std::move(segments)),
      literal_ids_(std::move(literal_ids)),
      vocab_size_(vocab_size) {
  check(vocab_size >= 1, "vocab_size ", vocab_size, " < 1");
  const auto num_segments = static_cast<int64_t>(segments_.size());
  double previous = 0;
  for (size_t i = 0; i < requests_.size(); ++i) {
    TraceRequest& request = requests_[i];
    check(std::isfinite(request.arrival) && request.arrival >= previous, "request ", i,
          " arrives at ", request.arrival, " s, not after the one before it (", previous, " s)");
    previous = request.arrival;
    has_priorities_ = has_priorities_ || request.priority != requests_.front().priority;
    check(request.num_output >= 1, "request ", i, ": num_output ", request.num_output, " < 1");
    check(request.max_output >= request.num_output, "request ", i, ": max_output ",
          request.max_output, " < num_output ", request.num_output);
    check(request.num_segments >= 1 && request.first_segment >= 0 &&
              request.first_segment + request.num_segments <= num_segments,
          "request ", i, ": segments ", request.first_segment, " and ", request.num_segments,
          " more, of ", num_segments);
    int64_t length = 0;
    for (const Segment& segment : segments_of(request)) {
      check(segment.length >= 1 && segment.begin >= 0, "request ", i, ": a segment of ",
            segment.length, " tokens from ", segment.begin);
      if (segment.stream >= Segment::kLiteral)
        check(segment.stream - Segment::kLiteral + segment.begin + segment.length <=
                  literal_ids_.size(),
              "request ", i, ": a segment beyond the ", literal_ids_.size(), " literal ids");
      length += segment.length;
    }
    check(length + request.max_output <= std::numeric_limits<int32_t>::max(), "request ", i,
          ": prompt of ", length, " tokens and ", request.max_output, " more exceed 32 bit");
    request.prompt_len = static_cast<int32_t>(length);
    check(request.output.begin >= 0 && request.output.stream < Segment::kLiteral, "request ", i,
          ": output from position ", request.output.begin, " of no stream");
    request.output.length = request.max_output;
  }
  for (int32_t id : literal_ids_)
    check(id >= 0 && id < vocab_size, "id ", id, " is outside the vocabulary of ", vocab_size);
}

int32_t Trace::token(const Segment& segment, int32_t offset) const {
  const uint64_t position = static_cast<uint64_t>(segment.begin) + offset;
  if (segment.stream >= Segment::kLiteral)
    return literal_ids_[segment.stream - Segment::kLiteral + position];
  // 32 random bits scaled to the vocabulary: no division.
  const uint64_t bits = mix(mix(segment.stream + 0x9e3779b97f4a7c15u) + position) >> 32;
  return static_cast<int32_t>(bits * static_cast<uint64_t>(vocab_size_) >> 32);
}

void Trace::append_prompt(int64_t index, std::vector<int32_t>& out) const {
  const TraceRequest& request = requests_[index];
  out.reserve(out.size() + request.prompt_len);
  for (const Segment& segment : segments_of(request))
    for (int32_t i = 0; i < segment.length; ++i) out.push_back(token(segment, i));
}

int32_t Trace::output_token(int64_t index, int32_t position) const {
  return token(requests_[index].output, position);
}

std::vector<uint64_t> Trace::prefix_hashes(int64_t index, int32_t piece_len) const {
  check(piece_len >= 1, "piece_len ", piece_len, " < 1");
  std::vector<uint64_t> hashes;
  hashes.reserve(requests_[index].prompt_len / piece_len);
  uint64_t hash = 0;
  int32_t filled = 0;
  for (const Segment& segment : segments_of(requests_[index])) {
    for (int32_t i = 0; i < segment.length; ++i) {
      hash = mix(hash + static_cast<uint64_t>(token(segment, i)) + 0x9e3779b97f4a7c15u);
      if (++filled == piece_len) {
        hashes.push_back(hash);
        filled = 0;
      }
    }
  }
  return hashes;
}

}  // namespace inflight::simulation
