// SPDX-License-Identifier: Apache-2.0
#include "client/commands/paths.h"

#include <filesystem>

#include "absl/strings/match.h"

namespace quantd::commands {
namespace {

namespace fs = std::filesystem;

std::string Absolute(const std::string& name, bool is_path) {
  std::error_code error;
  if (!is_path && !fs::exists(name, error)) return name;
  const fs::path absolute = fs::absolute(name, error).lexically_normal();
  std::string result = error ? name : absolute.string();
  while (result.size() > 1 && result.back() == '/') result.pop_back();
  return result;
}

}  // namespace

std::string ModelForServer(const std::string& model) {
  if (absl::StrContains(model, "://") ||
      absl::StartsWith(model, "artifacts/") ||
      absl::StartsWith(model, "jobs/")) {
    return model;
  }
  return Absolute(model, absl::StrContains(model, "/") || model == "." ||
                             model == ".." || absl::EndsWith(model, ".gguf"));
}

std::string DataForServer(const std::string& data) {
  if (absl::StrContains(data, "://")) return data;
  bool is_path = absl::StrContains(data, "/");
  for (const char* ending : {".txt", ".jsonl", ".parquet"}) {
    is_path = is_path || absl::EndsWith(data, ending);
  }
  return Absolute(data, is_path);
}

}  // namespace quantd::commands
