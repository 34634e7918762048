// SPDX-License-Identifier: Apache-2.0
#include "tests/support/test_data.h"

#include <stdlib.h>

#include <filesystem>

#include "absl/strings/str_cat.h"

namespace quantd::support {
namespace {

std::string Environment(const char* name, const std::string& otherwise) {
  const char* value = getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

}  // namespace

std::string SourcePath(absl::string_view relative) {
  return absl::StrCat(Environment("QUANTD_SOURCE", "."), "/", relative);
}

std::string TestData(absl::string_view relative) {
  const std::string root =
      Environment("QUANTD_TEST_DATA", SourcePath("../shared"));
  if (!std::filesystem::is_directory(root)) return "";
  return absl::StrCat(root, "/", relative);
}

TemporaryDirectory::TemporaryDirectory() {
  // mkdtemp replaces six of them.
  std::string pattern =
      absl::StrCat(std::filesystem::temp_directory_path().string(),
                   "/quantd-test-", std::string(6, 'X'));
  path_ = mkdtemp(pattern.data());
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryDirectory::File(absl::string_view name) const {
  return absl::StrCat(path_, "/", name);
}

}  // namespace quantd::support
