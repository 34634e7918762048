// SPDX-License-Identifier: Apache-2.0
// Every rule of the reader, broken one at a time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "tests/support/test_data.h"
#include "tests/worker/checkpoints/safetensors_bytes.h"
#include "worker/checkpoints/reader.h"
#include "worker/checkpoints/safetensors_header.h"
#include "worker/checkpoints/safetensors_writer.h"

namespace quantd::checkpoints {
namespace {

std::string Reason(const std::string& bytes) {
  const support::TemporaryDirectory folder;
  WriteBytes(folder.File("model.safetensors"), bytes);
  const absl::Status status = OpenCheckpoint(folder.path()).status();
  EXPECT_FALSE(absl::IsInternal(status)) << status;
  return base::ErrorReason(status);
}

// A file of one tensor "t" and `data_bytes` bytes of data.
std::string OneTensor(const std::string& dtype, const std::string& shape,
                      const std::string& offsets, size_t data_bytes) {
  return SafetensorsBytes(
      absl::StrCat(R"({"t":{"dtype":")", dtype, R"(","shape":)", shape,
                   R"(,"data_offsets":)", offsets, "}}"),
      std::string(data_bytes, 'x'));
}

TEST(MalformedSafetensorsTest, ASoundFileIsAccepted) {
  EXPECT_EQ(Reason(OneTensor("F32", "[2]", "[0,8]", 8)), "");
  EXPECT_EQ(Reason(SafetensorsBytes("{}")), "");
  EXPECT_EQ(Reason(SafetensorsBytes("  {} ")), "");
}

TEST(MalformedSafetensorsTest, EveryTruncationIsRefusedWithItsReason) {
  const std::string sound = OneTensor("F32", "[2]", "[0,8]", 8);
  const size_t header_end = sound.size() - 8;
  for (size_t length = 0; length < sound.size(); ++length) {
    const std::string reason = Reason(sound.substr(0, length));
    if (length < 8) {
      EXPECT_EQ(reason, "HEADER_TOO_SMALL") << length;
    } else if (length < header_end) {
      EXPECT_EQ(reason, "HEADER_LENGTH") << length;
    } else {
      EXPECT_EQ(reason, "FILE_TRUNCATED") << length;
    }
  }
}

TEST(MalformedSafetensorsTest, EveryTruncationOfTheHeaderAloneIsNoJson) {
  const std::string header =
      R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  for (size_t length = 0; length < header.size(); ++length) {
    EXPECT_EQ(
        Reason(SafetensorsBytes(header.substr(0, length), std::string(8, 'x'))),
        "HEADER_JSON")
        << length;
  }
}

TEST(MalformedSafetensorsTest, EveryFlippedHeaderByteIsRefusedOrReadable) {
  const std::string sound = OneTensor("F32", "[2]", "[0,8]", 8);
  int refused = 0;
  for (size_t i = 0; i + 8 < sound.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bytes = sound;
      bytes[i] = static_cast<char>(bytes[i] ^ (1 << bit));
      const support::TemporaryDirectory folder;
      WriteBytes(folder.File("x"), bytes);
      const auto read = ReadSafetensors(folder.File("x"));
      if (read.ok()) continue;
      EXPECT_NE(base::ErrorReason(read.status()), "") << read.status();
      ++refused;
    }
  }
  EXPECT_GT(refused, 300);
}

struct Case {
  const char* reason;
  std::string bytes;
};

class MalformedHeaderTest : public ::testing::TestWithParam<Case> {};

TEST_P(MalformedHeaderTest, HasItsReason) {
  EXPECT_EQ(Reason(GetParam().bytes), GetParam().reason);
}

std::string Two(const char* first, const char* second, size_t data_bytes) {
  return SafetensorsBytes(
      absl::StrCat(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)", first,
                   R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)", second,
                   "}}"),
      std::string(data_bytes, 'x'));
}

