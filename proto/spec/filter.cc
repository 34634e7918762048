// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/filter.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "proto/spec/nearest.h"
#include "proto/spec/violation.h"
#include "quantd/v1/job.pb.h"

namespace quantd::spec {
namespace {

constexpr char kStatePrefix[] = "JOB_STATE_";

absl::Status Invalid(absl::string_view message) {
  return base::MakeError(absl::StatusCode::kInvalidArgument, "FILTER_INVALID",
                         absl::StrCat("the filter ", message));
}

struct Token {
  enum class Kind { kEnd, kWord, kString, kOpen, kClose, kOperator, kMinus };
  Kind kind = Kind::kEnd;
  std::string text;
  size_t offset = 0;
};

bool IsWordByte(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return absl::ascii_isalnum(byte) || byte >= 0x80 ||
         absl::StrContains("._/+@*-", absl::string_view(&c, 1));
}

absl::StatusOr<Token> ReadString(absl::string_view text, size_t* at) {
  Token token{Token::Kind::kString, "", *at};
  for (size_t i = *at + 1; i < text.size(); ++i) {
    if (text[i] == '"') {
      *at = i + 1;
      return token;
    }
    if (text[i] == '\\' && ++i == text.size()) break;
    token.text += text[i];
  }
  return Invalid(
      absl::StrCat("has no closing quote for the one at byte ", token.offset));
}

absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view text) {
  std::vector<Token> tokens;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (absl::ascii_isspace(static_cast<unsigned char>(c))) {
      ++i;
    } else if (c == '"') {
      ASSIGN_OR_RETURN(Token token, ReadString(text, &i));
      tokens.push_back(std::move(token));
    } else if (c == '(' || c == ')') {
      tokens.push_back({c == '(' ? Token::Kind::kOpen : Token::Kind::kClose,
                        std::string(1, c), i++});
    } else if (absl::StrContains("=:<>!", absl::string_view(&c, 1))) {
      const bool two = i + 1 < text.size() && text[i + 1] == '=' && c != ':';
      tokens.push_back(
          {Token::Kind::kOperator, std::string(text.substr(i, 1 + two)), i});
      i += 1 + two;
    } else if (c == '-') {
      tokens.push_back({Token::Kind::kMinus, "-", i++});
    } else if (IsWordByte(c)) {
      const size_t start = i;
      while (i < text.size() && IsWordByte(text[i])) ++i;
      tokens.push_back({Token::Kind::kWord,
                        std::string(text.substr(start, i - start)), start});
    } else {
      return Invalid(absl::StrCat("has an unexpected character at byte ", i));
    }
  }
  tokens.push_back({Token::Kind::kEnd, "", text.size()});
  return tokens;
}

std::vector<std::string> StateNames() {
  std::vector<std::string> names;
  for (int i = v1::JOB_STATE_PENDING; i <= v1::JOB_STATE_CANCELLED; ++i) {
    names.emplace_back(absl::StripPrefix(
        v1::JobState_Name(static_cast<v1::JobState>(i)), kStatePrefix));
  }
  return names;
}

// The value as one of `allowed`, or the nearest ones in the error.
absl::StatusOr<std::string> OneOf(absl::string_view field,
                                  const std::string& value,
                                  const std::vector<std::string>& allowed) {
  for (const std::string& candidate : allowed) {
    if (candidate == value) return value;
  }
  return Invalid(absl::StrCat(
      "compares ", field, " with \"", Shortened(value), "\"; the nearest are ",
      absl::StrJoin(NearestNames(value, allowed), ", ")));
}

constexpr std::pair<absl::string_view, FilterTerm::Field> kFields[] = {
    {"state", FilterTerm::Field::kState},
    {"kind", FilterTerm::Field::kKind},
    {"method", FilterTerm::Field::kMethod},
    {"model", FilterTerm::Field::kModel},
    {"worker", FilterTerm::Field::kWorker},
    {"name", FilterTerm::Field::kName},
    {"label", FilterTerm::Field::kLabel}};

absl::Status SetField(const std::string& name, FilterTerm* term) {
  constexpr absl::string_view kLabelPrefix = "label.";
  std::vector<std::string> names;
  for (const auto& [known, field] : kFields) {
    names.emplace_back(known);
    if (known != name) continue;
    term->field = field;
    return absl::OkStatus();
  }
  if (absl::StartsWith(name, kLabelPrefix) &&
      name.size() > kLabelPrefix.size()) {
    term->field = FilterTerm::Field::kLabel;
    term->label_key = name.substr(kLabelPrefix.size());
    return absl::OkStatus();
  }
  return Invalid(absl::StrCat("names the field \"", Shortened(name),
                              "\"; the nearest are ",
                              absl::StrJoin(NearestNames(name, names), ", ")));
}

absl::Status CheckValue(FilterTerm* term) {
  if (term->field == FilterTerm::Field::kLabel && term->label_key.empty()) {
    return Invalid("compares label; write label.<key> = value");
  }
  if (term->field == FilterTerm::Field::kState) {
    const std::string upper = absl::AsciiStrToUpper(term->value);
    ASSIGN_OR_RETURN(
        term->value,
        OneOf("state", std::string(absl::StripPrefix(upper, kStatePrefix)),
              StateNames()));
  }
  if (term->field == FilterTerm::Field::kKind) {
    ASSIGN_OR_RETURN(term->value,
                     OneOf("kind", term->value, {"evaluate", "quantize"}));
  }
  return absl::OkStatus();
}

using Clause = std::vector<FilterTerm>;

