// SPDX-License-Identifier: Apache-2.0
#include "worker/numerics/side_by_side.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "absl/cleanup/cleanup.h"

namespace quantd::numerics {

absl::Status SideBySide(int64_t count,
                        const std::function<absl::Status(int64_t)>& work) {
  std::vector<absl::Status> statuses(static_cast<size_t>(count));
  std::atomic<int64_t> next = 0;
  // Pieces are taken one at a time, as they may differ in length, and not cut
  // into runs beforehand. All threads are asked for even where there are fewer
  // pieces: with a range of one, parallel_for would let the piece have them.
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    // Where a piece throws, too: the others begin no more.
    const auto stop = absl::MakeCleanup([&] { next = count; });
    for (int64_t i = next++; i < count; i = next++) {
      absl::Status& status = statuses[static_cast<size_t>(i)];
      status = work(i);
      if (!status.ok()) return;
    }
  });
  const auto failed =
      std::find_if(statuses.begin(), statuses.end(),
                   [](const absl::Status& status) { return !status.ok(); });
  return failed == statuses.end() ? absl::OkStatus() : *failed;
}

}  // namespace quantd::numerics
