// SPDX-License-Identifier: Apache-2.0
// A server as a worker sees it, in the process of the test and told what to
// answer. It keeps what it was sent, and leases as the real one does.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/server.h"
#include "quantd/v1/services.grpc.pb.h"

namespace quantd::fakes {

// Thread-safe. Calls answer OK unless a fault was set for their name, which is
// the method's: "CommitStep" and so on.
class FakeWorkerService final : public v1::WorkerService::Service {
 public:
  // Serves on a free port of the loopback interface.
  explicit FakeWorkerService(absl::Duration lease_ttl = absl::Seconds(30));
  ~FakeWorkerService() override;

  std::string address() const;
  // The port stays; calls fail meanwhile as those to a dead server.
  void StopServing();
  // `same_boot` false: a new boot id, and no incarnation is known.
  void ServeAgain(bool same_boot);

  // The assignment is given to whoever synchronizes, with a lease on it.
  void Assign(v1::Assignment assignment);
  void CancelLease();
  // Takes the lease away: it is not desired any more, writes are LEASE_LOST.
  void RevokeLease();
  // The next `count` calls of `method` fail with `status`.
  void Fail(const std::string& method, int count, absl::Status status);
  void AddBlob(const std::string& sha256, const std::string& bytes);

  // What came in so far.
  std::vector<v1::Step> committed() const;
  std::vector<v1::FinishRequest> finished() const;
  std::vector<v1::RegisterRequest> registered() const;
  std::vector<v1::SynchronizeRequest> synchronized() const;
  std::map<std::string, std::string> blobs() const;
  std::string log() const;
  int calls(const std::string& method) const;

  // Waits until `condition` holds, which is tried whenever a call came in.
  // False after a long time, which no passing test needs.
  bool Await(const std::function<bool()>& condition) const;

 private:
  using Context = grpc::ServerContext;
  grpc::Status Register(Context* context, const v1::RegisterRequest* request,
                        v1::RegisterResponse* response) override;
  grpc::Status Synchronize(Context* context,
                           const v1::SynchronizeRequest* request,
                           v1::SynchronizeResponse* response) override;
  grpc::Status Wake(Context* context, const v1::WakeRequest* request,
                    grpc::ServerWriter<v1::WakeResponse>* writer) override;
  grpc::Status CommitStep(Context* context,
                          const v1::CommitStepRequest* request,
                          v1::CommitStepResponse* response) override;
  grpc::Status Finish(Context* context, const v1::FinishRequest* request,
                      v1::FinishResponse* response) override;
  grpc::Status WriteBlob(Context* context,
                         grpc::ServerReader<v1::WriteBlobRequest>* reader,
                         v1::WriteBlobResponse* response) override;
  grpc::Status ReadBlob(
      Context* context, const v1::ReadBlobRequest* request,
      grpc::ServerWriter<v1::ReadBlobResponse>* writer) override;
  grpc::Status AppendLog(Context* context, const v1::AppendLogRequest* request,
                         v1::AppendLogResponse* response) override;

  void Serve();
  // Counts the call and says which fault it meets.
  grpc::Status Enter(const std::string& method)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  grpc::Status CheckLease(const v1::Lease& lease)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const absl::Duration lease_ttl_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;

  mutable absl::Mutex mu_;
  int changes_ ABSL_GUARDED_BY(mu_) = 0;
  int boot_ ABSL_GUARDED_BY(mu_) = 1;
  bool serving_ ABSL_GUARDED_BY(mu_) = false;
  std::set<std::string> known_ ABSL_GUARDED_BY(mu_);
  bool has_assignment_ ABSL_GUARDED_BY(mu_) = false;
  bool cancelling_ ABSL_GUARDED_BY(mu_) = false;
  v1::Assignment assignment_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::pair<int, absl::Status>> faults_
      ABSL_GUARDED_BY(mu_);
  std::map<std::string, int> calls_ ABSL_GUARDED_BY(mu_);
  std::vector<v1::Step> committed_ ABSL_GUARDED_BY(mu_);
  std::vector<v1::FinishRequest> finished_ ABSL_GUARDED_BY(mu_);
  std::vector<v1::RegisterRequest> registered_ ABSL_GUARDED_BY(mu_);
  std::vector<v1::SynchronizeRequest> synchronized_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::string> blobs_ ABSL_GUARDED_BY(mu_);
  std::string log_ ABSL_GUARDED_BY(mu_);
};

}  // namespace quantd::fakes
