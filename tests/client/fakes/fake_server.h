// SPDX-License-Identifier: Apache-2.0
// An in-process quantd for the client's tests: it answers from plain data and
// fails on request. Set the data before the first call.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "quantd/v1/services.pb.h"

namespace quantd::fakes {

class FakeServer {
 public:
  FakeServer();
  ~FakeServer();
  FakeServer(const FakeServer&) = delete;
  FakeServer& operator=(const FakeServer&) = delete;

  // 127.0.0.1:PORT.
  const std::string& address() const { return address_; }

  // What it answers with.
  v1::Catalog catalog;
  std::vector<v1::Job> jobs;
  std::map<std::string, std::vector<v1::Event>> events;
  std::vector<v1::Artifact> artifacts;
  std::map<std::string, std::string> blobs;
  std::string log;
  v1::ListWorkersResponse workers;
  v1::GetServerStatusResponse server_status;

  // So many submits are stored, but answered UNAVAILABLE.
  int lost_submit_answers = 0;
  // A stream of events or of a blob breaks after so many messages; -1: never.
  int break_streams_after = -1;
  // Left out of every stream of events; 0: none.
  int64_t hidden_seq = 0;
  // Answered to every GetJob, where it is not OK: a gRPC code and ErrorInfo.
  int get_job_code = 0;
  std::string get_job_reason;

  // What it was asked.
  std::vector<v1::SubmitJobRequest> submits() const;
  std::vector<int64_t> watch_starts() const;
  std::vector<v1::ListJobsRequest> lists() const;

 private:
  struct Services;

  mutable absl::Mutex mu_;
  std::vector<v1::SubmitJobRequest> submits_ ABSL_GUARDED_BY(mu_);
  std::vector<int64_t> watch_starts_ ABSL_GUARDED_BY(mu_);
  std::vector<v1::ListJobsRequest> lists_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<Services> services_;
  std::string address_;
};

}  // namespace quantd::fakes
