// SPDX-License-Identifier: Apache-2.0
// Watches, wakes, blobs, health and the HTTP port.
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/base/digest.h"
#include "server/metrics/catalog.h"
#include "tests/server/api/api_fixture.h"
#include "tests/support/process.h"

namespace quantd::api {
namespace {

using ::testing::HasSubstr;

class StreamTest : public ApiTest {
 protected:
  // Reads events of history from `from_seq` until `count` came or the stream
  // ended; bookmarks are counted apart.
  std::vector<int64_t> Watch(const std::string& id, int64_t from_seq,
                             size_t count) {
    v1::WatchJobRequest request;
    request.set_job_id(id);
    request.set_from_seq(from_seq);
    Call call;
    auto reader = jobs_->WatchJob(&call, request);
    std::vector<int64_t> seqs;
    v1::WatchJobResponse response;
    while (seqs.size() < count && reader->Read(&response)) {
      if (response.event().seq() > 0) {
        seqs.push_back(response.event().seq());
      } else if (response.event().has_bookmark()) {
        ++bookmarks_;
        last_bookmark_ = response.event().bookmark().last_seq();
      }
    }
    if (seqs.size() == count) call.TryCancel();
    end_ = reader->Finish();
    return seqs;
  }

  grpc::Status Write(const std::string& sha256, int64_t size,
                     const std::vector<std::string>& parts,
                     v1::WriteBlobResponse* response) {
    Call call;
    auto writer = workers_->WriteBlob(&call, response);
    v1::WriteBlobRequest request;
    request.mutable_blob()->set_sha256(sha256);
    request.mutable_blob()->set_size_bytes(size);
    for (const std::string& part : parts) {
      request.set_data(part);
      if (!writer->Write(request)) break;
      request.clear_blob();
    }
    writer->WritesDone();
    return writer->Finish();
  }

  std::string Read(const std::string& sha256, int64_t offset,
                   grpc::Status* status) {
    v1::ReadBlobRequest request;
    request.set_sha256(sha256);
    request.set_offset(offset);
    Call call;
    auto reader = artifacts_->ReadBlob(&call, request);
    std::string bytes;
    v1::ReadBlobResponse response;
    while (reader->Read(&response)) bytes += response.data();
    *status = reader->Finish();
    return bytes;
  }

  support::CommandResult Http(const std::string& path,
                              const std::string& method = "GET") {
    return support::RunCommand({"/usr/bin/curl", "-s", "-X", method, "-w",
                                "%{http_code}",
                                "http://" + server_->http_address() + path});
  }

