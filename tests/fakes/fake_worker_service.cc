// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/fake_worker_service.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "proto/base/error.h"

namespace quantd::fakes {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::ErrorInfo info;
  info.set_reason(base::ErrorReason(status));
  info.set_domain("quantd");
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(std::string(status.message()));
  details.add_details()->PackFrom(info);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      std::string(status.message()),
                      details.SerializeAsString());
}

}  // namespace

FakeWorkerService::FakeWorkerService(absl::Duration lease_ttl)
    : lease_ttl_(lease_ttl) {
  Serve();
}

FakeWorkerService::~FakeWorkerService() { StopServing(); }

void FakeWorkerService::Serve() {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(absl::StrCat("127.0.0.1:", port_),
                           grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  absl::MutexLock lock(&mu_);
  serving_ = server_ != nullptr;
  ++changes_;
}

std::string FakeWorkerService::address() const {
  return absl::StrCat("127.0.0.1:", port_);
}

void FakeWorkerService::StopServing() {
  {
    absl::MutexLock lock(&mu_);
    serving_ = false;
    ++changes_;
  }
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
  server_ = nullptr;
}

void FakeWorkerService::ServeAgain(bool same_boot) {
  if (!same_boot) {
    absl::MutexLock lock(&mu_);
    ++boot_;
    known_.clear();
  }
  Serve();
}

void FakeWorkerService::Assign(v1::Assignment assignment) {
  absl::MutexLock lock(&mu_);
  assignment_ = std::move(assignment);
  has_assignment_ = true;
  cancelling_ = false;
  ++changes_;
}

void FakeWorkerService::CancelLease() {
  absl::MutexLock lock(&mu_);
  cancelling_ = true;
  ++changes_;
}

void FakeWorkerService::RevokeLease() {
  absl::MutexLock lock(&mu_);
  has_assignment_ = false;
  ++changes_;
}

void FakeWorkerService::Fail(const std::string& method, int count,
                             absl::Status status) {
  absl::MutexLock lock(&mu_);
  faults_[method] = {count, std::move(status)};
}

void FakeWorkerService::AddBlob(const std::string& sha256,
                                const std::string& bytes) {
  absl::MutexLock lock(&mu_);
  blobs_[sha256] = bytes;
}

std::vector<v1::Step> FakeWorkerService::committed() const {
  absl::MutexLock lock(&mu_);
  return committed_;
}

std::vector<v1::FinishRequest> FakeWorkerService::finished() const {
  absl::MutexLock lock(&mu_);
  return finished_;
}

std::vector<v1::RegisterRequest> FakeWorkerService::registered() const {
  absl::MutexLock lock(&mu_);
  return registered_;
}

std::vector<v1::SynchronizeRequest> FakeWorkerService::synchronized() const {
  absl::MutexLock lock(&mu_);
  return synchronized_;
}

std::map<std::string, std::string> FakeWorkerService::blobs() const {
  absl::MutexLock lock(&mu_);
  return blobs_;
}

std::string FakeWorkerService::log() const {
  absl::MutexLock lock(&mu_);
  return log_;
}

int FakeWorkerService::calls(const std::string& method) const {
  absl::MutexLock lock(&mu_);
  const auto it = calls_.find(method);
  return it == calls_.end() ? 0 : it->second;
}

bool FakeWorkerService::Await(const std::function<bool()>& condition) const {
  const absl::Time end = absl::Now() + kPatience;
  while (absl::Now() < end) {
    int seen = 0;
    {
      absl::MutexLock lock(&mu_);
      seen = changes_;
    }
    if (condition()) return true;
    absl::MutexLock lock(&mu_);
    const auto changed = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return changes_ != seen;
    };
    // What is not a call, such as a process that ends, is looked at again soon.
    mu_.AwaitWithTimeout(absl::Condition(&changed), absl::Milliseconds(20));
  }
  return false;
}

grpc::Status FakeWorkerService::Enter(const std::string& method) {
  ++changes_;
  ++calls_[method];
  auto fault = faults_.find(method);
  if (fault == faults_.end() || fault->second.first == 0) {
    return grpc::Status::OK;
  }
  --fault->second.first;
  return ToGrpc(fault->second.second);
}

grpc::Status FakeWorkerService::CheckLease(const v1::Lease& lease) {
  const v1::Lease& current = assignment_.lease();
  if (has_assignment_ && lease.job_id() == current.job_id() &&
      lease.epoch() == current.epoch() &&
      lease.incarnation() == current.incarnation()) {
    return grpc::Status::OK;
  }
  return ToGrpc(base::MakeError(absl::StatusCode::kFailedPrecondition,
                                "LEASE_LOST", "the lease is not current"));
}

grpc::Status FakeWorkerService::Register(Context*,
                                         const v1::RegisterRequest* request,
                                         v1::RegisterResponse* response) {
  absl::MutexLock lock(&mu_);
  const grpc::Status status = Enter("Register");
  if (!status.ok()) return status;
  registered_.push_back(*request);
  known_.insert(request->incarnation());
  response->set_boot_id(absl::StrCat("boot-", boot_));
  response->mutable_lease_ttl()->set_seconds(absl::ToInt64Seconds(lease_ttl_));
  // Often, so that tests need not wait.
  response->mutable_synchronize_interval()->set_nanos(50'000'000);
  return status;
}

