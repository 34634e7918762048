// SPDX-License-Identifier: Apache-2.0
// What the tests of the store share: a store in a fresh folder and short ways
// to fill it.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "server/store/sqlite_store.h"
#include "tests/support/test_data.h"

namespace quantd::store {

inline absl::Time TestTime(int64_t seconds = 0) {
  return absl::FromUnixSeconds(1'700'000'000 + seconds);
}

inline NewJob MakeJob(const std::string& id, int32_t priority = 0) {
  NewJob job;
  job.job_id = id;
  job.spec.mutable_quantize()->set_model("tiny");
  job.spec.mutable_quantize()->mutable_recipe()->mutable_method()->set_id(
      "gptq");
  job.spec.set_priority(priority);
  (*job.spec.mutable_labels())["team"] = "blue";
  job.display_name = "tiny_" + id;
  job.now = TestTime();
  return job;
}

inline std::string FakeDigest(int n) {
  std::string digits = absl::StrCat(n);
  return std::string(64 - digits.size(), '0') + digits;
}

inline v1::Step MakeStep(int64_t step, const std::string& fingerprint = "fp") {
  v1::Step result;
  result.set_step(step);
  result.set_num_steps(10);
  result.set_kind("block");
  result.set_fingerprint(fingerprint);
  v1::BlobRef& weights = (*result.mutable_blobs())["weights"];
  weights.set_sha256(FakeDigest(static_cast<int>(step)));
  weights.set_size_bytes(1);
  v1::BlobRef& activations = (*result.mutable_blobs())["activations"];
  activations.set_sha256(FakeDigest(1000 + static_cast<int>(step)));
  activations.set_size_bytes(1);
  return result;
}

inline Outcome OutcomeOf(v1::JobState to) {
  Outcome outcome;
  outcome.to = to;
  if (to == v1::JOB_STATE_FAILED) {
    outcome.failure.set_failure_class("INVALID");
    outcome.failure.set_reason("BAD");
  }
  return outcome;
}

inline DecideFn Always(v1::JobState to) {
  return [to](const JobRecord&) { return OutcomeOf(to); };
}

class StoreTest : public testing::Test {
 protected:
  void SetUp() override { Reopen(); }

  void Reopen() {
    store_.reset();
    SqliteStore::Options options;
    options.data_dir = dir_.path();
    options.has_blob = [this](const std::string& sha256) {
      return missing_blob_ != sha256;
    };
    auto store = SqliteStore::Open(std::move(options));
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  LeaseKey Grant(const std::string& id, const std::string& incarnation = "i1") {
    auto job = store_->GrantLease(id, "worker", incarnation, TestTime());
    EXPECT_TRUE(job.ok()) << job.status();
    return {id, job.ok() ? job->epoch : 0, incarnation};
  }

  FinishedAttempt Finished(const LeaseKey& lease,
                           const std::string& digest = "d") {
    FinishedAttempt finished;
    finished.lease = lease;
    finished.result_digest = digest;
    finished.now = TestTime(9);
    return finished;
  }

  v1::JobState StateOf(const std::string& id) {
    return store_->GetJob(id)->state;
  }

  void ExpectDenseHistory(const std::string& id) {
    const auto events = store_->ReadEvents(id, 1, 1 << 20);
    ASSERT_TRUE(events.ok());
    for (size_t i = 0; i < events->size(); ++i) {
      ASSERT_EQ((*events)[i].seq(), i + 1);
    }
    EXPECT_EQ(store_->GetJob(id)->last_event_seq, events->size());
  }

  support::TemporaryDirectory dir_;
  std::string missing_blob_;
  std::unique_ptr<SqliteStore> store_;
};

}  // namespace quantd::store
