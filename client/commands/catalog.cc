// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <memory>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/commands/commands.h"
#include "client/commands/compatible.h"
#include "client/commands/exit_codes.h"
#include "client/commands/session.h"
#include "client/commands/usage.h"
#include "client/render/job_words.h"
#include "client/render/table.h"
#include "proto/base/status_macros.h"
#include "proto/spec/component_text.h"

namespace quantd::commands {
namespace {

std::string SeamWord(v1::Seam seam) {
  return absl::AsciiStrToLower(
      v1::Seam_Name(seam).substr(absl::string_view("SEAM_").size()));
}

std::string RangeWords(const v1::Parameter& parameter) {
  if (!parameter.choices().empty()) {
    return absl::StrJoin(parameter.choices(), " ");
  }
  if (parameter.type() == v1::PARAMETER_TYPE_BOOL) return "true false";
  std::string words;
  if (parameter.has_min()) absl::StrAppend(&words, ">= ", parameter.min());
  if (parameter.has_max()) {
    absl::StrAppend(&words, words.empty() ? "" : ", ", "<= ", parameter.max());
  }
  return words.empty() ? "any" : words;
}

std::string TypeWord(v1::ParameterType type) {
  return absl::AsciiStrToLower(v1::ParameterType_Name(type).substr(
      absl::string_view("PARAMETER_TYPE_").size()));
}

void PrintOverview(Session& session, const v1::Catalog& catalog,
                   std::ostream& out) {
  render::Table presets({"PRESET", "SUMMARY"});
  for (const v1::Preset& preset : catalog.presets()) {
    presets.AddRow(
        {render::Printable(preset.id()), render::Printable(preset.summary())});
  }
  if (!presets.empty()) {
    presets.Print(session.terminal(), out);
    out << "\n";
  }
  render::Table table({"SEAM", "ID", "SUMMARY"});
  for (int seam = v1::Seam_MIN; seam <= v1::Seam_MAX; ++seam) {
    for (const v1::ComponentEntry& entry : catalog.entries()) {
      if (entry.seam() != seam) continue;
      table.AddRow({SeamWord(entry.seam()), render::Printable(entry.id()),
                    render::Printable(entry.summary())});
    }
  }
  table.Print(session.terminal(), out);
}

// What the component goes with, a line per seam.
void PrintCompatible(const v1::Catalog& catalog,
                     const v1::ComponentEntry& entry, std::ostream& out) {
  for (const auto& [seam, ids] : CompatibleIds(catalog, entry)) {
    out << "  Works with "
        << (seam == v1::SEAM_FAMILY ? "families" : SeamWord(seam) + "s") << ": "
        << render::Printable(absl::StrJoin(ids, ", ")) << "\n";
  }
}

void PrintEntry(Session& session, const v1::Catalog& catalog,
                const v1::ComponentEntry& entry, std::ostream& out) {
  out << SeamWord(entry.seam()) << " " << render::Printable(entry.id()) << "\n"
      << "  " << render::Printable(entry.summary()) << "\n";
  if (!entry.when().empty()) {
    out << "  When: " << render::Printable(entry.when()) << "\n";
  }
  if (!entry.reference().empty()) {
    out << "  See: " << render::Printable(entry.reference()) << "\n";
  }
  if (!entry.provides().empty()) {
    out << "  Provides: "
        << render::Printable(absl::StrJoin(entry.provides(), ", ")) << "\n";
  }
  for (const v1::Requirement& need : entry.requirements()) {
    std::string words = absl::StrCat("  Needs: ", SeamWord(need.seam()),
                                     " that is ", need.property());
    if (!need.when().empty()) absl::StrAppend(&words, " if ", need.when());
    if (!need.why().empty()) absl::StrAppend(&words, ": ", need.why());
    if (!need.suggestion().empty()) {
      absl::StrAppend(&words, "; ", need.suggestion());
    }
    out << render::Printable(words) << "\n";
  }
  PrintCompatible(catalog, entry, out);
  if (entry.params().empty()) return;
  out << "\n";
  render::Table table({"PARAMETER", "TYPE", "DEFAULT", "VALUES", "SUMMARY"});
  for (const v1::Parameter& parameter : entry.params()) {
    table.AddRow({render::Printable(parameter.name()),
                  TypeWord(parameter.type()),
                  render::Printable(spec::ValueText(parameter.default_value())),
                  render::Printable(RangeWords(parameter)),
                  render::Printable(parameter.summary())});
  }
  table.Print(session.terminal(), out);
}

void PrintPreset(const v1::Preset& preset, std::ostream& out) {
  v1::JobSpec spec;
  *spec.mutable_quantize()->mutable_recipe() = preset.recipe();
  out << "preset " << render::Printable(preset.id()) << "\n  "
      << render::Printable(preset.summary())
      << "\n  Stands for: " << render::MethodWords(spec) << "\n";
  if (preset.recipe().has_mixed()) {
    out << "  Mixed: " << render::ComponentWords(preset.recipe().mixed())
        << "\n";
  }
  for (const v1::Component& layout : preset.recipe().exports()) {
    out << "  Exports: " << render::ComponentWords(layout) << "\n";
  }
}

// The part of `catalog` that is called `id`, in whatever seams.
absl::StatusOr<v1::Catalog> Named(const v1::Catalog& catalog,
                                  const std::string& id) {
  v1::Catalog found;
  found.set_code_version(catalog.code_version());
  std::vector<std::string> ids;
  for (const v1::ComponentEntry& entry : catalog.entries()) {
    if (entry.id() == id) *found.add_entries() = entry;
    ids.push_back(entry.id());
  }
  for (const v1::Preset& preset : catalog.presets()) {
    if (preset.id() == id) *found.add_presets() = preset;
    ids.push_back(preset.id());
  }
  if (found.entries_size() + found.presets_size() > 0) return found;
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return UnknownWord("component", id, ids);
}

// `found` is the part of `catalog` that is to be printed.
void PrintNamed(Session& session, const v1::Catalog& catalog,
                const v1::Catalog& found, std::ostream& out) {
  bool first = true;
  for (const v1::Preset& preset : found.presets()) {
    out << (first ? "" : "\n");
    PrintPreset(preset, out);
    first = false;
  }
  for (const v1::ComponentEntry& entry : found.entries()) {
    out << (first ? "" : "\n");
    PrintEntry(session, catalog, entry, out);
    first = false;
  }
}

absl::StatusOr<int> Catalog(Session& session, const std::string& id) {
  ASSIGN_OR_RETURN(rpc::Client * client, session.Connect());
  ASSIGN_OR_RETURN(const v1::Catalog catalog, client->GetCatalog());
  v1::Catalog shown = catalog;
  if (!id.empty()) {
    ASSIGN_OR_RETURN(shown, Named(catalog, id));
  }
  Answer answer;
  answer.json = render::ToJson(shown);
  answer.items = "entries";
  for (const v1::ComponentEntry& entry : shown.entries()) {
    answer.names.push_back(entry.id());
  }
  answer.table = [&](std::ostream& out) {
    if (id.empty()) {
      PrintOverview(session, catalog, out);
    } else {
      PrintNamed(session, catalog, shown, out);
    }
  };
  session.Print(answer);
  return kExitSucceeded;
}

}  // namespace

void AddCatalog(CLI::App& app, Session& session) {
  auto id = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(
      "catalog", "List what the workers can do, or describe one component");
  command->add_option("id", *id, "A method, format, export, task or preset");
  command->callback([id, &session] {
    session.SetCommand([id, &session] { return Catalog(session, *id); });
  });
}

}  // namespace quantd::commands
