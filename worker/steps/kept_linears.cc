// SPDX-License-Identifier: Apache-2.0
#include "worker/steps/kept_linears.h"

#include <ATen/ops/empty.h>

#include <cstring>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/base/log.h"
#include "proto/base/status_macros.h"
#include "worker/steps/block_file.h"

namespace quantd::steps {
namespace {

using methods::LoopState;

// In front of a module's name: its tensors as in a block file, and ".report",
// the bytes of its LayerReport.
constexpr char kSolved[] = "solved/";
constexpr char kReport[] = ".report";
// In front of the name of the module in work, a slash and the names of its own
// state.
constexpr char kLoop[] = "loop/";

at::Tensor BytesTensor(const std::string& bytes) {
  at::Tensor tensor =
      at::empty({static_cast<int64_t>(bytes.size())}, at::kByte);
  std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  return tensor;
}

absl::StatusOr<LoopState> StateOf(const DoneLinears& done) {
  QuantizedModules modules;
  for (const auto& [name, linear] : done.modules) {
    modules[absl::StrCat(kSolved, name)] = linear;
  }
  ASSIGN_OR_RETURN(LoopState state, ModuleTensors(modules));
  for (const v1::LayerReport& layer : done.layers) {
    state[absl::StrCat(kSolved, layer.name(), kReport)] =
        BytesTensor(layer.SerializeAsString());
  }
  return state;
}

// Keeps `done` and what is in work beside it.
void KeepBoth(const DoneLinears& done, LoopState in_work,
              methods::LoopStore* store) {
  absl::StatusOr<LoopState> state = StateOf(done);
  if (!state.ok()) {
    spdlog::warn("what is done of the step cannot be kept: {}",
                 std::string(state.status().message()));
    return;
  }
  in_work.merge(*state);
  store->Keep(in_work);
}

// The tensors below `prefix`, without it in their names where `strip`.
LoopState Below(const LoopState& state, const std::string& prefix, bool strip) {
  LoopState below;
  for (auto it = state.lower_bound(prefix); it != state.end(); ++it) {
    if (!absl::StartsWith(it->first, prefix)) break;
    below[strip ? it->first.substr(prefix.size()) : it->first] = it->second;
  }
  return below;
}

class StoreOfLinear : public methods::LoopStore {
 public:
  StoreOfLinear(std::string prefix, LoopState loaded, const DoneLinears& done,
                methods::LoopStore& store)
      : prefix_(std::move(prefix)),
        loaded_(std::move(loaded)),
        done_(done),
        store_(store) {}

  LoopState Load() override { return std::exchange(loaded_, {}); }
  bool IsDue() override { return store_.IsDue(); }
  void Keep(const LoopState& state) override {
    LoopState named;
    for (const auto& [name, tensor] : state) {
      named[absl::StrCat(prefix_, name)] = tensor;
    }
    KeepBoth(done_, std::move(named), &store_);
  }

 private:
  const std::string prefix_;
  LoopState loaded_;
  const DoneLinears done_;
  methods::LoopStore& store_;
};

bool IsWanted(const v1::LayerReport& wanted, const SolvedLinear& solved) {
  const v1::LayerReport& layer = solved.layer;
  const formats::QuantizedLinear& linear = solved.linear;
  return layer.name() == wanted.name() && layer.block() == wanted.block() &&
         linear.format == wanted.format() &&
         linear.out_features == wanted.out_features() &&
         linear.in_features == wanted.in_features() && linear.scales.dim() == 2;
}

}  // namespace

KeptLinears::KeptLinears(methods::LoopStore* store) : store_(store) {
  if (store != nullptr) loaded_ = store->Load();
}

std::optional<SolvedLinear> KeptLinears::Take(const v1::LayerReport& wanted) {
  const std::string name = absl::StrCat(kSolved, wanted.name());
  const auto report = loaded_.find(name + kReport);
  if (report == loaded_.end() || report->second.scalar_type() != at::kByte) {
    return std::nullopt;
  }
  const at::Tensor bytes = report->second.contiguous();
  SolvedLinear solved;
  if (!solved.layer.ParseFromArray(bytes.const_data_ptr(),
                                   static_cast<int>(bytes.numel()))) {
    return std::nullopt;
  }
  // The dot: a module's name may be the beginning of another's.
  auto modules = ModulesOf(Below(loaded_, name + ".", /*strip=*/false));
  if (!modules.ok() || !modules->contains(name)) return std::nullopt;
  solved.linear = std::move(modules->at(name));
  if (!IsWanted(wanted, solved)) return std::nullopt;
  return solved;
}

void KeptLinears::Keep(const DoneLinears& done) {
  loaded_.clear();
  if (store_ != nullptr && store_->IsDue()) KeepBoth(done, {}, store_);
}

std::unique_ptr<methods::LoopStore> KeptLinears::StoreOf(
    const std::string& module, const DoneLinears& done) {
  if (store_ == nullptr) return nullptr;
  const std::string prefix = absl::StrCat(kLoop, module, "/");
  return std::make_unique<StoreOfLinear>(
      prefix, Below(loaded_, prefix, /*strip=*/true), done, *store_);
}

}  // namespace quantd::steps
