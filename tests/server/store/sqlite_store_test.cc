// SPDX-License-Identifier: Apache-2.0
#include "server/store/sqlite_store.h"

#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "proto/base/error.h"
#include "tests/server/store/store_fixture.h"

namespace quantd::store {
namespace {

TEST_F(StoreTest, ASubmittedJobIsQueuedWithItsFirstEvent) {
  const auto result = store_->SubmitJob(MakeJob("job-a"));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->existed);
  Reopen();
  const auto job = store_->GetJob("job-a");
  ASSERT_TRUE(job.ok());
  EXPECT_EQ(job->state, v1::JOB_STATE_QUEUED);
  EXPECT_EQ(job->spec.quantize().model(), "tiny");
  EXPECT_EQ(job->display_name, "tiny_job-a");
  EXPECT_EQ(job->create_time, TestTime());
  const auto events = store_->ReadEvents("job-a", 1, 10);
  ASSERT_EQ(events->size(), 1);
  EXPECT_EQ((*events)[0].state_changed().to(), v1::JOB_STATE_QUEUED);
}

TEST_F(StoreTest, OneRequestIdIsOneJobHoweverManyAskAtOnce) {
  std::vector<std::thread> threads;
  std::atomic<int> created{0};
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([this, i, &created] {
      NewJob job = MakeJob(absl::StrCat("job-", i));
      job.request_id = "request";
      job.request_digest = "same";
      const auto result = store_->SubmitJob(job);
      ASSERT_TRUE(result.ok());
      if (!result->existed) ++created;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(created, 1);
  EXPECT_EQ((*store_->CountJobs())[v1::JOB_STATE_QUEUED], 1);
}

TEST_F(StoreTest, ARequestIdWithAnotherBodyIsRefused) {
  NewJob job = MakeJob("job-a");
  job.request_id = "request";
  job.request_digest = "one";
  ASSERT_TRUE(store_->SubmitJob(job).ok());
  job.job_id = "job-b";
  job.request_digest = "two";
  const absl::Status status = store_->SubmitJob(job).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(base::ErrorReason(status), "REQUEST_ID_REUSED");
  EXPECT_EQ(base::GetErrorMetadata(status)["job_id"], "job-a");
}

TEST_F(StoreTest, IdsAreFoundByPrefix) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("abcdef01")).ok());
  ASSERT_TRUE(store_->SubmitJob(MakeJob("abcdef02")).ok());
  ASSERT_TRUE(store_->SubmitJob(MakeJob("abcdef")).ok());
  EXPECT_EQ(store_->GetJob("abcdef01")->job_id, "abcdef01");
  EXPECT_EQ(store_->GetJob("abcdef")->job_id, "abcdef");
  EXPECT_EQ(base::ErrorReason(store_->GetJob("abcdef0").status()),
            "JOB_ID_AMBIGUOUS");
  EXPECT_EQ(base::ErrorReason(store_->GetJob("abc").status()),
            "JOB_ID_TOO_SHORT");
  EXPECT_EQ(base::ErrorReason(store_->GetJob("zzzz").status()),
            "JOB_NOT_FOUND");
}

TEST_F(StoreTest, PagesOfAListMeetWithoutGapOrRepeat) {
  for (int i = 0; i < 25; ++i) {
    ASSERT_TRUE(store_->SubmitJob(MakeJob(absl::StrCat("job-", i))).ok());
  }
  std::vector<std::string> ids;
  int64_t before = 0;
  do {
    const auto page = store_->ListJobs({}, before, 10);
    ASSERT_TRUE(page.ok()) << page.status();
    for (const JobRecord& job : page->jobs) ids.push_back(job.job_id);
    before = page->next_before;
    // New jobs while somebody turns pages do not disturb.
    ASSERT_TRUE(
        store_->SubmitJob(MakeJob(absl::StrCat("late-", ids.size()))).ok());
  } while (before != 0);
  ASSERT_EQ(ids.size(), 25);
  EXPECT_EQ(ids.front(), "job-24");
  EXPECT_EQ(ids.back(), "job-0");
}

