// SPDX-License-Identifier: Apache-2.0
#include "worker/tokenizers/pre_tokenizers.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "worker/tokenizers/vocabulary.h"

namespace quantd::tokenizers {
namespace {

using nlohmann::json;

constexpr char kGpt2[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr char kContractions[] = R"((?i:'s|'t|'re|'ve|'m|'ll|'d))";
constexpr char kWord[] = R"([^\r\n\p{L}\p{N}]?\p{L}+)";
constexpr char kBreaks[] = R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kSymbols[] = R"( ?[^\s\p{L}\p{N}]+[\r\n]*)";
constexpr char kPunctuation[] = R"([\p{P}\$\+<=>\^~\|`]+)";

// The cl100k kind: `digits` is how many digits make a piece.
std::string Cl100k(absl::string_view digits) {
  return absl::StrCat(kContractions, "|", kWord, "|", digits, "|", kSymbols,
                      "|", kBreaks);
}

// Words split where the case rises; `tail` follows a word, `digits` as above.
std::string CasedWords(absl::string_view tail, absl::string_view digits) {
  constexpr char kUpper[] = R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])";
  constexpr char kLower[] = R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])";
  constexpr char kLead[] = R"([^\r\n\p{L}\p{N}]?)";
  return absl::StrCat(kLead, kUpper, "*", kLower, "+", tail, "|", kLead, kUpper,
                      "+", kLower, "*", tail, "|", digits,
                      R"(| ?[^\s\p{L}\p{N}]+[\r\n/]*|)", kBreaks);
}

std::vector<std::string> DeepseekCoder() {
  return {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)",
          R"([一-龥ࠀ-一가-퟿]+)", R"(\p{N})"};
}

std::vector<std::string> DeepseekV3() {
  return {R"(\p{N}{1,3})", R"([一-龥぀-ゟ゠-ヿ]+)",
          absl::StrCat(R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|)",
                       R"([^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)",
                       R"( ?[\p{P}\p{S}]+[\r\n]*|)", kBreaks)};
}

std::map<std::string, PreTokenizer> MakeTable() {
  const std::string digits = R"(\p{N})";
  const std::string triples = R"(\p{N}{1,3})";
  const PreTokenizer gpt2{{kGpt2}};
  const PreTokenizer digits_first{{digits, kGpt2}};
  const PreTokenizer llama3{{Cl100k(triples)}, true, true};
  const PreTokenizer qwen2{{Cl100k(digits)}, false, false, true};
  const PreTokenizer bloom{{R"( ?[^(\s|.,!?…。，、।۔،)]+)"}};
  std::map<std::string, PreTokenizer> table = {
      {"default", {{kPunctuation, kGpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}}},
      {"falcon", {{kPunctuation, kGpt2, "[0-9][0-9][0-9]"}}},
      {"deepseek-coder", {DeepseekCoder()}},
      {"deepseek-v3", {DeepseekV3()}},
      {"dbrx", {{Cl100k(triples)}}},
      {"chatglm-bpe", {{Cl100k(triples)}}},
      {"tekken", {{CasedWords("", digits)}, true, true}},
      {"gpt-4o", {{CasedWords(absl::StrCat(kContractions, "?"), triples)}}},
  };
  for (const char* name : {"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion",
                           "granite-docling"}) {
    table[name] = gpt2;
  }
  for (const char* name : {"starcoder", "refact", "command-r", "smollm",
                           "codeshell", "exaone", "minerva-7b"}) {
    table[name] = digits_first;
  }
  for (const char* name :
       {"llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe"}) {
    table[name] = llama3;
  }
  for (const char* name : {"qwen2", "stablelm2", "deepseek-r1-qwen"}) {
    table[name] = qwen2;
  }
  for (const char* name : {"bloom", "poro-chat", "gpt3-finnish"}) {
    table[name] = bloom;
  }
  return table;
}

const std::map<std::string, PreTokenizer>& Table() {
  static const auto* table =
      new std::map<std::string, PreTokenizer>(MakeTable());
  return *table;
}

}  // namespace

absl::StatusOr<PreTokenizer> FindPreTokenizer(absl::string_view name) {
  const auto found = Table().find(std::string(name));
  if (found != Table().end()) return found->second;
  const std::string known = absl::StrJoin(
      Table(), ", ",
      [](std::string* out, const auto& entry) { out->append(entry.first); });
  return TokenizerError("TOKENIZER_UNSUPPORTED",
                        absl::StrCat("pre-tokenizer \"", name,
                                     "\" is not known; known are ", known));
}

json PreTokenizerJson(const PreTokenizer& pre) {
  json steps = json::array();
  for (const std::string& pattern : pre.patterns) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", pattern}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  // The patterns have cut already; this only maps bytes to their letters.
  steps.push_back({{"type", "ByteLevel"},
                   {"add_prefix_space", false},
                   {"trim_offsets", true},
                   {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

}  // namespace quantd::tokenizers
