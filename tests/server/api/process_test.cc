// SPDX-License-Identifier: Apache-2.0
// The program quantd itself: signals, port file, refusals.
#include "tests/support/process.h"

#include <signal.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/base/atomic_file.h"
#include "quantd/v1/worker.pb.h"
#include "server/api/listen_address.h"
#include "tests/server/api/raw_stream.h"
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
  // Of "grpc" or "http", from the port file.
  std::string Address(const std::string& which) const {
    for (const auto line : absl::StrSplit(ports_, '\n')) {
      const std::pair<std::string, std::string> field =
          absl::StrSplit(line, absl::MaxSplits('=', 1));
      if (field.first == which) return field.second;
    }
    return "";
  }
  std::shared_ptr<grpc::Channel> Channel() const {
    return grpc::CreateChannel(Address("grpc"),
                               grpc::InsecureChannelCredentials());
  }
  // The first part of a blob whose other bytes do not come.
  static std::string UploadOfTenBytes() {
    v1::WriteBlobRequest request;
    request.mutable_blob()->set_sha256(std::string(64, 'a'));
    request.mutable_blob()->set_size_bytes(10);
    request.set_data("half");
    return request.SerializeAsString();
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

// An upload that never ends keeps a stopping server in its drain.
TEST_F(QuantdTest, WhileItDrainsItIsNotReadyAndASecondSignalDoesNotWait) {
  support::Process quantd(Command(), directory_.File("log"));
  ASSERT_TRUE(AwaitPorts());
  RawStream upload(Channel(), "/quantd.v1.WorkerService/WriteBlob");
  upload.Write(UploadOfTenBytes());
  // The server has begun with it once its temporary file is there.
  ASSERT_TRUE(support::WaitFor(absl::Seconds(30), [this] {
    return !std::filesystem::is_empty(directory_.File("data/blobs/tmp"));
  }));
  const auto ready = [this] {
    return support::RunCommand({"/usr/bin/curl", "-s", "-o", "/dev/null", "-w",
                                "%{http_code}",
                                "http://" + Address("http") + "/readyz"})
        .output;
  };
  EXPECT_EQ(ready(), "200");
  quantd.Signal(SIGTERM);
  EXPECT_TRUE(
      support::WaitFor(absl::Seconds(4), [&] { return ready() == "503"; }));
  EXPECT_TRUE(quantd.running());
  quantd.Signal(SIGINT);
  EXPECT_EQ(quantd.Wait(absl::Seconds(30)), 128 + SIGINT);
  // What was half written harms no start.
  support::Process next(Command(), directory_.File("log"));
  ASSERT_TRUE(support::WaitFor(
      absl::Seconds(30), [&] { return AwaitPorts() && ready() == "200"; }));
}

TEST_F(QuantdTest, AnUploadThatNeverEndsHoldsTheStopUpForItsGraceAlone) {
  support::Process quantd(Command(), directory_.File("log"));
  ASSERT_TRUE(AwaitPorts());
  RawStream upload(Channel(), "/quantd.v1.WorkerService/WriteBlob");
  upload.Write(UploadOfTenBytes());
  quantd.Signal(SIGTERM);
  EXPECT_EQ(quantd.Wait(absl::Seconds(10)), 0);
}

TEST_F(QuantdTest, ReflectionIsServedWhereItIsAskedFor) {
  support::Process quantd(Command({"--reflection"}), directory_.File("log"));
  ASSERT_TRUE(AwaitPorts());
  RawStream reflection(
      Channel(),
      "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
  reflection.Write(std::string("\x3a\x00", 2));  // list_services
  const std::optional<std::string> services = reflection.Read();
  ASSERT_TRUE(services.has_value());
  for (const char* service :
       {"quantd.v1.JobService", "quantd.v1.ArtifactService",
        "quantd.v1.CatalogService", "quantd.v1.ServerService",
        "quantd.v1.WorkerService", "grpc.health.v1.Health"}) {
    EXPECT_THAT(*services, HasSubstr(service));
  }
}

TEST_F(QuantdTest, AnHttpAddressOfIpVersion6IsServedOrRefusedAsSuch) {
  support::Process quantd(Command({"--http-listen", "[::1]:0"}),
                          directory_.File("log"));
  ASSERT_TRUE(support::WaitFor(absl::Seconds(30), [&] {
    return base::ReadFile(directory_.File("ports")).ok() || !quantd.running();
  }));
  if (quantd.running()) {
    ASSERT_TRUE(AwaitPorts());
    EXPECT_THAT(Address("http"), ::testing::StartsWith("[::1]:"));
  } else {
    EXPECT_THAT(*base::ReadFile(directory_.File("log")),
                HasSubstr("IP version 6"));
  }
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
