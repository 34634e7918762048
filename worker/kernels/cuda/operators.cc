// SPDX-License-Identifier: Apache-2.0
// Registers the CUDA kernels under the names of worker/kernels/operators.h.
// This file and launch.cu are the plugin libquantd_cuda.so, loaded where a GPU
// is; UnpackColumnLoop comes from the program that loads it.
#include "worker/kernels/operators.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "worker/kernels/column_blocks.h"
#include "worker/kernels/cuda/arguments.h"
#include "worker/kernels/cuda/launch.h"

namespace quantd::kernels {
namespace {

void* Stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

// LibTorch's way of failing; worker/pipeline/guard.cc makes a status of it.
void Check(const std::string& error) {
  TORCH_CHECK(error.empty(), "CUDA kernel: ", error);
}

ColumnsArguments MakeArguments(const ColumnLoop& loop) {
  ColumnsArguments a;
  a.rows = loop.corrected.size(0);
  a.in_features = loop.corrected.size(1);
  a.groups = loop.scales.size(1);
  a.corrected = loop.corrected.const_data_ptr<float>();
  a.feedback = loop.feedback.const_data_ptr<float>();
  a.pivots = loop.pivots.const_data_ptr<float>();
  a.codes = loop.codes.data_ptr<uint8_t>();
  a.scales = loop.scales.data_ptr<float>();
  a.zeros = loop.zeros.data_ptr<uint8_t>();
  if (loop.column_group.defined()) {
    a.column_group = loop.column_group.const_data_ptr<int32_t>();
  }
  a.loss = loop.loss.data_ptr<float>();
  a.rule = loop.rule;
  a.group_size = loop.group_size;
  return a;
}

void GptqColumnsCuda(at::TensorList state,
                     const std::optional<at::Tensor>& column_group,
                     at::IntArrayRef layout) {
  const ColumnRange range = UnpackColumnLoop(state, column_group, layout);
  const ColumnLoop& loop = range.loop;
  const c10::cuda::CUDAGuard guard(loop.corrected.device());
  ColumnsArguments arguments = MakeArguments(loop);
  const int64_t group = loop.column_group.defined() ? 0 : loop.group_size;
  const int64_t width = std::min<int64_t>(loop.block_size, kBlockColumns);
  for (int64_t begin = range.begin; begin < range.end;) {
    const int64_t end = BlockEnd(begin, range.end, width, group);
    const at::Tensor error =
        at::empty({arguments.rows, end - begin}, loop.corrected.options());
    arguments.begin = begin;
    arguments.end = end;
    arguments.error = error.data_ptr<float>();
    Check(LaunchColumns(arguments, Stream()));
    const int64_t rest = arguments.in_features - end;
    if (rest > 0) {
      loop.corrected.narrow(1, end, rest)
          .addmm_(
              error,
              loop.feedback.narrow(0, begin, end - begin).narrow(1, end, rest));
    }
    begin = end;
  }
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> RoundToNearestCuda(
    const at::Tensor& weight, int64_t group_size, int64_t max_code,
    bool symmetric, int64_t scale_type) {
  const c10::cuda::CUDAGuard guard(weight.device());
  RoundingArguments a;
  a.rows = weight.size(0);
  a.in_features = weight.size(1);
  a.group_size = group_size;
  a.groups = (a.in_features + group_size - 1) / group_size;
  const at::Tensor codes =
      at::empty({a.rows, a.in_features}, weight.options().dtype(at::kByte));
  const at::Tensor scales = at::empty({a.rows, a.groups}, weight.options());
  const at::Tensor zeros =
      at::empty({a.rows, a.groups}, weight.options().dtype(at::kByte));
  a.weight = weight.const_data_ptr<float>();
  a.codes = codes.data_ptr<uint8_t>();
  a.scales = scales.data_ptr<float>();
  a.zeros = zeros.data_ptr<uint8_t>();
  a.rule = {static_cast<int32_t>(max_code), symmetric,
            static_cast<ScaleType>(scale_type)};
  Check(LaunchRounding(a, Stream()));
  return {codes, scales, zeros};
}

void GramAddCuda(const at::Tensor& gram, const at::Tensor& input) {
  const c10::cuda::CUDAGuard guard(gram.device());
  const at::Tensor contiguous = input.contiguous();
  GramArguments a;
  a.tokens = contiguous.size(0);
  a.in_features = contiguous.size(1);
  a.input = contiguous.const_data_ptr<float>();
  a.gram = gram.data_ptr<float>();
  Check(LaunchGram(a, Stream()));
}

}  // namespace

TORCH_LIBRARY_IMPL(quantd, CUDA, library) {
  library.impl("gptq_columns", GptqColumnsCuda);
  library.impl("round_to_nearest", RoundToNearestCuda);
  library.impl("gram_add", GramAddCuda);
}

}  // namespace quantd::kernels
