// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/filter.h"

#include <algorithm>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "proto/base/error.h"

namespace quantd::spec {
namespace {

std::string Normal(const std::string& text) {
  const auto clauses = ParseFilter(text);
  return clauses.ok() ? FilterText(*clauses)
                      : "! " + base::ErrorReason(clauses.status());
}

TEST(Filter, EmptyTextMeansEverything) {
  ASSERT_TRUE(ParseFilter("").ok());
  EXPECT_TRUE(ParseFilter("  \t\n")->empty());
}

TEST(Filter, OrBindsTighterThanAnd) {
  EXPECT_EQ(Normal("method = a AND method = b OR method = c"),
            R"(method = "a" AND method = "b" OR method = "c")");
  EXPECT_EQ(ParseFilter("method = a AND method = b OR method = c")->size(), 2u);
  EXPECT_EQ(ParseFilter("method = a OR method = b AND method = c")->size(), 2u);
}

TEST(Filter, WordsSideBySideAreJoinedByAnd) {
  EXPECT_EQ(Normal("kind=quantize worker=w1"),
            Normal("kind = quantize AND worker = w1"));
}

TEST(Filter, NotTradesAndForOr) {
  EXPECT_EQ(Normal("NOT (method = a OR method = b)"),
            R"(method != "a" AND method != "b")");
  EXPECT_EQ(Normal("-(method = a AND NOT method = b)"),
            R"(method != "a" OR method = "b")");
  EXPECT_EQ(Normal("NOT model != m"), R"(model = "m")");
}

TEST(Filter, BracketsAreMultipliedOut) {
  EXPECT_EQ(Normal("method = a OR (model = b AND worker = c)"),
            R"(method = "a" OR model = "b" AND method = "a" OR worker = "c")");
}

TEST(Filter, StatesTakeAnyCaseAndPrefix) {
  EXPECT_EQ(Normal("state = running"), R"(state = "RUNNING")");
  EXPECT_EQ(Normal("state != JOB_STATE_FAILED"), R"(state != "FAILED")");
}

TEST(Filter, LabelsHaveKeys) {
  EXPECT_EQ(Normal(R"(label.run = "a \"b\" \\c")"),
            R"(label.run = "a \"b\" \\c")");
}

TEST(Filter, AnUnknownFieldIsNamedWithTheNearest) {
  const auto result = ParseFilter("stat = RUNNING");
  EXPECT_EQ(base::ErrorReason(result.status()), "FILTER_INVALID");
  EXPECT_NE(result.status().message().find("state"), absl::string_view::npos);
}

TEST(Filter, BadTextsAreRefused) {
  for (const char* text : {"state",
                           "state =",
                           "= RUNNING",
                           "state = NOWHERE",
                           "kind = dance",
                           "state < RUNNING",
                           "(state = RUNNING",
                           "state = RUNNING)",
                           "AND",
                           "NOT",
                           "state = RUNNING AND",
                           "state = RUNNING OR",
                           "label = x",
                           "\"x",
                           "model = \"x",
                           "model = \"x\\",
                           "model = ;",
                           "()",
                           "state RUNNING",
                           "label. = x",
                           "model == x",
                           "- - model = x"}) {
    EXPECT_EQ(Normal(text), "! FILTER_INVALID") << text;
  }
}

TEST(Filter, LimitsHold) {
  EXPECT_FALSE(ParseFilter(std::string(kMaxFilterBytes + 1, ' ')).ok());
  std::string deep = "model = x";
  for (int i = 0; i < kMaxFilterDepth; ++i) deep = "(" + deep + ")";
  EXPECT_TRUE(ParseFilter(deep).ok());
  EXPECT_FALSE(ParseFilter("(" + deep + ")").ok());
  std::string wide = "model=x";
  for (int i = 1; i < kMaxFilterTerms; ++i) wide += " model=x";
  EXPECT_TRUE(ParseFilter(wide).ok());
  EXPECT_FALSE(ParseFilter(wide + " model=x").ok());
  // 2^30 clauses if it were written out.
  std::string wild = "(model=a AND model=b)";
  for (int i = 1; i < 30; ++i) wild += " OR (model=a AND model=b)";
  EXPECT_EQ(Normal(wild), "! FILTER_INVALID");
}

// A model of the meaning: what the clauses say of a job equals what the text
// says, for random formulas over three methods.
struct Formula {
  std::string text;
  bool value;
};
Formula RandomFormula(std::mt19937* random, int depth, const std::string& job) {
  std::uniform_int_distribution<int> pick(0, depth > 3 ? 0 : 3);
  switch (pick(*random)) {
    case 1: {
      const Formula a = RandomFormula(random, depth + 1, job);
      return {"NOT (" + a.text + ")", !a.value};
    }
    case 2:
    case 3: {
      const Formula a = RandomFormula(random, depth + 1, job);
      const Formula b = RandomFormula(random, depth + 1, job);
      const bool both = (*random)() % 2 == 0;
      return {
          absl::StrCat("(", a.text, both ? ") AND (" : ") OR (", b.text, ")"),
          both ? a.value && b.value : a.value || b.value};
    }
    default: {
      const std::string method(1, static_cast<char>('a' + (*random)() % 3));
      const bool equal = (*random)() % 2 == 0;
      return {absl::StrCat("method ", equal ? "= " : "!= ", method),
              (method == job) == equal};
    }
  }
}

TEST(Filter, ClausesMeanWhatTheTextSays) {
  std::mt19937 random(7);
  int checked = 0;
  for (int i = 0; i < 500; ++i) {
    const std::string job(1, static_cast<char>('a' + random() % 3));
    const Formula formula = RandomFormula(&random, 0, job);
    const auto clauses = ParseFilter(formula.text);
    if (!clauses.ok()) continue;
    ++checked;
    bool all = true;
    for (const auto& clause : *clauses) {
      bool any = false;
      for (const FilterTerm& term : clause) {
        any = any || ((term.value == job) != term.negated);
      }
      all = all && any;
    }
    EXPECT_EQ(all, formula.value) << formula.text;
    // What is multiplied out may be longer than what may be asked.
    const std::string text = FilterText(*clauses);
    if (std::count(text.begin(), text.end(), '=') <= kMaxFilterTerms &&
        text.size() <= kMaxFilterBytes) {
      EXPECT_EQ(Normal(text), text);
    }
  }
  EXPECT_GT(checked, 300);
}

TEST(Filter, NoiseNeitherCrashesNorPassesUnchecked) {
  std::mt19937 random(11);
  const std::string alphabet = "state=()\"\\ -ANDORT:!<x.\x01\xff";
  for (int i = 0; i < 20'000; ++i) {
    std::string text;
    for (size_t n = random() % 40; n > 0; --n) {
      text += alphabet[random() % alphabet.size()];
    }
    const auto result = ParseFilter(text);
    if (result.ok()) {
      EXPECT_EQ(Normal(FilterText(*result)), FilterText(*result)) << text;
    }
  }
}

}  // namespace
}  // namespace quantd::spec