TEST_F(StoreTest, FiltersBindTheirWords) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  NewJob evaluate = MakeJob("job-b");
  evaluate.spec.mutable_evaluate()->set_model("tiny");
  (*evaluate.spec.mutable_labels())["team"] = "red'; DROP TABLE jobs; --";
  ASSERT_TRUE(store_->SubmitJob(evaluate).ok());
  using Field = FilterTerm::Field;
  auto ids = [this](const JobFilter& filter) {
    std::vector<std::string> result;
    const auto page = store_->ListJobs(filter, 0, 10);
    EXPECT_TRUE(page.ok()) << page.status();
    for (const JobRecord& job : page->jobs) result.push_back(job.job_id);
    return result;
  };
  using Ids = std::vector<std::string>;
  EXPECT_EQ(ids({{{Field::kKind, false, "", "evaluate"}}}), Ids{"job-b"});
  EXPECT_EQ(ids({{{Field::kMethod, false, "", "gptq"}}}), Ids{"job-a"});
  EXPECT_EQ(ids({{{Field::kLabel, false, "team", "blue"}}}), Ids{"job-a"});
  EXPECT_EQ(ids({{{Field::kLabel, true, "team", "blue"}}}), Ids{"job-b"});
  EXPECT_EQ(
      ids({{{Field::kLabel, false, "team", "red'; DROP TABLE jobs; --"}}}),
      Ids{"job-b"});
  EXPECT_EQ(ids({{{Field::kState, false, "", "RUNNING"},
                  {Field::kState, false, "", "QUEUED"}},
                 {{Field::kName, false, "", "tiny_job-a"}}}),
            Ids{"job-a"});
  EXPECT_EQ(base::ErrorReason(
                store_->ListJobs({{{Field::kState, false, "", "BUSY"}}}, 0, 5)
                    .status()),
            "JOB_STATE_UNKNOWN");
}

TEST_F(StoreTest, TheQueueGoesByPriorityThenAge) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a", 0)).ok());
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-b", 5)).ok());
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-c", 5)).ok());
  const auto queue = store_->QueueHead(10);
  ASSERT_EQ(queue->size(), 3);
  EXPECT_EQ((*queue)[0].job_id, "job-b");
  EXPECT_EQ((*queue)[1].job_id, "job-c");
  EXPECT_EQ((*queue)[2].job_id, "job-a");
  EXPECT_EQ(*store_->JobsAhead("job-a"), 2);
  EXPECT_EQ(*store_->JobsAhead("job-b"), 0);
}

TEST_F(StoreTest, ADrainedJobGoesToTheHeadOfItsBandWithItsAttemptBack) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  const LeaseKey lease = Grant("job-a");
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-b")).ok());
  // Even where its own place was further back.
  ASSERT_TRUE(
      store_->FinishAttempt(Finished(lease), Always(v1::JOB_STATE_FAILED))
          .ok());
  ASSERT_TRUE(store_->RetryJob("job-a", TestTime()).ok());
  ASSERT_EQ(store_->QueueHead(2)->front().job_id, "job-b");
  const LeaseKey again = Grant("job-a");
  EXPECT_EQ(store_->GetJob("job-a")->attempt, 2);
  auto drain = [](const JobRecord&) {
    Outcome outcome = OutcomeOf(v1::JOB_STATE_QUEUED);
    outcome.requeue_at_head = true;
    outcome.restore_attempt = true;
    return outcome;
  };
  ASSERT_TRUE(store_->FinishAttempt(Finished(again), drain).ok());
  EXPECT_EQ(store_->QueueHead(2)->front().job_id, "job-a");
  EXPECT_EQ(store_->GetJob("job-a")->attempt, 1);
}

