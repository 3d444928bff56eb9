// A load: requests in order of arrival, their prompts as pieces of endless token streams, so that a
// million requests of thousands of tokens need no memory for tokens. Immutable; shared by replicas.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace inflight::simulation {

/// Tokens [begin, begin + length) of a stream, which are a function of stream and position: unlike
/// streams look unlike. Streams from kLiteral on are places in Trace's literal ids.
struct Segment {
  static constexpr uint64_t kLiteral = uint64_t{1} << 63;
  uint64_t stream = 0;
  int32_t begin = 0;
  int32_t length = 0;
};

struct TraceRequest {
  double arrival = 0;      // seconds
  int32_t priority = 0;    // larger first
  int32_t num_output = 1;  // tokens until it ends
  int32_t max_output = 1;  // tokens it asks for, >= num_output: what a reservation must cover
  int32_t prompt_len = 0;  // of all its segments
  Segment output;          // what it generates; of length max_output
  int64_t first_segment = 0;
  int32_t num_segments = 0;
};

class Trace {
 public:
  /// `requests` with first_segment and num_segments; prompt_len and output.length are set here.
  /// Segment::kLiteral + n names literal_ids from n on. Raises invalid_argument naming the request.
  Trace(std::vector<TraceRequest> requests, std::vector<Segment> segments,
        std::vector<int32_t> literal_ids, int32_t vocab_size);

  int64_t size() const { return static_cast<int64_t>(requests_.size()); }
  const TraceRequest& request(int64_t index) const { return requests_[index]; }
  int32_t vocab_size() const { return vocab_size_; }
  /// Whether they are not all the same.
  bool has_priorities() const { return has_priorities_; }

  /// The ids of the prompt, after what `out` holds.
  void append_prompt(int64_t index, std::vector<int32_t>& out) const;
  /// The id that request `index` generates as its `position`-th, from 0.
  int32_t output_token(int64_t index, int32_t position) const;
  /// Of the prompt's whole pieces of `piece_len` tokens: each hash stands for its piece and all
  /// before it.
  std::vector<uint64_t> prefix_hashes(int64_t index, int32_t piece_len) const;

 private:
  std::span<const Segment> segments_of(const TraceRequest& request) const {
    return std::span(segments_).subspan(request.first_segment, request.num_segments);
  }
  int32_t token(const Segment& segment, int32_t offset) const;

  std::vector<TraceRequest> requests_;
  std::vector<Segment> segments_;
  std::vector<int32_t> literal_ids_;
  int32_t vocab_size_;
  bool has_priorities_ = false;
};

}  // namespace inflight::simulation
