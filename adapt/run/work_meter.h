// How much of the work is done, for people who wait for it or want it to stop.
#ifndef RANKFORGE_ADAPT_RUN_WORK_METER_H_
#define RANKFORGE_ADAPT_RUN_WORK_METER_H_

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "base/status.h"

namespace rankforge {

// Steps of unequal size. Their work (multiply-adds, roughly) tells the time
// left.
class WorkMeter {
 public:
  using Report =
      std::function<void(size_t done, size_t total, const std::string& what,
                         std::optional<double> seconds_left)>;
  // Asked after every step.
  using Cancelled = std::function<bool()>;
  // Seconds since some moment.
  using Clock = double (*)();

  explicit WorkMeter(Report report, Cancelled cancelled = {},
                     Clock clock = SteadySeconds)
      : report_(std::move(report)),
        cancelled_(std::move(cancelled)),
        clock_(clock),
        start_(clock()) {}

  // More steps lie ahead.
  void Extend(size_t steps, double work) {
    steps_ += steps;
    work_ += work;
  }
  // A step that an earlier run has done.
  void Skip(double work) {
    ++done_;
    work_ -= work;
  }
  // A step is done, and saved. Fails when the user wants to stop.
  Status Step(const std::string& what, double work) {
    ++done_;
    worked_ += work;
    if (report_) {
      std::optional<double> left;
      if (worked_ > 0) {
        left = (clock_() - start_) / worked_ * std::max(work_ - worked_, 0.0);
      }
      report_(done_, steps_, what, left);
    }
    if (cancelled_ && cancelled_()) {
      return Failed("stopped as asked after " + what);
    }
    return {};
  }

 private:
  static double SteadySeconds() {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration<double>(now).count();
  }

  Report report_;
  Cancelled cancelled_;
  Clock clock_;
  double start_;
  size_t done_ = 0;
  size_t steps_ = 0;
  double worked_ = 0;  // in this run
  double work_ = 0;    // of this run
};

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_RUN_WORK_METER_H_
