// SPDX-License-Identifier: Apache-2.0
// What this build can do: the rows of every registry, as data.
#include <vector>

#include "worker/checkpoints/reader.h"
#include "worker/evals/eval.h"
#include "worker/exports/export.h"
#include "worker/formats/format.h"
#include "worker/methods/method.h"
#include "worker/models/model.h"
#include "worker/pipeline/fingerprint.h"
#include "worker/pipeline/pipeline.h"

namespace quantd::pipeline {
namespace {

template <typename Entry>
void AddEntries(const std::vector<Entry>& registry, v1::Catalog* catalog) {
  for (const Entry& entry : registry) {
    *catalog->add_entries() = entry.description;
  }
}

// Every method is a preset over the common defaults: `--method ID` is that
// method on 4-bit groups with the default export.
void AddPresets(v1::Catalog* catalog) {
  for (const methods::MethodEntry& entry : methods::Registry()) {
    v1::Preset* preset = catalog->add_presets();
    preset->set_id(entry.description.id());
    preset->set_summary(entry.description.summary());
    preset->mutable_recipe()->mutable_method()->set_id(entry.description.id());
  }
}

v1::Catalog MakeCatalog() {
  v1::Catalog catalog;
  catalog.set_code_version(CodeVersion());
  AddEntries(methods::Registry(), &catalog);
  AddEntries(formats::Registry(), &catalog);
  AddEntries(models::Registry(), &catalog);
  AddEntries(checkpoints::Registry(), &catalog);
  AddEntries(exports::Registry(), &catalog);
  AddEntries(evals::Registry(), &catalog);
  AddPresets(&catalog);
  return catalog;
}

}  // namespace

v1::Catalog DescribeBuild() {
  static const v1::Catalog& catalog = *new v1::Catalog(MakeCatalog());
  return catalog;
}

}  // namespace quantd::pipeline
