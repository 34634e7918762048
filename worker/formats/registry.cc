// SPDX-License-Identifier: Apache-2.0
// The list of number formats.
#include "proto/base/status_macros.h"
#include "proto/spec/nearest.h"
#include "worker/formats/format.h"

namespace quantd::formats {

// bitsandbytes.cc
FormatEntry Fp4Bnb();
FormatEntry Nf4();
// float.cc
FormatEntry Fp4();
FormatEntry Fp6E2m3();
FormatEntry Fp6E3m2();
FormatEntry Fp8E4m3();
FormatEntry Fp8E5m2();
// ggml.cc
FormatEntry Q4_0();
FormatEntry Q4_1();
FormatEntry Q5_0();
FormatEntry Q5_1();
FormatEntry Q8_0();
FormatEntry Tq2_0();
// int.cc
FormatEntry Int1();
FormatEntry Int2();
FormatEntry Int3();
FormatEntry Int4();
FormatEntry Int5();
FormatEntry Int6();
FormatEntry Int8();
// mx.cc
FormatEntry Mxfp4();
FormatEntry Mxfp6E2m3();
FormatEntry Mxfp6E3m2();
FormatEntry Mxfp8E4m3();
FormatEntry Mxfp8E5m2();
FormatEntry Mxint8();
// nvfp4.cc
FormatEntry Nvfp4();

const std::vector<FormatEntry>& Registry() {
  static const auto& entries = *new std::vector<FormatEntry>{
      Fp4(),    Fp4Bnb(), Fp6E2m3(),   Fp6E3m2(),   Fp8E4m3(),   Fp8E5m2(),
      Int1(),   Int2(),   Int3(),      Int4(),      Int5(),      Int6(),
      Int8(),   Mxfp4(),  Mxfp6E2m3(), Mxfp6E3m2(), Mxfp8E4m3(), Mxfp8E5m2(),
      Mxint8(), Nf4(),    Nvfp4(),     Q4_0(),      Q4_1(),      Q5_0(),
      Q5_1(),   Q8_0(),   Tq2_0()};
  return entries;
}

absl::StatusOr<const Format*> FindFormat(absl::string_view id) {
  ASSIGN_OR_RETURN(const FormatEntry* entry,
                   spec::FindEntry(Registry(), "format", id));
  return entry->format.get();
}

absl::StatusOr<spec::Params> ParamsOf(const WeightSpec& spec) {
  ASSIGN_OR_RETURN(const FormatEntry* entry,
                   spec::FindEntry(Registry(), "format", spec.format));
  v1::Component component;
  component.set_id(spec.format);
  component.mutable_params()->insert(spec.params.begin(), spec.params.end());
  return spec::Params::Resolve(component, entry->description);
}

}  // namespace quantd::formats
