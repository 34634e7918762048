// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/reconcile.h"

namespace quantd::agent {

LeaseKey KeyOf(const v1::Lease& lease) {
  return {lease.job_id(), lease.epoch(), lease.incarnation()};
}

Plan Reconcile(const HeldLeases& held,
               const v1::SynchronizeResponse& response) {
  Plan plan;
  std::set<LeaseKey> cancel;
  for (const v1::Lease& lease : response.cancel()) {
    const LeaseKey key = KeyOf(lease);
    cancel.insert(key);
    if (held.active.count(key) > 0) {
      plan.cancel.push_back(key);
    } else {
      plan.stopped.insert(key);
    }
  }
  std::set<LeaseKey> desired;
  for (const v1::Assignment& assignment : response.desired()) {
    const LeaseKey key = KeyOf(assignment.lease());
    desired.insert(key);
    const bool known = held.active.count(key) + held.stopped.count(key) +
                           held.ended.count(key) + cancel.count(key) >
                       0;
    if (!known) plan.start.push_back(assignment);
  }
  for (const LeaseKey& key : held.active) {
    if (desired.count(key) + cancel.count(key) == 0) {
      plan.abandon.push_back(key);
    }
  }
  return plan;
}

}  // namespace quantd::agent
