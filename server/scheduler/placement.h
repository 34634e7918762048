// SPDX-License-Identifier: Apache-2.0
// Which worker can run which job: a worker can where its catalog has every
// component that the job names. Pure functions; no component is known by name.
#pragma once

#include <string>

#include "quantd/v1/catalog.pb.h"
#include "quantd/v1/job.pb.h"

namespace quantd::scheduler {

// Empty where the catalog has everything; otherwise the first thing that it
// lacks, for example "method gptq".
std::string MissingComponent(const v1::JobSpec& spec,
                             const v1::Catalog& catalog);

}  // namespace quantd::scheduler
