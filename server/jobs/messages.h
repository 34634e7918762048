// SPDX-License-Identifier: Apache-2.0
// Between the store's structs and the messages of the API. Pure functions.
#pragma once

#include <string>

#include "quantd/v1/job.pb.h"
#include "quantd/v1/worker.pb.h"
#include "server/store/records.h"

namespace quantd::jobs {

// Everything but the live progress.
v1::Job JobMessage(const store::JobRecord& record);
store::LeaseKey KeyOf(const v1::Lease& lease);
v1::Lease LeaseOf(const store::JobRecord& record);

// The SHA-256 of the message in a form in which equal messages are equal
// bytes.
std::string DigestOf(const google::protobuf::Message& message);

}  // namespace quantd::jobs
