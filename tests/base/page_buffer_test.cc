// Memory of large and of small buffers.
#include "base/page_buffer.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace rankforge {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

bool IsAll(const PageBuffer& buffer, std::byte value) {
  return std::all_of(buffer.data(), buffer.data() + buffer.size(),
                     [value](std::byte byte) { return byte == value; });
}

TEST(PageBuffer, IsAlignedAndZero) {
  for (const size_t bytes :
       {size_t{1}, size_t{4096}, size_t{5000}, kMiB, 2 * kMiB, 3 * kMiB}) {
    const PageBuffer buffer(bytes);
    EXPECT_GE(buffer.size(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 4096, 0u);
    EXPECT_TRUE(IsAll(buffer, std::byte{0})) << bytes;
  }
  EXPECT_EQ(PageBuffer().data(), nullptr);
  EXPECT_EQ(PageBuffer(0).size(), 0u);
}

// Small ones share pages: each has its own part of them, also where others have
// given theirs back.
TEST(PageBuffer, NeighboursKeepTheirValues) {
  std::vector<PageBuffer> buffers;
  for (size_t i = 0; i < 64; ++i) {
    buffers.emplace_back((i % 5 + 1) * 70000);
    EXPECT_TRUE(IsAll(buffers.back(), std::byte{0})) << i;
    std::fill_n(buffers.back().data(), buffers.back().size(),
                static_cast<std::byte>(i + 1));
    if (i % 3 == 2) buffers[i - 1] = PageBuffer();
  }
  for (size_t i = 0; i < buffers.size(); ++i) {
    if (i % 3 == 1 && i + 1 < buffers.size()) continue;
    EXPECT_TRUE(IsAll(buffers[i], static_cast<std::byte>(i + 1))) << i;
  }
}

TEST(PageBuffer, ThreadsTakeTheirsAtTheSameTime) {
  std::vector<std::vector<PageBuffer>> buffers(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < buffers.size(); ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < 100; ++i) {
        buffers[t].emplace_back(100000);
        std::fill_n(buffers[t].back().data(), buffers[t].back().size(),
                    static_cast<std::byte>(t + 1));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t t = 0; t < buffers.size(); ++t) {
    for (const PageBuffer& buffer : buffers[t]) {
      EXPECT_TRUE(IsAll(buffer, static_cast<std::byte>(t + 1)));
    }
  }
}

// Whatever another thread was doing at the fork.
TEST(PageBuffer, AChildOfForkHasMemory) {
  std::atomic<bool> stop = false;
  std::thread other([&] {
    while (!stop) const PageBuffer buffer(kMiB);
  });
  for (int i = 0; i < 50; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);  // ends a child that hangs
      const PageBuffer buffer(kMiB);
      _exit(buffer.data() != nullptr ? 0 : 1);
    }
    int state = 0;
    ASSERT_EQ(waitpid(child, &state, 0), child);
    EXPECT_TRUE(WIFEXITED(state) && WEXITSTATUS(state) == 0) << state;
  }
  stop = true;
  other.join();
}

}  // namespace
}  // namespace rankforge
