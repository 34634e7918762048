// SPDX-License-Identifier: Apache-2.0
// What cancel, retry and the listings of artifacts do in every state a job can
// be in, over real RPCs.
#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/base/digest.h"
#include "tests/server/api/api_fixture.h"

namespace quantd::api {
namespace {

using ::testing::HasSubstr;

class LifecycleTest : public ApiTest {
 protected:
  void SetUp() override {
    ApiTest::SetUp();
    Register();
  }

  grpc::Status FailWith(const v1::Lease& lease, const std::string& word) {
    v1::FinishRequest request;
    *request.mutable_lease() = lease;
    request.mutable_failure()->set_failure_class(word);
    request.mutable_failure()->set_reason("SOMETHING");
    v1::FinishResponse response;
    Call call;
    return workers_->Finish(&call, request, &response);
  }

  v1::SynchronizeResponse Hold(const v1::Lease& lease, bool stopped = false) {
    v1::HeldWork held;
    *held.mutable_lease() = lease;
    held.set_running(true);
    held.set_stopped(stopped);
    return Synchronize({held}, false);
  }

  // A job that was brought to `state`; its lease, where it has one, in lease_.
  std::string JobIn(v1::JobState state) {
    const std::string id = SubmitGood();
    if (state == v1::JOB_STATE_QUEUED) return id;
    if (state == v1::JOB_STATE_CANCELLED) {
      EXPECT_TRUE(Cancel(id).ok());
      return id;
    }
    if (state == v1::JOB_STATE_LEASED) {
      lease_ = Synchronize().desired(0).lease();
      return id;
    }
    lease_ = TakeWork();
    if (state == v1::JOB_STATE_CANCELLING) {
      EXPECT_TRUE(Cancel(id).ok());
    } else if (state == v1::JOB_STATE_SUCCEEDED) {
      EXPECT_TRUE(Finish(lease_).ok());
    } else if (state == v1::JOB_STATE_FAILED) {
      EXPECT_TRUE(FailWith(lease_, "INVALID").ok());
    } else if (state == v1::JOB_STATE_PENDING) {
      EXPECT_TRUE(FailWith(lease_, "TRANSIENT").ok());
    }
    EXPECT_EQ(Get(id).state(), state);
    return id;
  }

  // Lets go of what JobIn took, so that the worker is free again.
  void LetGo() {
    if (!lease_.job_id().empty()) Hold(lease_, true);
    lease_.Clear();
  }

