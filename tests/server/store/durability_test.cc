// SPDX-License-Identifier: Apache-2.0
// What the store promises about disks, processes and versions.
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "proto/base/error.h"
#include "server/store/data_lock.h"
#include "tests/server/store/store_fixture.h"

namespace quantd::store {
namespace {

std::string FileBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

absl::StatusOr<std::unique_ptr<SqliteStore>> OpenStore(
    const std::string& dir,
    const std::vector<Migration>* migrations = nullptr) {
  SqliteStore::Options options;
  options.data_dir = dir;
  options.migrations = migrations;
  return SqliteStore::Open(std::move(options));
}

TEST_F(StoreTest, ManyWritersShareOneCommit) {
  constexpr int kThreads = 32;
  constexpr int kJobs = 20;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < kJobs; ++i) {
        ASSERT_TRUE(
            store_->SubmitJob(MakeJob(absl::StrCat("job-", t, "-", i))).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const StoreStats stats = store_->Stats();
  EXPECT_EQ(stats.operations, kThreads * kJobs);
  EXPECT_LT(stats.commits, stats.operations);
  EXPECT_EQ((*store_->CountJobs())[v1::JOB_STATE_QUEUED], kThreads * kJobs);
}

// Submits until it is killed; each acknowledged id goes into the pipe.
[[noreturn]] void SubmitForever(const std::string& dir, int out) {
  auto store = OpenStore(dir);
  if (!store.ok()) _exit(1);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&store, out, t] {
      for (int i = 0;; ++i) {
        const std::string id = absl::StrCat("job-", t, "-", i);
        if (!(*store)->SubmitJob(MakeJob(id)).ok()) _exit(1);
        const std::string line = id + "\n";
        if (write(out, line.data(), line.size()) < 0) _exit(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  _exit(0);
}

TEST(DurabilityTest, NoAcknowledgedSubmitIsLostToAKill) {
  support::TemporaryDirectory dir;
  for (int round = 1; round <= 3; ++round) {
    const std::string round_dir = dir.File(absl::StrCat("r", round));
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(pipe_ends[0]);
      SubmitForever(round_dir, pipe_ends[1]);
    }
    close(pipe_ends[1]);
    std::string acknowledged;
    char buffer[4096];
    ssize_t got = 0;
    bool killed = false;
    while ((got = read(pipe_ends[0], buffer, sizeof(buffer))) > 0) {
      acknowledged.append(buffer, got);
      if (!killed && acknowledged.size() > 700u * round) {
        kill(child, SIGKILL);
        killed = true;
      }
    }
    close(pipe_ends[0]);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    auto store = OpenStore(round_dir);
    ASSERT_TRUE(store.ok()) << store.status();
    std::istringstream lines(acknowledged);
    std::string id;
    int count = 0;
    while (std::getline(lines, id)) {
      EXPECT_TRUE((*store)->GetJob(id).ok()) << id;
      ++count;
    }
    EXPECT_GT(count, 50);
  }
}

TEST_F(StoreTest, ASecondServerIsRefusedAtOnce) {
  const absl::Time start = absl::Now();
  const auto second = OpenStore(dir_.path());
  EXPECT_EQ(base::ErrorReason(second.status()), "DATA_DIR_LOCKED");
  EXPECT_LT(absl::Now() - start, absl::Seconds(1));
  store_.reset();
  EXPECT_TRUE(OpenStore(dir_.path()).ok());
}

TEST(DataLockTest, NetworkFileSystemsAreRecognised) {
  EXPECT_TRUE(IsNetworkFileSystem(0x6969));
  EXPECT_TRUE(IsNetworkFileSystem(0xff534d42));
  // The same number as a 32-bit f_type gives it: with its sign.
  EXPECT_TRUE(IsNetworkFileSystem(static_cast<int32_t>(0xff534d42)));
  EXPECT_FALSE(IsNetworkFileSystem(0xef53));
  EXPECT_FALSE(IsNetworkFileSystem(0x01021994));
}

TEST_F(StoreTest, ANewerDatabaseIsRefusedUntouched) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  store_.reset();
  const std::string path = dir_.File("quantd.db");
  {
    auto db = Connection::Open(path, Connection::Mode::kReadWrite);
    ASSERT_TRUE((*db)->Execute("PRAGMA user_version = 99").ok());
    ASSERT_TRUE((*db)->Execute("PRAGMA wal_checkpoint(TRUNCATE)").ok());
  }
  const std::string before = FileBytes(path);
  EXPECT_EQ(base::ErrorReason(OpenStore(dir_.path()).status()),
            "DATABASE_NEWER");
  EXPECT_EQ(FileBytes(path), before);
}

TEST(MigratorTest, AForeignDatabaseIsRefused) {
  support::TemporaryDirectory dir;
  {
    auto db =
        Connection::Open(dir.File("quantd.db"), Connection::Mode::kReadWrite);
    ASSERT_TRUE((*db)->Execute("CREATE TABLE theirs (x)").ok());
  }
  EXPECT_EQ(base::ErrorReason(OpenStore(dir.path()).status()),
            "DATABASE_FOREIGN");
}

TEST(MigratorTest, AFileThatIsNoDatabaseIsRefused) {
  support::TemporaryDirectory dir;
  std::ofstream(dir.File("quantd.db")) << std::string(5000, 'x');
  EXPECT_EQ(base::ErrorReason(OpenStore(dir.path()).status()), "STORE_CORRUPT");
}

TEST_F(StoreTest, AnOlderDatabaseIsBackedUpThenMigrated) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  store_.reset();
  std::vector<Migration> migrations = Migrations();
  const int64_t old_version = migrations.back().version;
  migrations.push_back(
      {old_version + 1, "CREATE TABLE newer (x INTEGER) STRICT"});
  const auto upgraded = OpenStore(dir_.path(), &migrations);
  ASSERT_TRUE(upgraded.ok()) << upgraded.status();
  EXPECT_TRUE((*upgraded)->GetJob("job-a").ok());
  EXPECT_EQ((*upgraded)->Stats().schema_version, old_version + 1);
  // The copy opens with the old schema and has the job.
  const std::string backup =
      dir_.File(absl::StrCat("quantd.db.v", old_version, ".backup"));
  support::TemporaryDirectory restored;
  std::filesystem::copy(backup, restored.File("quantd.db"));
  const auto old_store = OpenStore(restored.path());
  ASSERT_TRUE(old_store.ok()) << old_store.status();
  EXPECT_TRUE((*old_store)->GetJob("job-a").ok());
  EXPECT_EQ((*old_store)->Stats().schema_version, old_version);
}

TEST_F(StoreTest, AFailedMigrationLeavesTheOldSchema) {
  store_.reset();
  std::vector<Migration> migrations = Migrations();
  const int64_t old_version = migrations.back().version;
  migrations.push_back(
      {old_version + 1, "CREATE TABLE newer (x INTEGER); NOT SQL AT ALL"});
  EXPECT_FALSE(OpenStore(dir_.path(), &migrations).ok());
  Reopen();
  EXPECT_EQ(store_->Stats().schema_version, old_version);
}

TEST_F(StoreTest, ABackupUnderLoadOpensAndIsWhole) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-first")).ok());
  std::atomic<bool> stop{false};
  std::thread load([this, &stop] {
    for (int i = 0; !stop; ++i) {
      ASSERT_TRUE(store_->SubmitJob(MakeJob(absl::StrCat("job-", i))).ok());
    }
  });
  support::TemporaryDirectory restored;
  const absl::Status status = store_->BackUpTo(restored.File("quantd.db"));
  stop = true;
  load.join();
  ASSERT_TRUE(status.ok()) << status;
  auto copy = OpenStore(restored.path());
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_TRUE((*copy)->GetJob("job-first").ok());
}

TEST_F(StoreTest, ChecksRefuseIllegalRows) {
  ASSERT_TRUE(store_->SubmitJob(MakeJob("job-a")).ok());
  store_.reset();
  auto db =
      Connection::Open(dir_.File("quantd.db"), Connection::Mode::kReadWrite);
  ASSERT_TRUE(db.ok());
  const char* const illegal[] = {
      "UPDATE jobs SET state = 9",
      "UPDATE jobs SET state = 0",
      "UPDATE jobs SET state = 6",                     // No finalized_at.
      "UPDATE jobs SET state = 8",                     // The same.
      "UPDATE jobs SET finalized_at = 1",              // But queued.
      "UPDATE jobs SET state = 3",                     // No holder.
      "UPDATE jobs SET state = 4, incarnation = 'i'",  // No worker.
      "UPDATE jobs SET incarnation = 'i'",             // Held, but queued.
      "UPDATE jobs SET state = 1",                     // Waits for nothing.
      "UPDATE jobs SET pending_reason = 'BACKOFF'",    // But queued.
      "UPDATE jobs SET state = 7, finalized_at = 1",   // Without a failure.
      "UPDATE jobs SET failure_class = 'INVALID'",     // But queued.
      "UPDATE jobs SET failure_class = 'STRANGE'",
      "UPDATE jobs SET attempt = 1",  // Above the epoch.
      "UPDATE jobs SET epoch = -1",
      "UPDATE jobs SET epoch = 'many'",  // STRICT.
      "UPDATE jobs SET kind = 'dance'",
      "INSERT INTO events VALUES ('job-a', 0, x'')",
      "INSERT INTO events VALUES ('job-a', 1, x'')",  // Twice.
      "INSERT INTO events VALUES ('job-x', 1, x'')",  // Of no job.
      "INSERT INTO steps VALUES ('job-a', '', 0, x'', 0)",
      "INSERT INTO step_blobs VALUES ('job-a', 'f', 0, 'w', 'short', 1)",
      "INSERT INTO catalog VALUES (2, x'')",
  };
  for (const char* sql : illegal) {
    EXPECT_EQ(base::ErrorReason((*db)->Execute(sql)), "STORE_CONSTRAINT")
        << sql;
  }
  EXPECT_TRUE(
      (*db)->Execute("UPDATE jobs SET state = 8, finalized_at = 1").ok());
}

// A tmpfs of its own that is full on demand.
class FullDiskTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0 ||
        mount("none", dir_.path().c_str(), "tmpfs", 0, "size=3m") != 0) {
      GTEST_SKIP() << "mounting a tmpfs needs root";
    }
    mounted_ = true;
  }
  void TearDown() override {
    if (mounted_) umount2(dir_.path().c_str(), MNT_DETACH);
  }

  support::TemporaryDirectory dir_;
  bool mounted_ = false;
};

