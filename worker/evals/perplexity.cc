// SPDX-License-Identifier: Apache-2.0
// Perplexity by named protocols: a number without its protocol means nothing,
// since they differ by tens of percent on one model.
#include <algorithm>
#include <cmath>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "proto/base/error.h"
#include "proto/base/status_macros.h"
#include "worker/data/documents.h"
#include "worker/evals/eval.h"
#include "worker/evals/perplexity_windows.h"
#include "worker/evals/scorer.h"

namespace quantd::evals {
namespace {

constexpr char kRawJoin[] = "raw";
constexpr char kWikiTextJoin[] = "wikitext";

using MakeWindows = absl::StatusOr<std::vector<Window>> (*)(
    const std::vector<int64_t>& ids, const WindowPlan& plan);

struct Protocol {
  std::string id;
  MakeWindows windows;
  // The window where none is asked for; never above the model's context.
  int64_t default_window;
  // The stride where none is asked for; 0 means that windows are disjoint.
  int64_t default_stride;
  // BOS takes the place of each window's first token, if the tokenizer has it.
  bool bos_in_each_window;
};

const std::vector<Protocol>& Protocols() {
  static const auto& protocols = *new std::vector<Protocol>{
      {"gptq2048", DisjointWindows, 2048, 0, false},
      {"hf_strided", StridedWindows, 1024, 512, false},
      {"llamacpp", SecondHalfWindows, 512, 0, true}};
  return protocols;
}

const Protocol& FindProtocol(const std::string& id) {
  for (const Protocol& protocol : Protocols()) {
    if (protocol.id == id) return protocol;
  }
  return Protocols().front();  // The catalog lets no other name through.
}

// The text as ids, and what has to be said about how they came about.
struct TokenizedText {
  std::vector<int64_t> ids;
  std::string digest;
  bool from_ids = false;
  bool adds_bos = false;
};

class Perplexity : public Eval {
 public:
  explicit Perplexity(const spec::Params& params)
      : protocol_(FindProtocol(params.GetString("protocol"))),
        data_(params.GetString("data")),
        join_(params.GetString("join")),
        window_(params.GetInt("window")),
        stride_(params.GetInt("stride")),
        limit_(params.GetInt("windows")) {}

  absl::StatusOr<v1::EvalReport> Run(
      const EvalSubject& subject,
      const base::CancelToken& cancel) const override {
    ASSIGN_OR_RETURN(const TokenizedText text, Tokenize(subject));
    ASSIGN_OR_RETURN(const WindowPlan plan, Plan(subject, text));
    ASSIGN_OR_RETURN(const std::vector<Window> windows,
                     protocol_.windows(text.ids, plan));
    ScoreOptions options;
    options.progress = subject.progress;
    const absl::Time start = absl::Now();
    ASSIGN_OR_RETURN(const std::vector<WindowScore> scores,
                     ScoreWindows(subject.model, windows, options, cancel));
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
    v1::EvalReport report;
    const LossSummary summary = Summarize(scores);
    report.set_items(static_cast<int64_t>(windows.size()));
    DescribeProtocol(subject, text, plan, &report);
    AddMetrics(summary, &report);
    int64_t tokens = 0;
    for (const Window& window : windows) tokens += window.ids.size();
    report.set_seconds(seconds);
    report.set_tokens_per_second(
        seconds > 0 ? static_cast<double>(tokens) / seconds : 0);
    return report;
  }

 private:
  absl::StatusOr<TokenizedText> Tokenize(const EvalSubject& subject) const {
    const tokenizers::Tokenizer& tokenizer = subject.tokenizer;
    ASSIGN_OR_RETURN(const std::string path, data::ResolveDataset(data_));
    ASSIGN_OR_RETURN(const data::Corpus corpus, data::ReadCorpus(path));
    TokenizedText text;
    text.digest = corpus.digest;
    text.from_ids = corpus.has_ids();
    if (text.from_ids) {
      RETURN_IF_ERROR(data::CheckIds(corpus, subject.model.vocabulary_size()));
      text.ids = data::JoinedIds(corpus);
      return text;
    }
    std::string joined = data::JoinedText(corpus);
    if (join_ == kWikiTextJoin) joined = data::JoinedWikiTextRows(joined);
    ASSIGN_OR_RETURN(text.ids,
                     tokenizer.Encode(joined, /*add_special_tokens=*/true));
    ASSIGN_OR_RETURN(const std::vector<int64_t> around,
                     tokenizer.Encode("", /*add_special_tokens=*/true));
    text.adds_bos = !around.empty() && around.front() == tokenizer.bos_id();
    return text;
  }

