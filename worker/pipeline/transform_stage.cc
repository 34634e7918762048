// SPDX-License-Identifier: Apache-2.0
#include "worker/pipeline/transform_stage.h"

#include <google/protobuf/util/message_differencer.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/status_macros.h"
#include "worker/models/weights.h"

namespace quantd::pipeline {
namespace {

using google::protobuf::util::MessageDifferencer;
using transforms::Needs;

bool IsFitted(const transforms::Transform& transform) {
  return transform.needs() != Needs::kNoData;
}

bool LooksAtInputs(const transforms::Transform& transform) {
  return transform.needs() >= Needs::kMagnitudes;
}

// A fitted transform with the parameters that some linears have for it.
struct Variant {
  v1::Component component;
  std::unique_ptr<transforms::Transform> transform;
  // The layouts of those linears.
  std::map<std::string, formats::WeightSpec> specs;
};

// The variants of the recipe's transform `index` for those of `modules` that
// are going to be quantized, in the order in which they come first; none of a
// transform of the whole model. Their parameters have been checked.
absl::StatusOr<std::vector<Variant>> VariantsOf(
    size_t index, const std::vector<const ModulePlan*>& modules) {
  std::vector<Variant> variants;
  for (const ModulePlan* plan : modules) {
    const v1::Component& component = plan->transforms[index];
    auto variant = std::find_if(
        variants.begin(), variants.end(), [&](const Variant& known) {
          return MessageDifferencer::Equals(known.component, component);
        });
    if (variant == variants.end()) {
      ASSIGN_OR_RETURN(auto transform, transforms::MakeTransform(component));
      if (!IsFitted(*transform)) return variants;
      variants.push_back({component, std::move(transform), {}});
      variant = std::prev(variants.end());
    }
    variant->specs[plan->name] = plan->spec;
  }
  return variants;
}

// The variants of all transforms of the recipe, in its order.
absl::StatusOr<std::vector<Variant>> AllVariants(
    const QuantizeJob& job, const std::vector<const ModulePlan*>& modules) {
  std::vector<Variant> all;
  for (int i = 0; i < job.recipe.transforms_size(); ++i) {
    ASSIGN_OR_RETURN(std::vector<Variant> variants,
                     VariantsOf(static_cast<size_t>(i), modules));
    std::move(variants.begin(), variants.end(), std::back_inserter(all));
  }
  return all;
}

// The linears outside of the head, or those of one block, that are going to be
// quantized. Those whose inputs are rotated are left out: what is fitted
// changes weights as they are before the rotation, and would have to be fitted
// to those behind it.
std::vector<const ModulePlan*> Fitted(const QuantizeJob& job,
                                      std::optional<int64_t> block = {}) {
  const numerics::InputRotations rotations = job.input_rotations();
  std::vector<const ModulePlan*> modules;
  for (const ModulePlan& plan : job.modules) {
    if (!plan.quantized || plan.block == kHeadBlock) continue;
    if (rotations.contains(plan.name)) continue;
    if (!block.has_value() || plan.block == *block) modules.push_back(&plan);
  }
  return modules;
}

// What one of them looks at of inputs; each need includes those before it.
Needs MostNeeded(const std::vector<Variant>& variants) {
  Needs most = Needs::kNoData;
  for (const Variant& variant : variants) {
    most = std::max(most, variant.transform->needs());
  }
  return most;
}

// Statistics gathered before the edits, as they are after them: the function
// is the same, so dividing is all that happened to an input.
void Divide(const std::map<std::string, at::Tensor>& divisors,
            const transforms::InputsByLinear& inputs) {
  std::set<calibration::InputStatistics*> done;
  for (const auto& [module, divisor] : divisors) {
    const auto found = inputs.find(module);
    if (found == inputs.end() || !done.insert(found->second.get()).second) {
      continue;
    }
    found->second->Divide(divisor);
  }
}

}  // namespace

absl::Status ApplyModelTransforms(QuantizeJob& job) {
  if (job.recipe.transforms().empty()) return absl::OkStatus();
  RETURN_IF_ERROR(MakeEditable(&job.source, job.device));
  for (const v1::Component& component : job.recipe.transforms()) {
    ASSIGN_OR_RETURN(auto transform, transforms::MakeTransform(component));
    if (!IsFitted(*transform)) {
      RETURN_IF_ERROR(base::AddContext(
          transform->EditModel(*job.source.model, job.recipe.seed(),
                               job.source.edits),
          component.id()));
      RETURN_IF_ERROR(MakeModelOf(&job.source, job.device));
    }
  }
  return absl::OkStatus();
}

void KeepRotationsOfQuantized(QuantizeJob& job) {
  if (job.source.edits == nullptr) return;
  const std::vector<std::string> names = QuantizedNames(job.modules);
  job.source.edits->KeepRotationsOf({names.begin(), names.end()});
}

absl::StatusOr<bool> TransformsNeedTokens(const QuantizeJob& job) {
  ASSIGN_OR_RETURN(const std::vector<Variant> variants,
                   AllVariants(job, Fitted(job)));
  return std::any_of(variants.begin(), variants.end(), [](const Variant& v) {
    return LooksAtInputs(*v.transform);
  });
}

absl::Status RestoreEdits(QuantizeJob& job) {
  if (job.source.edits == nullptr) return absl::OkStatus();
  std::set<std::string> quantized;
  for (const std::string& module : QuantizedNames(job.modules)) {
    quantized.insert(module + ".weight");
  }
  job.source.edits->KeepPrecision(quantized);
  for (int64_t step = 0; step < job.journal->next(); ++step) {
    if (!job.journal->HasFile(step, kTransformRole)) continue;
    ASSIGN_OR_RETURN(const std::string path,
                     job.journal->FileOf(step, kTransformRole));
    ASSIGN_OR_RETURN(const std::vector<transforms::Edit> edits,
                     transforms::ReadEdits(path));
    RETURN_IF_ERROR(job.source.edits->Add(edits));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<transforms::Edit>> BlockTransformer::Fit(
    int64_t index, ActivationCache* cache) {
  std::vector<transforms::Edit> all;
  ASSIGN_OR_RETURN(const std::vector<Variant> variants,
                   AllVariants(job_, Fitted(job_, index)));
  if (variants.empty()) return all;
  models::Model& model = *job_.source.model;
  const int64_t length = job_.recipe.calibration().sequence_length();
  const models::BlockFolds folds = model.Folds(index);
  ASSIGN_OR_RETURN(auto block, model.LoadBlock(index, length));
  Inputs inputs;
  if (cache != nullptr) {
    ASSIGN_OR_RETURN(inputs, Gather(*block, MostNeeded(variants), *cache));
  }
  for (const Variant& variant : variants) {
    const std::string& id = variant.component.id();
    job_.progress->Report(absl::StrCat("fitting ", id));
    // As the variants before have made it.
    ASSIGN_OR_RETURN(block, model.LoadBlock(index, length));
    const transforms::BlockProblem problem = {
        *block, folds, variant.specs, inputs,
        [this](const std::string& tensor) {
          checkpoints::CheckpointReader& reader = *job_.source.reader;
          return reader.Read(models::StoredName(reader, tensor));
        }};
    ASSIGN_OR_RETURN(const transforms::BlockEdits fitted,
                     variant.transform->FitBlock(problem, job_.cancel));
    RETURN_IF_ERROR(base::AddContext(job_.source.edits->Add(fitted.edits), id));
    all.insert(all.end(), fitted.edits.begin(), fitted.edits.end());
    Divide(fitted.divisors, inputs);
  }
  return all;
}

absl::StatusOr<BlockTransformer::Inputs> BlockTransformer::Gather(
    const models::Block& block, Needs needs, ActivationCache& cache) {
  if (needs < Needs::kMagnitudes) return Inputs();
  const bool with_gram = needs == Needs::kGram;
  Accumulators accumulators;
  for (const models::Stage& stage : block.stages()) {
    auto& of_stage = accumulators.emplace_back();
    for (int64_t i = 0; i <= stage.input_of.back(); ++i) {
      of_stage.emplace_back(with_gram, job_.device);
    }
  }
  for (int64_t i = 0; i < cache.sequences(); ++i) {
    RETURN_IF_ERROR(AddSequence(block, cache.Load(i), &accumulators));
    job_.progress->AddTokens(job_.recipe.calibration().sequence_length());
  }
  return Finish(block, &accumulators);
}

absl::Status BlockTransformer::AddSequence(const models::Block& block,
                                           models::SequenceState state,
                                           Accumulators* accumulators) {
  RETURN_IF_ERROR(job_.cancel.Check());
  block.Begin(&state);
  for (size_t stage = 0; stage < accumulators->size(); ++stage) {
    RETURN_IF_ERROR(job_.cancel.Check());
    const int64_t index = static_cast<int64_t>(stage);
    const std::vector<at::Tensor> rows = block.Inputs(index, state);
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].size(0) == 0) continue;
      RETURN_IF_ERROR((*accumulators)[stage][i].Add(rows[i], job_.cancel));
    }
    // The block's output is the quantized block's to make.
    if (stage + 1 < accumulators->size()) block.Apply(index, &state);
  }
  return absl::OkStatus();
}