TEST_F(StoreTest, AGrantFencesEveryOlderLease) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  const LeaseKey old_lease = Grant("job-a", "i1");
  ASSERT_TRUE(
      store_->EndLease(old_lease, Always(v1::JOB_STATE_QUEUED), TestTime())
          .ok());
  const LeaseKey lease = Grant("job-a", "i2");
  EXPECT_EQ(lease.epoch, old_lease.epoch + 1);
  const LeaseKey stale[] = {
      old_lease,                         // The old holder.
      {"job-a", lease.epoch, "i1"},      // The old process, new epoch.
      {"job-a", old_lease.epoch, "i2"},  // The new process, old epoch.
      {"job-a", lease.epoch + 1, "i2"},  // An epoch not granted yet.
      {"job-a", lease.epoch, ""},        // No incarnation.
      {"job-x", lease.epoch, "i2"},      // Another job.
  };
  for (const LeaseKey& key : stale) {
    const absl::Status statuses[] = {
        store_->MarkRunning(key, TestTime()), store_->SetPhase(key, "quantize"),
        store_->CommitStep(key, MakeStep(0), TestTime()),
        store_->FinishAttempt(Finished(key), Always(v1::JOB_STATE_SUCCEEDED))
            .status(),
        store_->EndLease(key, Always(v1::JOB_STATE_QUEUED), TestTime())
            .status()};
    for (const absl::Status& status : statuses) {
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_EQ(base::ErrorReason(status), "LEASE_LOST");
    }
  }
  const auto job = store_->GetJob("job-a");
  EXPECT_EQ(job->state, v1::JOB_STATE_LEASED);
  EXPECT_EQ(job->committed_steps, 0);
  EXPECT_TRUE(store_->MarkRunning(lease, TestTime()).ok());
  EXPECT_TRUE(store_->CommitStep(lease, MakeStep(0), TestTime()).ok());
}

TEST_F(StoreTest, ACommittedStepIsStoredOnceWithOneEvent) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  const LeaseKey lease = Grant("job-a");
  v1::Step step = MakeStep(0);
  step.add_layers()->set_name("model.layers.0.q");
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(store_->CommitStep(lease, step, TestTime()).ok());
  }
  const auto events = store_->ReadEvents("job-a", 1, 100);
  int steps = 0;
  for (const v1::Event& event : *events) {
    if (!event.has_step_committed()) continue;
    ++steps;
    EXPECT_EQ(event.step_committed().layers(0).name(), "model.layers.0.q");
  }
  EXPECT_EQ(steps, 1);
  (*step.mutable_blobs())["weights"].set_sha256(FakeDigest(99));
  EXPECT_EQ(base::ErrorReason(store_->CommitStep(lease, step, TestTime())),
            "STEP_CONFLICT");
}

TEST_F(StoreTest, ResumeSeesTheContiguousPrefixOfTheNewestFingerprint) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  const LeaseKey lease = Grant("job-a");
  for (int64_t step : {0, 1, 3}) {
    ASSERT_TRUE(store_->CommitStep(lease, MakeStep(step), TestTime()).ok());
  }
  EXPECT_EQ(store_->GetJob("job-a")->committed_steps, 2);
  EXPECT_EQ(store_->CommittedSteps("job-a")->size(), 2);
  ASSERT_TRUE(store_->CommitStep(lease, MakeStep(2), TestTime()).ok());
  EXPECT_EQ(store_->CommittedSteps("job-a")->size(), 4);
  ASSERT_TRUE(store_->CommitStep(lease, MakeStep(0, "other"), TestTime()).ok());
  const auto steps = store_->CommittedSteps("job-a");
  ASSERT_EQ(steps->size(), 1);
  EXPECT_EQ((*steps)[0].fingerprint(), "other");
}

TEST_F(StoreTest, AStepWhoseBlobIsAbsentIsRefusedWhole) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  const LeaseKey lease = Grant("job-a");
  missing_blob_ = FakeDigest(0);
  EXPECT_EQ(
      base::ErrorReason(store_->CommitStep(lease, MakeStep(0), TestTime())),
      "BLOB_MISSING");
  EXPECT_EQ(store_->GetJob("job-a")->committed_steps, 0);
  ExpectDenseHistory("job-a");
  missing_blob_.clear();
  EXPECT_TRUE(store_->CommitStep(lease, MakeStep(0), TestTime()).ok());
}

