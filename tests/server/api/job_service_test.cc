// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/api/api_fixture.h"

namespace quantd::api {
namespace {

using ::testing::ElementsAre;

TEST_F(ApiTest, SubmitBeforeAnyWorkerIsRefused) {
  v1::SubmitJobRequest request;
  *request.mutable_spec() = spec::GoodJob();
  v1::SubmitJobResponse response;
  const grpc::Status status = Submit(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ReasonOf(status), "NO_CATALOG");
}

TEST_F(ApiTest, AllProblemsOfASubmitComeBackAtOnce) {
  Register();
  v1::SubmitJobRequest request;
  *request.mutable_spec() = spec::GoodJob();
  v1::Recipe* recipe =
      request.mutable_spec()->mutable_quantize()->mutable_recipe();
  recipe->mutable_method()->set_id("fitt");
  recipe->mutable_weights()->set_format("code4");
  v1::SubmitJobResponse response;
  const grpc::Status status = Submit(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonOf(status), "RECIPE_INVALID");
  EXPECT_EQ(DetailOf<google::rpc::ErrorInfo>(status).domain(), "quantd");
  std::vector<std::string> fields;
  const auto detail = DetailOf<google::rpc::BadRequest>(status);
  for (const auto& violation : detail.field_violations()) {
    fields.push_back(violation.field());
  }
  EXPECT_THAT(fields, ElementsAre("quantize.recipe.method.id",
                                  "quantize.recipe.exports[0]"));
}

TEST_F(ApiTest, AFloodOfProblemsStillFitsIntoTrailers) {
  Register();
  v1::SubmitJobRequest request;
  *request.mutable_spec() = spec::GoodJob();
  for (int i = 0; i < 2000; ++i) {
    v1::Override* row = request.mutable_spec()
                            ->mutable_quantize()
                            ->mutable_recipe()
                            ->add_overrides();
    row->set_pattern(std::string(300, 'x'));
    row->set_wq("nothing_like_it");
  }
  v1::SubmitJobResponse response;
  const grpc::Status status = Submit(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_GT(DetailOf<google::rpc::BadRequest>(status).field_violations_size(),
            5);
  EXPECT_LT(status.error_details().size(), 8000u);
}

TEST_F(ApiTest, ValidateOnlyStoresNothing) {
  Register();
  v1::SubmitJobRequest request;
  *request.mutable_spec() = spec::GoodJob();
  request.set_validate_only(true);
  v1::SubmitJobResponse response;
  ASSERT_TRUE(Submit(request, &response).ok());
  EXPECT_EQ(response.job().display_name(), "tiny_FIT_w4_g64_headfp16");
  v1::ListJobsResponse list;
  ASSERT_TRUE(List({}, &list).ok());
  EXPECT_EQ(list.jobs_size(), 0);
}

TEST_F(ApiTest, ARepeatedRequestIdNamesTheFirstJob) {
  Register();
  v1::SubmitJobRequest request;
  *request.mutable_spec() = spec::GoodJob();
  request.set_request_id("r1");
  v1::SubmitJobResponse first, second;
  ASSERT_TRUE(Submit(request, &first).ok());
  ASSERT_TRUE(Submit(request, &second).ok());
  EXPECT_FALSE(first.existed());
  EXPECT_TRUE(second.existed());
  EXPECT_EQ(first.job().job_id(), second.job().job_id());
  request.mutable_spec()->mutable_quantize()->set_model("other");
  const grpc::Status status = Submit(request, &second);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(ReasonOf(status), "REQUEST_ID_REUSED");
}

TEST_F(ApiTest, PagesMeetWithoutGapOrRepeat) {
  Register();
  std::vector<std::string> submitted;
  for (int i = 0; i < 7; ++i) submitted.push_back(SubmitGood("a"));
  SubmitGood("b");
  v1::ListJobsRequest request;
  request.set_page_size(3);
  request.set_filter("label.run = a AND state = queued");
  std::vector<std::string> listed;
  int pages = 0;
  do {
    v1::ListJobsResponse page;
    ASSERT_TRUE(List(request, &page).ok());
    for (const v1::Job& job : page.jobs()) listed.push_back(job.job_id());
    request.set_page_token(page.next_page_token());
    ++pages;
  } while (!request.page_token().empty() && pages < 10);
  EXPECT_EQ(pages, 3);
  std::reverse(listed.begin(), listed.end());
  EXPECT_EQ(listed, submitted);
}

TEST_F(ApiTest, ATokenServesItsOwnListingAlone) {
  Register();
  for (int i = 0; i < 3; ++i) SubmitGood("a");
  v1::ListJobsRequest request;
  request.set_page_size(1);
  request.set_filter("label.run = a");
  v1::ListJobsResponse page;
  ASSERT_TRUE(List(request, &page).ok());
  request.set_page_token(page.next_page_token());
  // Another spelling of the same filter is the same listing, also after a
  // restart.
  RestartServer();
  request.set_filter("label.run=\"a\"");
  EXPECT_TRUE(List(request, &page).ok());
  request.set_filter("label.run = b");
  EXPECT_EQ(ReasonOf(List(request, &page)), "PAGE_TOKEN_INVALID");
}

TEST_F(ApiTest, BadArgumentsHaveReasonsOfTheirOwn) {
  Register();
  v1::ListJobsResponse page;
  v1::ListJobsRequest list;
  list.set_page_size(-1);
  EXPECT_EQ(ReasonOf(List(list, &page)), "PAGE_SIZE_INVALID");
  list.set_page_size(0);
  list.set_filter("stat = x");
  EXPECT_EQ(ReasonOf(List(list, &page)), "FILTER_INVALID");
  v1::SubmitJobRequest submit;
  submit.set_request_id(std::string(65, 'x'));
  v1::SubmitJobResponse response;
  EXPECT_EQ(ReasonOf(Submit(submit, &response)), "REQUEST_ID_INVALID");
  EXPECT_EQ(ReasonOf(Cancel("abcdefgh")), "JOB_NOT_FOUND");
  EXPECT_EQ(ReasonOf(Cancel("abc")), "JOB_ID_TOO_SHORT");
}

TEST_F(ApiTest, AQueuedJobIsCancelledAtOnceAndMayBeRetried) {
  Register();
  const std::string id = SubmitGood();
  v1::Job job;
  ASSERT_TRUE(Cancel(id, &job).ok());
  EXPECT_EQ(job.state(), v1::JOB_STATE_CANCELLED);
  ASSERT_TRUE(Cancel(id, &job).ok());
  EXPECT_EQ(job.state(), v1::JOB_STATE_CANCELLED);
  ASSERT_TRUE(Retry(id).ok());
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(ReasonOf(Retry(id)), "JOB_STATE_CONFLICT");
}

TEST_F(ApiTest, ARunningJobIsCancelledWhenItsProcessIsReaped) {
  Register();
  const std::string id = SubmitGood();
  const v1::Lease lease = TakeWork();
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_RUNNING);
  v1::Job job;
  ASSERT_TRUE(Cancel(id, &job).ok());
  EXPECT_EQ(job.state(), v1::JOB_STATE_CANCELLING);
  v1::HeldWork held;
  *held.mutable_lease() = lease;
  held.set_running(true);
  ASSERT_EQ(Synchronize({held}).cancel_size(), 1);
  held.set_stopped(true);
  Synchronize({held}, false);
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(ApiTest, ALeasedJobThatIsCancelledEnds) {
  Register();
  const std::string id = SubmitGood();
  const v1::SynchronizeResponse work = Synchronize();
  ASSERT_EQ(work.desired_size(), 1);
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_LEASED);
  ASSERT_TRUE(Cancel(id).ok());
  v1::HeldWork held;
  *held.mutable_lease() = work.desired(0).lease();
  held.set_stopped(true);
  Synchronize({held}, false);
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(ApiTest, AWriteUnderALostLeaseIsFenced) {
  Register();
  const std::string id = SubmitGood();
  v1::Lease lease = TakeWork();
  ASSERT_TRUE(Commit(lease, 0).ok());
  v1::Lease stale = lease;
  stale.set_epoch(lease.epoch() + 1);
  EXPECT_EQ(ReasonOf(Commit(stale, 1)), "LEASE_LOST");
  EXPECT_EQ(Commit(stale, 1).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  stale = lease;
  stale.set_incarnation("i0");
  EXPECT_EQ(ReasonOf(Finish(stale)), "LEASE_LOST");
  EXPECT_EQ(Get(id).committed_steps(), 1);
  ASSERT_TRUE(Finish(lease).ok());
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_SUCCEEDED);
  // The same end again is the same answer.
  EXPECT_TRUE(Finish(lease).ok());
}

}  // namespace
}  // namespace quantd::api
