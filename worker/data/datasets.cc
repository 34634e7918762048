// SPDX-License-Identifier: Apache-2.0
// Names of data sets to files.
#include <stdlib.h>

#include <filesystem>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/base/error.h"
#include "worker/data/documents.h"

namespace quantd::data {
namespace {

using std::filesystem::path;

// Where the bundled model and its texts lie below a share folder.
constexpr char kBundledFolder[] = "models/tiny";

const std::map<std::string, std::string>& BundledFiles() {
  static const auto* files = new std::map<std::string, std::string>{
      {"bundled", "calibration.txt"}, {"bundled-heldout", "heldout.txt"}};
  return *files;
}

// Names below $QUANTD_DATASETS with the files they may be, best first.
const std::map<std::string, std::vector<std::string>>& PublicFiles() {
  static const auto* files =
      new std::map<std::string, std::vector<std::string>>{
          {"wikitext2",
           {"wikitext2/train.parquet", "wikitext2/train.jsonl",
            "wikitext2/wiki.train.raw"}},
          {"wikitext2-validation",
           {"wikitext2/validation.parquet", "wikitext2/validation.jsonl",
            "wikitext2/wiki.valid.raw"}},
          {"wikitext2-test",
           {"wikitext2/test.parquet", "wikitext2/test.jsonl",
            "wikitext2/wiki.test.raw"}},
          {"c4", {"c4/train.parquet", "c4/train.jsonl"}},
          {"c4-validation", {"c4/validation.parquet", "c4/validation.jsonl"}}};
  return *files;
}

bool IsFile(const path& candidate) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(candidate, ignored);
}

absl::Status Missing(const std::string& what) {
  return base::MakeError(absl::StatusCode::kNotFound, "DATASET_MISSING", what);
}

// Folders that may hold the bundled model: $QUANTD_SHARE alone where it is set,
// else the folder beside the program, then the source tree.
std::vector<path> BundledFolders() {
  const char* share = getenv("QUANTD_SHARE");
  if (share != nullptr && *share != '\0') {
    return {path(share) / kBundledFolder, path(share)};
  }
  std::vector<path> folders;
  std::error_code error;
  const path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) {
    folders.push_back(program.parent_path().parent_path() / "share/quantd" /
                      kBundledFolder);
  }
  folders.push_back(path(QUANTD_SOURCE_DIR) / "deploy" / kBundledFolder);
  return folders;
}

absl::StatusOr<std::string> FindBundled(const std::string& name,
                                        const std::string& file) {
  for (const path& folder : BundledFolders()) {
    if (IsFile(folder / file)) return (folder / file).string();
  }
  return Missing(absl::StrCat("data set \"", name, "\": ", file,
                              " of the bundled model is not installed; set "
                              "QUANTD_SHARE to the share folder of quantd"));
}

absl::StatusOr<std::string> FindPublic(const std::string& name,
                                       const std::vector<std::string>& files) {
  const char* root = getenv("QUANTD_DATASETS");
  const std::string expected = absl::StrJoin(files, ", ");
  if (root == nullptr || *root == '\0') {
    return Missing(
        absl::StrCat("data set \"", name,
                     "\" is not shipped with quantd; set "
                     "QUANTD_DATASETS on the worker to a folder with one of ",
                     expected));
  }
  for (const std::string& file : files) {
    if (IsFile(path(root) / file)) return (path(root) / file).string();
  }
  return Missing(absl::StrCat("data set \"", name,
                              "\" is not there; below QUANTD_DATASETS one of ",
                              expected, " is expected"));
}

}  // namespace

absl::StatusOr<std::string> ResolveDataset(const std::string& name) {
  const auto bundled = BundledFiles().find(name);
  if (bundled != BundledFiles().end()) {
    return FindBundled(name, bundled->second);
  }
  const auto known = PublicFiles().find(name);
  if (known != PublicFiles().end()) return FindPublic(name, known->second);
  if (IsFile(name)) return name;
  return Missing(
      absl::StrCat("data set \"", path(name).filename().string(),
                   "\" is no file on the worker and no known name (bundled, "
                   "bundled-heldout, wikitext2, wikitext2-test, c4, ...)"));
}

}  // namespace quantd::data