TEST_F(StoreTest, FinishPublishesTheArtifactsWithTheState) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  FinishedAttempt finished = Finished(Grant("job-a"));
  finished.report.set_float_bytes(42);
  v1::Artifact artifact;
  artifact.set_artifact_id("artifact-1");
  artifact.set_job_id("job-a");
  artifact.set_name("tiny_GPTQ");
  artifact.add_files()->set_path("model.safetensors");
  artifact.mutable_files(0)->mutable_blob()->set_sha256(FakeDigest(7));
  artifact.mutable_manifest()->set_sha256(FakeDigest(8));
  finished.artifacts.push_back(artifact);
  missing_blob_ = FakeDigest(7);
  EXPECT_EQ(base::ErrorReason(
                store_->FinishAttempt(finished, Always(v1::JOB_STATE_SUCCEEDED))
                    .status()),
            "BLOB_MISSING");
  EXPECT_EQ(StateOf("job-a"), v1::JOB_STATE_LEASED);
  EXPECT_FALSE(store_->GetArtifact("jobs/job-a").ok());
  missing_blob_.clear();
  ASSERT_EQ(*store_->FinishAttempt(finished, Always(v1::JOB_STATE_SUCCEEDED)),
            v1::JOB_STATE_SUCCEEDED);
  Reopen();
  const auto job = store_->GetJob("job-a");
  EXPECT_EQ(job->report.float_bytes(), 42);
  EXPECT_EQ(job->artifact_ids, std::vector<std::string>{"artifact-1"});
  EXPECT_EQ(store_->GetArtifact("jobs/job-a")->artifact_id(), "artifact-1");
  EXPECT_EQ(store_->GetArtifact("arti")->name(), "tiny_GPTQ");
  EXPECT_EQ(store_->ListArtifacts("", 0, 5)->artifacts.size(), 1);
  EXPECT_EQ(base::ErrorReason(store_->GetArtifact("nothing").status()),
            "ARTIFACT_NOT_FOUND");
}

TEST_F(StoreTest, ARepeatedFinishAnswersWhatTheFirstDid) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  const LeaseKey lease = Grant("job-a");
  const DecideFn fails = Always(v1::JOB_STATE_FAILED);
  ASSERT_EQ(*store_->FinishAttempt(Finished(lease), fails),
            v1::JOB_STATE_FAILED);
  ASSERT_TRUE(store_->RetryJob("job-a", TestTime()).ok());
  Grant("job-a", "i2");
  EXPECT_EQ(*store_->FinishAttempt(Finished(lease), fails),
            v1::JOB_STATE_FAILED);
  EXPECT_EQ(
      base::ErrorReason(
          store_->FinishAttempt(Finished(lease, "other"), fails).status()),
      "LEASE_LOST");
  EXPECT_EQ(StateOf("job-a"), v1::JOB_STATE_LEASED);
}