TEST_F(FullDiskTest, IsATypedErrorAndHealsWithoutARestart) {
  auto opened = OpenStore(dir_.File("data"));
  ASSERT_TRUE(opened.ok()) << opened.status();
  SqliteStore& store = **opened;
  std::ofstream(dir_.File("ballast")) << std::string(1 << 20, 'x');
  std::set<std::string> acknowledged;
  absl::Status refusal;
  for (int i = 0; i < 100 && refusal.ok(); ++i) {
    NewJob job = MakeJob(absl::StrCat("job-", i));
    job.spec.mutable_quantize()->set_model(std::string(50'000, 'm'));
    refusal = store.SubmitJob(job).status();
    if (refusal.ok()) acknowledged.insert(job.job_id);
  }
  EXPECT_EQ(refusal.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(base::ErrorReason(refusal), "DISK_FULL");
  EXPECT_FALSE(store.Stats().ready);
  EXPECT_FALSE(acknowledged.empty());
  for (const std::string& id : acknowledged) {
    EXPECT_TRUE(store.GetJob(id).ok());
  }
  std::filesystem::remove(dir_.File("ballast"));
  const absl::Time deadline = absl::Now() + absl::Seconds(5);
  while (!store.Stats().ready && absl::Now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_TRUE(store.Stats().ready);
  EXPECT_TRUE(store.SubmitJob(MakeJob("job-after")).ok());
  EXPECT_EQ((*store.CountJobs())[v1::JOB_STATE_QUEUED],
            acknowledged.size() + 1);
}

}  // namespace
}  // namespace quantd::store