std::vector<Case> Cases() {
  const std::string huge("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
  const std::string just_over("\x01\xe1\xf5\x05\0\0\0\0{}", 10);
  const std::string long_name(300, 'n');
  std::string deep = R"({"t":)";
  for (int i = 0; i < 100000; ++i) deep += '[';
  return {
      {"HEADER_TOO_LARGE", huge},
      {"HEADER_TOO_LARGE", just_over},
      {"HEADER_JSON", SafetensorsBytes("[]")},
      {"HEADER_JSON", SafetensorsBytes("{} x")},
      {"HEADER_JSON", SafetensorsBytes("{\"a\xff\":1}")},
      {"HEADER_JSON", SafetensorsBytes(R"({"a":1e999})")},
      {"HEADER_JSON", SafetensorsBytes("{}\n//", "")},
      {"JSON_TOO_DEEP", SafetensorsBytes(deep)},
      {"DUPLICATE_KEY",
       SafetensorsBytes(
           R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
           R"("t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
           "x")},
      {"DUPLICATE_KEY",
       SafetensorsBytes(R"({"t":{"dtype":"U8","dtype":"U8","shape":[1],)"
                        R"("data_offsets":[0,1]}})",
                        "x")},
      {"HEADER_METADATA", SafetensorsBytes(R"({"__metadata__":{"a":1}})")},
      {"HEADER_METADATA", SafetensorsBytes(R"({"__metadata__":["a"]})")},
      {"HEADER_ENTRY", SafetensorsBytes(R"({"t":1})")},
      {"HEADER_ENTRY", SafetensorsBytes(R"({"t":{}})")},
      {"HEADER_ENTRY", OneTensor("F32", "2", "[0,8]", 8)},
      {"HEADER_ENTRY", OneTensor("F32", "[2]", "[0,8,9]", 8)},
      {"TENSOR_NAME", SafetensorsBytes(R"({"":{"dtype":"U8","shape":[0],)"
                                       R"("data_offsets":[0,0]}})")},
      {"TENSOR_NAME",
       SafetensorsBytes(absl::StrCat(R"({")", long_name,
                                     R"(":{"dtype":"U8","shape":[0],)"
                                     R"("data_offsets":[0,0]}})"))},
      {"DTYPE_UNKNOWN", OneTensor("Q4", "[2]", "[0,8]", 8)},
      {"DTYPE_UNKNOWN", OneTensor("f32", "[2]", "[0,8]", 8)},
      {"SHAPE_INVALID", OneTensor("F32", "[-2]", "[0,8]", 8)},
      {"SHAPE_INVALID", OneTensor("F32", "[2.0]", "[0,8]", 8)},
      {"SHAPE_INVALID", OneTensor("F32", "[\"2\"]", "[0,8]", 8)},
      {"SHAPE_INVALID", OneTensor("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]", 1)},
      {"SIZE_OVERFLOW",
       OneTensor("F32", "[4294967296,4294967296]", "[0,8]", 8)},
      {"SIZE_OVERFLOW", OneTensor("F32", "[9223372036854775808]", "[0,8]", 8)},
      {"SIZE_OVERFLOW", OneTensor("U8", "[1]", "[0,18446744073709551615]", 8)},
      {"DTYPE_MISALIGNED", OneTensor("F4", "[3]", "[0,2]", 2)},
      {"OFFSET_INVALID", OneTensor("F32", "[2]", "[-8,0]", 8)},
      {"OFFSET_INVALID", OneTensor("F32", "[2]", "[8,0]", 8)},
      {"SIZE_MISMATCH", OneTensor("F32", "[2]", "[0,4]", 4)},
      {"SIZE_MISMATCH", OneTensor("F32", "[]", "[0,8]", 8)},
      {"OFFSET_HOLE", OneTensor("F32", "[2]", "[8,16]", 16)},
      {"OFFSET_HOLE", Two("[0,4]", "[5,9]", 9)},
      {"OFFSET_OVERLAP", Two("[0,4]", "[3,7]", 7)},
      {"OFFSET_OVERLAP", Two("[0,4]", "[0,4]", 4)},
      {"TRAILING_BYTES", OneTensor("F32", "[2]", "[0,8]", 9)},
      {"TRAILING_BYTES", SafetensorsBytes("{}", "x")},
  };
}

