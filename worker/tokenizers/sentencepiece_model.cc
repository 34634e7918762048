// SPDX-License-Identifier: Apache-2.0
#include "worker/tokenizers/sentencepiece_model.h"

#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "proto/base/status_macros.h"

namespace quantd::tokenizers {
namespace {

// Field numbers of sentencepiece_model.proto.
constexpr int64_t kPieces = 1, kTrainerSpec = 2, kNormalizerSpec = 3;
constexpr int64_t kPieceText = 1, kPieceScore = 2, kPieceType = 3;
constexpr int64_t kModelType = 3, kSpaceAsSuffix = 24, kUnknownId = 40,
                  kBosId = 41, kEosId = 42;
constexpr int64_t kCharsmap = 2, kDummyPrefix = 3, kRemoveExtraSpaces = 4;
constexpr int64_t kUnigram = 1, kBpe = 2;

enum WireType { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// One field of a protobuf message: `bytes` for kBytes, else `number`.
struct Field {
  int64_t number = 0;
  int type = 0;
  uint64_t value = 0;
  absl::string_view bytes;
};

absl::Status Malformed() {
  return InvalidTokenizer("the SentencePiece model is not a valid protobuf");
}

// Walks the fields of one message. No length is trusted.
class Message {
 public:
  explicit Message(absl::string_view bytes) : rest_(bytes) {}

  bool AtEnd() const { return rest_.empty(); }

  absl::StatusOr<Field> Next() {
    Field field;
    ASSIGN_OR_RETURN(const uint64_t tag, Varint());
    field.number = static_cast<int64_t>(tag >> 3);
    field.type = static_cast<int>(tag & 7);
    switch (field.type) {
      case kVarint: {
        ASSIGN_OR_RETURN(field.value, Varint());
        return field;
      }
      case kFixed64:
        return Take(8, field);
      case kFixed32:
        return Take(4, field);
      case kBytes: {
        ASSIGN_OR_RETURN(const uint64_t size, Varint());
        return Take(size, field);
      }
      default:
        return Malformed();
    }
  }

 private:
  absl::StatusOr<uint64_t> Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) return Malformed();
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    return Malformed();
  }

  absl::StatusOr<Field> Take(uint64_t size, Field field) {
    if (size > rest_.size()) return Malformed();
    field.bytes = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return field;
  }

  absl::string_view rest_;
};

struct TrainerSpec {
  int64_t model_type = kUnigram;
  bool space_as_suffix = false;
  int64_t unknown_id = 0;
  int64_t bos_id = 1;
  int64_t eos_id = 2;
};

// Numbers of int32 fields are sign-extended to 64 bits on the wire.
int64_t Signed(const Field& field) {
  return static_cast<int32_t>(static_cast<uint32_t>(field.value));
}

absl::StatusOr<Token> ReadPiece(absl::string_view bytes, int64_t id) {
  Token token;
  token.id = id;
  for (Message message(bytes); !message.AtEnd();) {
    ASSIGN_OR_RETURN(const Field field, message.Next());
    if (field.number == kPieceText && field.type == kBytes) {
      token.text = std::string(field.bytes);
    } else if (field.number == kPieceScore && field.type == kFixed32) {
      memcpy(&token.score, field.bytes.data(), sizeof(token.score));
    } else if (field.number == kPieceType && field.type == kVarint) {
      if (field.value < 1 || field.value > 6) {
        return InvalidTokenizer(
            absl::StrCat("piece ", id, " has an unknown type"));
      }
      token.kind = static_cast<TokenKind>(field.value);
    }
  }
  if (token.text.empty()) {
    return InvalidTokenizer(absl::StrCat("piece ", id, " has no text"));
  }
  if (!std::isfinite(token.score)) {
    return InvalidTokenizer(
        absl::StrCat("the score of piece ", id, " is not a finite number"));
  }
  return token;
}

absl::StatusOr<TrainerSpec> ReadTrainerSpec(absl::string_view bytes) {
  TrainerSpec spec;
  for (Message message(bytes); !message.AtEnd();) {
    ASSIGN_OR_RETURN(const Field field, message.Next());
    if (field.type != kVarint) continue;
    switch (field.number) {
      case kModelType:
        spec.model_type = Signed(field);
        break;
      case kSpaceAsSuffix:
        spec.space_as_suffix = field.value != 0;
        break;
      case kUnknownId:
        spec.unknown_id = Signed(field);
        break;
      case kBosId:
        spec.bos_id = Signed(field);
        break;
      case kEosId:
        spec.eos_id = Signed(field);
        break;
      default:
        break;
    }
  }
  return spec;
}

absl::Status ReadNormalizerSpec(absl::string_view bytes,
                                PieceVocabulary* vocabulary) {
  for (Message message(bytes); !message.AtEnd();) {
    ASSIGN_OR_RETURN(const Field field, message.Next());
    if (field.number == kCharsmap && field.type == kBytes) {
      vocabulary->charsmap = std::string(field.bytes);
    } else if (field.number == kDummyPrefix && field.type == kVarint) {
      vocabulary->add_dummy_prefix = field.value != 0;
    } else if (field.number == kRemoveExtraSpaces && field.type == kVarint) {
      vocabulary->remove_extra_whitespaces = field.value != 0;
    }
  }
  return absl::OkStatus();
}

absl::Status ApplyTrainerSpec(const TrainerSpec& spec,
                              PieceVocabulary* vocabulary) {
  if (spec.model_type != kUnigram && spec.model_type != kBpe) {
    return TokenizerError("TOKENIZER_UNSUPPORTED",
                          "SentencePiece models of the word and char kinds "
                          "are not read; BPE and unigram are");
  }
  if (spec.space_as_suffix) {
    return TokenizerError("TOKENIZER_UNSUPPORTED",
                          "SentencePiece models with spaces at the end of "
                          "words are not read");
  }
  vocabulary->unigram = spec.model_type == kUnigram;
  const auto count = static_cast<int64_t>(vocabulary->tokens.size());
  const auto known = [&](int64_t id) { return id < count ? id : -1; };
  vocabulary->special.unknown = known(spec.unknown_id);
  vocabulary->special.bos = known(spec.bos_id);
  vocabulary->special.eos = known(spec.eos_id);
  vocabulary->special.add_bos = vocabulary->special.bos >= 0;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PieceVocabulary> ReadSentencePieceModel(
    absl::string_view bytes) {
  PieceVocabulary vocabulary;
  vocabulary.remove_extra_whitespaces = true;  // The format's default.
  TrainerSpec trainer;
  for (Message message(bytes); !message.AtEnd();) {
    ASSIGN_OR_RETURN(const Field field, message.Next());
    if (field.type != kBytes) continue;
    if (field.number == kPieces) {
      const auto id = static_cast<int64_t>(vocabulary.tokens.size());
      if (id >= kMaxTokens) {
        return TokenizerError("TOKENIZER_TOO_LARGE",
                              "the model has too many pieces");
      }
      ASSIGN_OR_RETURN(Token token, ReadPiece(field.bytes, id));
      vocabulary.tokens.push_back(std::move(token));
    } else if (field.number == kTrainerSpec) {
      ASSIGN_OR_RETURN(trainer, ReadTrainerSpec(field.bytes));
    } else if (field.number == kNormalizerSpec) {
      RETURN_IF_ERROR(ReadNormalizerSpec(field.bytes, &vocabulary));
    }
  }
  RETURN_IF_ERROR(ApplyTrainerSpec(trainer, &vocabulary));
  return vocabulary;
}

}  // namespace quantd::tokenizers
