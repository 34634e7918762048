// SPDX-License-Identifier: Apache-2.0
#include "worker/exports/gptq_layout.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "proto/base/error.h"
#include "worker/formats/format.h"

namespace quantd::exports {
namespace {

// Tensors in memory behind the reader's interface.
class MemoryReader : public checkpoints::CheckpointReader {
 public:
  explicit MemoryReader(checkpoints::TensorMap tensors)
      : values_(std::move(tensors)) {
    for (const auto& [name, tensor] : values_) {
      infos_[name] = {"", tensor.sizes().vec(),
                      static_cast<int64_t>(tensor.nbytes())};
    }
  }
  const std::map<std::string, checkpoints::TensorInfo>& tensors()
      const override {
    return infos_;
  }
  absl::StatusOr<at::Tensor> Read(const std::string& name) override {
    const auto found = values_.find(name);
    if (found == values_.end()) {
      return base::MakeError(absl::StatusCode::kNotFound, "TENSOR_MISSING",
                             name);
    }
    return found->second;
  }
  const nlohmann::json& config() const override { return json_; }
  const nlohmann::json& metadata() const override { return json_; }
  const std::map<std::string, std::string>& companions() const override {
    return companions_;
  }
  absl::StatusOr<std::string> Digest() override { return std::string(); }

