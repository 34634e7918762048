// SPDX-License-Identifier: Apache-2.0
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "client/render/live_block.h"
#include "client/render/live_view.h"
#include "client/render/watch_display.h"

namespace quantd::render {
namespace {

// Ages and estimates move on between events.
constexpr absl::Duration kTick = absl::Seconds(1);

class LiveDisplay : public WatchDisplay {
 public:
  LiveDisplay(const v1::Job& job, const Terminal& terminal, base::Clock& clock,
              std::ostream& out)
      : terminal_(terminal), clock_(clock), view_(job), block_(out) {
    Redraw();
    ticker_ = std::thread([this] {
      while (!closed_.WaitForNotificationWithTimeout(kTick)) Redraw();
    });
  }

  ~LiveDisplay() override {
    Close();
    ticker_.join();
  }

  void OnEvent(const v1::Event& event) override {
    absl::MutexLock lock(&mu_);
    const std::string keep = view_.Apply(event, clock_.Now());
    if (!keep.empty()) block_.PrintAbove(keep);
    block_.Draw(view_.Lines(terminal_, clock_.Now()));
  }

  void OnTrouble(const std::string& words) override {
    absl::MutexLock lock(&mu_);
    view_.SetConnectionTrouble(words);
    block_.Draw(view_.Lines(terminal_, clock_.Now()));
  }

  void Close() override {
    absl::MutexLock lock(&mu_);
    if (!closed_.HasBeenNotified()) closed_.Notify();
    block_.Close();
  }

 private:
  void Redraw() {
    absl::MutexLock lock(&mu_);
    block_.Draw(view_.Lines(terminal_, clock_.Now()));
  }

  const Terminal terminal_;
  base::Clock& clock_;
  absl::Notification closed_;
  absl::Mutex mu_;
  LiveView view_ ABSL_GUARDED_BY(mu_);
  LiveBlock block_ ABSL_GUARDED_BY(mu_);
  std::thread ticker_;
};

}  // namespace

std::unique_ptr<WatchDisplay> MakeLiveDisplay(const v1::Job& job,
                                              const Terminal& terminal,
                                              base::Clock& clock,
                                              std::ostream& out) {
  return std::make_unique<LiveDisplay>(job, terminal, clock, out);
}

}  // namespace quantd::render
