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

// Recursive descent; the depth is bounded before each descent.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<Filter> Parse() {
    ASSIGN_OR_RETURN(Filter filter, Expression(0));
    if (Peek().kind != Token::Kind::kEnd) return Unexpected();
    return filter;
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

  static Filter Join(Filter::Kind kind, std::vector<Filter> operands) {
    if (operands.size() == 1) return std::move(operands[0]);
    Filter filter;
    filter.kind = kind;
    filter.operands = std::move(operands);
    return filter;
  }

  // factor { [AND] factor }
  absl::StatusOr<Filter> Expression(int depth) {
    if (depth > kMaxFilterDepth) {
      return Invalid(absl::StrCat("is nested deeper than ", kMaxFilterDepth));
    }
    std::vector<Filter> operands;
    do {
      ASSIGN_OR_RETURN(Filter factor, Factor(depth));
      operands.push_back(std::move(factor));
      if (PeekWord("AND")) {
        Take();
        if (Peek().kind == Token::Kind::kEnd) return Unexpected();
      }
    } while (Peek().kind != Token::Kind::kEnd &&
             Peek().kind != Token::Kind::kClose);
    return Join(Filter::Kind::kAnd, std::move(operands));
  }

  // term { OR term }
  absl::StatusOr<Filter> Factor(int depth) {
    std::vector<Filter> operands;
    while (true) {
      ASSIGN_OR_RETURN(Filter term, Term(depth));
      operands.push_back(std::move(term));
      if (!PeekWord("OR")) break;
      Take();
    }
    return Join(Filter::Kind::kOr, std::move(operands));
  }

  // [NOT | -] ( "(" expression ")" | comparison )
  absl::StatusOr<Filter> Term(int depth) {
    if (PeekWord("NOT") || Peek().kind == Token::Kind::kMinus) {
      Take();
      ASSIGN_OR_RETURN(Filter operand, Simple(depth));
      Filter filter;
      filter.kind = Filter::Kind::kNot;
      filter.operands.push_back(std::move(operand));
      return filter;
    }
    return Simple(depth);
  }

  absl::StatusOr<Filter> Simple(int depth) {
    if (Peek().kind != Token::Kind::kOpen) return Comparison();
    Take();
    ASSIGN_OR_RETURN(Filter filter, Expression(depth + 1));
    if (Peek().kind != Token::Kind::kClose) return Unexpected();
    Take();
    return filter;
  }

  absl::StatusOr<Filter> Comparison() {
    if (++terms_ > kMaxFilterTerms) {
      return Invalid(absl::StrCat("has more than ", kMaxFilterTerms, " terms"));
    }
    if (Peek().kind != Token::Kind::kWord || PeekWord("AND") ||
        PeekWord("OR")) {
      return Unexpected();
    }
    Filter filter;
    filter.kind = Filter::Kind::kTerm;
    RETURN_IF_ERROR(SetField(Take().text, &filter));
    if (Peek().kind != Token::Kind::kOperator) return Unexpected();
    const std::string op = Take().text;
    const bool exists_key = op == ":" && filter.field == Filter::Field::kLabel;
    if (Peek().kind != Token::Kind::kWord &&
        Peek().kind != Token::Kind::kString) {
      return Unexpected();
    }
    filter.value = Take().text;
    RETURN_IF_ERROR(SetOperator(op, &filter));
    if (exists_key) return LabelHas(std::move(filter));
    RETURN_IF_ERROR(CheckValue(&filter));
    return filter;
  }

  static absl::Status SetField(const std::string& name, Filter* filter) {
    using Field = Filter::Field;
    static constexpr std::pair<absl::string_view, Field> kFields[] = {
        {"state", Field::kState},   {"kind", Field::kKind},
        {"method", Field::kMethod}, {"model", Field::kModel},
        {"worker", Field::kWorker}, {"label", Field::kLabel}};
    std::vector<std::string> names;
    for (const auto& [known, field] : kFields) {
      names.emplace_back(known);
      if (known != name) continue;
      filter->field = field;
      return absl::OkStatus();
    }
    if (absl::StartsWith(name, "label.") && name.size() > 6) {
      filter->field = Field::kLabel;
      filter->label = name.substr(6);
      return absl::OkStatus();
    }
    return Invalid(absl::StrCat(
        "names the field \"", Shortened(name), "\"; the nearest are ",
        absl::StrJoin(NearestNames(name, names), ", ")));
  }

  static absl::Status SetOperator(const std::string& op, Filter* filter) {
    if (op == "=") {
      filter->op = Filter::Op::kEquals;
    } else if (op == "!=") {
      filter->op = Filter::Op::kNotEquals;
    } else if (op == ":") {
      filter->op = Filter::Op::kContains;
    } else {
      return Invalid(
          absl::StrCat("uses \"", op, "\"; its operators are =, != and :"));
    }
    return absl::OkStatus();
  }

  // `label:key` and `label.key:*` ask for the key, `label.key:text` for a part.
  static absl::StatusOr<Filter> LabelHas(Filter filter) {
    if (filter.label.empty()) {
      filter.label = std::exchange(filter.value, "");
      if (filter.label.empty()) return Invalid("asks for a label without name");
      filter.op = Filter::Op::kExists;
    } else if (filter.value == "*") {
      filter.value.clear();
      filter.op = Filter::Op::kExists;
    }
    return filter;
  }

  static absl::Status CheckValue(Filter* filter) {
    switch (filter->field) {
      case Filter::Field::kState: {
        const std::string upper = absl::AsciiStrToUpper(filter->value);
        ASSIGN_OR_RETURN(
            filter->value,
            OneOf("state", std::string(absl::StripPrefix(upper, kStatePrefix)),
                  StateNames()));
        break;
      }
      case Filter::Field::kKind: {
        ASSIGN_OR_RETURN(filter->value, OneOf("kind", filter->value,
                                              {"evaluate", "quantize"}));
        break;
      }
      case Filter::Field::kLabel:
        if (filter->label.empty()) {
          return Invalid("compares label; write label.<key> = value");
        }
        return absl::OkStatus();
      default:
        return absl::OkStatus();
    }
    // Words from a closed list have no parts worth asking for.
    if (filter->op == Filter::Op::kContains) filter->op = Filter::Op::kEquals;
    return absl::OkStatus();
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

std::string TermText(const Filter& filter) {
  static constexpr absl::string_view kNames[] = {"state", "kind",   "method",
                                                 "model", "worker", "label"};
  if (filter.op == Filter::Op::kExists) {
    return absl::StrCat("label:", Quoted(filter.label));
  }
  std::string name(kNames[static_cast<int>(filter.field)]);
  if (filter.field == Filter::Field::kLabel) {
    absl::StrAppend(&name, ".", filter.label);
  }
  const absl::string_view op = filter.op == Filter::Op::kEquals      ? " = "
                               : filter.op == Filter::Op::kNotEquals ? " != "
                                                                     : ":";
  return absl::StrCat(name, op, Quoted(filter.value));
}

}  // namespace

absl::StatusOr<Filter> ParseFilter(absl::string_view text) {
  if (text.size() > kMaxFilterBytes) {
    return Invalid(absl::StrCat("is longer than ", kMaxFilterBytes, " bytes"));
  }
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(text));
  if (tokens.size() == 1) return Filter();
  return Parser(std::move(tokens)).Parse();
}

std::string FilterText(const Filter& filter) {
  switch (filter.kind) {
    case Filter::Kind::kEverything:
      return "";
    case Filter::Kind::kTerm:
      return TermText(filter);
    case Filter::Kind::kNot:
      return absl::StrCat("NOT (", FilterText(filter.operands[0]), ")");
    case Filter::Kind::kAnd:
    case Filter::Kind::kOr:
      break;
  }
  const absl::string_view word =
      filter.kind == Filter::Kind::kAnd ? " AND " : " OR ";
  return absl::StrJoin(filter.operands, word,
                       [](std::string* out, const Filter& operand) {
                         absl::StrAppend(out, "(", FilterText(operand), ")");
                       });
}

}  // namespace quantd::spec
