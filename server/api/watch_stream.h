// SPDX-License-Identifier: Apache-2.0
// The streams that wait for something to happen.
#pragma once

#include "grpcpp/grpcpp.h"
#include "quantd/v1/services.pb.h"
#include "server/api/edge.h"

namespace quantd::api {

// Events of one job, with a bookmark whenever a tick of the edge passed in
// silence, until the job is terminal.
grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchJobStream(
    Edge& edge, const v1::WatchJobRequest& request);

// One message whenever the worker should call Synchronize.
grpc::ServerWriteReactor<v1::WakeResponse>* WakeStream(
    Edge& edge, const v1::WakeRequest& request);

}  // namespace quantd::api
