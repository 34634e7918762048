// SPDX-License-Identifier: Apache-2.0
#include "client/render/hints.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"

namespace quantd::render {
namespace {

std::string ForReason(const std::string& reason) {
  static const auto* const kHints = new std::map<std::string, std::string>{
      {"JOB_NOT_FOUND", "`qctl list` shows the jobs there are"},
      {"ARTIFACT_NOT_FOUND",
       "`qctl artifact list` shows the artifacts there are"},
      {"JOB_STATE_CONFLICT",
       "only a FAILED or CANCELLED job can be retried; `qctl get` shows what "
       "it is and has"},
      {"NO_CATALOG",
       "start a worker (`quant-worker --server HOST:PORT --name N`), then look "
       "at `qctl workers`"},
      {"REQUEST_ID_REUSED",
       "leave out --request-id, or repeat exactly the first submit"},
      {"LOCAL_SERVER_FAILED",
       "if another `qctl --local` runs, wait for its end"},
      {"DIRECTORY_NOT_EMPTY",
       "give a folder that does not exist yet, or check this one with "
       "`qctl artifact verify DIR`"},
      {"ARTIFACT_DAMAGED", "pull the artifact again into a new folder"},
  };
  const auto found = kHints->find(reason);
  return found == kHints->end() ? "" : found->second;
}

}  // namespace

std::string NextStep(const absl::Status& status, const ServerPlace& server) {
  const std::string known = ForReason(base::ErrorReason(status));
  if (!known.empty()) return known;
  if (absl::IsUnavailable(status)) {
    return absl::StrCat("check that quantd listens on ", server.address,
                        " (from ", server.source,
                        "), or name another place with --server, or let "
                        "--local start one");
  }
  if (absl::IsDeadlineExceeded(status)) {
    return "give more time with --timeout; the job itself goes on";
  }
  if (absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status)) {
    return "ask who runs the server for access";
  }
  return "";
}

}  // namespace quantd::render