  int bookmarks_ = 0;
  int64_t last_bookmark_ = -1;
  grpc::Status end_;
};

TEST_F(StreamTest, AWatchResumesGaplesslyOverReconnectsAndARestart) {
  Register();
  const std::string id = SubmitGood();
  const v1::Lease lease = TakeWork();
  ASSERT_TRUE(Commit(lease, 0).ok());
  std::vector<int64_t> seen = Watch(id, 0, 2);
  ASSERT_EQ(seen.size(), 2u);
  RestartServer();
  Register();
  v1::HeldWork held;
  *held.mutable_lease() = lease;
  held.set_running(true);
  Synchronize({held}, false);
  ASSERT_TRUE(Commit(lease, 1).ok());
  for (const int64_t seq : Watch(id, seen.back() + 1, 1)) seen.push_back(seq);
  ASSERT_TRUE(Finish(lease).ok());
  for (const int64_t seq : Watch(id, seen.back() + 1, 100)) seen.push_back(seq);
  // The stream of a terminal job ends by itself.
  EXPECT_TRUE(end_.ok()) << end_.error_message();
  for (size_t i = 0; i < seen.size(); ++i) {
    EXPECT_EQ(seen[i], static_cast<int64_t>(i) + 1);
  }
  EXPECT_EQ(static_cast<int64_t>(seen.size()), Get(id).last_event_seq());
}

TEST_F(StreamTest, ASilentWatchCarriesBookmarks) {
  Register();
  const std::string id = SubmitGood();
  v1::WatchJobRequest request;
  request.set_job_id(id);
  Call call;
  auto reader = jobs_->WatchJob(&call, request);
  v1::WatchJobResponse response;
  while (reader->Read(&response) && !response.event().has_bookmark()) {
  }
  EXPECT_EQ(response.event().bookmark().last_seq(), Get(id).last_event_seq());
  call.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(StreamTest, AWatchOfNothingIsNotFound) {
  EXPECT_TRUE(Watch("abcdefgh", 0, 1).empty());
  EXPECT_EQ(ReasonOf(end_), "JOB_NOT_FOUND");
  EXPECT_TRUE(Watch("abcdefgh", -1, 1).empty());
  EXPECT_EQ(ReasonOf(end_), "FROM_SEQ_INVALID");
}

TEST_F(StreamTest, AStoppingServerClosesWatchesAsUnavailable) {
  Register();
  const std::string id = SubmitGood();
  v1::WatchJobRequest request;
  request.set_job_id(id);
  Call call;
  auto reader = jobs_->WatchJob(&call, request);
  v1::WatchJobResponse response;
  ASSERT_TRUE(reader->Read(&response));
  const absl::Time begin = absl::Now();
  std::thread stop([this] { StopServer(); });
  while (reader->Read(&response)) {
  }
  const grpc::Status status = reader->Finish();
  stop.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonOf(status), "SERVER_STOPPING");
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
}

TEST_F(StreamTest, ASubmitWakesAnIdleWorker) {
  Register();
  Synchronize();
  v1::WakeRequest request;
  request.set_worker_name("w");
  request.set_incarnation("i1");
  Call call;
  auto reader = workers_->Wake(&call, request);
  SubmitGood();
  v1::WakeResponse response;
  EXPECT_TRUE(reader->Read(&response));
  call.TryCancel();
  reader->Finish();
  EXPECT_EQ(Synchronize().desired_size(), 1);
}

TEST_F(StreamTest, BlobsAreWrittenAndReadFromAnyOffset) {
  std::mt19937 random(1);
  std::string bytes(700'000, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  const std::string sha256 = base::Sha256Hex(bytes);
  const int64_t size = static_cast<int64_t>(bytes.size());
  v1::WriteBlobResponse response;
  ASSERT_TRUE(Write(sha256, size,
                    {bytes.substr(0, 300'000), "", bytes.substr(300'000)},
                    &response)
                  .ok());
  EXPECT_FALSE(response.existed());
  grpc::Status status;
  EXPECT_EQ(Read(sha256, 0, &status), bytes);
  EXPECT_EQ(Read(sha256, 299'999, &status), bytes.substr(299'999));
  EXPECT_EQ(Read(sha256, size, &status), "");
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(Read(sha256, size + 1, &status), "");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::OUT_OF_RANGE);
  ASSERT_TRUE(Write(sha256, size, {bytes.substr(0, 10)}, &response).ok());
  EXPECT_TRUE(response.existed());
}

TEST_F(StreamTest, DamagedAndMisnamedBlobsAreRefused) {
  v1::WriteBlobResponse response;
  const std::string sha256 = base::Sha256Hex("abc");
  grpc::Status status = Write(sha256, 3, {"abd"}, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(ReasonOf(status), "BLOB_DIGEST_MISMATCH");
  EXPECT_EQ(ReasonOf(Write(sha256, 3, {"ab"}, &response)), "BLOB_SIZE");
  EXPECT_EQ(ReasonOf(Write(sha256, 3, {"abcd"}, &response)), "BLOB_SIZE");
  EXPECT_EQ(ReasonOf(Write(sha256, -1, {"abc"}, &response)), "BLOB_SIZE");
  EXPECT_EQ(ReasonOf(Write(sha256, 3, {}, &response)), "BLOB_SIZE");
  EXPECT_EQ(ReasonOf(Write("../../etc/passwd", 3, {"abc"}, &response)),
            "BLOB_NAME_INVALID");
  Read("../../etc/passwd", 0, &status);
  EXPECT_EQ(ReasonOf(status), "BLOB_NAME_INVALID");
  Read(sha256, 0, &status);
  EXPECT_EQ(ReasonOf(status), "BLOB_NOT_FOUND");
  ASSERT_TRUE(Write(sha256, 3, {"abc"}, &response).ok());
  EXPECT_EQ(Read(sha256, 0, &status), "abc");
}

TEST_F(StreamTest, LogsAreAppendedUnderTheLeaseAndRead) {
  Register();
  const std::string id = SubmitGood();
  v1::AppendLogRequest request;
  *request.mutable_lease() = TakeWork();
  request.set_text("hello\n");
  v1::AppendLogResponse response;
  Call first, second, third;
  ASSERT_TRUE(workers_->AppendLog(&first, request, &response).ok());
  EXPECT_EQ(response.size(), 6);
  request.mutable_lease()->set_epoch(99);
  EXPECT_EQ(ReasonOf(workers_->AppendLog(&second, request, &response)),
            "LEASE_LOST");
  v1::ReadJobLogRequest read;
  read.set_job_id(id);
  v1::ReadJobLogResponse text;
  ASSERT_TRUE(jobs_->ReadJobLog(&third, read, &text).ok());
  EXPECT_EQ(text.text(), "hello\n");
}

TEST_F(StreamTest, TheHttpPortServesHealthAndRefusesTheRest) {
  EXPECT_EQ(Http("/healthz").output, "ok\n200");
  EXPECT_EQ(Http("/readyz").output, "ready\n200");
  EXPECT_THAT(Http("/").output, HasSubstr("404"));
  EXPECT_THAT(Http("/../../etc/passwd").output, HasSubstr("404"));
  EXPECT_THAT(Http("/metrics", "POST").output, HasSubstr("405"));
  EXPECT_THAT(Http("/metrics", "DELETE").output, HasSubstr("405"));
}

TEST_F(StreamTest, AScrapeTellsWhatHappened) {
  Register();
  SubmitGood();
  const v1::Lease lease = TakeWork();
  ASSERT_TRUE(Commit(lease, 0).ok());
  ASSERT_TRUE(Finish(lease).ok());
  EXPECT_FALSE(Commit(lease, 1).ok());
  const std::string text = Http("/metrics").output;
  for (const char* line :
       {"quantd_jobs{state=\"succeeded\"} 1", "quantd_jobs{state=\"failed\"} 0",
        "quantd_job_submitted_total{kind=\"quantize\"} 1",
        "quantd_job_finished_total{reason=\"\",result=\"succeeded\"} 1",
        "quantd_lease_granted_total 1",
        "quantd_fenced_writes_rejected_total{op=\"CommitStep\"} 1",
        "quantd_workers{state=\"idle\"} 1", "quantd_ready 1",
        "quantd_rpc_server_handled_total{code=\"OK\",method=\"SubmitJob\"} 1",
        "quantd_step_duration_seconds_count{kind=\"block\"} 1"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  for (const metrics::MetricInfo& info : metrics::Catalog()) {
    if (!info.labels.empty()) continue;
    EXPECT_THAT(text, HasSubstr(info.name));
  }
  EXPECT_FALSE(absl::StrContains(text, directory_.path()));
}

}  // namespace
}  // namespace quantd::api
