// SPDX-License-Identifier: Apache-2.0
#include "worker/data/documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "proto/base/atomic_file.h"
#include "proto/base/error.h"
#include "tests/support/test_data.h"
#include "worker/data/rows.h"

namespace quantd::data {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

absl::StatusOr<Corpus> CorpusOf(const std::string& bytes) {
  const support::TemporaryDirectory folder;
  const std::string path = folder.File("corpus");
  EXPECT_TRUE(base::WriteFileAtomically(path, bytes).ok());
  return ReadCorpus(path);
}

std::vector<std::string> Texts(const std::string& bytes) {
  const auto corpus = CorpusOf(bytes);
  EXPECT_TRUE(corpus.ok()) << corpus.status();
  std::vector<std::string> texts;
  if (!corpus.ok()) return texts;
  for (const Document& document : corpus->documents) {
    texts.push_back(document.text);
  }
  return texts;
}

// The reason of the refusal and the row it names ("" for the whole file).
std::pair<std::string, std::string> Refusal(const std::string& bytes) {
  const auto corpus = CorpusOf(bytes);
  EXPECT_EQ(corpus.status().code(), absl::StatusCode::kInvalidArgument);
  const auto metadata = base::GetErrorMetadata(corpus.status());
  const auto row = metadata.find("row");
  return {base::ErrorReason(corpus.status()),
          row == metadata.end() ? "" : row->second};
}

using Reason = std::pair<std::string, std::string>;

TEST(ReadCorpus, ATextFileIsOneDocumentByteForByte) {
  const std::string text = "a\r\nb\n\n c \xc3\xa9\n";
  EXPECT_THAT(Texts(text), ElementsAre(text));
}

TEST(ReadCorpus, TheDigestIsThatOfTheFile) {
  // FIPS 180-2, appendix B.1: SHA-256 of "abc".
  EXPECT_EQ(CorpusOf("abc")->digest,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(ReadCorpus, JsonLinesAreFoundByContent) {
  EXPECT_THAT(Texts("{\"text\": \"one\"}\n{\"text\": \"two\", \"id\": 7}"),
              ElementsAre("one", "two"));
}

TEST(ReadCorpus, CarriageReturnsAndBlankLinesEndNoRow) {
  EXPECT_THAT(Texts("\r\n{\"text\": \"one\"}\r\n\r\n  \n{\"text\": \"\"}\r\n"),
              ElementsAre("one", ""));
}

TEST(ReadCorpus, EscapesInJsonAreResolved) {
  EXPECT_THAT(Texts("{\"text\": \"a\\nb\\u00e9\"}"),
              ElementsAre("a\nb\xc3\xa9"));
}

TEST(ReadCorpus, ABraceDoesNotMakeATextJson) {
  const std::string text = "{ this is a poem\nabout braces }\n";
  EXPECT_THAT(Texts(text), ElementsAre(text));
}

TEST(ReadCorpus, IdsOfARowCountBeforeItsText) {
  const auto corpus = CorpusOf(
      "{\"input_ids\": [3, 1, 2], \"text\": \"x\"}\n{\"input_ids\": [7]}\n");
  ASSERT_TRUE(corpus.ok()) << corpus.status();
  EXPECT_TRUE(corpus->has_ids());
  EXPECT_THAT(JoinedIds(*corpus), ElementsAre(3, 1, 2, 7));
}

TEST(ReadCorpus, EveryRefusalNamesItsReasonAndRow) {
  const std::string good = "{\"text\": \"one\"}\n";
  EXPECT_EQ(Refusal(""), Reason("DATA_EMPTY", ""));
  EXPECT_EQ(Refusal("a\xff"), Reason("DATA_NOT_UTF8", ""));
  EXPECT_EQ(Refusal(good + "{\"text\": \"\xc3\"}\n"),
            Reason("DATA_NOT_UTF8", "2"));
  EXPECT_EQ(Refusal(good + "\n{\"text\": \"two\"\n"),
            Reason("DATA_ROW_INVALID", "3"));
  EXPECT_EQ(Refusal(good + "[1]\n"), Reason("DATA_ROW_INVALID", "2"));
  EXPECT_EQ(Refusal(good + "{\"body\": \"two\"}\n"),
            Reason("DATA_FIELD_MISSING", "2"));
  EXPECT_EQ(Refusal("{\"text\": 3}\n"), Reason("DATA_FIELD_MISSING", "1"));
  EXPECT_EQ(Refusal(good + "{\"input_ids\": [1]}\n"),
            Reason("DATA_MIXED_ROWS", "2"));
}

TEST(ReadCorpus, IdsThatAreNoIdsAreRefused) {
  for (const char* ids : {"[]", "[-1]", "[1.5]", "[\"a\"]", "[4294967296]", "7",
                          "[1, null]", "[99999999999999999999]"}) {
    EXPECT_EQ(Refusal(std::string("{\"input_ids\": ") + ids + "}\n"),
              Reason("DATA_TOKEN_INVALID", "1"))
        << ids;
  }
}

TEST(ReadCorpus, ARefusalNamesFileLineAndValue) {
  const std::string message(
      CorpusOf("{\"input_ids\": [1]}\n\n{\"input_ids\": [2, -7]}\n")
          .status()
          .message());
  EXPECT_THAT(message, HasSubstr("\"corpus\""));
  EXPECT_THAT(message, HasSubstr("row 3"));
  EXPECT_THAT(message, HasSubstr("input_ids[1] is -7"));
  EXPECT_THAT(message, testing::Not(HasSubstr("/")));
}

TEST(CheckIds, EveryIdOfEveryRowIsInTheVocabulary) {
  const auto corpus = CorpusOf(
      "{\"input_ids\": [0, 511]}\n\n{\"input_ids\": [7, 8, 512, 600]}\n");
  ASSERT_TRUE(corpus.ok()) << corpus.status();
  EXPECT_TRUE(CheckIds(*corpus, 601).ok());
  const absl::Status status = CheckIds(*corpus, 512);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(base::ErrorReason(status), "TOKEN_OUT_OF_RANGE");
  EXPECT_EQ(base::GetErrorMetadata(status)["row"], "3");
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("input_ids[2] is 512, and the model's vocabulary has "
                        "the ids 0 to 511"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"corpus\""));
  EXPECT_TRUE(CheckIds(*CorpusOf("text"), 1).ok());
}

TEST(ReadCorpus, AFileThatIsNotThereIsNotFoundWithoutItsPath) {
  const auto corpus = ReadCorpus("/nowhere/secret.txt");
  EXPECT_EQ(corpus.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(corpus.status().message(), testing::Not(HasSubstr("secret")));
}

TEST(FirstInvalidUtf8, FollowsRfc3629) {
  EXPECT_EQ(FirstInvalidUtf8(""), -1);
  EXPECT_EQ(FirstInvalidUtf8("a\xc3\xa9\xe2\x82\xac\xf0\x9f\xa6\x99"), -1);
  EXPECT_EQ(FirstInvalidUtf8("\xf4\x8f\xbf\xbf"), -1);  // U+10FFFF
  EXPECT_EQ(FirstInvalidUtf8("\xf4\x90\x80\x80"), 0);   // above it
  EXPECT_EQ(FirstInvalidUtf8("ab\xc0\xaf"), 2);         // overlong
  EXPECT_EQ(FirstInvalidUtf8("\xe0\x80\xaf"), 0);       // overlong
  EXPECT_EQ(FirstInvalidUtf8("\xf0\x80\x80\x80"), 0);   // overlong
  EXPECT_EQ(FirstInvalidUtf8("\xed\xa0\x80"), 0);       // surrogate
  EXPECT_EQ(FirstInvalidUtf8("abc\xe2\x82"), 3);        // cut off
  EXPECT_EQ(FirstInvalidUtf8("\x80"), 0);
}

TEST(Joining, TextsAreJoinedByTwoNewlines) {
  EXPECT_EQ(JoinedText(*CorpusOf("{\"text\": \"a\"}\n{\"text\": \"\"}\n"
                                 "{\"text\": \"b\"}\n")),
            "a\n\n\n\nb");
}

TEST(Joining, WikiTextRowsComeBackFromTheRawFile) {
  EXPECT_EQ(JoinedWikiTextRows(" \n = T = \n \n text \n"),
            "\n\n = T = \n\n\n\n\n text \n");
  EXPECT_EQ(JoinedWikiTextRows("no newline"), "no newline");
}

TEST(Joining, TheWikiText2TestSetHasItsKnownSize) {
  SKIP_WITHOUT_TEST_DATA();
  const auto raw =
      ReadCorpus(support::TestData("data/wikitext2/wiki.test.raw"));
  ASSERT_TRUE(raw.ok()) << raw.status();
  EXPECT_EQ(raw->digest,
            "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08");
  EXPECT_EQ(JoinedWikiTextRows(JoinedText(*raw)).size(), 1296370u);
}

// Sets a variable of the environment while it lives.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    setenv(name, value.c_str(), 1);
  }
  ~Variable() { unsetenv(name_); }

 private:
  const char* name_;
};

TEST(ResolveDataset, TheBundledTextsAreReadFromTheShareFolder) {
  const support::TemporaryDirectory share;
  std::filesystem::create_directories(share.File("models/tiny"));
  const std::string heldout = share.File("models/tiny/heldout.txt");
  ASSERT_TRUE(base::WriteFileAtomically(heldout, "text").ok());
  const Variable variable("QUANTD_SHARE", share.path());
  EXPECT_EQ(ResolveDataset("bundled-heldout").value(), heldout);
  const auto missing = ResolveDataset("bundled");
  EXPECT_EQ(base::ErrorReason(missing.status()), "DATASET_MISSING");
}

TEST(ResolveDataset, TheSourceTreeHasTheBundledTexts) {
  for (const char* name : {"bundled", "bundled-heldout"}) {
    const auto path = ResolveDataset(name);
    ASSERT_TRUE(path.ok()) << path.status();
    EXPECT_TRUE(ReadCorpus(*path).ok());
  }
}

TEST(ResolveDataset, PublicDataSetsAreLookedUpBelowTheirFolder) {
  unsetenv("QUANTD_DATASETS");
  const auto unset = ResolveDataset("wikitext2");
  EXPECT_EQ(unset.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(unset.status().message(), HasSubstr("QUANTD_DATASETS"));
  const support::TemporaryDirectory root;
  std::filesystem::create_directories(root.File("wikitext2"));
  const std::string raw = root.File("wikitext2/wiki.test.raw");
  ASSERT_TRUE(base::WriteFileAtomically(raw, "text").ok());
  const Variable variable("QUANTD_DATASETS", root.path());
  EXPECT_EQ(ResolveDataset("wikitext2-test").value(), raw);
  EXPECT_EQ(base::ErrorReason(ResolveDataset("c4").status()),
            "DATASET_MISSING");
}

TEST(ResolveDataset, APathIsItself) {
  const support::TemporaryDirectory folder;
  const std::string path = folder.File("mine.jsonl");
  ASSERT_TRUE(base::WriteFileAtomically(path, "x").ok());
  EXPECT_EQ(ResolveDataset(path).value(), path);
  const auto missing = ResolveDataset(folder.File("other.jsonl"));
  EXPECT_EQ(base::ErrorReason(missing.status()), "DATASET_MISSING");
  EXPECT_THAT(missing.status().message(),
              testing::Not(HasSubstr(folder.path())));
}

}  // namespace
}  // namespace quantd::data