grpc::Status FakeWorkerService::Synchronize(
    Context*, const v1::SynchronizeRequest* request,
    v1::SynchronizeResponse* response) {
  absl::MutexLock lock(&mu_);
  const grpc::Status status = Enter("Synchronize");
  if (!status.ok()) return status;
  synchronized_.push_back(*request);
  response->set_registered(known_.count(request->incarnation()) > 0 &&
                           request->boot_id() == absl::StrCat("boot-", boot_));
  response->mutable_next_synchronize()->set_nanos(50'000'000);
  if (!response->registered() || !has_assignment_) return status;
  if (assignment_.lease().incarnation().empty()) {
    assignment_.mutable_lease()->set_incarnation(request->incarnation());
  }
  if (assignment_.lease().incarnation() != request->incarnation()) {
    return status;
  }
  for (const v1::HeldWork& held : request->held()) {
    if (held.stopped() && cancelling_) {
      has_assignment_ = false;
      return status;
    }
  }
  if (cancelling_) {
    *response->add_cancel() = assignment_.lease();
  } else {
    *response->add_desired() = assignment_;
  }
  return status;
}

grpc::Status FakeWorkerService::Wake(
    Context* context, const v1::WakeRequest*,
    grpc::ServerWriter<v1::WakeResponse>* writer) {
  absl::MutexLock lock(&mu_);
  Enter("Wake").ok();
  while (serving_ && !context->IsCancelled()) {
    const int seen = changes_;
    const bool assigned = has_assignment_;
    const bool cancelling = cancelling_;
    const auto changed = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return changes_ != seen;
    };
    mu_.AwaitWithTimeout(absl::Condition(&changed), absl::Milliseconds(100));
    if (assigned != has_assignment_ || cancelling != cancelling_) {
      writer->Write(v1::WakeResponse());
    }
  }
  return grpc::Status::OK;
}

grpc::Status FakeWorkerService::CommitStep(Context*,
                                           const v1::CommitStepRequest* request,
                                           v1::CommitStepResponse*) {
  absl::MutexLock lock(&mu_);
  grpc::Status status = Enter("CommitStep");
  if (status.ok()) status = CheckLease(request->lease());
  if (status.ok()) committed_.push_back(request->step());
  return status;
}

grpc::Status FakeWorkerService::Finish(Context*,
                                       const v1::FinishRequest* request,
                                       v1::FinishResponse* response) {
  absl::MutexLock lock(&mu_);
  grpc::Status status = Enter("Finish");
  if (status.ok()) status = CheckLease(request->lease());
  if (!status.ok()) return status;
  finished_.push_back(*request);
  has_assignment_ = false;
  response->set_state(request->has_failure() ? v1::JOB_STATE_FAILED
                                             : v1::JOB_STATE_SUCCEEDED);
  return status;
}

grpc::Status FakeWorkerService::WriteBlob(
    Context*, grpc::ServerReader<v1::WriteBlobRequest>* reader,
    v1::WriteBlobResponse* response) {
  std::string sha256;
  std::string bytes;
  v1::WriteBlobRequest part;
  while (reader->Read(&part)) {
    if (part.has_blob()) sha256 = part.blob().sha256();
    bytes += part.data();
  }
  absl::MutexLock lock(&mu_);
  const grpc::Status status = Enter("WriteBlob");
  if (!status.ok()) return status;
  response->set_existed(blobs_.count(sha256) > 0);
  blobs_[sha256] = bytes;
  return status;
}

grpc::Status FakeWorkerService::ReadBlob(
    Context*, const v1::ReadBlobRequest* request,
    grpc::ServerWriter<v1::ReadBlobResponse>* writer) {
  v1::ReadBlobResponse part;
  {
    absl::MutexLock lock(&mu_);
    const grpc::Status status = Enter("ReadBlob");
    if (!status.ok()) return status;
    const auto blob = blobs_.find(request->sha256());
    if (blob == blobs_.end()) {
      return ToGrpc(base::MakeError(absl::StatusCode::kNotFound,
                                    "BLOB_NOT_FOUND", "no such blob"));
    }
    part.set_data(blob->second);
  }
  writer->Write(part);
  return grpc::Status::OK;
}

grpc::Status FakeWorkerService::AppendLog(Context*,
                                          const v1::AppendLogRequest* request,
                                          v1::AppendLogResponse* response) {
  absl::MutexLock lock(&mu_);
  const grpc::Status status = Enter("AppendLog");
  if (!status.ok()) return status;
  const auto known = static_cast<int64_t>(log_.size()) - request->offset();
  if (known >= 0 && known <= static_cast<int64_t>(request->text().size())) {
    log_ += request->text().substr(known);
  }
  response->set_size(static_cast<int64_t>(log_.size()));
  return status;
}

}  // namespace quantd::fakes
