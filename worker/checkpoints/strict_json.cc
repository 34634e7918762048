// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoints/strict_json.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"

namespace quantd::checkpoints {
namespace {

using Json = nlohmann::json;

// Builds the document and stops at the first rule that is broken.
class Builder : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(const JsonRules& rules) : rules_(rules) {}

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override {
    return Add(value);
  }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return Open(Json::object()); }
  bool end_object() override { return Close(); }
  bool start_array(size_t) override { return Open(Json::array()); }
  bool end_array() override { return Close(); }

  bool key(string_t& name) override {
    if (!Count()) return false;
    const auto [at, added] = stack_.back()->emplace(std::move(name), nullptr);
    if (!added) {
      return Fail("DUPLICATE_KEY",
                  absl::StrCat("the key \"", at.key().substr(0, 80),
                               "\" appears twice in one object"));
    }
    slot_ = &*at;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(rules_.syntax_reason,
                absl::StrCat("not JSON in UTF-8, at byte ", position));
  }

  Json& root() { return root_; }
  const absl::Status& status() const { return status_; }

 private:
  bool Fail(absl::string_view reason, absl::string_view message) {
    status_ = base::MakeError(absl::StatusCode::kInvalidArgument, reason,
                              absl::StrCat(rules_.what, ": ", message));
    return false;
  }

  bool Count() {
    if (++values_ <= rules_.max_values) return true;
    return Fail("JSON_TOO_LARGE",
                absl::StrCat("more than ", rules_.max_values, " values"));
  }

  // Puts a value where the document has got to.
  bool Add(Json value) {
    if (!Count()) return false;
    Place(std::move(value));
    return true;
  }

  Json* Place(Json value) {
    Json* at = &root_;
    if (!stack_.empty() && stack_.back()->is_array()) {
      stack_.back()->push_back(std::move(value));
      return &stack_.back()->back();
    }
    if (!stack_.empty()) at = slot_;
    *at = std::move(value);
    return at;
  }

  // Pointers on the stack stay valid: only the innermost container grows.
  bool Open(Json container) {
    if (!Count()) return false;
    if (static_cast<int>(stack_.size()) == rules_.max_depth) {
      return Fail("JSON_TOO_DEEP", absl::StrCat("nested deeper than ",
                                                rules_.max_depth, " levels"));
    }
    stack_.push_back(Place(std::move(container)));
    return true;
  }

  bool Close() {
    stack_.pop_back();
    return true;
  }

  const JsonRules& rules_;
  Json root_;
  std::vector<Json*> stack_;
  Json* slot_ = nullptr;  // The value of the key that was read last.
  int64_t values_ = 0;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<Json> ParseStrictJson(absl::string_view text,
                                     const JsonRules& rules) {
  Builder builder(rules);
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
    return builder.status();
  }
  return std::move(builder.root());
}

absl::StatusOr<Json> ReadStrictJsonObject(const std::string& path,
                                          int64_t max_bytes,
                                          const JsonRules& rules) {
  ASSIGN_OR_RETURN(const std::string text, base::ReadFile(path, max_bytes));
  ASSIGN_OR_RETURN(Json json, ParseStrictJson(text, rules));
  if (!json.is_object()) {
    return base::MakeError(absl::StatusCode::kInvalidArgument,
                           rules.syntax_reason,
                           absl::StrCat(rules.what, ": not a JSON object"));
  }
  return json;
}

}  // namespace quantd::checkpoints
