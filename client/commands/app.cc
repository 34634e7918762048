// SPDX-License-Identifier: Apache-2.0
#include "client/commands/app.h"

#include <algorithm>
#include <memory>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/commands/commands.h"
#include "client/commands/exit_codes.h"
#include "client/commands/usage.h"
#include "client/render/errors.h"
#include "client/render/hints.h"
#include "proto/spec/nearest.h"

namespace quantd::commands {
namespace {

constexpr char kVersion[] = "qctl 0.1.0";

void AddGlobalFlags(CLI::App& app, Session& session) {
  GlobalFlags& flags = session.flags();
  app.add_option("--server", flags.server, "Where quantd listens")
      ->type_name("HOST:PORT");
  app.add_option("-o,--output", flags.output,
                 "How results are printed: table, json, jsonl, yaml or name")
      ->type_name("FORMAT");
  app.add_option("--timeout", flags.timeout,
                 "How long to wait for an answer, or for the end of a job")
      ->type_name("TIME");
  app.add_flag("--no-color", flags.no_color, "Print without colours");
  app.add_flag("--local", flags.local,
               "Start a server with one worker for this command");
  app.set_version_flag("--version", kVersion);
}

void AddCommands(CLI::App& app, Session& session) {
  AddSubmit(app, session);
  AddEvaluate(app, session);
  AddList(app, session);
  AddGet(app, session);
  AddWatch(app, session);
  AddWait(app, session);
  AddLogs(app, session);
  AddCancel(app, session);
  AddRetry(app, session);
  AddExplain(app, session);
  AddArtifact(app, session);
  AddCatalog(app, session);
  AddWorkers(app, session);
  AddServer(app, session);
  AddConfig(app, session);
  AddCompletion(app, session);
}

// The command that the arguments got to: where an unknown word was read.
const CLI::App& Deepest(const CLI::App& app) {
  const CLI::App* deepest = &app;
  while (!deepest->get_subcommands().empty()) {
    deepest = deepest->get_subcommands().back();
  }
  return *deepest;
}

std::vector<std::string> FlagNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* level = &app; level != nullptr;
       level = level->get_parent()) {
    for (const CLI::Option* option : level->get_options()) {
      for (const std::string& name : option->get_lnames()) {
        names.push_back(absl::StrCat("--", name));
      }
    }
  }
  // --help stands on every level.
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

std::vector<std::string> CommandNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command :
       app.get_subcommands([](auto*) { return true; })) {
    names.push_back(command->get_name());
  }
  return names;
}

absl::Status ParseProblem(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App& place = Deepest(app);
  for (const std::string& word : app.remaining(true)) {
    if (absl::StartsWith(word, "-")) {
      return UnknownWord("flag", word.substr(0, word.find('=')),
                         FlagNames(place));
    }
    const std::vector<std::string> commands = CommandNames(place);
    if (!commands.empty()) return UnknownWord("command", word, commands);
    return UsageError(absl::StrCat("\"", word, "\" is one word too many"));
  }
  const std::vector<std::string> commands = CommandNames(place);
  if (!commands.empty() && place.get_parent() != nullptr) {
    return UsageError(absl::StrCat(
        "`qctl ", place.get_name(),
        "` needs one of its commands: ", absl::StrJoin(commands, ", ")));
  }
  return UsageError(error.what());
}

std::string UsageHint(const CLI::App& app) {
  const CLI::App& place = Deepest(app);
  const std::string command =
      place.get_parent() == nullptr ? "" : absl::StrCat(" ", place.get_name());
  const bool nested = place.get_parent() != nullptr &&
                      place.get_parent()->get_parent() != nullptr;
  return absl::StrCat(
      "`qctl", nested ? absl::StrCat(" ", place.get_parent()->get_name()) : "",
      command, " --help` lists what can be written here");
}

int Fail(const absl::Status& status, const std::string& hint,
         Session& session) {
  render::PrintError(status, hint, session.terminal(), session.err());
  return ExitCodeOf(status);
}

int RunCommand(Session& session, const CLI::App& app) {
  const absl::Status settings = session.ReadSettings();
  if (!settings.ok()) return Fail(settings, UsageHint(app), session);
  const absl::StatusOr<int> code = session.command()();
  session.out() << std::flush;
  if (code.ok()) return *code;
  const Setting& server = session.settings().server;
  return Fail(code.status(),
              render::NextStep(code.status(), {server.value, server.source}),
              session);
}

}  // namespace

int Run(const std::vector<std::string>& arguments,
        const Surroundings& surroundings) {
  Session session(surroundings);
  CLI::App app(
      "Quantizes language models and evaluates them on a quantd "
      "server.",
      "qctl");
  app.fallthrough();
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 succeeded, 1 error, 2 usage, 3 job failed, 4 not "
      "authorised,\n5 cancelled, 6 not found, 7 timeout, 8 server "
      "unavailable, 130 interrupted.");
  AddGlobalFlags(app, session);
  AddCommands(app, session);
  // The library takes the words from the back.
  std::vector<std::string> words(arguments.rbegin(), arguments.rend());
  try {
    app.parse(words);
  } catch (const CLI::Success& request) {
    // --help and --version.
    return app.exit(request, session.out(), session.err());
  } catch (const CLI::ParseError& error) {
    if (arguments.empty()) {
      session.err() << app.help();
      return kExitUsage;
    }
    return Fail(ParseProblem(app, error), UsageHint(app), session);
  }
  return RunCommand(session, app);
}

}  // namespace quantd::commands
