// Makes the copies that a step asks for (block_copy.h), on the memory of one rank. One thread: the
// one that launches steps.
//
// On the CPU they are done when launch returns. On a CUDA device copies inside the pool run in the
// stream of steps; those between the tiers run in a stream of their own, beside the steps in
// flight. Events order the two:
//  - between the tiers -> steps: all of a list is done before the step it goes with begins, and
//    before its copies on the device (the step may write over an evicted block, and reads what has
//    come back);
//  - on the device -> between the tiers: a list's copies between the tiers begin after earlier
//    copies on the device are done (those may read a block that is now evicted and written over);
//  - steps -> between the tiers: no event. No step in flight names a block that is moved, that is
//    the manager's promise; so they overlap with the step that runs now;
//  - among copies between the tiers: one stream, in order. A host block is read before it is
//    written again.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "backend/kv_cache/block_copy.h"
#include "backend/kv_cache/copy_order.h"
#include "backend/kv_cache/kv_storage.h"
#include "kernels/core/device.h"
#include "kernels/kv_cache/copy_blocks.h"

namespace inflight::kv_cache {

class BlockCopier {
 public:
  /// Both outlive it.
  BlockCopier(const KvStorage& storage, const DeviceContext& context);

  /// The copies, in order, before whatever is put into the context's stream next. The list may go
  /// when it returns. If it raises, some may have been made: is_intact is false from then on.
  void launch(std::span<const BlockCopy> copies);
  bool is_intact() const { return is_intact_; }

  /// One block's bytes, out of or into host memory; done when it returns. No step or copy in flight
  /// may write what is read or name what is written.
  void read(Tier tier, int32_t block, std::span<std::byte> to) const;
  void write(Tier tier, int32_t block, std::span<const std::byte> from) const;

  /// Bytes a second that come from the host tier into the pool, measured on blocks whose contents
  /// are lost; 0 without a host tier. For load.
  double measure_onboarding();

  /// Waits until no copy between the tiers runs; with finish, nor anything of the context's stream.
  void synchronize() const;
  void finish() const;

 private:
  void launch_between_tiers(std::span<const BlockCopy> copies);
  void launch_on_device(std::span<const BlockCopy> copies);
  void move(void* to, const void* from, const Stream* stream) const;

  const KvStorage& storage_;
  const DeviceContext& context_;
  const std::vector<TensorView> rows_;
  CopyOrder order_;
  std::vector<CopyBlocksParams::Copy> on_device_;  // memory used again
  bool is_intact_ = true;
  // CUDA only.
  std::optional<Stream> stream_;  // of copies between the tiers
  std::optional<Event> moved_between_tiers_;
  std::optional<Event> copied_on_device_;
  bool must_wait_for_device_ = false;  // the stream, for copies on the device
};

}  // namespace inflight::kv_cache
