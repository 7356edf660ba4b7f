// Progress of long work on stderr: a bar with the time left on a terminal, a
// plain line from time to time elsewhere.
#ifndef RANKFORGE_CLI_SUPPORT_PROGRESS_H_
#define RANKFORGE_CLI_SUPPORT_PROGRESS_H_

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace rankforge {

class Progress {
 public:
  explicit Progress(std::string title);
  // Ends the line of the bar.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` of `total` steps are finished and `what` is under way. Without
  // `seconds_left` the time left is extrapolated from the steps so far.
  void Update(size_t done, size_t total, std::string_view what,
              std::optional<double> seconds_left = {});

 private:
  using Clock = std::chrono::steady_clock;

  std::string title_;
  bool terminal_;
  Clock::time_point start_;
  std::optional<Clock::time_point> printed_;
};

// "0:42", "1:05:00".
std::string FormatDuration(double seconds);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SUPPORT_PROGRESS_H_
