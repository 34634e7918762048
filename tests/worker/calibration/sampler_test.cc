// SPDX-License-Identifier: Apache-2.0
#include "worker/calibration/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/error.h"
#include "worker/calibration/python_random.h"

namespace quantd::calibration {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Every byte is a token, after one BOS (1000).
class ByteTokenizer : public tokenizers::Tokenizer {
 public:
  absl::StatusOr<std::vector<int64_t>> Encode(
      absl::string_view text, bool add_special_tokens) const override {
    std::vector<int64_t> ids;
    if (add_special_tokens) ids.push_back(1000);
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  absl::StatusOr<std::string> Decode(
      const std::vector<int64_t>&) const override {
    return "";
  }
  int64_t vocabulary_size() const override { return 1001; }
  int64_t bos_id() const override { return 1000; }
  int64_t eos_id() const override { return -1; }
  const std::string& digest() const override { return text_; }
  const std::string& json() const override { return text_; }

 private:
  const std::string text_;
};

v1::Calibration Settings(int64_t samples, int64_t length, uint64_t seed = 0) {
  v1::Calibration calibration;
  calibration.set_num_samples(samples);
  calibration.set_sequence_length(length);
  calibration.set_seed(seed);
  return calibration;
}

std::vector<int64_t> RowOf(const at::Tensor& samples, int64_t row) {
  const int64_t* begin = samples.data_ptr<int64_t>() + row * samples.size(1);
  return {begin, begin + samples.size(1)};
}

TEST(PythonRandom, DrawsTheIntegersOfPython) {
  // random.seed(0); random.getrandbits(32), and random.randint(0, 339420).
  PythonRandom words(0);
  EXPECT_EQ(words.Next(), 3626764237u);
  EXPECT_EQ(words.Next(), 1654615998u);
  PythonRandom numbers(0);
  for (const int64_t expected :
       {201979, 220500, 21225, 135746, 268055, 254766, 212302, 159023}) {
    EXPECT_EQ(numbers.UpTo(339420), expected);
  }
}

TEST(PythonRandom, SeedsOfMoreThanOneWord) {
  // random.seed(2**40 + 5); random.getrandbits(32) twice, CPython 3.11.
  PythonRandom random((uint64_t{1} << 40) + 5);
  EXPECT_EQ(random.Next(), 2166296868u);
  EXPECT_EQ(random.Next(), 2220160828u);
}

TEST(PythonRandom, ASingleChoiceIsAlwaysZero) {
  PythonRandom random(7);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(random.UpTo(0), 0);
}

TEST(SampleTokens, WindowsOfTheJoinedTextStartWherePythonsDo) {
  data::Corpus corpus;
  corpus.documents.resize(2);
  corpus.documents[0].text = std::string(40, 'a');
  for (int i = 0; i < 58; ++i) corpus.documents[1].text.push_back('A' + i);
  // 1 BOS + 40 + 2 newlines + 58 = 101 tokens: starts of 0..101-10-1 = 0..90.
  const auto samples = SampleTokens(corpus, ByteTokenizer(), Settings(3, 10));
  ASSERT_TRUE(samples.ok()) << samples.status();
  std::vector<int64_t> joined = {1000};
  joined.insert(joined.end(), 40, 'a');
  joined.insert(joined.end(), 2, '\n');
  for (int i = 0; i < 58; ++i) joined.push_back('A' + i);
  // random.seed(0); [random.randint(0, 90) for _ in range(3)], CPython 3.11.
  const std::vector<int64_t> starts = {49, 53, 5};
  for (int64_t row = 0; row < 3; ++row) {
    const auto begin = joined.begin() + starts[row];
    EXPECT_EQ(RowOf(*samples, row), std::vector<int64_t>(begin, begin + 10));
  }
}

TEST(SampleTokens, TheSeedDecidesAndRepeats) {
  data::Corpus corpus;
  corpus.documents.resize(1);
  for (int i = 0; i < 4000; ++i) {
    corpus.documents[0].text.push_back(static_cast<char>('!' + i * i % 89));
  }
  const auto first = SampleTokens(corpus, ByteTokenizer(), Settings(4, 16, 1));
  const auto again = SampleTokens(corpus, ByteTokenizer(), Settings(4, 16, 1));
  const auto other = SampleTokens(corpus, ByteTokenizer(), Settings(4, 16, 2));
  EXPECT_EQ(RowOf(*first, 3), RowOf(*again, 3));
  EXPECT_NE(RowOf(*first, 3), RowOf(*other, 3));
}

TEST(SampleTokens, ExactlyOneTokenMoreThanAWindowIsEnough) {
  data::Corpus corpus;
  corpus.documents.resize(1);
  corpus.documents[0].text = "abcd";  // 5 tokens with BOS.
  const auto samples = SampleTokens(corpus, ByteTokenizer(), Settings(2, 4));
  ASSERT_TRUE(samples.ok()) << samples.status();
  EXPECT_THAT(RowOf(*samples, 0), ElementsAre(1000, 'a', 'b', 'c'));
  const auto longer = SampleTokens(corpus, ByteTokenizer(), Settings(2, 5));
  EXPECT_EQ(base::ErrorReason(longer.status()), "CALIBRATION_TOO_SHORT");
  EXPECT_THAT(longer.status().message(), HasSubstr("5 tokens"));
  EXPECT_THAT(longer.status().message(), HasSubstr("6 are needed"));
}

TEST(SampleTokens, RowsOfIdsAreUsedInOrderAndCut) {
  data::Corpus corpus;
  corpus.documents.resize(3);
  corpus.documents[0].input_ids = {1, 2, 3, 4};
  corpus.documents[1].input_ids = {5, 6};
  corpus.documents[2].input_ids = {7, 8, 9};
  const auto samples = SampleTokens(corpus, ByteTokenizer(), Settings(2, 3));
  ASSERT_TRUE(samples.ok()) << samples.status();
  EXPECT_THAT(RowOf(*samples, 0), ElementsAre(1, 2, 3));
  EXPECT_THAT(RowOf(*samples, 1), ElementsAre(7, 8, 9));
  const auto more = SampleTokens(corpus, ByteTokenizer(), Settings(3, 3));
  EXPECT_EQ(base::ErrorReason(more.status()), "CALIBRATION_TOO_SHORT");
  EXPECT_THAT(more.status().message(), HasSubstr("2 of its 3 rows"));
}

TEST(SampleTokens, NothingAskedForIsRefused) {
  data::Corpus corpus;
  corpus.documents.resize(1);
  corpus.documents[0].text = "abcd";
  for (const auto& [samples, length] :
       {std::pair(0, 4), std::pair(4, 0), std::pair(-1, 4)}) {
    EXPECT_EQ(base::ErrorReason(SampleTokens(corpus, ByteTokenizer(),
                                             Settings(samples, length))
                                    .status()),
              "PARAMETER_INVALID");
  }
}

}  // namespace
}  // namespace quantd::calibration