TEST_F(StoreTest, CancelWorksInEveryState) {
  for (const char* id : {"queued", "leased", "running", "done"}) {
    ASSERT_TRUE(store_->SubmitJob(MakeJob(id)).ok());
  }
  EXPECT_EQ(store_->CancelJob("queued", TestTime())->state,
            v1::JOB_STATE_CANCELLED);
  const LeaseKey leased = Grant("leased");
  EXPECT_EQ(store_->CancelJob("leased", TestTime())->state,
            v1::JOB_STATE_CANCELLING);
  const LeaseKey running = Grant("running");
  ASSERT_TRUE(store_->MarkRunning(running, TestTime()).ok());
  EXPECT_EQ(store_->CancelJob("running", TestTime())->state,
            v1::JOB_STATE_CANCELLING);
  const int64_t seq = store_->GetJob("running")->last_event_seq;
  EXPECT_EQ(store_->CancelJob("running", TestTime())->last_event_seq, seq);
  // The last step before the stop is kept.
  EXPECT_TRUE(store_->CommitStep(running, MakeStep(0), TestTime()).ok());
  EXPECT_EQ(
      *store_->FinishAttempt(Finished(leased), Always(v1::JOB_STATE_CANCELLED)),
      v1::JOB_STATE_CANCELLED);
  // Done before the cancel was seen: the result stands.
  EXPECT_EQ(*store_->FinishAttempt(Finished(running),
                                   Always(v1::JOB_STATE_SUCCEEDED)),
            v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(store_->CancelJob("running", TestTime())->state,
            v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(store_->CancelJob("nothing", TestTime()).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(StoreTest, OnlyFailedAndCancelledJobsAreRetried) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  EXPECT_EQ(base::ErrorReason(store_->RetryJob("job-a", TestTime()).status()),
            "JOB_STATE_CONFLICT");
  ASSERT_TRUE(store_->CancelJob("job-a", TestTime()).ok());
  const auto retried = store_->RetryJob("job-a", TestTime());
  ASSERT_TRUE(retried.ok());
  EXPECT_EQ(retried->state, v1::JOB_STATE_QUEUED);
  EXPECT_FALSE(retried->end_time.has_value());
}

TEST_F(StoreTest, APendingJobIsReleasedOnce) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  auto backoff = [](const JobRecord&) {
    Outcome outcome = OutcomeOf(v1::JOB_STATE_PENDING);
    outcome.backoff = absl::Seconds(15);
    outcome.transient_failures = 1;
    return outcome;
  };
  ASSERT_TRUE(store_->FinishAttempt(Finished(Grant("job-a")), backoff).ok());
  const auto pending = store_->PendingJobs();
  ASSERT_EQ(pending->size(), 1);
  EXPECT_EQ((*pending)[0].pending_reason, "BACKOFF");
  EXPECT_EQ((*pending)[0].backoff, absl::Seconds(15));
  EXPECT_EQ((*pending)[0].transient_failures, 1);
  EXPECT_TRUE(store_->ReleasePending("job-a", TestTime()).ok());
  EXPECT_EQ(
      base::ErrorReason(store_->ReleasePending("job-a", TestTime()).status()),
      "JOB_STATE_CONFLICT");
  Grant("job-a");
  EXPECT_FALSE(store_->ReleasePending("job-a", TestTime()).ok());
  EXPECT_EQ(StateOf("job-a"), v1::JOB_STATE_LEASED);
}

TEST_F(StoreTest, HistoryStaysDenseAcrossRestartsAndRefusals) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  for (int round = 0; round < 5; ++round) {
    const LeaseKey lease = Grant("job-a", absl::StrCat("i", round));
    EXPECT_FALSE(store_->MarkRunning({"job-a", 99, "x"}, TestTime()).ok());
    ASSERT_TRUE(store_->MarkRunning(lease, TestTime()).ok());
    ASSERT_TRUE(store_->CommitStep(lease, MakeStep(round), TestTime()).ok());
    ASSERT_TRUE(
        store_->EndLease(lease, Always(v1::JOB_STATE_QUEUED), TestTime()).ok());
    Reopen();
    ExpectDenseHistory("job-a");
  }
  EXPECT_EQ(store_->Attempts("job-a")->size(), 5);
}

TEST_F(StoreTest, SupersededActivationsGoAndNothingElse) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-b")).ok());
  const LeaseKey a = Grant("job-a", "i1");
  const LeaseKey b = Grant("job-b", "i2");
  for (int step = 0; step < 4; ++step) {
    ASSERT_TRUE(store_->CommitStep(a, MakeStep(step), TestTime()).ok());
  }
  // Another job stands at step 1: its activations are the same bytes.
  for (int step = 0; step < 2; ++step) {
    ASSERT_TRUE(store_->CommitStep(b, MakeStep(step), TestTime()).ok());
  }
  std::set<std::string> removed;
  auto remove = [&removed](const std::string& sha256) {
    removed.insert(sha256);
  };
  ASSERT_EQ(*store_->DropSuperseded("job-a", remove), 1);
  EXPECT_EQ(removed, (std::set<std::string>{FakeDigest(1002)}));
  ASSERT_TRUE(store_->DropSuperseded("job-b", remove).ok());
  EXPECT_EQ(removed,
            (std::set<std::string>{FakeDigest(1000), FakeDigest(1002)}));
  EXPECT_EQ(*store_->DropSuperseded("job-a", remove), 0);
}

