#include "backend/plan/upload.h"

#include <algorithm>
#include <atomic>
#include <optional>

#include "kernels/core/buffer.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/core/device.h"
#include "kernels/core/load.h"

namespace inflight::plan {
namespace {

// Enough for the bus, little enough to stay in a core's cache between packing and copying, and to
// be pinned quickly: the system pins 3 GB/s.
constexpr int64_t kPieceBytes = int64_t{2} << 20;
constexpr int kMaxThreads = 8;
constexpr int kSlots = 2;  // of a thread: one is packed while the other is copied

/// Elements of a slice that travel together.
struct Piece {
  const SourceSlice* slice = nullptr;
  MatrixBlock target;  // of the whole slice
  int64_t first = 0;
  int64_t count = 0;

  const uint8_t* source() const {
    return slice->data + static_cast<size_t>(slice->first() + first) * size_of(slice->dtype);
  }
};

/// A weight is a matrix whose rows are the indices before `axis`; a slice is a block of columns.
void add_pieces(const UploadJob& job, std::vector<Piece>& pieces) {
  const WeightSpec& weight = *job.weight;
  const int rank = static_cast<int>(weight.shape.size());
  int64_t rows = 1, inner = 1;
  for (int i = 0; i < weight.recipe.axis; ++i) rows *= weight.shape[i];
  for (int i = weight.recipe.axis + 1; i < rank; ++i) inner *= weight.shape[i];
  const int64_t stride = weight.shape[weight.recipe.axis] * inner;
  auto* out = static_cast<uint8_t*>(job.out);
  for (const SourceSlice& slice : job.slices) {
    const int64_t columns = slice.extent[weight.recipe.axis] * inner;
    const MatrixBlock target{out, weight.dtype, rows, columns, stride};
    const int64_t count = slice.num_elements();
    const auto most = kPieceBytes / static_cast<int64_t>(size_of(slice.dtype));
    for (int64_t first = 0; first < count; first += most) {
      pieces.push_back({&slice, target, first, std::min(most, count - first)});
    }
    out += static_cast<size_t>(columns) * size_of(weight.dtype);
  }
}

/// A part of the ring, and what on the device is not yet as the weight wants it.
struct Slot {
  Slot(uint8_t* part, Device device) : pinned(part), copied(device) {}
  uint8_t* pinned;
  Buffer unplaced;
  Event copied;
  bool is_used = false;
};

/// One thread's share of the work.
class Uploader {
 public:
  /// `ring` is kSlots * kPieceBytes of pinned memory.
  Uploader(uint8_t* ring, Device device) : stream_(device) {
    for (auto& slot : slots_) {
      slot.emplace(ring, device);
      ring += kPieceBytes;
    }
  }
  ~Uploader() {
    try {
      stream_.synchronize();  // copies may be under way when another thread has failed
    } catch (const Error&) {
    }
  }

  void send(const Piece& piece) {
    Slot& slot = *slots_[turn_++ % kSlots];
    if (slot.is_used) slot.copied.wait();
    const SourceSlice& slice = *piece.slice;
    const size_t bytes = static_cast<size_t>(piece.count) * size_of(slice.dtype);
    if (slice.is_contiguous()) {
      const auto begin = static_cast<size_t>(piece.source() - slice.file->bytes().data());
      slice.file->populate(begin, begin + bytes);
    }
    pack(slice, piece.first, piece.count, slot.pinned);
    const MatrixBlock& target = piece.target;
    if (target.dtype == slice.dtype && target.is_dense()) {
      auto* out = static_cast<uint8_t*>(target.data);
      copy_async(out + static_cast<size_t>(piece.first) * size_of(slice.dtype), slot.pinned, bytes,
                 stream_);
    } else {
      if (slot.unplaced.bytes() == 0) slot.unplaced = Buffer(kPieceBytes, stream_.device());
      copy_async(slot.unplaced.data(), slot.pinned, bytes, stream_);
      place_async(target, piece.first, piece.count, slot.unplaced.data(), slice.dtype, stream_);
    }
    slot.copied.record(stream_);
    slot.is_used = true;
  }

  void finish() { stream_.synchronize(); }

 private:
  Stream stream_;
  std::optional<Slot> slots_[kSlots];
  int turn_ = 0;
};

}  // namespace

void upload(const std::vector<UploadJob>& jobs, Device device) {
  std::vector<Piece> pieces;
  for (const UploadJob& job : jobs) add_pieces(job, pieces);
  // In the order of the files, so that those on a disk are read from front to back.
  std::sort(pieces.begin(), pieces.end(),
            [](const Piece& a, const Piece& b) { return a.source() < b.source(); });
  const auto num_pieces = static_cast<int64_t>(pieces.size());
  const auto num_threads = static_cast<int>(
      std::clamp<int64_t>(num_pieces, 1, std::min(cpu::num_available_cores(), kMaxThreads)));
  const Buffer ring = Buffer::pinned(static_cast<size_t>(num_threads * kSlots * kPieceBytes));
  cpu::ThreadPool pool(num_threads);
  std::atomic<int64_t> next{0};
  pool.parallel_for(num_threads, [&](int64_t, int64_t, int thread) {
    int64_t piece = next++;
    if (piece >= num_pieces) return;
    auto* const part = static_cast<uint8_t*>(ring.data()) + thread * kSlots * kPieceBytes;
    Uploader uploader(part, device);  // here: CUDA's current device is a thread's
    for (; piece < num_pieces; piece = next++) uploader.send(pieces[piece]);
    uploader.finish();
  });
}

}  // namespace inflight::plan