  absl::StatusOr<WindowPlan> Plan(const EvalSubject& subject,
                                  const TokenizedText& text) const {
    const int64_t context = subject.model.context_length();
    WindowPlan plan;
    plan.window =
        window_ > 0 ? window_ : std::min(protocol_.default_window, context);
    if (plan.window > context) {
      return base::MakeError(
          absl::StatusCode::kInvalidArgument, "EVAL_WINDOW_INVALID",
          absl::StrCat("a window of ", plan.window,
                       " tokens is longer than the model's context of ",
                       context));
    }
    plan.stride = plan.window;
    if (protocol_.default_stride > 0) {
      plan.stride = stride_ > 0
                        ? stride_
                        : std::min(protocol_.default_stride, plan.window);
    } else if (stride_ > 0 && stride_ != plan.window) {
      return base::MakeError(
          absl::StatusCode::kInvalidArgument, "EVAL_WINDOW_INVALID",
          absl::StrCat("protocol ", protocol_.id,
                       " has disjoint windows; use protocol=hf_strided for a "
                       "stride"));
    }
    plan.limit = limit_;
    // Ready-made ids are taken as they are.
    if (protocol_.bos_in_each_window && text.adds_bos) {
      plan.bos_id = subject.tokenizer.bos_id();
    }
    return plan;
  }

  void DescribeProtocol(const EvalSubject& subject, const TokenizedText& text,
                        const WindowPlan& plan, v1::EvalReport* report) const {
    report->set_task("perplexity");
    auto& protocol = *report->mutable_protocol();
    protocol["protocol"] = protocol_.id;
    // Of a path only the file's name: folders of a machine are no result.
    protocol["data"] = std::filesystem::path(data_).filename().string();
    protocol["data_sha256"] = text.digest;
    protocol["join"] = text.from_ids ? "input_ids" : join_;
    protocol["tokenizer_sha256"] = subject.tokenizer.digest();
    protocol["bos"] = !text.adds_bos     ? "none"
                      : plan.bos_id >= 0 ? "first token of each window"
                                         : "once, before the text";
    protocol["window"] = absl::StrCat(plan.window);
    protocol["stride"] = absl::StrCat(plan.stride);
    protocol["windows_limit"] = absl::StrCat(plan.limit);
    protocol["tokens"] = absl::StrCat(text.ids.size());
    protocol["logits_dtype"] = "float32";
    protocol["sum_dtype"] = "float64";
  }

  static void AddMetric(absl::string_view name, double value, double error,
                        v1::EvalReport* report) {
    v1::Metric* metric = report->add_metrics();
    metric->set_name(std::string(name));
    metric->set_value(value);
    metric->set_standard_error(error);
  }

  static void AddMetrics(const LossSummary& summary, v1::EvalReport* report) {
    auto& protocol = *report->mutable_protocol();
    protocol["windows"] = absl::StrCat(report->items());
    protocol["tokens_scored"] = absl::StrCat(summary.tokens);
    protocol["nll_sum"] = absl::StrFormat("%.17g", summary.sum);
    const double perplexity = std::exp(summary.mean);
    // First order: d exp(x) = exp(x) dx.
    AddMetric("perplexity", perplexity, perplexity * summary.token_error,
              report);
    AddMetric("nll", summary.mean, summary.token_error, report);
    AddMetric("window_nll", summary.window_mean, summary.window_error, report);
  }

  const Protocol& protocol_;
  const std::string data_;
  const std::string join_;
  const int64_t window_;
  const int64_t stride_;
  const int64_t limit_;
};

std::unique_ptr<Eval> MakePerplexity(const spec::Params& params) {
  return std::make_unique<Perplexity>(params);
}

std::vector<std::string> ProtocolIds() {
  std::vector<std::string> ids;
  for (const Protocol& protocol : Protocols()) ids.push_back(protocol.id);
  return ids;
}

}  // namespace

EvalEntry MakePerplexityEntry() {
  constexpr double kMost = 1 << 24;
  EvalEntry entry;
  entry.make = MakePerplexity;
  v1::ComponentEntry& about = entry.description;
  about.set_seam(v1::SEAM_EVAL);
  about.set_id("perplexity");
  about.set_summary(
      "How well the model predicts a text: exp of the mean negative "
      "log-likelihood of its tokens, by a named protocol.");
  about.set_reference("docs/evals/perplexity.md");
  const auto add = [&](v1::Parameter parameter) {
    *about.add_params() = std::move(parameter);
  };
  add(spec::StringParameter(
      "protocol", "gptq2048", ProtocolIds(),
      "Which tokens are scored after what context: disjoint windows as in the "
      "GPTQ paper, overlapping ones, or the second halves as in llama.cpp."));
  add(spec::StringParameter("data", "bundled-heldout", {},
                            "The text: a data set's name or a file."));
  add(spec::StringParameter(
      "join", kRawJoin, {kRawJoin, kWikiTextJoin},
      "raw takes the text as it is, wikitext makes the data set's rows again "
      "from a raw WikiText file and joins them by two newlines."));
  add(spec::IntParameter("window", 0, 0, kMost,
                         "Tokens of a window; 0 is the protocol's own (2048, "
                         "1024, 512), at most the model's context."));
  add(spec::IntParameter("stride", 0, 0, kMost,
                         "Tokens from one window to the next, for hf_strided; "
                         "0 is 512."));
  add(spec::IntParameter("windows", 0, 0, kMost,
                         "Only the first so many windows; 0 is all of them."));
  return entry;
}

}  // namespace quantd::evals
