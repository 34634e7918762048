// SPDX-License-Identifier: Apache-2.0
#include "server/events/watch.h"

#include <algorithm>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "gtest/gtest.h"
#include "proto/base/error.h"

namespace quantd::events {
namespace {

constexpr char kJob[] = "job-1";

v1::Event StepEvent(int64_t seq) {
  v1::Event event;
  event.set_job_id(kJob);
  event.set_seq(seq);
  event.mutable_step_committed()->set_step(seq);
  return event;
}

v1::Event StateEvent(int64_t seq, v1::JobState to) {
  v1::Event event;
  event.set_job_id(kJob);
  event.set_seq(seq);
  event.mutable_state_changed()->set_to(to);
  return event;
}

v1::Event ProgressEvent(const std::string& detail) {
  v1::Event event;
  event.set_job_id(kJob);
  event.mutable_progress()->set_detail(detail);
  return event;
}

// A store of one job's history, and the hub that hears of it after.
class FakeHistory {
 public:
  void Commit(const v1::Event& event) {
    {
      absl::MutexLock lock(&mu_);
      events_.push_back(event);
      if (event.has_state_changed()) {
        terminal_ = event.state_changed().to() == v1::JOB_STATE_SUCCEEDED ||
                    event.state_changed().to() == v1::JOB_STATE_FAILED;
      }
    }
    hub_.Publish({event});
  }
  // Stored, and the news still on their way.
  void CommitSilently(const v1::Event& event) {
    absl::MutexLock lock(&mu_);
    events_.push_back(event);
  }
  ReadHistory Reader(size_t page = 3) {
    return [this, page](const std::string&,
                        int64_t from) -> absl::StatusOr<History> {
      absl::MutexLock lock(&mu_);
      History history;
      for (const v1::Event& event : events_) {
        if (event.seq() >= from && history.events.size() < page) {
          history.events.push_back(event);
        }
      }
      history.last_seq = events_.empty() ? 0 : events_.back().seq();
      history.terminal = terminal_;
      return history;
    };
  }
  Hub& hub() { return hub_; }

