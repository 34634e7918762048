// SPDX-License-Identifier: Apache-2.0
// What to do about the difference between the work that is held and the work
// that the server wants held. A pure function of the two, so that a lost, late
// or doubled answer is healed by the next one.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "quantd/v1/worker.pb.h"

namespace quantd::agent {

// Job, epoch, incarnation.
using LeaseKey = std::tuple<std::string, int64_t, std::string>;
LeaseKey KeyOf(const v1::Lease& lease);

struct HeldLeases {
  // Being worked on.
  std::set<LeaseKey> active;
  // Cancelled and reaped; the server may not know yet.
  std::set<LeaseKey> stopped;
  // Ended by an answer of the server, which may have crossed this one.
  std::set<LeaseKey> ended;
};

struct Plan {
  std::vector<LeaseKey> abandon;
  std::vector<LeaseKey> cancel;
  std::vector<v1::Assignment> start;
  // `stopped` from now on: unknown ones to be cancelled are stopped already.
  std::set<LeaseKey> stopped;
};

Plan Reconcile(const HeldLeases& held, const v1::SynchronizeResponse& response);

}  // namespace quantd::agent
