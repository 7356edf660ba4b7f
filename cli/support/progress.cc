#include "cli/support/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "cli/support/output.h"

namespace rankforge {
namespace {

constexpr size_t kBarWidth = 24;
// Often enough for a bar that moves; seldom enough for a log that one can read.
constexpr std::chrono::milliseconds kBarInterval{100};
constexpr std::chrono::milliseconds kLineInterval{10'000};

size_t TerminalWidth() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) {
    return 80;
  }
  return size.ws_col;
}

}  // namespace

std::string FormatDuration(double seconds) {
  const auto total = std::lround(std::max(seconds, 0.0));
  const long hours = total / 3600;
  const long minutes = total / 60 % 60;
  if (hours > 0) {
    return fmt::format("{}:{:02}:{:02}", hours, minutes, total % 60);
  }
  return fmt::format("{}:{:02}", minutes, total % 60);
}

Progress::Progress(std::string title)
    : title_(std::move(title)),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(Clock::now()) {}

Progress::~Progress() {
  if (terminal_ && printed_) PrintToStderr("\n");
}

void Progress::Update(size_t done, size_t total, std::string_view what,
                      std::optional<double> seconds_left) {
  const auto now = Clock::now();
  const bool last = done >= total;
  const auto interval = terminal_ ? kBarInterval : kLineInterval;
  if (printed_ && !last && now - *printed_ < interval) return;
  printed_ = now;

  if (!seconds_left && done > 0) {
    const std::chrono::duration<double> elapsed = now - start_;
    seconds_left = elapsed.count() / static_cast<double>(done) *
                   static_cast<double>(total - std::min(done, total));
  }
  const std::string left =
      seconds_left && !last ? FormatDuration(*seconds_left) + " left  " : "";
  if (!terminal_) {
    PrintToStderr(
        fmt::format("{} {}/{}  {}{}\n", title_, done, total, left, what));
    return;
  }
  const size_t filled =
      total == 0 ? kBarWidth : kBarWidth * std::min(done, total) / total;
  std::string line =
      fmt::format("{} [{:<{}}] {}/{}  {}{}", title_, std::string(filled, '#'),
                  kBarWidth, done, total, left, what);
  line.resize(std::min(line.size(), TerminalWidth() - 1));
  PrintToStderr("\r\x1b[K" + line);
}

}  // namespace rankforge