 private:
  absl::Mutex mu_;
  std::vector<v1::Event> events_ ABSL_GUARDED_BY(mu_);
  bool terminal_ ABSL_GUARDED_BY(mu_) = false;
  Hub hub_;
};

std::vector<int64_t> Drain(Watch& watch) {
  std::vector<int64_t> seqs;
  while (true) {
    auto event = watch.Next(absl::ZeroDuration());
    if (!event.ok() || !event->has_value()) return seqs;
    if ((*event)->seq() != 0) seqs.push_back((*event)->seq());
  }
}

TEST(WatchTest, ReplaysHistoryThenGoesOnLive) {
  FakeHistory store;
  for (int64_t seq = 1; seq <= 7; ++seq) store.Commit(StepEvent(seq));
  Watch watch(store.hub(), store.Reader(), kJob, 0);
  EXPECT_EQ(Drain(watch), (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7}));
  store.Commit(StepEvent(8));
  EXPECT_EQ(Drain(watch), (std::vector<int64_t>{8}));
  EXPECT_EQ(watch.last_seq(), 8);
  EXPECT_FALSE(watch.finished());
}

TEST(WatchTest, AnEventThatHistoryHadAlreadyIsNotRepeated) {
  FakeHistory store;
  store.Commit(StepEvent(1));
  Watch watch(store.hub(), store.Reader(), kJob, 1);
  store.CommitSilently(StepEvent(2));
  EXPECT_EQ(Drain(watch), (std::vector<int64_t>{1, 2}));
  store.hub().Publish({StepEvent(2)});
  store.Commit(StepEvent(3));
  EXPECT_EQ(Drain(watch), (std::vector<int64_t>{3}));
}

TEST(WatchTest, ResumesAtAnyNumber) {
  FakeHistory store;
  for (int64_t seq = 1; seq <= 9; ++seq) store.Commit(StepEvent(seq));
  for (int64_t from = 1; from <= 10; ++from) {
    Watch watch(store.hub(), store.Reader(), kJob, from);
    const std::vector<int64_t> seqs = Drain(watch);
    ASSERT_EQ(seqs.size(), 10 - from);
    if (!seqs.empty()) {
      EXPECT_EQ(seqs.front(), from);
    }
  }
}

TEST(WatchTest, EndsAfterTheLastEventOfATerminalJob) {
  FakeHistory store;
  store.Commit(StateEvent(1, v1::JOB_STATE_QUEUED));
  Watch watch(store.hub(), store.Reader(), kJob, 1);
  EXPECT_EQ(Drain(watch), (std::vector<int64_t>{1}));
  store.Commit(StateEvent(2, v1::JOB_STATE_SUCCEEDED));
  EXPECT_EQ(Drain(watch), (std::vector<int64_t>{2}));
  EXPECT_TRUE(watch.finished());
}

TEST(WatchTest, AFailureThatWasRetriedDoesNotEndTheStream) {
  FakeHistory store;
  store.Commit(StateEvent(1, v1::JOB_STATE_FAILED));
  store.Commit(StateEvent(2, v1::JOB_STATE_QUEUED));
  Watch watch(store.hub(), store.Reader(1), kJob, 1);
  EXPECT_EQ(Drain(watch), (std::vector<int64_t>{1, 2}));
  EXPECT_FALSE(watch.finished());
}

TEST(WatchTest, AWatchOfAFinishedJobBeyondItsEndEndsAtOnce) {
  FakeHistory store;
  store.Commit(StateEvent(1, v1::JOB_STATE_SUCCEEDED));
  Watch watch(store.hub(), store.Reader(), kJob, 2);
  EXPECT_TRUE(Drain(watch).empty());
  EXPECT_TRUE(watch.finished());
}

TEST(WatchTest, OnlyTheNewestProgressIsKept) {
  FakeHistory store;
  Watch watch(store.hub(), store.Reader(), kJob, 1);
  EXPECT_FALSE(watch.Next(absl::ZeroDuration())->has_value());
  for (const char* detail : {"a", "b", "c"}) {
    store.hub().Publish({ProgressEvent(detail)});
  }
  EXPECT_EQ((*watch.Next(absl::ZeroDuration()))->progress().detail(), "c");
  EXPECT_FALSE(watch.Next(absl::ZeroDuration())->has_value());
}

TEST(WatchTest, ASlowWatcherIsEndedAndResumesWithoutAGap) {
  FakeHistory store;
  Watch watch(store.hub(), store.Reader(), kJob, 1);
  EXPECT_TRUE(Drain(watch).empty());
  const int64_t count = kMaxQueuedEvents + 1;
  for (int64_t seq = 1; seq <= count; ++seq) store.Commit(StepEvent(seq));
  const auto event = watch.Next(absl::ZeroDuration());
  EXPECT_EQ(base::ErrorReason(event.status()), "EVENTS_OVERFLOW");
  Watch again(store.hub(), store.Reader(500), kJob, watch.last_seq() + 1);
  EXPECT_EQ(Drain(again).size(), count);
}

TEST(WatchTest, AFullQueueStillTakesProgress) {
  FakeHistory store;
  Watch watch(store.hub(), store.Reader(), kJob, 1);
  EXPECT_TRUE(Drain(watch).empty());
  for (size_t seq = 1; seq <= kMaxQueuedEvents; ++seq) {
    store.Commit(StepEvent(seq));
  }
  for (int i = 0; i < 100; ++i) store.hub().Publish({ProgressEvent("x")});
  EXPECT_EQ(Drain(watch).size(), kMaxQueuedEvents);
}

TEST(WatchTest, CutsAtRandomPlacesNeverLoseOrRepeat) {
  FakeHistory store;
  std::thread writer([&store] {
    for (int64_t seq = 1; seq < 3000; ++seq) store.Commit(StepEvent(seq));
    store.Commit(StateEvent(3000, v1::JOB_STATE_SUCCEEDED));
  });
  std::mt19937 random(7);
  std::vector<int64_t> seen;
  bool finished = false;
  while (!finished) {
    Watch watch(store.hub(), store.Reader(50), kJob, seen.size() + 1);
    for (int left = random() % 200; left >= 0 && !watch.finished(); --left) {
      const auto event = watch.Next(absl::Milliseconds(100));
      if (!event.ok()) break;
      if (event->has_value()) seen.push_back((*event)->seq());
    }
    finished = watch.finished();
  }
  writer.join();
  ASSERT_EQ(seen.size(), 3000);
  for (size_t i = 0; i < seen.size(); ++i) ASSERT_EQ(seen[i], i + 1);
}

TEST(HubTest, ForgetsWatchersThatAreGone) {
  Hub hub;
  auto subscription = hub.Subscribe(kJob);
  EXPECT_EQ(hub.num_subscribers(), 1);
  subscription.reset();
  EXPECT_EQ(hub.num_subscribers(), 0);
}

TEST(HubTest, CallsOnReadyForEachEvent) {
  Hub hub;
  int calls = 0;
  auto subscription = hub.Subscribe(kJob, [&calls] { ++calls; });
  hub.Publish({StepEvent(1), StepEvent(2)});
  hub.Publish({ProgressEvent("x")});
  EXPECT_EQ(calls, 3);
}

}  // namespace
}  // namespace quantd::events