absl::StatusOr<BlockTransformer::Inputs> BlockTransformer::Finish(
    const models::Block& block, Accumulators* accumulators) {
  Inputs inputs;
  for (size_t s = 0; s < accumulators->size(); ++s) {
    const models::Stage& stage = block.stages()[s];
    std::shared_ptr<calibration::InputStatistics> current;
    for (size_t i = 0; i < stage.linears.size(); ++i) {
      const bool same = i > 0 && stage.input_of[i] == stage.input_of[i - 1];
      if (!same) {
        current.reset();
        auto& accumulator = (*accumulators)[s][stage.input_of[i]];
        // An expert that no token was sent to.
        if (accumulator.tokens() == 0) continue;
        auto finished = accumulator.Finish();
        if (finished.ok()) {
          current = std::make_shared<calibration::InputStatistics>(
              *std::move(finished));
        } else {
          RETURN_IF_ERROR(Missing(stage.linears[i], finished.status()));
        }
      }
      if (current != nullptr) inputs[stage.linears[i]] = current;
    }
  }
  return inputs;
}

absl::Status BlockTransformer::Missing(const std::string& module,
                                       const absl::Status& why) {
  const std::string message(why.message());
  if (job_.recipe.policy().on_numeric_failure() != "fail") {
    spdlog::warn("{}: transforms leave its input as it is: {}", module,
                 message);
    return absl::OkStatus();
  }
  return base::MakeError(
      absl::StatusCode::kFailedPrecondition, "NUMERIC_TRANSFORM",
      absl::StrCat(module, ": no transform can be fitted: ", message,
                   "; leave the transforms out, or let such layers be left "
                   "as they are with policy.on_numeric_failure=rtn"),
      {{"module", module}});
}

}  // namespace quantd::pipeline
