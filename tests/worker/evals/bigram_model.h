// SPDX-License-Identifier: Apache-2.0
// A model small enough to compute by hand, and a tokenizer to go with it: the
// next token depends on the last one alone.
#pragma once

#include <ATen/ops/one_hot.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "worker/models/model.h"
#include "worker/tokenizers/tokenizer.h"

namespace quantd::evals {

// A block that leaves the residual stream alone.
class PassBlock : public models::Block {
 public:
  explicit PassBlock(const models::Linear& any) : any_(any) {}
  const std::vector<models::Stage>& stages() const override { return stages_; }
  const models::Linear& linear(const std::string&) const override {
    return any_;
  }
  void Replace(const std::string&, std::unique_ptr<models::Linear>) override {}
  void RoundKeysAndValues(formats::KvRounding) override {}
  void Begin(models::SequenceState* state) const override {
    state->input = state->residual;
  }
  std::vector<at::Tensor> Inputs(
      int64_t, const models::SequenceState& state) const override {
    return {state.input};
  }
  void Apply(int64_t, models::SequenceState*) const override {}

 private:
  const std::vector<models::Stage> stages_;
  const models::Linear& any_;
};

// After token a come logits ln 3 for token (a + 1) mod 4 and 0 for the other
// three: probabilities 1/2 and 1/6.
class BigramModel : public models::Model {
 public:
  static constexpr int64_t kTokens = 4;

  BigramModel() : table_(at::zeros({kTokens, kTokens})) {
    for (int64_t a = 0; a < kTokens; ++a) {
      table_[(a + 1) % kTokens][a] = std::log(3.0);
    }
  }

  const std::string& family() const override { return family_; }
  int64_t num_blocks() const override { return 2; }
  int64_t hidden_size() const override { return kTokens; }
  int64_t vocabulary_size() const override { return kTokens; }
  int64_t context_length() const override { return context_length_; }
  std::vector<models::LinearShape> BlockLinears(int64_t) const override {
    return {};
  }
  std::vector<std::string> RouterLinears(int64_t) const override { return {}; }
  int64_t widest_input() const override { return kTokens; }
  models::LinearShape HeadShape() const override {
    return {"lm_head", kTokens, kTokens};
  }
  bool head_is_tied() const override { return false; }
  absl::StatusOr<std::unique_ptr<models::Block>> LoadBlock(
      int64_t, int64_t sequence_length) override {
    ++blocks_loaded_;
    longest_announced_ = std::max(longest_announced_, sequence_length);
    if (any_ == nullptr) any_ = models::MakeDenseLinear(table_, at::Tensor());
    return std::make_unique<PassBlock>(*any_);
  }
  absl::StatusOr<at::Tensor> Embed(const at::Tensor& ids) override {
    longest_input_ = std::max(longest_input_, ids.numel());
    return at::one_hot(ids, kTokens).to(at::kFloat);
  }
  absl::StatusOr<at::Tensor> FinalNorm(const at::Tensor& hidden) override {
    return hidden;
  }
  absl::StatusOr<std::unique_ptr<models::Linear>> LoadHead() override {
    return models::MakeDenseLinear(table_, at::Tensor());
  }
  int64_t stored_bytes() const override { return 0; }

  // [next, last] logits, to be spoilt by a test.
  at::Tensor& table() { return table_; }
  void set_context_length(int64_t length) { context_length_ = length; }
  int64_t blocks_loaded() const { return blocks_loaded_; }
  int64_t longest_input() const { return longest_input_; }
  int64_t longest_announced() const { return longest_announced_; }

 private:
  const std::string family_ = "bigram";
  at::Tensor table_;
  std::unique_ptr<models::Linear> any_;
  int64_t context_length_ = 64;
  int64_t blocks_loaded_ = 0;
  int64_t longest_input_ = 0;
  int64_t longest_announced_ = 0;
};

// Digits 0 to 3 are tokens, everything else is nothing; BOS is token 3 and is
// put before a text where `adds_bos`.
class DigitTokenizer : public tokenizers::Tokenizer {
 public:
  explicit DigitTokenizer(bool adds_bos) : adds_bos_(adds_bos) {}
  absl::StatusOr<std::vector<int64_t>> Encode(
      absl::string_view text, bool add_special_tokens) const override {
    std::vector<int64_t> ids;
    if (adds_bos_ && add_special_tokens) ids.push_back(bos_id());
    for (const char c : text) {
      if (c >= '0' && c <= '3') ids.push_back(c - '0');
    }
    return ids;
  }
  absl::StatusOr<std::string> Decode(
      const std::vector<int64_t>&) const override {
    return "";
  }
  int64_t vocabulary_size() const override { return BigramModel::kTokens; }
  int64_t bos_id() const override { return 3; }
  int64_t eos_id() const override { return -1; }
  const std::string& digest() const override { return digest_; }
  const std::string& json() const override { return digest_; }

 private:
  const bool adds_bos_;
  const std::string digest_ = "digits";
};

}  // namespace quantd::evals
