// SPDX-License-Identifier: Apache-2.0
#include "CLI/CLI.hpp"
#include "client/commands/commands.h"
#include "client/commands/exit_codes.h"
#include "client/commands/session.h"
#include "client/render/table.h"

namespace quantd::commands {
namespace {

absl::StatusOr<int> Config(Session& session) {
  const Settings& settings = session.settings();
  const std::vector<std::pair<std::string, const Setting*>> rows = {
      {"server", &settings.server},
      {"output", &settings.output},
      {"color", &settings.color},
      {"timeout", &settings.timeout}};
  Answer answer;
  answer.json = {{"file", SettingsFile(session.surroundings().environment)},
                 {"settings", render::Json::array()}};
  answer.items = "settings";
  render::Table table({"SETTING", "VALUE", "FROM"});
  for (const auto& [name, setting] : rows) {
    answer.json["settings"].push_back({{"name", name},
                                       {"value", setting->value},
                                       {"source", setting->source}});
    answer.names.push_back(name);
    table.AddRow(
        {name, setting->value.empty() ? "-" : setting->value, setting->source});
  }
  answer.table = [&](std::ostream& out) {
    table.Print(session.terminal(), out);
  };
  session.Print(answer);
  return kExitSucceeded;
}

}  // namespace

void AddConfig(CLI::App& app, Session& session) {
  CLI::App* command = app.add_subcommand(
      "config", "Show the settings and where each comes from");
  command->callback([&session] {
    session.SetCommand([&session] { return Config(session); });
  });
}

}  // namespace quantd::commands
