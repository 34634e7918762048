// SPDX-License-Identifier: Apache-2.0
// A server for one command, and Ctrl-C.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "client/commands/interrupt.h"
#include "tests/client/fakes/qctl.h"

namespace quantd::commands {
namespace {

using fakes::Outcome;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class LocalTest : public ::testing::Test {
 protected:
  LocalTest() {
    qctl_.program_directory = folder_.path();
    qctl_.environment = {{"XDG_STATE_HOME", folder_.File("state")}};
  }

  // A script in quantd's place.
  void WriteQuantd(const std::string& body) {
    std::ofstream(folder_.File("quantd"))
        << "#!/bin/bash\ncd " << folder_.path() << "\n"
        << body;
    chmod(folder_.File("quantd").c_str(), 0755);
  }

  fakes::FakeServer server_;
  fakes::Qctl qctl_;
  support::TemporaryDirectory folder_;
};

TEST_F(LocalTest, TheServerBesideQctlServesOneCommandAndIsStopped) {
  WriteQuantd(
      absl::StrCat("echo \"$@\" > arguments\n"
                   "trap 'touch stopped; exit 0' TERM\n"
                   "echo grpc=",
                   server_.address(),
                   " > new; mv new state/quantd/local/ports\n"
                   "while true; do read -t 0.05 < <(:); done\n"));
  server_.jobs = {fakes::RunningJob()};
  const Outcome outcome = qctl_.Run({"--local", "list", "-o", "name"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "k3f9x2ab7cdefghjkmnp\n");
  EXPECT_TRUE(std::filesystem::exists(folder_.File("stopped")));
  std::ifstream arguments(folder_.File("arguments"));
  std::string line;
  std::getline(arguments, line);
  EXPECT_THAT(line,
              AllOf(HasSubstr("--embedded"), HasSubstr("--listen 127.0.0.1:0"),
                    HasSubstr("state/quantd/local")));
}

TEST_F(LocalTest, AServerThatEndsIsReportedWithItsLog) {
  WriteQuantd("echo the data folder is in use; exit 1\n");
  const Outcome outcome = qctl_.Run({"--local", "list"});
  EXPECT_EQ(outcome.code, 8);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("the data folder is in use"),
                                 HasSubstr("[LOCAL_SERVER_FAILED]")));
}

TEST_F(LocalTest, AMissingServerIsReported) {
  const Outcome outcome = qctl_.Run({"--local", "list"});
  EXPECT_EQ(outcome.code, 8);
  EXPECT_THAT(outcome.err, HasSubstr("[LOCAL_SERVER_FAILED]"));
}

TEST(InterruptTest, ActionsRunNewestFirstThenTheProgramEndsWith130) {
  std::vector<int> order;
  Interrupt interrupt([&](int code) { order.push_back(code); });
  const Interrupt::Scope first(interrupt, [&] { order.push_back(1); });
  {
    const Interrupt::Scope gone(interrupt, [&] { order.push_back(2); });
  }
  const Interrupt::Scope last(interrupt, [&] { order.push_back(3); });
  interrupt.Trigger();
  EXPECT_THAT(order, ElementsAre(3, 1, 130));
}

}  // namespace
}  // namespace quantd::commands
