// SPDX-License-Identifier: Apache-2.0
// Completion scripts, made from the very declarations that parse arguments, so
// that they cannot be out of date.
#include <map>
#include <memory>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "client/commands/commands.h"
#include "client/commands/exit_codes.h"
#include "client/commands/session.h"

namespace quantd::commands {
namespace {

struct Command {
  // "artifact pull"; empty for the program itself.
  std::string path;
  std::string summary;
  std::vector<std::string> children;
  std::vector<const CLI::Option*> flags;
};

std::vector<std::string> Spellings(const CLI::Option& flag) {
  std::vector<std::string> words;
  for (const std::string& name : flag.get_snames()) {
    words.push_back("-" + name);
  }
  for (const std::string& name : flag.get_lnames()) {
    words.push_back("--" + name);
  }
  return words;
}

void Collect(const CLI::App& app, const std::string& path,
             std::vector<Command>* commands) {
  Command command{path, app.get_description(), {}, {}};
  for (const CLI::Option* option : app.get_options()) {
    if (!option->get_positional()) command.flags.push_back(option);
  }
  const auto children = app.get_subcommands([](auto*) { return true; });
  for (const CLI::App* child : children) {
    command.children.push_back(child->get_name());
  }
  commands->push_back(command);
  for (const CLI::App* child : children) {
    Collect(*child,
            path.empty() ? child->get_name()
                         : absl::StrCat(path, " ", child->get_name()),
            commands);
  }
}

// What may follow `command`: its children, its flags, the global flags.
std::vector<std::string> Words(const Command& command, const Command& root) {
  std::vector<std::string> words = command.children;
  for (const Command* level : {&command, &root}) {
    for (const CLI::Option* flag : level->flags) {
      for (const std::string& word : Spellings(*flag)) words.push_back(word);
    }
    if (&command == &root) break;
  }
  return words;
}

std::string Bash(const std::vector<Command>& commands) {
  std::string cases;
  for (const Command& command : commands) {
    absl::StrAppend(&cases, "    \"", command.path, "\") words=\"",
                    absl::StrJoin(Words(command, commands[0]), " "), "\" ;;\n");
  }
  return absl::StrCat(
      "# qctl completion for bash: source <(qctl completion bash)\n"
      "_qctl() {\n"
      "  local current=${COMP_WORDS[COMP_CWORD]} path= words= i\n"
      "  for ((i = 1; i < COMP_CWORD && i < 3; ++i)); do\n"
      "    case ${COMP_WORDS[i]} in -*) break ;; esac\n"
      "    path=\"${path:+$path }${COMP_WORDS[i]}\"\n"
      "  done\n"
      "  case $path in \"artifact \"*|\"server \"*) ;; *) path=${path%% *} ;; "
      "esac\n"
      "  case $path in\n",
      cases,
      "  esac\n"
      "  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
      "}\n"
      "complete -o default -F _qctl qctl\n");
}

std::string ZshQuote(const std::string& text) {
  return absl::StrReplaceAll(text, {{"'", "'\\''"}, {":", "\\:"}});
}

std::string Zsh(const std::vector<Command>& commands) {
  std::string cases;
  for (const Command& command : commands) {
    std::string words;
    for (const std::string& word : Words(command, commands[0])) {
      absl::StrAppend(&words, " '", ZshQuote(word), "'");
    }
    absl::StrAppend(&cases, "    '", command.path, "') words=(", words,
                    " ) ;;\n");
  }
  return absl::StrCat(
      "#compdef qctl\n"
      "# qctl completion for zsh: source <(qctl completion zsh)\n"
      "_qctl() {\n"
      "  local command= i\n"
      "  local -a words_before words\n"
      "  words_before=(${(@)${(Q)${(z)LBUFFER}}[2,-1]})\n"
      "  [[ $LBUFFER == *' ' ]] || words_before=(${words_before[1,-2]})\n"
      "  for i in $words_before[1,2]; do\n"
      "    [[ $i == -* ]] && break\n"
      "    command=\"${command:+$command }$i\"\n"
      "  done\n"
      "  case $command in artifact\\ *|server\\ *) ;; *) command=${command%% "
      "*} ;; esac\n"
      "  case $command in\n",
      cases,
      "  esac\n"
      "  compadd -a words\n"
      "  _files\n"
      "}\n"
      "compdef _qctl qctl\n");
}

std::string FishQuote(const std::string& text) {
  return absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"'", "\\'"}});
}

std::string FishCondition(const Command& command) {
  if (command.path.empty()) return "";
  std::string condition;
  for (const absl::string_view word : absl::StrSplit(command.path, ' ')) {
    absl::StrAppend(&condition, condition.empty() ? "" : "; and ",
                    "__fish_seen_subcommand_from ", word);
  }
  return absl::StrCat(" -n '", condition, "'");
}

std::string Fish(const std::vector<Command>& commands) {
  std::map<std::string, std::string> summaries;
  for (const Command& command : commands) {
    summaries[command.path] = command.summary;
  }
  std::string script =
      "# qctl completion for fish: qctl completion fish | source\n";
  for (const Command& command : commands) {
    const std::string condition = FishCondition(command);
    for (const std::string& child : command.children) {
      const std::string path =
          command.path.empty() ? child : absl::StrCat(command.path, " ", child);
      absl::StrAppend(
          &script, "complete -c qctl",
          command.path.empty() ? " -n __fish_use_subcommand" : condition,
          " -a ", child, " -d '", FishQuote(summaries[path]), "'\n");
    }
    for (const CLI::Option* flag : command.flags) {
      absl::StrAppend(&script, "complete -c qctl", condition);
      for (const std::string& name : flag->get_snames()) {
        absl::StrAppend(&script, " -s ", name);
      }
      for (const std::string& name : flag->get_lnames()) {
        absl::StrAppend(&script, " -l ", name);
      }
      absl::StrAppend(&script, flag->get_items_expected_max() > 0 ? " -r" : "",
                      " -d '", FishQuote(flag->get_description()), "'\n");
    }
  }
  return script;
}

absl::StatusOr<int> Complete(Session& session, const CLI::App& app,
                             const std::string& shell) {
  std::vector<Command> commands;
  Collect(app, "", &commands);
  session.out() << (shell == "bash"  ? Bash(commands)
                    : shell == "zsh" ? Zsh(commands)
                                     : Fish(commands));
  return kExitSucceeded;
}

}  // namespace

void AddCompletion(CLI::App& app, Session& session) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command =
      app.add_subcommand("completion", "Print a completion script");
  command->add_option("shell", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->callback([shell, &app, &session] {
    session.SetCommand(
        [shell, &app, &session] { return Complete(session, app, *shell); });
  });
}

}  // namespace quantd::commands
