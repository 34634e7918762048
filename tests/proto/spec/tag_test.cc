// SPDX-License-Identifier: Apache-2.0
#include "proto/spec/tag.h"

#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "proto/base/error.h"
#include "proto/spec/page_token.h"

namespace quantd::spec {
namespace {

v1::QuantizeSpec Spec() {
  v1::QuantizeSpec spec;
  spec.set_model("hf://org/Qwen3-0.6B@main");
  spec.mutable_recipe()->mutable_method()->set_id("gptq");
  spec.mutable_recipe()->mutable_weights()->set_format("int4");
  spec.mutable_recipe()->mutable_weights()->set_group_size(64);
  spec.mutable_recipe()->mutable_weights()->set_symmetric(true);
  return spec;
}

TEST(Tag, IsAsDocumented) {
  EXPECT_EQ(TagText(TagOf(Spec())), "Qwen3-0.6B_GPTQ_w4_g64_headfp16");
  v1::QuantizeSpec spec = Spec();
  spec.mutable_recipe()->mutable_weights()->set_symmetric(false);
  spec.mutable_recipe()->set_quantize_lm_head(true);
  spec.mutable_recipe()->add_transforms()->set_id("awq");
  EXPECT_EQ(TagText(TagOf(spec)), "Qwen3-0.6B_AWQ+GPTQ_w4_g64_asym_headq");
}

TEST(Tag, NamesWhatIsRoundedBesideTheWeights) {
  v1::QuantizeSpec spec = Spec();
  spec.mutable_recipe()->set_activations("int8");
  EXPECT_EQ(TagText(TagOf(spec)), "Qwen3-0.6B_GPTQ_w4_a8_g64_headfp16");
  spec.mutable_recipe()->mutable_kv_cache()->set_format("fp8_e4m3");
  EXPECT_EQ(TagText(TagOf(spec)),
            "Qwen3-0.6B_GPTQ_w4_a8_kvfp8-e4m3_g64_headfp16");
  spec.mutable_recipe()->set_activations("bf16");
  EXPECT_EQ(TagText(TagOf(spec)), "Qwen3-0.6B_GPTQ_w4_kvfp8-e4m3_g64_headfp16");
}

TEST(Tag, SaysThatFormatsAreMixed) {
  v1::QuantizeSpec spec = Spec();
  v1::Override* row = spec.mutable_recipe()->add_overrides();
  row->set_pattern("*.mlp.gate");
  row->set_skip(true);
  EXPECT_EQ(TagText(TagOf(spec)), "Qwen3-0.6B_GPTQ_w4_g64_headfp16");
  row->set_skip(false);
  row->set_wq("int4");
  EXPECT_EQ(TagText(TagOf(spec)), "Qwen3-0.6B_GPTQ_w4_g64_headfp16");
  row->set_wq("int6");
  EXPECT_EQ(TagText(TagOf(spec)), "Qwen3-0.6B_GPTQ_w4_mixed_g64_headfp16");
  spec.mutable_recipe()->clear_overrides();
  spec.mutable_recipe()->mutable_mixed()->set_id("sensitivity");
  spec.mutable_recipe()->set_activations("int8");
  EXPECT_EQ(TagText(TagOf(spec)), "Qwen3-0.6B_GPTQ_w4_mixed_a8_g64_headfp16");
}

TEST(Tag, ModelWordsAreFitForFiles) {
  EXPECT_EQ(ModelWord("/models/My Model/"), "My-Model");
  EXPECT_EQ(ModelWord("dir/smol.gguf"), "smol");
  EXPECT_EQ(ModelWord(".."), "model..");
  EXPECT_EQ(ModelWord(""), "model");
  EXPECT_EQ(ModelWord("a\nb\x01"), "a-b-");
}

TEST(Tag, RoundTripsWhateverItsParts) {
  std::mt19937 random(5);
  const std::vector<std::string> models = {"a",        "Qwen3-0.6B",
                                           "x_w4_g64", "m_GPTQ_w4_g64_asym",
                                           "m_headq",  "m_mixed"};
  const std::vector<std::string> ids = {"gptq", "rtn", "smooth_quant", "hqq2"};
  const std::vector<std::string> formats = {"int2", "int8", "nf4", "mxfp4",
                                            "fp8_e4m3"};
  for (int i = 0; i < 2000; ++i) {
    Tag tag;
    tag.model = models[random() % models.size()];
    tag.method = ids[random() % ids.size()];
    for (size_t n = random() % 3; n > 0; --n) {
      tag.transforms.push_back(ids[random() % ids.size()]);
    }
    tag.format = formats[random() % formats.size()];
    tag.mixed = random() % 2 == 0;
    if (random() % 2 == 0) tag.activations = formats[random() % formats.size()];
    if (random() % 2 == 0) tag.kv_cache = formats[random() % formats.size()];
    tag.group_size = random() % 4 == 0 ? -1 : 1 + random() % 1024;
    tag.symmetric = random() % 2 == 0;
    tag.head = static_cast<Tag::Head>(random() % 3);
    const auto parsed = ParseTag(TagText(tag));
    ASSERT_TRUE(parsed.ok()) << TagText(tag);
    EXPECT_EQ(parsed->model, tag.model);
    EXPECT_EQ(parsed->transforms, tag.transforms);
    EXPECT_EQ(parsed->method, tag.method);
    EXPECT_EQ(parsed->format, tag.format);
    EXPECT_EQ(parsed->mixed, tag.mixed);
    EXPECT_EQ(parsed->activations, tag.activations);
    EXPECT_EQ(parsed->kv_cache, tag.kv_cache);
    EXPECT_EQ(parsed->group_size, tag.group_size);
    EXPECT_EQ(parsed->symmetric, tag.symmetric);
    EXPECT_EQ(parsed->head, tag.head);
  }
}

TEST(Tag, OtherTextsAreRefused) {
  for (const char* text :
       {"", "_", "a_GPTQ_w4", "a_gptq_w4_g64", "a_GPTQ_4_g64", "a_GPTQ_w4_64",
        "a_GPTQ_w4_g064", "a_GPTQ_w4_g64_asym_asym", "a_GPTQ_w_g64",
        "GPTQ_w4_g64", "a_GPTQ_w4_g64_head"}) {
    EXPECT_EQ(base::ErrorReason(ParseTag(text).status()), "TAG_INVALID")
        << text;
  }
}

TEST(PageTokens, OpenOnlyForTheSameListing) {
  const PageTokens tokens("0123456789abcdef");
  const std::string token = tokens.Seal("42", "ListJobs|a");
  EXPECT_EQ(*tokens.Open(token, "ListJobs|a"), "42");
  EXPECT_FALSE(tokens.Open(token, "ListJobs|b").ok());
  EXPECT_FALSE(PageTokens("0123456789abcdeX").Open(token, "ListJobs|a").ok());
  // The border between cursor and arguments is sealed too.
  EXPECT_FALSE(tokens.Open(tokens.Seal("4", "2|x"), "x").ok());
}

TEST(PageTokens, NoChangedByteIsTaken) {
  const PageTokens tokens("0123456789abcdef");
  const std::string token = tokens.Seal("12345", "x");
  for (size_t i = 0; i < token.size(); ++i) {
    std::string changed = token;
    changed[i] = changed[i] == 'A' ? 'B' : 'A';
    const auto opened = tokens.Open(changed, "x");
    // The last letter has bits that stand for nothing.
    if (opened.ok()) {
      EXPECT_EQ(*opened, "12345");
    } else {
      EXPECT_EQ(base::ErrorReason(opened.status()), "PAGE_TOKEN_INVALID");
    }
  }
  EXPECT_FALSE(tokens.Open("", "x").ok());
  EXPECT_FALSE(tokens.Open(std::string(100'000, 'A'), "x").ok());
}

}  // namespace
}  // namespace quantd::spec