  // Publishes a blob of `bytes` and finishes `lease` with it as the file of an
  // artifact; the blob's digest.
  std::string FinishWithArtifact(const v1::Lease& lease,
                                 const std::string& bytes) {
    const std::string sha256 = base::Sha256Hex(bytes);
    v1::WriteBlobRequest part;
    part.mutable_blob()->set_sha256(sha256);
    part.mutable_blob()->set_size_bytes(static_cast<int64_t>(bytes.size()));
    part.set_data(bytes);
    v1::WriteBlobResponse written;
    Call write;
    auto writer = workers_->WriteBlob(&write, &written);
    writer->Write(part);
    writer->WritesDone();
    EXPECT_TRUE(writer->Finish().ok());
    v1::FinishRequest request;
    *request.mutable_lease() = lease;
    request.mutable_report()->set_bits_per_weight(4.5);
    v1::Artifact* artifact = request.add_artifacts();
    artifact->set_name("tiny_FIT");
    artifact->set_export_("packed");
    v1::ArtifactFile* file = artifact->add_files();
    file->set_path("model.safetensors");
    *file->mutable_blob() = part.blob();
    v1::FinishResponse response;
    Call finish;
    const grpc::Status status = workers_->Finish(&finish, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return sha256;
  }

  grpc::Status GetArtifact(const std::string& name, v1::Artifact* artifact) {
    v1::GetArtifactRequest request;
    request.set_artifact_id(name);
    v1::GetArtifactResponse response;
    Call call;
    const grpc::Status status =
        artifacts_->GetArtifact(&call, request, &response);
    *artifact = response.artifact();
    return status;
  }

  grpc::Status ListArtifacts(const v1::ListArtifactsRequest& request,
                             v1::ListArtifactsResponse* response) {
    Call call;
    return artifacts_->ListArtifacts(&call, request, response);
  }

  v1::Lease lease_;
};

TEST_F(LifecycleTest, RetryIsForFailedAndCancelledJobsAlone) {
  for (const v1::JobState state :
       {v1::JOB_STATE_PENDING, v1::JOB_STATE_QUEUED, v1::JOB_STATE_LEASED,
        v1::JOB_STATE_RUNNING, v1::JOB_STATE_CANCELLING,
        v1::JOB_STATE_SUCCEEDED}) {
    const std::string id = JobIn(state);
    const int64_t events = Get(id).last_event_seq();
    const grpc::Status status = Retry(id);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
    EXPECT_EQ(ReasonOf(status), "JOB_STATE_CONFLICT");
    EXPECT_EQ(Get(id).state(), state);
    EXPECT_EQ(Get(id).last_event_seq(), events);
    LetGo();
    Cancel(id);
  }
  for (const v1::JobState state :
       {v1::JOB_STATE_FAILED, v1::JOB_STATE_CANCELLED}) {
    const std::string id = JobIn(state);
    ASSERT_TRUE(Retry(id).ok());
    EXPECT_EQ(Get(id).state(), v1::JOB_STATE_QUEUED);
    EXPECT_TRUE(Get(id).failure().reason().empty());
    Cancel(id);
  }
  EXPECT_EQ(ReasonOf(Retry("zzzzzzzz")), "JOB_NOT_FOUND");
}

TEST_F(LifecycleTest, ARetriedJobGoesOnFromItsLastDurableStep) {
  const std::string id = SubmitGood();
  const v1::Lease first = TakeWork();
  ASSERT_TRUE(Commit(first, 0).ok());
  ASSERT_TRUE(Commit(first, 1).ok());
  ASSERT_TRUE(FailWith(first, "NUMERIC").ok());
  ASSERT_TRUE(Retry(id).ok());
  const v1::SynchronizeResponse work = Synchronize();
  ASSERT_EQ(work.desired_size(), 1);
  EXPECT_EQ(work.desired(0).committed_size(), 2);
  EXPECT_GT(work.desired(0).lease().epoch(), first.epoch());
}

TEST_F(LifecycleTest, CancelEndsAJobInEveryState) {
  const std::map<v1::JobState, v1::JobState> answers = {
      {v1::JOB_STATE_PENDING, v1::JOB_STATE_CANCELLED},
      {v1::JOB_STATE_QUEUED, v1::JOB_STATE_CANCELLED},
      {v1::JOB_STATE_LEASED, v1::JOB_STATE_CANCELLING},
      {v1::JOB_STATE_RUNNING, v1::JOB_STATE_CANCELLING},
      {v1::JOB_STATE_CANCELLING, v1::JOB_STATE_CANCELLING},
      {v1::JOB_STATE_SUCCEEDED, v1::JOB_STATE_SUCCEEDED},
      {v1::JOB_STATE_FAILED, v1::JOB_STATE_FAILED},
      {v1::JOB_STATE_CANCELLED, v1::JOB_STATE_CANCELLED},
  };
  for (const auto& [state, answer] : answers) {
    const std::string id = JobIn(state);
    v1::Job job;
    ASSERT_TRUE(Cancel(id, &job).ok()) << v1::JobState_Name(state);
    EXPECT_EQ(job.state(), answer) << v1::JobState_Name(state);
    const int64_t events = job.last_event_seq();
    ASSERT_TRUE(Cancel(id, &job).ok());
    EXPECT_EQ(job.last_event_seq(), events);
    LetGo();
    const v1::JobState end =
        answer == v1::JOB_STATE_CANCELLING ? v1::JOB_STATE_CANCELLED : answer;
    EXPECT_EQ(Get(id).state(), end) << v1::JobState_Name(state);
  }
}

TEST_F(LifecycleTest, ACancelledJobThatHadFinishedKeepsItsResult) {
  const std::string id = JobIn(v1::JOB_STATE_CANCELLING);
  ASSERT_TRUE(Finish(lease_).ok());
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(LifecycleTest, ARequestIdOfACancelledJobStillNamesIt) {
  v1::SubmitJobRequest request;
  *request.mutable_spec() = spec::GoodJob();
  request.set_request_id("again");
  v1::SubmitJobResponse first, second;
  ASSERT_TRUE(Submit(request, &first).ok());
  ASSERT_TRUE(Cancel(first.job().job_id()).ok());
  ASSERT_TRUE(Submit(request, &second).ok());
  EXPECT_TRUE(second.existed());
  EXPECT_EQ(second.job().state(), v1::JOB_STATE_CANCELLED);
  // Also what is no part of a recipe belongs to the request.
  (*request.mutable_spec()->mutable_labels())["k"] = "v";
  EXPECT_EQ(ReasonOf(Submit(request, &second)), "REQUEST_ID_REUSED");
  *request.mutable_spec() = spec::GoodJob();
  request.mutable_spec()->set_priority(1);
  EXPECT_EQ(ReasonOf(Submit(request, &second)), "REQUEST_ID_REUSED");
}

TEST_F(LifecycleTest, FiltersSelectByStateKindMethodLabelAndTheirNegation) {
  const std::string cancelled = JobIn(v1::JOB_STATE_CANCELLED);
  const std::string failed = JobIn(v1::JOB_STATE_FAILED);
  const std::string queued = SubmitGood("a");
  const auto listed = [this](const std::string& filter) {
    v1::ListJobsRequest request;
    request.set_filter(filter);
    v1::ListJobsResponse page;
    const grpc::Status status = List(request, &page);
    EXPECT_TRUE(status.ok()) << filter << ": " << status.error_message();
    std::vector<std::string> ids;
    for (const v1::Job& job : page.jobs()) ids.push_back(job.job_id());
    return ids;
  };
  using Ids = std::vector<std::string>;
  EXPECT_EQ(listed("state = failed"), Ids{failed});
  EXPECT_EQ(listed("state=FAILED OR state=cancelled"),
            (Ids{failed, cancelled}));
  EXPECT_EQ(listed("NOT state = failed"), (Ids{queued, cancelled}));
  EXPECT_EQ(listed("-state = failed AND -state = cancelled"), Ids{queued});
  EXPECT_EQ(listed("label.run = a"), Ids{queued});
  EXPECT_EQ(listed("label.run != a").size(), 2u);
  EXPECT_EQ(listed("kind = evaluate"), Ids{});
  EXPECT_EQ(listed("method = fit AND kind = quantize").size(), 3u);
  EXPECT_EQ(listed("method = round"), Ids{});
  EXPECT_EQ(listed("model = \"ti'; DROP TABLE jobs; --\""), Ids{});
  EXPECT_EQ(listed("").size(), 3u);
}

TEST_F(LifecycleTest, PagesStayWholeWhileJobsComeAndGo) {
  std::vector<std::string> submitted;
  for (int i = 0; i < 5; ++i) submitted.push_back(SubmitGood());
  v1::ListJobsRequest request;
  request.set_page_size(2);
  v1::ListJobsResponse page;
  ASSERT_TRUE(List(request, &page).ok());
  std::vector<std::string> listed;
  for (const v1::Job& job : page.jobs()) listed.push_back(job.job_id());
  // Newer ones stand before the first page; a change of state moves nothing.
  SubmitGood();
  ASSERT_TRUE(Cancel(submitted[1]).ok());
  while (!page.next_page_token().empty()) {
    request.set_page_token(page.next_page_token());
    ASSERT_TRUE(List(request, &page).ok());
    for (const v1::Job& job : page.jobs()) listed.push_back(job.job_id());
  }
  std::reverse(listed.begin(), listed.end());
  EXPECT_EQ(listed, submitted);
  // Too large is lowered, a token that was touched is refused.
  request.set_page_token("");
  request.set_page_size(1'000'000);
  EXPECT_TRUE(List(request, &page).ok());
  request.set_page_token("AAAA");
  EXPECT_EQ(ReasonOf(List(request, &page)), "PAGE_TOKEN_INVALID");
}

TEST_F(LifecycleTest, ArtifactsAreFoundByIdPrefixAndJob) {
  const std::string id = SubmitGood();
  v1::Artifact artifact;
  EXPECT_EQ(ReasonOf(GetArtifact("jobs/" + id, &artifact)),
            "ARTIFACT_NOT_FOUND");
  const std::string sha256 = FinishWithArtifact(TakeWork(), "weights");
  ASSERT_TRUE(GetArtifact("jobs/" + id, &artifact).ok());
  EXPECT_EQ(artifact.job_id(), id);
  ASSERT_EQ(artifact.files_size(), 1);
  EXPECT_EQ(artifact.files(0).blob().sha256(), sha256);
  const std::string name = artifact.artifact_id();
  ASSERT_EQ(Get(id).artifact_ids_size(), 1);
  EXPECT_EQ(Get(id).artifact_ids(0), name);
  for (const std::string& spelled :
       {name, name.substr(0, 4), "artifacts/" + name,
        "jobs/" + id.substr(0, 8)}) {
    ASSERT_TRUE(GetArtifact(spelled, &artifact).ok()) << spelled;
    EXPECT_EQ(artifact.artifact_id(), name);
  }
  for (const std::string& wrong :
       {std::string(), name.substr(0, 3), std::string("zzzzzzzz"),
        std::string("artifacts/"), name + "0"}) {
    const grpc::Status status = GetArtifact(wrong, &artifact);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND) << wrong;
    EXPECT_EQ(ReasonOf(status), "ARTIFACT_NOT_FOUND") << wrong;
  }
  EXPECT_EQ(ReasonOf(GetArtifact("jobs/zzzzzzzz", &artifact)), "JOB_NOT_FOUND");
}

TEST_F(LifecycleTest, ArtifactsAreListedNewestFirstInPagesAndByJob) {
  std::vector<std::string> jobs;
  for (int i = 0; i < 5; ++i) {
    jobs.push_back(SubmitGood());
    FinishWithArtifact(TakeWork(), std::to_string(i));
  }
  v1::ListArtifactsRequest request;
  request.set_page_size(2);
  v1::ListArtifactsResponse page;
  std::vector<std::string> listed;
  int pages = 0;
  do {
    ASSERT_TRUE(ListArtifacts(request, &page).ok());
    for (const v1::Artifact& artifact : page.artifacts()) {
      listed.push_back(artifact.job_id());
    }
    request.set_page_token(page.next_page_token());
  } while (!page.next_page_token().empty() && ++pages < 10);
  std::reverse(listed.begin(), listed.end());
  EXPECT_EQ(listed, jobs);
  request.Clear();
  request.set_job_id(jobs[2].substr(0, 10));
  ASSERT_TRUE(ListArtifacts(request, &page).ok());
  ASSERT_EQ(page.artifacts_size(), 1);
  EXPECT_EQ(page.artifacts(0).job_id(), jobs[2]);
  request.set_job_id("zzzzzzzz");
  EXPECT_EQ(ReasonOf(ListArtifacts(request, &page)), "JOB_NOT_FOUND");
  request.set_job_id("");
  request.set_page_size(-5);
  EXPECT_EQ(ReasonOf(ListArtifacts(request, &page)), "PAGE_SIZE_INVALID");
}

TEST_F(LifecycleTest, AQueuedJobSaysWhatItWaitsFor) {
  const std::string id = SubmitGood();
  Synchronize({}, false);
  EXPECT_EQ(Get(id).pending_reason(), "WORKERS_DRAINING");
  v1::ListJobsResponse page;
  ASSERT_TRUE(List({}, &page).ok());
  EXPECT_EQ(page.jobs(0).pending_reason(), "WORKERS_DRAINING");
  const std::string other = SubmitGood();
  TakeWork();
  EXPECT_EQ(Get(id).pending_reason(), "");
  EXPECT_EQ(Get(other).pending_reason(), "WORKERS_BUSY");
}

}  // namespace
}  // namespace quantd::api
