// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <memory>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/commands/commands.h"
#include "client/commands/exit_codes.h"
#include "client/commands/session.h"
#include "client/commands/usage.h"
#include "client/render/job_words.h"
#include "client/render/quantities.h"
#include "client/render/table.h"
#include "proto/base/status_macros.h"
#include "proto/spec/filter.h"

namespace quantd::commands {
namespace {

constexpr int kMaxPageSize = 500;

struct ListFlags {
  std::vector<std::string> states;
  std::string kind;
  std::string method;
  std::string worker;
  std::vector<std::string> labels;
  std::string filter;
  int limit = 50;
};

using Field = spec::FilterTerm::Field;

void AddClause(Field field, const std::string& value,
               spec::FilterClauses* clauses) {
  if (value.empty()) return;
  clauses->push_back({{.field = field, .label_key = "", .value = value}});
}

absl::StatusOr<std::string> FilterOf(const ListFlags& flags) {
  ASSIGN_OR_RETURN(spec::FilterClauses clauses,
                   spec::ParseFilter(flags.filter));
  std::vector<spec::FilterTerm> states;
  for (const std::string& state : flags.states) {
    states.push_back({.field = Field::kState,
                      .label_key = "",
                      .value = absl::AsciiStrToUpper(state)});
  }
  if (!states.empty()) clauses.push_back(states);
  AddClause(Field::kKind, flags.kind, &clauses);
  AddClause(Field::kMethod, flags.method, &clauses);
  AddClause(Field::kWorker, flags.worker, &clauses);
  for (const std::string& label : flags.labels) {
    const size_t equals = label.find('=');
    if (equals == 0 || equals == std::string::npos) {
      return UsageError(
          absl::StrCat("--label ", label, " is not written KEY=VALUE"));
    }
    clauses.push_back({{.field = Field::kLabel,
                        .label_key = label.substr(0, equals),
                        .value = label.substr(equals + 1)}});
  }
  const std::string text = spec::FilterText(clauses);
  // What was put together obeys the rules of what is typed.
  RETURN_IF_ERROR(spec::ParseFilter(text).status());
  return text;
}

void PrintJobs(Session& session, const v1::ListJobsResponse& jobs,
               std::ostream& out) {
  render::Table table({"JOB", "STATE", "PROGRESS", "AGE", "METHOD", "MODEL"});
  for (const v1::Job& job : jobs.jobs()) {
    table.AddRow(
        {render::ShortId(render::Printable(job.job_id())),
         render::Paint(session.terminal(), render::StateColor(job.state()),
                       render::StateName(job.state())),
         render::ProgressWords(job),
         render::Age(job.create_time(), session.surroundings().clock.Now()),
         render::MethodWords(job.spec()), render::ModelWord(job.spec())});
  }
  if (table.empty()) {
    session.Say("no jobs");
  } else {
    table.Print(session.terminal(), out);
  }
}

absl::StatusOr<int> List(Session& session, const ListFlags& flags) {
  if (flags.limit <= 0) return UsageError("--limit must be at least 1");
  ASSIGN_OR_RETURN(const std::string filter, FilterOf(flags));
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  v1::ListJobsResponse all;
  do {
    v1::ListJobsRequest request;
    request.set_page_size(
        std::min(flags.limit - all.jobs_size(), kMaxPageSize));
    request.set_page_token(all.next_page_token());
    request.set_filter(filter);
    ASSIGN_OR_RETURN(v1::ListJobsResponse page, client->ListJobs(request));
    all.set_next_page_token(page.next_page_token());
    for (v1::Job& job : *page.mutable_jobs()) *all.add_jobs() = std::move(job);
  } while (!all.next_page_token().empty() && all.jobs_size() < flags.limit);
  Answer answer;
  answer.json = render::ToJson(all);
  answer.items = "jobs";
  for (const v1::Job& job : all.jobs()) answer.names.push_back(job.job_id());
  answer.table = [&](std::ostream& out) { PrintJobs(session, all, out); };
  session.Print(answer);
  if (!all.next_page_token().empty()) {
    session.Say(absl::StrCat("there are more than ", flags.limit,
                             "; --limit shows more of them"));
  }
  return kExitSucceeded;
}

}  // namespace

void AddList(CLI::App& app, Session& session) {
  auto flags = std::make_shared<ListFlags>();
  CLI::App* command = app.add_subcommand("list", "List jobs, newest first");
  command
      ->add_option("--state", flags->states, "Only this state; may be repeated")
      ->type_name("STATE")
      ->allow_extra_args(false);
  command->add_option("--kind", flags->kind, "quantize or evaluate")
      ->type_name("KIND");
  command->add_option("--method", flags->method, "Only this method")
      ->type_name("ID");
  command->add_option("--worker", flags->worker, "Only jobs of this worker")
      ->type_name("NAME");
  command->add_option("--label", flags->labels, "Only jobs with this label")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command
      ->add_option("--filter", flags->filter,
                   "For example: state = RUNNING AND NOT label.run = night")
      ->type_name("EXPRESSION");
  command->add_option("--limit", flags->limit, "At most so many")
      ->type_name("N")
      ->capture_default_str();
  command->callback([flags, &session] {
    session.SetCommand([flags, &session] { return List(session, *flags); });
  });
}

}  // namespace quantd::commands
