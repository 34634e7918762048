// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/tag.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/activation_rules.h"
#include "proto/spec/violation.h"

namespace quantd::spec {
namespace {

constexpr char kInt[] = "int";
constexpr char kMixed[] = "mixed";
constexpr size_t kMaxModelBytes = 128;

absl::Status Invalid(absl::string_view text) {
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "TAG_INVALID",
      absl::StrCat("\"", Shortened(text),
                   "\" is not written as <model>_<METHOD>_w<bits>_g<group>"));
}

bool AllDigits(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isdigit(static_cast<unsigned char>(c));
  });
}

// intN is written as N alone.
std::string FormatWord(absl::string_view format) {
  absl::string_view bits = format;
  if (absl::ConsumePrefix(&bits, kInt) && AllDigits(bits)) {
    return std::string(bits);
  }
  return absl::StrReplaceAll(format, {{"_", "-"}});
}

std::string FormatOf(absl::string_view word) {
  if (AllDigits(word)) return absl::StrCat(kInt, word);
  return absl::StrReplaceAll(word, {{"-", "_"}});
}

std::string IdWord(absl::string_view id) {
  return absl::AsciiStrToUpper(absl::StrReplaceAll(id, {{"_", "-"}}));
}

std::string IdOf(absl::string_view word) {
  return absl::AsciiStrToLower(absl::StrReplaceAll(word, {{"-", "_"}}));
}

bool HasOtherFormats(const v1::Recipe& recipe) {
  return recipe.has_mixed() ||
         std::any_of(recipe.overrides().begin(), recipe.overrides().end(),
                     [&recipe](const v1::Override& row) {
                       return !row.wq().empty() &&
                              row.wq() != recipe.weights().format();
                     });
}

// Takes the last part off `parts` where it is `word`.
bool TakeLast(std::vector<std::string>* parts, absl::string_view word) {
  if (parts->empty() || parts->back() != word) return false;
  parts->pop_back();
  return true;
}

// Takes a last part that begins with `prefix` off; `word` is what follows.
bool TakeWord(std::vector<std::string>* parts, absl::string_view prefix,
              std::string* word) {
  if (parts->empty()) return false;
  absl::string_view last = parts->back();
  if (!absl::ConsumePrefix(&last, prefix) || last.empty()) return false;
  *word = std::string(last);
  parts->pop_back();
  return true;
}

}  // namespace

std::string TagText(const Tag& tag) {
  std::vector<std::string> words;
  for (const std::string& id : tag.transforms) words.push_back(IdWord(id));
  words.push_back(IdWord(tag.method));
  std::string text = absl::StrCat(tag.model, "_", absl::StrJoin(words, "+"),
                                  "_w", FormatWord(tag.format));
  if (tag.mixed) absl::StrAppend(&text, "_", kMixed);
  if (!tag.activations.empty()) {
    absl::StrAppend(&text, "_a", FormatWord(tag.activations));
  }
  if (!tag.kv_cache.empty()) {
    absl::StrAppend(&text, "_kv", FormatWord(tag.kv_cache));
  }
  absl::StrAppend(&text, "_g", tag.group_size);
  if (!tag.symmetric) text += "_asym";
  if (tag.head == Tag::Head::kFloat) text += "_headfp16";
  if (tag.head == Tag::Head::kQuantized) text += "_headq";
  return text;
}

absl::StatusOr<Tag> ParseTag(absl::string_view text) {
  std::vector<std::string> parts = absl::StrSplit(text, '_');
  Tag tag;
  if (TakeLast(&parts, "headfp16")) {
    tag.head = Tag::Head::kFloat;
  } else if (TakeLast(&parts, "headq")) {
    tag.head = Tag::Head::kQuantized;
  }
  tag.symmetric = !TakeLast(&parts, "asym");
  std::string group;
  std::string format;
  if (!TakeWord(&parts, "g", &group)) return Invalid(text);
  if (TakeWord(&parts, "kv", &format)) tag.kv_cache = FormatOf(format);
  if (TakeWord(&parts, "a", &format)) tag.activations = FormatOf(format);
  tag.mixed = TakeLast(&parts, kMixed);
  if (!TakeWord(&parts, "w", &format) || parts.size() < 2 ||
      !absl::SimpleAtoi(group, &tag.group_size)) {
    return Invalid(text);
  }
  const std::string& methods = parts.back();
  if (methods.empty() || methods != absl::AsciiStrToUpper(methods)) {
    return Invalid(text);
  }
  tag.format = FormatOf(format);
  std::vector<std::string> words = absl::StrSplit(methods, '+');
  tag.method = IdOf(words.back());
  words.pop_back();
  for (const std::string& word : words) tag.transforms.push_back(IdOf(word));
  parts.pop_back();
  tag.model = absl::StrJoin(parts, "_");
  // One spelling per tag: what was read must be what would be written.
  if (TagText(tag) != text) return Invalid(text);
  return tag;
}

std::string ModelWord(absl::string_view model) {
  while (absl::ConsumeSuffix(&model, "/")) {
  }
  model = model.substr(model.rfind('/') + 1);
  model = model.substr(0, model.find('@'));
  absl::ConsumeSuffix(&model, ".gguf");
  std::string word(model.substr(0, kMaxModelBytes));
  for (char& c : word) {
    const bool plain = absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                       c == '.' || c == '-' || c == '_';
    if (!plain) c = '-';
  }
  // Not a name of its own in a file system.
  if (word.empty() || word[0] == '.') word = absl::StrCat("model", word);
  return word;
}

Tag TagOf(const v1::QuantizeSpec& spec) {
  const v1::Recipe& recipe = spec.recipe();
  Tag tag;
  tag.model = ModelWord(spec.model());
  for (const v1::Component& transform : recipe.transforms()) {
    tag.transforms.push_back(transform.id());
  }
  tag.method = recipe.method().id();
  tag.format = recipe.weights().format();
  tag.mixed = HasOtherFormats(recipe);
  if (!LeavesAlone(recipe.activations())) {
    tag.activations = recipe.activations();
  }
  if (RoundsKvCache(recipe)) tag.kv_cache = recipe.kv_cache().format();
  tag.group_size = recipe.weights().group_size();
  tag.symmetric = recipe.weights().symmetric();
  tag.head =
      recipe.quantize_lm_head() ? Tag::Head::kQuantized : Tag::Head::kFloat;
  return tag;
}

std::string DisplayName(const v1::JobSpec& spec) {
  if (spec.has_quantize()) return TagText(TagOf(spec.quantize()));
  return absl::StrCat(ModelWord(spec.evaluate().model()), "_eval");
}

}  // namespace quantd::spec
