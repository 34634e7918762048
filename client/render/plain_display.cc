// SPDX-License-Identifier: Apache-2.0
#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "client/render/event_text.h"
#include "client/render/json.h"
#include "client/render/quantities.h"
#include "client/render/watch_display.h"

namespace quantd::render {
namespace {

constexpr absl::Duration kProgressInterval = absl::Seconds(10);

// Trouble goes to standard error; what becomes of events, the children say.
class PipeDisplay : public WatchDisplay {
 public:
  explicit PipeDisplay(std::ostream& err) : err_(err) {}

  void OnEvent(const v1::Event& event) override {
    absl::MutexLock lock(&mu_);
    if (!closed_) Show(event);
  }
  void OnTrouble(const std::string& words) override {
    absl::MutexLock lock(&mu_);
    if (!closed_) err_ << words << std::endl;
  }
  void Close() override {
    absl::MutexLock lock(&mu_);
    closed_ = true;
  }

 protected:
  // Called with the lock held.
  virtual void Show(const v1::Event& event) = 0;

 private:
  std::ostream& err_;
  absl::Mutex mu_;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

class PlainDisplay : public PipeDisplay {
 public:
  PlainDisplay(std::ostream& out, std::ostream& err)
      : PipeDisplay(err), out_(out) {}

 protected:
  void Show(const v1::Event& event) override {
    if (event.has_progress() && !IsDue(event)) return;
    const std::string words = EventWords(event);
    if (words.empty()) return;
    out_ << Instant(event.time()) << " " << words << std::endl;
  }

 private:
  bool IsDue(const v1::Event& event) {
    const absl::Time time = ToTime(event.time());
    if (event.progress().phase() == phase_ &&
        time - shown_ < kProgressInterval) {
      return false;
    }
    phase_ = event.progress().phase();
    shown_ = time;
    return true;
  }

  std::ostream& out_;
  std::string phase_;
  absl::Time shown_ = absl::InfinitePast();
};

class JsonLinesDisplay : public PipeDisplay {
 public:
  JsonLinesDisplay(std::ostream& out, std::ostream& err)
      : PipeDisplay(err), out_(out) {}

 protected:
  void Show(const v1::Event& event) override {
    if (event.has_bookmark()) return;
    PrintJson(ToJson(event), OutputFormat::kJsonLines, "", out_);
    out_ << std::flush;
  }

 private:
  std::ostream& out_;
};

class QuietDisplay : public PipeDisplay {
 public:
  using PipeDisplay::PipeDisplay;

 protected:
  void Show(const v1::Event&) override {}
};

}  // namespace

std::unique_ptr<WatchDisplay> MakePlainDisplay(std::ostream& out,
                                               std::ostream& err) {
  return std::make_unique<PlainDisplay>(out, err);
}

std::unique_ptr<WatchDisplay> MakeJsonLinesDisplay(std::ostream& out,
                                                   std::ostream& err) {
  return std::make_unique<JsonLinesDisplay>(out, err);
}

std::unique_ptr<WatchDisplay> MakeQuietDisplay(std::ostream& err) {
  return std::make_unique<QuietDisplay>(err);
}

}  // namespace quantd::render
