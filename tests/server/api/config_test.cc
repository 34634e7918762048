// SPDX-License-Identifier: Apache-2.0
#include "server/config.h"

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "tests/support/test_data.h"

namespace quantd::server {
namespace {

absl::StatusOr<std::optional<Config>> Load(
    std::vector<const char*> flags,
    const std::map<std::string, std::string>& environment = {}) {
  flags.insert(flags.begin(), "quantd");
  return LoadConfig(static_cast<int>(flags.size()), flags.data(),
                    [&](const std::string& name) -> const char* {
                      const auto found = environment.find(name);
                      return found == environment.end() ? nullptr
                                                        : found->second.c_str();
                    });
}

TEST(Config, FileIsBelowEnvironmentIsBelowFlag) {
  support::TemporaryDirectory directory;
  const std::string file = directory.File("quantd.yaml");
  ASSERT_TRUE(base::WriteFileAtomically(
                  file,
                  "lease_ttl: 10\nlisten: 127.0.0.1:1\nembedded: true\n"
                  "data_dir: /from/file\n")
                  .ok());
  const auto config = Load({"--config", file.c_str(), "--data-dir", "/flag"},
                           {{"QUANTD_LISTEN", "127.0.0.1:2"},
                            {"QUANTD_DATA_DIR", "/from/environment"}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ((*config)->lease_ttl, absl::Seconds(10));
  EXPECT_EQ((*config)->listen, "127.0.0.1:2");
  EXPECT_EQ((*config)->data_dir, "/flag");
  EXPECT_TRUE((*config)->embedded);
  EXPECT_EQ((*config)->http_listen, "127.0.0.1:7434");
}

TEST(Config, TheDataDirectoryFollowsXdg) {
  EXPECT_EQ((*Load({}, {{"XDG_STATE_HOME", "/x"}}))->data_dir, "/x/quantd");
  EXPECT_EQ((*Load({}, {{"HOME", "/h"}}))->data_dir, "/h/.local/state/quantd");
}

TEST(Config, TheAnnotatedExampleIsValidAndSaysTheDefaults) {
  const std::string file = support::SourcePath("deploy/config/quantd.yaml");
  const auto example = Load({"--config", file.c_str()}, {{"HOME", "/h"}});
  ASSERT_TRUE(example.ok()) << example.status();
  const auto defaults = Load({}, {{"HOME", "/h"}});
  EXPECT_EQ((*example)->listen, (*defaults)->listen);
  EXPECT_EQ((*example)->http_listen, (*defaults)->http_listen);
  EXPECT_EQ((*example)->lease_ttl, (*defaults)->lease_ttl);
  EXPECT_EQ((*example)->log_level, (*defaults)->log_level);
  EXPECT_EQ((*example)->embedded, (*defaults)->embedded);
  EXPECT_EQ((*example)->device, (*defaults)->device);
  EXPECT_EQ((*example)->reflection, (*defaults)->reflection);
}

TEST(Config, WrongValuesAreRefused) {
  for (const std::vector<const char*>& flags :
       {std::vector<const char*>{"--lease-ttl", "0"},
        {"--lease-ttl", "nan"},
        {"--log-level", "loud"},
        {"--nothing"}}) {
    EXPECT_EQ(base::ErrorReason(Load(flags).status()), "CONFIG_INVALID");
  }
}

}  // namespace
}  // namespace quantd::server
