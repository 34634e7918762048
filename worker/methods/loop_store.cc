// SPDX-License-Identifier: Apache-2.0
#include "worker/methods/loop_store.h"

#include <algorithm>

namespace quantd::methods {

bool Fits(const LoopState& kept, const LoopState& wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&kept](const auto& entry) {
    const auto found = kept.find(entry.first);
    return found != kept.end() &&
           found->second.sizes() == entry.second.sizes() &&
           found->second.scalar_type() == entry.second.scalar_type();
  });
}

}  // namespace quantd::methods
