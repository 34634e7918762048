// SPDX-License-Identifier: Apache-2.0
// A whole server on a disk that is full on demand: a small tmpfs, which needs
// root. What it promises then stands in docs/store.md.
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"
#include "proto/base/digest.h"
#include "tests/server/api/api_fixture.h"
#include "tests/support/process.h"

namespace quantd::api {
namespace {

class DiskTest : public ApiTest {
 protected:
  void SetUp() override {
    const std::string data = directory_.File("data");
    std::filesystem::create_directory(data);
    if (geteuid() != 0 ||
        mount("none", data.c_str(), "tmpfs", 0, "size=80m") != 0) {
      GTEST_SKIP() << "mounting a tmpfs needs root";
    }
    mounted_ = true;
    ApiTest::SetUp();
  }
  void TearDown() override {
    ApiTest::TearDown();
    if (mounted_) umount2(directory_.File("data").c_str(), MNT_DETACH);
  }

  // Takes all the space there is.
  void FillDisk() {
    std::ofstream ballast(directory_.File("data/ballast"), std::ios::binary);
    const std::string block(1 << 16, 'x');
    while (ballast.write(block.data(), block.size()).flush()) {
    }
  }
  void FreeDisk() { std::filesystem::remove(directory_.File("data/ballast")); }

  bool IsReady() {
    const std::string code =
        support::RunCommand({"/usr/bin/curl", "-s", "-o", "/dev/null", "-w",
                             "%{http_code}",
                             "http://" + server_->http_address() + "/readyz"})
            .output;
    EXPECT_TRUE(code == "200" || code == "503") << code;
    return code == "200";
  }
  bool AwaitReady() {
    return support::WaitFor(absl::Seconds(30), [this] { return IsReady(); });
  }

  bool mounted_ = false;
};

TEST_F(DiskTest, AFullDiskRefusesSubmitsKeepsReadsAndHealsByItself) {
  Register();
  const std::string before = SubmitGood();
  const v1::Lease lease = TakeWork();
  ASSERT_TRUE(Commit(lease, 0).ok());
  ASSERT_TRUE(IsReady());
  FillDisk();
  v1::SubmitJobRequest request;
  *request.mutable_spec() = spec::GoodJob();
  // Larger than what is left of the last page.
  (*request.mutable_spec()->mutable_labels())["k"] = std::string(63, 'v');
  int64_t accepted = 1;
  grpc::Status refusal;
  for (int i = 0; i < 2000 && refusal.ok(); ++i) {
    request.set_request_id("r" + std::to_string(i));
    v1::SubmitJobResponse response;
    refusal = Submit(request, &response);
    if (refusal.ok()) ++accepted;
  }
  EXPECT_EQ(refusal.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ReasonOf(refusal), "DISK_FULL");
  EXPECT_GT(DetailOf<google::rpc::RetryInfo>(refusal).retry_delay().seconds(),
            0);
  EXPECT_FALSE(IsReady());
  // Reads go on, and a worker keeps its lease.
  EXPECT_EQ(Get(before).state(), v1::JOB_STATE_RUNNING);
  v1::HeldWork held;
  *held.mutable_lease() = lease;
  held.set_running(true);
  EXPECT_EQ(Synchronize({held}).desired_size(), 1);
  FreeDisk();
  ASSERT_TRUE(AwaitReady());
  // The refused request, sent again, is one job.
  v1::SubmitJobResponse first, second;
  ASSERT_TRUE(Submit(request, &first).ok());
  EXPECT_FALSE(first.existed());
  ASSERT_TRUE(Submit(request, &second).ok());
  EXPECT_TRUE(second.existed());
  EXPECT_TRUE(Commit(lease, 1).ok());
  EXPECT_TRUE(Finish(lease).ok());
  const auto counts = server_->core().store().CountJobs();
  int64_t stored = 0;
  for (const auto& [state, count] : *counts) stored += count;
  EXPECT_EQ(stored, accepted + 1);
}

TEST_F(DiskTest, ABlobThatRunsIntoAFullDiskLeavesNothingBehind) {
  const std::string bytes(1 << 20, 'b');
  v1::WriteBlobRequest part;
  part.mutable_blob()->set_sha256(base::Sha256Hex(bytes));
  part.mutable_blob()->set_size_bytes(static_cast<int64_t>(bytes.size()));
  const auto write = [&](bool fill_between) {
    v1::WriteBlobResponse response;
    Call call;
    auto writer = workers_->WriteBlob(&call, &response);
    part.mutable_blob()->set_sha256(base::Sha256Hex(bytes));
    part.mutable_blob()->set_size_bytes(static_cast<int64_t>(bytes.size()));
    part.set_data(bytes.substr(0, bytes.size() / 2));
    writer->Write(part);
    if (fill_between) {
      EXPECT_TRUE(support::WaitFor(absl::Seconds(30), [this] {
        return !std::filesystem::is_empty(directory_.File("data/blobs/tmp"));
      }));
      FillDisk();
    }
    part.clear_blob();
    part.set_data(bytes.substr(bytes.size() / 2));
    writer->Write(part);
    writer->WritesDone();
    return writer->Finish();
  };
  // The space runs out in the middle; later it is known before the first byte.
  for (const bool fill_between : {true, false}) {
    const grpc::Status status = write(fill_between);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_EQ(ReasonOf(status), "DISK_FULL");
    EXPECT_FALSE(server_->core().blobs().Has(base::Sha256Hex(bytes)));
    EXPECT_TRUE(support::WaitFor(absl::Seconds(30), [this] {
      return std::filesystem::is_empty(directory_.File("data/blobs/tmp"));
    }));
  }
  EXPECT_FALSE(IsReady());
  FreeDisk();
  EXPECT_TRUE(AwaitReady());
  EXPECT_TRUE(write(false).ok());
  EXPECT_TRUE(server_->core().blobs().Has(base::Sha256Hex(bytes)));
}

TEST_F(ApiTest, ABlobThatCannotBePutInPlaceIsRefusedAndComesLater) {
  const std::string sha256 = base::Sha256Hex("abc");
  // A file where the folder of the blob should be: no rename succeeds.
  const std::string shard =
      directory_.File("data/blobs/sha256/" + sha256.substr(0, 2));
  std::ofstream(shard) << "in the way";
  const auto write = [&] {
    v1::WriteBlobRequest part;
    part.mutable_blob()->set_sha256(sha256);
    part.mutable_blob()->set_size_bytes(3);
    part.set_data("abc");
    v1::WriteBlobResponse response;
    Call call;
    auto writer = workers_->WriteBlob(&call, &response);
    writer->Write(part);
    writer->WritesDone();
    return writer->Finish();
  };
  const grpc::Status status = write();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonOf(status), "FILE_ERROR");
  EXPECT_EQ(status.error_message().find(directory_.path()), std::string::npos);
  EXPECT_TRUE(support::WaitFor(absl::Seconds(30), [this] {
    return std::filesystem::is_empty(directory_.File("data/blobs/tmp"));
  }));
  std::filesystem::remove(shard);
  EXPECT_TRUE(write().ok());
}

}  // namespace
}  // namespace quantd::api
