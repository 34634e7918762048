// SPDX-License-Identifier: Apache-2.0
#include "worker/calibration/sampler.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/calibration/python_random.h"

namespace quantd::calibration {
namespace {

absl::Status TooShort(const std::string& what) {
  return base::MakeError(
      absl::StatusCode::kInvalidArgument, "CALIBRATION_TOO_SHORT",
      absl::StrCat("the calibration data is too short: ", what,
                   "; use more data, fewer samples or shorter sequences"));
}

int64_t* Row(const at::Tensor& samples, int64_t row) {
  return samples.data_ptr<int64_t>() + row * samples.size(1);
}

// Rows that are tokenized already: the first ones that are long enough, each
// cut to the length asked for.
absl::Status TakeRows(const data::Corpus& corpus, const at::Tensor& samples) {
  const int64_t count = samples.size(0);
  const int64_t length = samples.size(1);
  int64_t taken = 0;
  for (const data::Document& document : corpus.documents) {
    if (taken == count) break;
    const std::vector<int64_t>& ids = document.input_ids;
    if (static_cast<int64_t>(ids.size()) < length) continue;
    std::copy_n(ids.begin(), length, Row(samples, taken++));
  }
  if (taken == count) return absl::OkStatus();
  return TooShort(absl::StrCat(taken, " of its ", corpus.documents.size(),
                               " rows have ", length, " tokens or more, and ",
                               count, " are needed"));
}

// Windows of the joined text at random starts, as the GPTQ reference draws them
// (IST-DASLab/gptq, datautils.py, get_wikitext2): randint(0, N - L - 1).
absl::Status DrawWindows(const std::vector<int64_t>& ids, uint64_t seed,
                         const at::Tensor& samples) {
  const int64_t length = samples.size(1);
  const int64_t last = static_cast<int64_t>(ids.size()) - length - 1;
  if (last < 0) {
    return TooShort(absl::StrCat("it has ", ids.size(), " tokens, and ",
                                 length + 1, " are needed"));
  }
  PythonRandom random(seed);
  for (int64_t row = 0; row < samples.size(0); ++row) {
    std::copy_n(ids.begin() + random.UpTo(last), length, Row(samples, row));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<at::Tensor> SampleTokens(const data::Corpus& corpus,
                                        const tokenizers::Tokenizer& tokenizer,
                                        const v1::Calibration& calibration) {
  if (calibration.num_samples() < 1 || calibration.sequence_length() < 1) {
    return base::MakeError(
        absl::StatusCode::kInvalidArgument, "PARAMETER_INVALID",
        "calibration needs at least one sample of at least one token");
  }
  at::Tensor samples =
      at::empty({calibration.num_samples(), calibration.sequence_length()},
                at::TensorOptions().dtype(at::kLong));
  if (corpus.has_ids()) {
    RETURN_IF_ERROR(TakeRows(corpus, samples));
    return samples;
  }
  ASSIGN_OR_RETURN(const std::vector<int64_t> ids,
                   tokenizer.Encode(data::JoinedText(corpus),
                                    /*add_special_tokens=*/true));
  RETURN_IF_ERROR(DrawWindows(ids, calibration.seed(), samples));
  return samples;
}

}  // namespace quantd::calibration
