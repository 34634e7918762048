// SPDX-License-Identifier: Apache-2.0
#include "client/render/report.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/render/job_words.h"
#include "client/render/plan.h"
#include "client/render/quantities.h"
#include "client/render/table.h"

namespace quantd::render {
namespace {

constexpr int kMaxLayersShown = 8;

std::string TaskWords(const v1::EvalReport& eval) {
  const auto protocol = eval.protocol().find("protocol");
  if (protocol == eval.protocol().end()) return Printable(eval.task());
  return Printable(absl::StrCat(eval.task(), " (", protocol->second, ")"));
}

const v1::Metric* FindMetric(const v1::EvalReport* eval,
                             const std::string& name) {
  if (eval == nullptr) return nullptr;
  for (const v1::Metric& metric : eval->metrics()) {
    if (metric.name() == name) return &metric;
  }
  return nullptr;
}

// Reports of the same task and protocol, by subject, in order of appearance.
using Subjects = std::map<std::string, const v1::EvalReport*>;
std::vector<std::pair<std::string, Subjects>> PairSubjects(
    const v1::JobReport& report) {
  std::vector<std::pair<std::string, Subjects>> pairs;
  for (const v1::EvalReport& eval : report.evals()) {
    const std::string task = TaskWords(eval);
    Subjects* subjects = nullptr;
    for (auto& [name, known] : pairs) {
      if (name == task && !known.contains(eval.subject())) subjects = &known;
    }
    if (subjects == nullptr) {
      subjects = &pairs.emplace_back(task, Subjects()).second;
    }
    (*subjects)[eval.subject()] = &eval;
  }
  return pairs;
}

const v1::EvalReport* Subject(const Subjects& subjects, const char* name) {
  const auto found = subjects.find(name);
  return found == subjects.end() ? nullptr : found->second;
}

void PrintEvals(const v1::JobReport& report, const Terminal& terminal,
                std::ostream& out) {
  Table table({"TASK", "METRIC", "FLOAT", "QUANTIZED", "CHANGE"});
  for (const auto& [task, subjects] : PairSubjects(report)) {
    const v1::EvalReport* before = Subject(subjects, "float");
    const v1::EvalReport* after = Subject(subjects, "quantized");
    const v1::EvalReport* any = before != nullptr ? before : after;
    if (any == nullptr) any = subjects.begin()->second;
    for (const v1::Metric& metric : any->metrics()) {
      const v1::Metric* from = FindMetric(before, metric.name());
      const v1::Metric* to = FindMetric(after, metric.name());
      const bool comparable =
          from != nullptr && to != nullptr && from->value() != 0;
      table.AddRow(
          {task, Printable(metric.name()),
           from == nullptr ? "-" : MetricWords(terminal, *from),
           to == nullptr ? "-" : MetricWords(terminal, *to),
           comparable ? PercentChange(from->value(), to->value()) : "-"});
    }
  }
  if (table.empty()) return;
  out << "\n";
  table.Print(terminal, out);
}

void PrintLayersNotOk(const v1::JobReport& report, Table* table) {
  int not_ok = 0;
  for (const v1::LayerReport& layer : report.layers()) {
    if (layer.verdict() == v1::VERDICT_OK) continue;
    if (++not_ok > kMaxLayersShown) continue;
    table->AddRow({"", absl::StrCat(VerdictName(layer.verdict()), ": ",
                                    Printable(layer.name()),
                                    layer.reason().empty() ? "" : ", ",
                                    Printable(layer.reason()))});
  }
  if (not_ok <= kMaxLayersShown) return;
  table->AddRow({"", absl::StrCat("and ", not_ok - kMaxLayersShown,
                                  " more; -o json has all")});
}

// Experts see tokens of their own; other layers all.
std::string CalibrationWords(const v1::JobReport& report) {
  std::string words =
      absl::StrCat("on ", Count(report.calibration_tokens()), " tokens in ",
                   Seconds(report.quantize_seconds()));
  std::set<int64_t> tokens;
  for (const v1::LayerReport& layer : report.layers()) {
    const bool counted = layer.verdict() != v1::VERDICT_OK;
    if (counted || layer.tokens() > 0) tokens.insert(layer.tokens());
  }
  if (tokens.size() < 2) return words;
  absl::StrAppend(&words, "; ", Count(*tokens.begin()), " to ",
                  Count(*tokens.rbegin()), " of them reach a layer");
  return words;
}

// How far rounding that was learned has come; empty where none was.
std::string LearnedWords(const v1::JobReport& report) {
  int curves = 0;
  double left = 0;
  for (const v1::LayerReport& layer : report.layers()) {
    if (layer.loss_curve().empty()) continue;
    ++curves;
    left += layer.last_loss();
  }
  if (curves == 0) return "";
  return absl::StrCat(Number(left / curves),
                      " of plain rounding's loss is left, the mean of ", curves,
                      curves == 1 ? " curve" : " curves");
}

std::string SizeWords(const v1::JobReport& report) {
  std::string words = absl::StrCat(Bytes(report.float_bytes()), " -> ",
                                   Bytes(report.quantized_bytes()));
  if (report.float_bytes() > 0 && report.quantized_bytes() > 0) {
    // Dequantized, or of a source that was packed already, it may be larger.
    const double ratio = static_cast<double>(report.float_bytes()) /
                         static_cast<double>(report.quantized_bytes());
    absl::StrAppendFormat(&words, ", %.2f times %s", std::max(ratio, 1 / ratio),
                          ratio < 1 ? "larger" : "smaller");
  }
  if (report.bits_per_weight() > 0) {
    absl::StrAppendFormat(&words, ", %.2f bits per quantized weight",
                          report.bits_per_weight());
  }
  return words;
}

std::string Duration(const v1::Job& job) {
  if (!job.has_start_time() || !job.has_end_time()) return "";
  return Seconds(
      absl::ToDoubleSeconds(ToTime(job.end_time()) - ToTime(job.start_time())));
}

void PrintHeadline(const v1::Job& job, const Terminal& terminal,
                   std::ostream& out) {
  const std::string duration = Duration(job);
  const std::string headline = absl::StrCat(
      StateName(job.state()),
      duration.empty() ? "" : absl::StrCat(" after ", duration), ": ",
      Printable(job.display_name()), ", job ", ShortId(job.job_id()));
  out << Paint(terminal, StateColor(job.state()), headline) << "\n";
  if (!job.has_failure()) return;
  out << Printable(job.failure().failure_class()) << ": "
      << Printable(job.failure().message()) << " ["
      << Printable(job.failure().reason()) << "]\n";
}

}  // namespace

std::string MetricWords(const Terminal& terminal, const v1::Metric& metric) {
  if (metric.standard_error() == 0) {
    return absl::StrFormat("%.5g", metric.value());
  }
  return absl::StrFormat("%.5g %s %.2g", metric.value(),
                         terminal.unicode ? "\u00b1" : "+/-",
                         metric.standard_error());
}

std::string VerdictName(v1::Verdict verdict) {
  return absl::AsciiStrToLower(
      v1::Verdict_Name(verdict).substr(absl::string_view("VERDICT_").size()));
}

std::string VerdictCounts(const v1::JobReport& report) {
  std::map<v1::Verdict, int> counts;
  for (const v1::LayerReport& layer : report.layers()) {
    ++counts[layer.verdict()];
  }
  std::vector<std::string> words;
  for (const auto& [verdict, count] : counts) {
    words.push_back(absl::StrCat(count, " ", VerdictName(verdict)));
  }
  return absl::StrJoin(words, ", ");
}

void PrintReport(const v1::JobReport& report, const Terminal& terminal,
                 std::ostream& out) {
  Table table({});
  if (report.float_bytes() > 0) table.AddRow({"size", SizeWords(report)});
  if (report.has_mixed()) {
    table.AddRow({"formats", MixedWords(report.mixed())});
  }
  if (report.layers_size() > 0) {
    table.AddRow({"layers", VerdictCounts(report)});
    PrintLayersNotOk(report, &table);
    const std::string learned = LearnedWords(report);
    if (!learned.empty()) table.AddRow({"learned", learned});
    table.AddRow(
        {"verified", absl::StrCat("reloaded from disk, largest logit "
                                  "difference ",
                                  Number(report.verify_max_difference()))});
  }
  if (report.calibration_tokens() > 0) {
    table.AddRow({"calibrated", CalibrationWords(report)});
  }
  if (report.peak_memory_bytes() > 0) {
    table.AddRow({"memory",
                  absl::StrCat(Bytes(report.peak_memory_bytes()), " at most")});
  }
  table.Print(terminal, out);
  PrintEvals(report, terminal, out);
}

void PrintResult(const v1::Job& job, const Terminal& terminal,
                 std::ostream& out) {
  PrintHeadline(job, terminal, out);
  if (job.state() == v1::JOB_STATE_SUCCEEDED) {
    PrintReport(job.report(), terminal, out);
  }
  if (job.artifact_ids().empty()) return;
  out << "\n";
  Table table({});
  for (const std::string& id : job.artifact_ids()) {
    table.AddRow({"artifact", Printable(id)});
    table.AddRow({"get it", absl::StrCat("qctl artifact pull ",
                                         Printable(ShortId(id)), " DIR")});
  }
  table.Print(terminal, out);
}

}  // namespace quantd::render
