// SPDX-License-Identifier: Apache-2.0
// The program quantd itself: signals, port file, refusals.
#include "tests/support/process.h"

#include <signal.h>

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/base/atomic_file.h"
#include "server/api/listen_address.h"
#include "tests/support/test_data.h"

namespace quantd::api {
namespace {

using ::testing::HasSubstr;

class QuantdTest : public ::testing::Test {
 protected:
  std::vector<std::string> Command(
      const std::vector<std::string>& more = {}) const {
    std::vector<std::string> argv = {support::Program("quantd"),
                                     "--data-dir",
                                     directory_.File("data"),
                                     "--listen",
                                     "127.0.0.1:0",
                                     "--http-listen",
                                     "127.0.0.1:0",
                                     "--port-file",
                                     directory_.File("ports")};
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
  }
  bool AwaitPorts() {
    return support::WaitFor(absl::Seconds(30), [this] {
      const auto text = base::ReadFile(directory_.File("ports"));
      if (text.ok()) ports_ = *text;
      return text.ok();
    });
  }

  support::TemporaryDirectory directory_;
  std::string ports_;
};

TEST_F(QuantdTest, SigtermEndsItWithZeroInSecondsAndTheLogIsCheckpointed) {
  support::Process quantd(Command(), directory_.File("log"));
  ASSERT_TRUE(AwaitPorts());
  EXPECT_THAT(ports_, ::testing::MatchesRegex(
                          "grpc=127.0.0.1:[0-9]+\nhttp=127.0.0.1:[0-9]+\n"));
  quantd.Signal(SIGTERM);
  EXPECT_EQ(quantd.Wait(absl::Seconds(10)), 0);
  const auto log = support::RunCommand(
      {"/bin/sh", "-c", "cat " + directory_.File("data") + "/*-wal | wc -c"});
  EXPECT_THAT(log.output, HasSubstr("0"));
}

TEST_F(QuantdTest, ASecondServerOnTheSameDataIsRefused) {
  support::Process quantd(Command(), directory_.File("log"));
  ASSERT_TRUE(AwaitPorts());
  const auto second = support::RunCommand(Command());
  EXPECT_EQ(second.exit_code, 1);
  EXPECT_THAT(second.output, HasSubstr("DATA_DIR_LOCKED"));
}

TEST_F(QuantdTest, OtherAddressesThanLoopbackAreRefusedInPlainWords) {
  for (const char* flag : {"--listen", "--http-listen"}) {
    const auto result = support::RunCommand(Command({flag, "0.0.0.0:0"}));
    EXPECT_NE(result.exit_code, 0);
    EXPECT_THAT(result.output, HasSubstr("LISTEN_NOT_LOOPBACK"));
    EXPECT_THAT(result.output, HasSubstr("TLS"));
  }
}

TEST_F(QuantdTest, WrongSettingsAreUsageErrorsThatNameTheNearest) {
  ASSERT_TRUE(
      base::WriteFileAtomically(directory_.File("c.yaml"), "lease_ttx: 30\n")
          .ok());
  auto result =
      support::RunCommand(Command({"--config", directory_.File("c.yaml")}));
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.output, HasSubstr("lease_ttl"));
  result = support::RunCommand(Command({"--lease-ttl", "soon"}));
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.output, HasSubstr("--lease-ttl"));
  EXPECT_EQ(
      support::RunCommand({support::Program("quantd"), "--version"}).exit_code,
      0);
}

TEST(ListenAddress, OnlyLoopbackIsTaken) {
  for (const char* good :
       {"127.0.0.1:1", "127.8.9.1:0", "localhost:65535", "[::1]:7433"}) {
    EXPECT_TRUE(ParseLoopback(good, "--listen").ok()) << good;
  }
  for (const char* bad :
       {"", ":1", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "10.0.0.1:1",
        "[::]:1", "0.0.0.0:1", "localhost.example:1", "127.0.0.1.example:1",
        "[::ffff:10.0.0.1]:1"}) {
    EXPECT_FALSE(ParseLoopback(bad, "--listen").ok()) << bad;
  }
  EXPECT_EQ(AddressText("::1", 5), "[::1]:5");
}

}  // namespace
}  // namespace quantd::api
