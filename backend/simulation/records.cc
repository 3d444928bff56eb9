#include "backend/simulation/records.h"

#include <algorithm>

namespace inflight::simulation {

TimelineBin& Timeline::at(double time) {
  const auto index = static_cast<size_t>(std::max(time, 0.0) / bin_seconds_);
  if (index >= bins_.size()) bins_.resize(index + 1);
  return bins_[index];
}

void Timeline::add_level(double TimelineBin::* what, double level, double begin, double end) {
  if (level == 0) return;
  while (begin < end) {
    TimelineBin& bin = at(begin);
    const auto index = static_cast<size_t>(&bin - bins_.data());
    // Rounding may put a border's time into the bin before it: never stand still.
    double border = bin_seconds_ * static_cast<double>(index + 1);
    if (border <= begin) border = begin + bin_seconds_;
    const double until = std::min(end, border);
    bin.*what += level * (until - begin);
    begin = until;
  }
}

}  // namespace inflight::simulation
