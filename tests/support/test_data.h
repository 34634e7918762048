// SPDX-License-Identifier: Apache-2.0
// Where tests find the larger data and fixtures that are not in the repository.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace quantd::support {

// The full path of `relative` below QUANTD_TEST_DATA (default: "shared" beside
// the source tree); empty where that folder does not exist. Tests that need it
// begin with SKIP_WITHOUT_TEST_DATA().
std::string TestData(absl::string_view relative);

// The full path of `relative` in the source tree.
std::string SourcePath(absl::string_view relative);

// A fresh folder, removed when the object goes.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }
  // The full path of `name` in it.
  std::string File(absl::string_view name) const;

 private:
  std::string path_;
};

}  // namespace quantd::support

#define SKIP_WITHOUT_TEST_DATA()                     \
  if (quantd::support::TestData("").empty()) {       \
    GTEST_SKIP() << "QUANTD_TEST_DATA is not there"; \
  }                                                  \
  static_assert(true, "")