// A formula in negation normal form: every result is a list of clauses.
absl::StatusOr<FilterClauses> And(FilterClauses a, const FilterClauses& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

absl::StatusOr<FilterClauses> Or(const FilterClauses& a,
                                 const FilterClauses& b) {
  FilterClauses result;
  size_t terms = 0;
  for (const Clause& left : a) {
    for (const Clause& right : b) {
      terms += left.size() + right.size();
      if (terms > kMaxExpandedTerms) {
        return Invalid("has too many alternatives; ask in several queries");
      }
      result.push_back(left);
      result.back().insert(result.back().end(), right.begin(), right.end());
    }
  }
  return result;
}

// Recursive descent; the depth is bounded before each descent. `negated` says
// that an odd number of NOTs stands before: AND and OR then trade places.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<FilterClauses> Parse() {
    ASSIGN_OR_RETURN(FilterClauses clauses, Expression(0, false));
    if (Peek().kind != Token::Kind::kEnd) return Unexpected();
    return clauses;
  }

 private:
  const Token& Peek() const { return tokens_[next_]; }
  Token Take() { return tokens_[next_++]; }
  bool PeekWord(absl::string_view word) const {
    return Peek().kind == Token::Kind::kWord && Peek().text == word;
  }
  absl::Status Unexpected() const {
    if (Peek().kind == Token::Kind::kEnd) return Invalid("ends too early");
    return Invalid(absl::StrCat("has an unexpected \"", Shortened(Peek().text),
                                "\" at byte ", Peek().offset));
  }

  // factor { [AND] factor }
  absl::StatusOr<FilterClauses> Expression(int depth, bool negated) {
    if (depth > kMaxFilterDepth) {
      return Invalid(absl::StrCat("is nested deeper than ", kMaxFilterDepth));
    }
    ASSIGN_OR_RETURN(FilterClauses all, Factor(depth, negated));
    while (Peek().kind != Token::Kind::kEnd &&
           Peek().kind != Token::Kind::kClose) {
      if (PeekWord("AND")) Take();
      ASSIGN_OR_RETURN(const FilterClauses next, Factor(depth, negated));
      ASSIGN_OR_RETURN(all, negated ? Or(all, next) : And(all, next));
    }
    return all;
  }

  // term { OR term }
  absl::StatusOr<FilterClauses> Factor(int depth, bool negated) {
    ASSIGN_OR_RETURN(FilterClauses any, Term(depth, negated));
    while (PeekWord("OR")) {
      Take();
      ASSIGN_OR_RETURN(const FilterClauses next, Term(depth, negated));
      ASSIGN_OR_RETURN(any, negated ? And(any, next) : Or(any, next));
    }
    return any;
  }

  // [NOT | -] ( "(" expression ")" | comparison )
  absl::StatusOr<FilterClauses> Term(int depth, bool negated) {
    if (PeekWord("NOT") || Peek().kind == Token::Kind::kMinus) {
      Take();
      negated = !negated;
    }
    if (Peek().kind != Token::Kind::kOpen) return Comparison(negated);
    Take();
    ASSIGN_OR_RETURN(FilterClauses inner, Expression(depth + 1, negated));
    if (Peek().kind != Token::Kind::kClose) return Unexpected();
    Take();
    return inner;
  }

  absl::StatusOr<FilterClauses> Comparison(bool negated) {
    if (++terms_ > kMaxFilterTerms) {
      return Invalid(absl::StrCat("has more than ", kMaxFilterTerms, " terms"));
    }
    if (Peek().kind != Token::Kind::kWord || PeekWord("AND") ||
        PeekWord("OR")) {
      return Unexpected();
    }
    FilterTerm term;
    RETURN_IF_ERROR(SetField(Take().text, &term));
    if (Peek().kind != Token::Kind::kOperator) return Unexpected();
    const absl::string_view op = tokens_[next_++].text;
    if (op != "=" && op != "!=" && op != ":") {
      return Invalid(
          absl::StrCat("uses \"", op, "\"; its operators are =, != and :"));
    }
    term.negated = negated != (op == "!=");
    if (Peek().kind != Token::Kind::kWord &&
        Peek().kind != Token::Kind::kString) {
      return Unexpected();
    }
    term.value = Take().text;
    RETURN_IF_ERROR(CheckValue(&term));
    return FilterClauses{{term}};
  }

  const std::vector<Token> tokens_;
  size_t next_ = 0;
  int terms_ = 0;
};

std::string Quoted(absl::string_view value) {
  std::string text = "\"";
  for (char c : value) {
    if (c == '"' || c == '\\') text += '\\';
    text += c;
  }
  return text + "\"";
}

std::string TermText(const FilterTerm& term) {
  std::string name;
  for (const auto& [known, field] : kFields) {
    if (field == term.field) name = std::string(known);
  }
  if (term.field == FilterTerm::Field::kLabel) {
    absl::StrAppend(&name, ".", term.label_key);
  }
  return absl::StrCat(name, term.negated ? " != " : " = ", Quoted(term.value));
}

}  // namespace

absl::StatusOr<FilterClauses> ParseFilter(absl::string_view text) {
  if (text.size() > kMaxFilterBytes) {
    return Invalid(absl::StrCat("is longer than ", kMaxFilterBytes, " bytes"));
  }
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(text));
  if (tokens.size() == 1) return FilterClauses();
  return Parser(std::move(tokens)).Parse();
}

std::string FilterText(const FilterClauses& clauses) {
  return absl::StrJoin(
      clauses, " AND ", [](std::string* out, const Clause& clause) {
        absl::StrAppend(
            out, absl::StrJoin(clause, " OR ",
                               [](std::string* to, const FilterTerm& term) {
                                 absl::StrAppend(to, TermText(term));
                               }));
      });
}

}  // namespace quantd::spec
