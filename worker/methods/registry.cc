// SPDX-License-Identifier: Apache-2.0
// The list of rounding methods.
#include "proto/base/status_macros.h"
#include "proto/spec/nearest.h"
#include "worker/methods/method.h"

namespace quantd::methods {

MethodEntry Adaround();   // adaround.cc
MethodEntry Autoround();  // autoround.cc
MethodEntry Brecq();      // brecq.cc
MethodEntry Gptq();       // gptq.cc
MethodEntry Hqq();        // hqq.cc
MethodEntry Rtn();        // rtn.cc

const std::vector<MethodEntry>& Registry() {
  static const auto& entries = *new std::vector<MethodEntry>{
      Adaround(), Autoround(), Brecq(), Gptq(), Hqq(), Rtn()};
  return entries;
}

absl::StatusOr<std::unique_ptr<Method>> MakeMethod(
    const v1::Component& component) {
  ASSIGN_OR_RETURN(const MethodEntry* entry,
                   spec::FindEntry(Registry(), "method", component.id()));
  ASSIGN_OR_RETURN(const spec::Params params,
                   spec::Params::Resolve(component, entry->description));
  return entry->make(params);
}

}  // namespace quantd::methods
