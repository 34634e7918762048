// SPDX-License-Identifier: Apache-2.0
#include "worker/steps/block_file.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <fstream>

#include "proto/base/atomic_file.h"
#include "tests/support/test_data.h"
#include "worker/formats/format.h"

namespace quantd::steps {
namespace {

formats::QuantizedLinear Rounded(const std::string& format, int64_t in) {
  formats::WeightSpec spec;
  spec.format = format;
  spec.group_size = 24;
  spec.symmetric = false;
  return *formats::RoundToNearest(at::randn({10, in}), spec);
}

TEST(BlockFileTest, ReadsBackWhatWasWritten) {
  const support::TemporaryDirectory directory;
  QuantizedModules modules;
  for (const char* format : {"int2", "int3", "int4", "int5", "int6", "int8"}) {
    // 50 inputs fill no words; 24 leaves a short last group.
    modules[format] = Rounded(format, 50);
    modules[std::string("wide.") + format] = Rounded(format, 64);
  }
  modules["int4"].group_index =
      at::arange(50, at::kInt).remainder(3).to(at::kInt);
  const std::string path = directory.File("block");
  ASSERT_TRUE(WriteBlockFile(path, modules).ok());
  const auto back = ReadBlockFile(path);
  ASSERT_TRUE(back.ok()) << back.status();
  ASSERT_EQ(back->size(), modules.size());
  for (const auto& [name, linear] : modules) {
    const formats::QuantizedLinear& other = back->at(name);
    EXPECT_EQ(other.format, linear.format);
    EXPECT_EQ(other.group_size, linear.group_size);
    EXPECT_EQ(other.symmetric, linear.symmetric);
    EXPECT_EQ(other.out_features, linear.out_features);
    EXPECT_EQ(other.in_features, linear.in_features);
    EXPECT_TRUE(other.codes.equal(linear.codes)) << name;
    EXPECT_TRUE(other.scales.equal(linear.scales)) << name;
    EXPECT_TRUE(other.zeros.equal(linear.zeros)) << name;
    ASSERT_EQ(other.group_index.defined(), linear.group_index.defined());
  }
  EXPECT_TRUE(
      back->at("int4").group_index.equal(modules.at("int4").group_index));
}

TEST(BlockFileTest, SameModulesGiveSameBytes) {
  const support::TemporaryDirectory directory;
  const QuantizedModules modules = {{"a", Rounded("int4", 64)},
                                    {"b", Rounded("int3", 64)}};
  ASSERT_TRUE(WriteBlockFile(directory.File("one"), modules).ok());
  ASSERT_TRUE(WriteBlockFile(directory.File("two"), modules).ok());
  EXPECT_EQ(*base::ReadFile(directory.File("one")),
            *base::ReadFile(directory.File("two")));
}

TEST(BlockFileTest, ATruncatedFileIsAnError) {
  const support::TemporaryDirectory directory;
  const std::string path = directory.File("block");
  ASSERT_TRUE(WriteBlockFile(path, {{"a", Rounded("int4", 64)}}).ok());
  const std::string bytes = *base::ReadFile(path);
  std::ofstream(path, std::ios::trunc) << bytes.substr(0, bytes.size() / 2);
  EXPECT_FALSE(ReadBlockFile(path).ok());
}

}  // namespace
}  // namespace quantd::steps