INSTANTIATE_TEST_SUITE_P(Rules, MalformedHeaderTest,
                         ::testing::ValuesIn(Cases()));

TEST(MalformedSafetensorsTest, ListsTypesWithoutATensorTypeButDoesNotReadThem) {
  const support::TemporaryDirectory folder;
  WriteBytes(folder.File("model.safetensors"),
             OneTensor("F6_E2M3", "[4]", "[0,3]", 3));
  const auto reader = OpenCheckpoint(folder.path());
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->tensors().at("t").dtype, "F6_E2M3");
  EXPECT_EQ(base::ErrorReason((*reader)->Read("t").status()),
            "DTYPE_UNREADABLE");
}

// The reason for a directory with this index and one sound shard.
std::string IndexReason(const std::string& index) {
  const support::TemporaryDirectory folder;
  WriteBytes(folder.File("model.safetensors.index.json"), index);
  WriteBytes(folder.File("a.safetensors"), OneTensor("F32", "[2]", "[0,8]", 8));
  return base::ErrorReason(OpenCheckpoint(folder.path()).status());
}

TEST(MalformedIndexTest, EachRuleHasItsReason) {
  EXPECT_EQ(IndexReason(R"({"weight_map":{"t":"a.safetensors"}})"), "");
  EXPECT_EQ(IndexReason(R"({"weight_map":)"), "INDEX_JSON");
  EXPECT_EQ(IndexReason("[]"), "INDEX_JSON");
  EXPECT_EQ(IndexReason("{}"), "INDEX_FORMAT");
  EXPECT_EQ(IndexReason(R"({"weight_map":[]})"), "INDEX_FORMAT");
  EXPECT_EQ(IndexReason(R"({"weight_map":{}})"), "INDEX_FORMAT");
  EXPECT_EQ(IndexReason(R"({"weight_map":{"t":1}})"), "INDEX_FORMAT");
  EXPECT_EQ(IndexReason(R"({"weight_map":{"t":"b.safetensors"}})"),
            "INDEX_SHARD_MISSING");
  EXPECT_EQ(IndexReason(R"({"weight_map":{"u":"a.safetensors"}})"),
            "INDEX_TENSOR_MISSING");
  EXPECT_EQ(IndexReason(R"({"weight_map":{"t":"a.safetensors",)"
                        R"("t":"a.safetensors"}})"),
            "DUPLICATE_KEY");
}

TEST(MalformedIndexTest, ShardsAreNamesInTheSameDirectory) {
  for (const char* name :
       {"../a.safetensors", "/etc/a.safetensors", "x/a.safetensors", "", "..",
        ".a.safetensors", "passwd", "a\\\\b.safetensors",
        "a\\u0000.safetensors"}) {
    EXPECT_EQ(
        IndexReason(absl::StrCat(R"({"weight_map":{"t":")", name, R"("}})")),
        "INDEX_SHARD_NAME")
        << name;
  }
}

TEST(MalformedConfigTest, EachRuleHasItsReason) {
  const auto reason = [](const std::string& config) {
    const support::TemporaryDirectory folder;
    WriteBytes(folder.File("model.safetensors"), SafetensorsBytes("{}"));
    WriteBytes(folder.File("config.json"), config);
    return base::ErrorReason(OpenCheckpoint(folder.path()).status());
  };
  EXPECT_EQ(reason("{}"), "");
  EXPECT_EQ(reason(""), "CONFIG_JSON");
  EXPECT_EQ(reason("3"), "CONFIG_JSON");
  EXPECT_EQ(reason(R"({"a":1,"a":2})"), "DUPLICATE_KEY");
  EXPECT_EQ(
      reason(R"({"a":)" + std::string(16, '[') + std::string(16, ']') + "}"),
      "JSON_TOO_DEEP");
  EXPECT_EQ(
      reason(R"({"a":)" + std::string(15, '[') + std::string(15, ']') + "}"),
      "");
}

}  // namespace
}  // namespace quantd::checkpoints
