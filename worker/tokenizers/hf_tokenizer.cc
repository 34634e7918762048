// SPDX-License-Identifier: Apache-2.0
#include "worker/tokenizers/hf_tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/digest.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/tokenizers/tokenizers_c.h"

namespace quantd::tokenizers {
namespace {

struct FreeTokenizer {
  void operator()(quantd_tokenizer* tokenizer) const {
    quantd_tokenizer_free(tokenizer);
  }
};
using Handle = std::unique_ptr<quantd_tokenizer, FreeTokenizer>;

const uint8_t* Bytes(absl::string_view text) {
  return reinterpret_cast<const uint8_t*>(text.data());
}

std::string TakeText(quantd_bytes bytes) {
  std::string text(reinterpret_cast<const char*>(bytes.data), bytes.size);
  quantd_bytes_free(bytes);
  return text;
}

absl::Status CallError(int32_t code, quantd_bytes error,
                       absl::string_view reason) {
  const std::string message = TakeText(error);
  if (code == QUANTD_TOKENIZER_NOT_UTF8) {
    return base::MakeError(absl::StatusCode::kInvalidArgument, "TEXT_NOT_UTF8",
                           absl::StrCat("the text is not UTF-8: ", message));
  }
  return base::MakeError(absl::StatusCode::kInvalidArgument, reason,
                         absl::StrCat("the tokenizers library: ", message));
}

class HfTokenizer : public Tokenizer {
 public:
  HfTokenizer(Handle handle, TokenizerForm form)
      : handle_(std::move(handle)),
        form_(std::move(form)),
        digest_(base::Sha256Hex(form_.json)),
        vocabulary_size_(quantd_tokenizer_vocabulary_size(handle_.get())) {}

  absl::StatusOr<std::vector<int64_t>> Encode(
      absl::string_view text, bool add_special_tokens) const override {
    quantd_ids ids{};
    quantd_bytes error{};
    const int32_t code =
        quantd_tokenizer_encode(handle_.get(), Bytes(text), text.size(),
                                add_special_tokens, &ids, &error);
    if (code != QUANTD_TOKENIZER_OK) {
      return CallError(code, error, "TOKENIZER_FAILED");
    }
    std::vector<int64_t> result(ids.data, ids.data + ids.size);
    quantd_ids_free(ids);
    return result;
  }

  absl::StatusOr<std::string> Decode(
      const std::vector<int64_t>& ids) const override {
    std::vector<uint32_t> narrow(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0 || ids[i] >= vocabulary_size_) {
        return base::MakeError(
            absl::StatusCode::kInvalidArgument, "TOKEN_OUT_OF_RANGE",
            absl::StrCat("token id ", ids[i], " is not below ",
                         vocabulary_size_));
      }
      narrow[i] = static_cast<uint32_t>(ids[i]);
    }
    quantd_bytes text{};
    quantd_bytes error{};
    const int32_t code =
        quantd_tokenizer_decode(handle_.get(), narrow.data(), narrow.size(),
                                /*skip_special_tokens=*/true, &text, &error);
    if (code != QUANTD_TOKENIZER_OK) {
      return CallError(code, error, "TOKENIZER_FAILED");
    }
    return TakeText(text);
  }

  int64_t vocabulary_size() const override { return vocabulary_size_; }
  int64_t bos_id() const override { return form_.bos_id; }
  int64_t eos_id() const override { return form_.eos_id; }
  const std::string& digest() const override { return digest_; }
  const std::string& json() const override { return form_.json; }

 private:
  const Handle handle_;
  const TokenizerForm form_;
  const std::string digest_;
  const int64_t vocabulary_size_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeHfTokenizer(
    TokenizerForm form, const SpecialTexts& texts) {
  quantd_tokenizer* raw = nullptr;
  quantd_bytes error{};
  const int32_t code =
      quantd_tokenizer_new(Bytes(form.json), form.json.size(), &raw, &error);
  if (code != QUANTD_TOKENIZER_OK) {
    return CallError(code, error, "TOKENIZER_INVALID");
  }
  const auto look_up = [&](const std::string& text, int64_t* id) {
    if (text.empty()) return;
    *id = quantd_tokenizer_token_to_id(raw, Bytes(text), text.size());
  };
  look_up(texts.bos, &form.bos_id);
  look_up(texts.eos, &form.eos_id);
  return std::make_unique<HfTokenizer>(Handle(raw), std::move(form));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(
    absl::string_view json) {
  return MakeHfTokenizer({std::string(json)});
}

}  // namespace quantd::tokenizers
