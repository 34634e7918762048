// SPDX-License-Identifier: Apache-2.0
#include "server/store/filter_sql.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/base/status_macros.h"
#include "proto/spec/job_states.h"

namespace quantd::store {
namespace {

absl::StatusOr<std::string> TermSql(const FilterTerm& term,
                                    std::vector<std::string>& parameters) {
  switch (term.field) {
    case FilterTerm::Field::kState: {
      ASSIGN_OR_RETURN(const v1::JobState state,
                       spec::ParseJobState(term.value));
      return absl::StrCat("state = ", static_cast<int>(state));
    }
    case FilterTerm::Field::kKind:
      parameters.push_back(term.value);
      return std::string("kind = ?");
    case FilterTerm::Field::kMethod:
      parameters.push_back(term.value);
      return std::string("method = ?");
    case FilterTerm::Field::kModel:
      parameters.push_back(term.value);
      return std::string("model = ?");
    case FilterTerm::Field::kWorker:
      parameters.push_back(term.value);
      return std::string("worker_name = ?");
    case FilterTerm::Field::kName:
      parameters.push_back(term.value);
      return std::string("display_name = ?");
    case FilterTerm::Field::kLabel:
      parameters.push_back(term.label_key);
      parameters.push_back(term.value);
      return std::string(
          "EXISTS (SELECT 1 FROM job_labels WHERE job_labels.job_id = "
          "jobs.job_id AND key = ? AND value = ?)");
  }
  return absl::InternalError("a filter field without SQL");
}

}  // namespace

absl::StatusOr<FilterSql> ToSql(const JobFilter& filter) {
  FilterSql result;
  std::vector<std::string> all;
  for (const std::vector<FilterTerm>& alternatives : filter) {
    std::vector<std::string> any;
    for (const FilterTerm& term : alternatives) {
      ASSIGN_OR_RETURN(const std::string sql, TermSql(term, result.parameters));
      any.push_back(absl::StrCat(term.negated ? "NOT (" : "(", sql, ")"));
    }
    if (!any.empty()) {
      all.push_back(absl::StrCat("(", absl::StrJoin(any, " OR "), ")"));
    }
  }
  result.condition = all.empty() ? "1" : absl::StrJoin(all, " AND ");
  return result;
}

}  // namespace quantd::store