TEST_F(StoreTest, OutputWeightsStayUntilTheJobHasSucceeded) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  const LeaseKey lease = Grant("job-a");
  ASSERT_TRUE(store_->MarkRunning(lease, TestTime()).ok());
  v1::Step first = MakeStep(0);
  (*first.mutable_blobs())["output_weights"].set_sha256(FakeDigest(2000));
  ASSERT_TRUE(store_->CommitStep(lease, first, TestTime()).ok());
  ASSERT_TRUE(store_->CommitStep(lease, MakeStep(1), TestTime()).ok());
  ASSERT_TRUE(store_->CommitStep(lease, MakeStep(2), TestTime()).ok());
  std::set<std::string> removed;
  const auto remove = [&removed](const std::string& sha256) {
    removed.insert(sha256);
  };
  ASSERT_TRUE(store_->DropSuperseded("job-a", remove).ok());
  EXPECT_FALSE(removed.contains(FakeDigest(2000)));
  ASSERT_TRUE(
      store_->FinishAttempt(Finished(lease), Always(v1::JOB_STATE_SUCCEEDED))
          .ok());
  EXPECT_EQ(*store_->JobsWithPassingBlobs(), std::vector<std::string>{"job-a"});
  ASSERT_TRUE(store_->DropSuperseded("job-a", remove).ok());
  EXPECT_TRUE(removed.contains(FakeDigest(2000)));
  EXPECT_TRUE(store_->JobsWithPassingBlobs()->empty());
}

TEST_F(StoreTest, RemembersTheNewestCatalogAndWorkers) {
  EXPECT_EQ(base::ErrorReason(store_->GetCatalog().status()), "NO_CATALOG");
  v1::Catalog catalog;
  catalog.set_code_version("v2");
  WorkerRecord worker;
  worker.worker_name = "w";
  worker.incarnation = "i1";
  worker.code_version = "v2";
  ASSERT_TRUE(store_->RegisterWorker(worker, catalog).ok());
  worker.incarnation = "i2";
  ASSERT_TRUE(store_->RegisterWorker(worker, catalog).ok());
  Reopen();
  EXPECT_EQ(store_->GetCatalog()->code_version(), "v2");
  ASSERT_EQ(store_->ListWorkers()->size(), 1);
  EXPECT_EQ((*store_->ListWorkers())[0].incarnation, "i2");
}

TEST_F(StoreTest, EventsReachTheSinkInCommitOrderBeforeTheAnswer) {
  absl::Mutex mu;
  std::vector<v1::Event> heard;
  store_->SetEventSink([&](const std::vector<v1::Event>& events) {
    absl::MutexLock lock(&mu);
    heard.insert(heard.end(), events.begin(), events.end());
  });
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([this, t, &mu, &heard] {
      const std::string id = absl::StrCat("job-", t);
      ASSERT_TRUE(store_->SubmitJob(MakeJob(id)).ok());
      ASSERT_TRUE(store_->CancelJob(id, TestTime()).ok());
      ASSERT_TRUE(store_->RetryJob(id, TestTime()).ok());
      absl::MutexLock lock(&mu);
      int64_t last = 0;
      for (const v1::Event& event : heard) {
        if (event.job_id() != id) continue;
        EXPECT_EQ(event.seq(), last + 1);
        last = event.seq();
      }
      EXPECT_EQ(last, 3);
    });
  }
  for (std::thread& thread : threads) thread.join();
  store_->SetEventSink(nullptr);
}

}  // namespace
}  // namespace quantd::store