  checkpoints::TensorMap values_;
  std::map<std::string, checkpoints::TensorInfo> infos_;
  nlohmann::json json_ = nlohmann::json::object();
  std::map<std::string, std::string> companions_;
};

formats::QuantizedLinear Rounded(const std::string& format, bool symmetric,
                                 int64_t group_size) {
  formats::WeightSpec spec;
  spec.format = format;
  spec.symmetric = symmetric;
  spec.group_size = group_size;
  return *formats::RoundToNearest(at::randn({64, 96}), spec);
}

GptqModule Module() { return {"m", 64, 96}; }

TEST(GptqLayoutTest, EveryWidthReadsBackAsItWas) {
  for (const char* format : {"int2", "int3", "int4", "int5", "int6", "int8"}) {
    for (const int64_t group : {-1, 32, 48}) {
      const auto linear = Rounded(format, false, group);
      const int bits = (*formats::FindFormat(format))->bits();
      const GptqVersion version = GptqHasWidth(bits, GptqVersion::kV2)
                                      ? GptqVersion::kV2
                                      : GptqVersion::kPlanar;
      const auto tensors = EncodeGptq("m", linear, version);
      ASSERT_TRUE(tensors.ok()) << tensors.status();
      MemoryReader reader(*tensors);
      const auto back = DecodeGptq(reader, Module(), version);
      ASSERT_TRUE(back.ok()) << back.status();
      EXPECT_EQ(back->format, linear.format);
      EXPECT_EQ(back->group_size, linear.group_size);
      EXPECT_FALSE(back->group_index.defined());
      EXPECT_TRUE(back->codes.equal(linear.codes));
      EXPECT_TRUE(back->zeros.equal(linear.zeros));
      EXPECT_TRUE(back->scales.equal(linear.scales));
    }
  }
}

TEST(GptqLayoutTest, VersionsDifferByOneInTheZeroPoints) {
  const auto linear = Rounded("int4", true, 32);
  const auto v1 = EncodeGptq("m", linear, GptqVersion::kV1);
  const auto v2 = EncodeGptq("m", linear, GptqVersion::kV2);
  EXPECT_TRUE(v1->at("m.qzeros").eq(0x77777777).all().item<bool>());
  EXPECT_TRUE(v2->at("m.qzeros")
                  .eq(static_cast<int32_t>(0x88888888))
                  .all()
                  .item<bool>());
  MemoryReader reader(*v1);
  const auto back = DecodeGptq(reader, Module(), GptqVersion::kV1);
  EXPECT_TRUE(formats::Dequantize(*back).equal(formats::Dequantize(linear)));
}

TEST(GptqLayoutTest, OnlyPlanesHoldFiveAndSixBits) {
  const auto tensors =
      *EncodeGptq("m", Rounded("int6", true, 32), GptqVersion::kPlanar);
  EXPECT_EQ(tensors.at("m.qweight").sizes(), at::IntArrayRef({18, 64}));
  // 32, the middle: the low plane of a zero point is empty, the high one has 2.
  EXPECT_TRUE(tensors.at("m.qzeros").narrow(1, 0, 4).eq(0).all().item<bool>());
  EXPECT_TRUE(tensors.at("m.qzeros")
                  .narrow(1, 4, 2)
                  .eq(static_cast<int32_t>(0xAAAAAAAA))
                  .all()
                  .item<bool>());
  MemoryReader reader(tensors);
  EXPECT_EQ(base::ErrorReason(
                DecodeGptq(reader, Module(), GptqVersion::kV2).status()),
            "GPTQ_TENSOR_INVALID");
}

TEST(GptqLayoutTest, ShapesAndTypesAreThoseOfTheLayout) {
  const auto tensors =
      *EncodeGptq("m", Rounded("int3", false, 32), GptqVersion::kV2);
  EXPECT_EQ(tensors.at("m.qweight").sizes(), at::IntArrayRef({9, 64}));
  EXPECT_EQ(tensors.at("m.qzeros").sizes(), at::IntArrayRef({3, 6}));
  EXPECT_EQ(tensors.at("m.scales").sizes(), at::IntArrayRef({3, 64}));
  EXPECT_EQ(tensors.at("m.scales").scalar_type(), at::kHalf);
  EXPECT_EQ(tensors.at("m.g_idx").scalar_type(), at::kInt);
  EXPECT_TRUE(tensors.at("m.g_idx").equal(
      at::arange(96, at::kInt).floor_divide(32).to(at::kInt)));
}

// Word r of column n holds inputs 8r to 8r+7 of output n.
TEST(GptqLayoutTest, CodesArePackedDownTheInputs) {
  auto linear = Rounded("int4", false, 32);
  linear.codes.zero_();
  linear.codes[5][8] = 3;
  linear.codes[5][10] = 9;
  const auto tensors = *EncodeGptq("m", linear, GptqVersion::kV2);
  EXPECT_EQ(tensors.at("m.qweight")[1][5].item<int32_t>(), 0x903);
  EXPECT_EQ(tensors.at("m.qweight").ne(0).sum().item<int64_t>(), 1);
}

TEST(GptqLayoutTest, VersionOneRefusesAZeroPointOfZero) {
  auto linear = Rounded("int4", false, 32);
  linear.zeros[3][1] = 0;
  const auto tensors = EncodeGptq("m", linear, GptqVersion::kV1);
  EXPECT_EQ(base::ErrorReason(tensors.status()), "GPTQ_V1_ZERO_POINT");
  EXPECT_TRUE(EncodeGptq("m", linear, GptqVersion::kV2).ok());
}

TEST(GptqLayoutTest, ScalesThatAreNoHalvesAreRefused) {
  auto linear = Rounded("int4", true, 32);
  linear.scales[0][0] = 1.0f / 3;
  EXPECT_EQ(
      base::ErrorReason(EncodeGptq("m", linear, GptqVersion::kV2).status()),
      "EXPORT_CANNOT_STORE");
}

TEST(GptqLayoutTest, GroupsInActivationOrderSurvive) {
  auto linear = Rounded("int4", true, 32);
  linear.group_index = at::arange(96, at::kInt).remainder(3).to(at::kInt);
  const auto tensors = *EncodeGptq("m", linear, GptqVersion::kV2);
  MemoryReader reader(tensors);
  const auto back = DecodeGptq(reader, Module(), GptqVersion::kV2);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE(back->group_index.equal(linear.group_index));
  EXPECT_EQ(back->group_size, 32);
}

// The tensors of a good module with one of them replaced.
std::string ReasonWith(const std::string& name, const at::Tensor& tensor) {
  auto tensors = *EncodeGptq("m", Rounded("int4", true, 32), GptqVersion::kV2);
  tensors[name] = tensor;
  MemoryReader reader(tensors);
  return base::ErrorReason(
      DecodeGptq(reader, Module(), GptqVersion::kV2).status());
}

TEST(GptqLayoutTest, TensorsThatCannotBeRightAreRefused) {
  const auto ints = [](at::IntArrayRef shape) {
    return at::full(shape, 0, at::kInt);
  };
  EXPECT_EQ(ReasonWith("m.qweight", ints({12, 65})), "TENSOR_SHAPE");
  EXPECT_EQ(ReasonWith("m.qweight", ints({15, 64})), "GPTQ_TENSOR_INVALID");
  EXPECT_EQ(ReasonWith("m.qweight", ints({13, 64})), "GPTQ_TENSOR_INVALID");
  EXPECT_EQ(ReasonWith("m.qweight", ints({768})), "TENSOR_SHAPE");
  EXPECT_EQ(ReasonWith("m.qweight", at::randn({12, 64})),
            "GPTQ_TENSOR_INVALID");
  EXPECT_EQ(ReasonWith("m.qzeros", ints({3, 7})), "GPTQ_TENSOR_INVALID");
  EXPECT_EQ(ReasonWith("m.qzeros", ints({2, 8})), "GPTQ_TENSOR_INVALID");
  EXPECT_EQ(ReasonWith("m.scales", at::randn({3, 63})), "GPTQ_TENSOR_INVALID");
  EXPECT_EQ(ReasonWith("m.scales", at::full({3, 64}, INFINITY)),
            "GPTQ_TENSOR_INVALID");
  EXPECT_EQ(ReasonWith("m.g_idx", at::full({96}, 3, at::kInt)),
            "GPTQ_TENSOR_INVALID");
  EXPECT_EQ(ReasonWith("m.g_idx", at::full({96}, -1, at::kInt)),
            "GPTQ_TENSOR_INVALID");
  EXPECT_EQ(ReasonWith("m.g_idx", ints({95})), "GPTQ_TENSOR_INVALID");
}

TEST(GptqExportTest, RefusesWhatTheLayoutHasNoPlaceFor) {
  v1::Component component;
  component.set_id("gptq");
  const auto layout = MakeExport(component);
  ASSERT_TRUE(layout.ok()) << layout.status();
  const PlannedModule good{"m", 64, 96, {"int4", 32, true, "float16"}, false};
  EXPECT_TRUE((*layout)->CheckModule(good).ok());
  const auto refused = [&](auto change) {
    PlannedModule module = good;
    change(module);
    const absl::Status status = (*layout)->CheckModule(module);
    EXPECT_NE(status.message().find("m"), std::string::npos);
    return base::ErrorReason(status) == "EXPORT_CANNOT_STORE";
  };
  EXPECT_TRUE(refused([](PlannedModule& m) { m.in_features = 80; }));
  EXPECT_TRUE(refused([](PlannedModule& m) { m.out_features = 65; }));
  EXPECT_TRUE(refused([](PlannedModule& m) { m.spec.group_size = 64; }));
  EXPECT_TRUE(
      refused([](PlannedModule& m) { m.spec.scale_dtype = "float32"; }));
  EXPECT_TRUE(refused([](PlannedModule& m) { m.tied_head = true; }));
}

TEST(GptqExportTest, OnlyVersionAutoTakesFiveAndSixBits) {
  for (const char* version : {"auto", "v1", "v2"}) {
    v1::Component component;
    component.set_id("gptq");
    (*component.mutable_params())["version"].set_string_value(version);
    const auto layout = MakeExport(component);
    ASSERT_TRUE(layout.ok()) << layout.status();
    for (const char* format : {"int5", "int6"}) {
      const absl::Status status = (*layout)->CheckModule(
          {"m", 64, 96, {format, 32, true, "float16"}, false});
      EXPECT_EQ(base::ErrorReason(status),
                version == std::string("auto") ? "" : "EXPORT_CANNOT_STORE");
    }
  }
}

TEST(MakeLoaderTest, NamesAnUnknownQuantization) {
  MemoryReader reader({});
  reader.json_["quantization_config"] = {{"quant_method", "mystery"}};
  const auto loader = MakeLoader(reader);
  EXPECT_EQ(base::ErrorReason(loader.status()), "QUANTIZATION_UNKNOWN");
  EXPECT_NE(loader.status().message().find("mystery"), std::string::npos);
}

TEST(MakeLoaderTest, RefusesStrangeConfigs) {
  MemoryReader reader({});
  const auto reason = [&](nlohmann::json format) {
    reader.json_["quantization_config"] = {{"quant_method", "gptq"},
                                           {"checkpoint_format", format}};
    return base::ErrorReason(MakeLoader(reader).status());
  };
  EXPECT_EQ(reason("gptq_p"), "");
  EXPECT_EQ(reason("else"), "GPTQ_CONFIG");
  EXPECT_EQ(reason(7), "GPTQ_CONFIG");
  EXPECT_EQ(reason("GPTQ_V2"), "");
}

}  // namespace
}  // namespace quantd::exports
