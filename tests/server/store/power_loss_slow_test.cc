// SPDX-License-Identifier: Apache-2.0
// A power cut on a real journaled file system: an ext4 image whose kernel side
// is shut down without a flush while a process submits jobs.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/server/store/store_fixture.h"

namespace quantd::store {
namespace {

bool Shell(const std::string& command) {
  return std::system((command + " >/dev/null 2>&1").c_str()) == 0;
}

class PowerLossTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0 || !Shell("command -v xfs_io") ||
        !Shell("command -v mkfs.ext4")) {
      GTEST_SKIP() << "needs root, xfs_io and mkfs.ext4";
    }
    image_ = dir_.File("disk.img");
    mount_point_ = dir_.File("mnt");
    std::filesystem::create_directory(mount_point_);
    if (!Shell("truncate -s 128M " + image_) ||
        !Shell("mkfs.ext4 -q -F " + image_) || !Mount()) {
      GTEST_SKIP() << "loop mounts do not work here";
    }
  }
  void TearDown() override {
    if (mounted_) Shell("umount -l " + mount_point_);
  }
  bool Mount() {
    mounted_ = Shell("mount -o loop " + image_ + " " + mount_point_);
    return mounted_;
  }
  // Drops everything that was not synced, then comes back.
  bool CutPower() { return Shell("xfs_io -x -c shutdown " + mount_point_); }
  bool Restart() {
    mounted_ = false;
    return Shell("umount " + mount_point_) && Mount();
  }

  support::TemporaryDirectory dir_;
  std::string image_;
  std::string mount_point_;
  bool mounted_ = false;
};

absl::StatusOr<std::unique_ptr<SqliteStore>> OpenStore(
    const std::string& mount_point) {
  SqliteStore::Options options;
  options.data_dir = mount_point + "/data";
  return SqliteStore::Open(std::move(options));
}

[[noreturn]] void SubmitUntilTheDiskIsGone(const std::string& mount_point,
                                           int out) {
  auto store = OpenStore(mount_point);
  if (!store.ok()) _exit(1);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&store, out, t] {
      for (int i = 0;; ++i) {
        const std::string id = absl::StrCat("job-", t, "-", i);
        if (!(*store)->SubmitJob(MakeJob(id)).ok()) return;
        const std::string line = id + "\n";
        if (write(out, line.data(), line.size()) < 0) return;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  _exit(0);
}

TEST_F(PowerLossTest, NoAcknowledgedSubmitIsLost) {
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    close(pipe_ends[0]);
    SubmitUntilTheDiskIsGone(mount_point_, pipe_ends[1]);
  }
  close(pipe_ends[1]);
  std::string acknowledged;
  char buffer[4096];
  ssize_t got = 0;
  // What was acknowledged before the cut began. While it goes on the kernel may
  // answer a sync that it is about to forget, which no power cut does.
  size_t promised = 0;
  while ((got = read(pipe_ends[0], buffer, sizeof(buffer))) > 0) {
    acknowledged.append(buffer, got);
    if (promised == 0 && acknowledged.size() > 3000) {
      promised = acknowledged.rfind('\n') + 1;
      ASSERT_TRUE(CutPower());
    }
  }
  close(pipe_ends[0]);
  kill(child, SIGKILL);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_GT(promised, 0);
  ASSERT_TRUE(Restart());
  auto store = OpenStore(mount_point_);
  ASSERT_TRUE(store.ok()) << store.status();
  std::istringstream lines(acknowledged.substr(0, promised));
  std::string id;
  int count = 0;
  while (std::getline(lines, id)) {
    ++count;
    EXPECT_TRUE((*store)->GetJob(id).ok()) << id;
  }
  EXPECT_GT(count, 200);
  RecordProperty("acknowledged", count);
  store->reset();
  auto db = Connection::Open(mount_point_ + "/data/quantd.db",
                             Connection::Mode::kReadOnly);
  ASSERT_TRUE(db.ok());
  auto check = (*db)->Prepare("PRAGMA integrity_check");
  ASSERT_TRUE(*check->Step());
  EXPECT_EQ(check->ColumnText(0), "ok");
}

}  // namespace
}  // namespace quantd::store
