#include "runtime/threads/executor.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cassert>
#include <thread>
#include <vector>

#include "base/affinity.h"

namespace rankforge {
namespace {

class SerialExecutor : public Executor {
 public:
  size_t threads() const override { return 1; }
  void Run(size_t parts, PartFunction function) override {
    for (size_t part = 0; part < parts; ++part) function(part);
  }
  bool RunTeam(PartFunction function) override {
    function(0);
    return true;
  }
  void TeamParts(size_t, size_t parts, PartFunction function) override {
    Run(parts, function);
  }
  std::string_view name() const override { return "serial"; }
};

class HostExecutor : public Executor {
 public:
  explicit HostExecutor(const HostParallelFor& host) : host_(host) {}
  size_t threads() const override { return host_.threads; }
  void Run(size_t parts, PartFunction function) override {
    const auto body = [](void* context, size_t part) {
      (*static_cast<const PartFunction*>(context))(part);
    };
    host_.run(host_.host, parts, body, &function);
  }
  // Which of its threads run, and when, is the host's choice.
  bool RunTeam(PartFunction) override { return false; }
  void TeamParts(size_t, size_t, PartFunction) override {
    assert(false && "no team runs");
  }
  std::string_view name() const override { return "host"; }

 private:
  HostParallelFor host_;
};

inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The caller is member 0. A helper waits for the next generation, first
// spinning, then on a futex (std::atomic::wait). The caller waits for the
// helpers in the same way. Where there is at most one part per member, part i
// always goes to member i, so that its weights stay in the caches of one core.
// More parts go to whichever member is free, because the cores of a shared host
// are not equally fast.
class TeamExecutor : public Executor {
 public:
  explicit TeamExecutor(size_t threads)
      : spins_(UsableCpus().size() >= threads ? kSpins : kCrowdedSpins) {
    const std::vector<int> cpus = UsableCpus();
    for (size_t member = 1; member < threads; ++member) {
      helpers_.emplace_back([this, member] { Help(member); });
      // Pinned only when every member has a CPU of its own; the caller's
      // thread belongs to the host program and stays as it is.
      if (cpus.size() >= threads) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpus[member], &set);
        static_cast<void>(pthread_setaffinity_np(
            helpers_.back().native_handle(), sizeof(set), &set));
      }
    }
  }
  ~TeamExecutor() override {
    stopping_.store(true, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    for (std::thread& helper : helpers_) helper.join();
  }

  size_t threads() const override { return helpers_.size() + 1; }
  std::string_view name() const override { return "team"; }

  void Run(size_t parts, PartFunction function) override {
    if (parts <= 1 || helpers_.empty()) {
      for (size_t part = 0; part < parts; ++part) function(part);
      return;
    }
    const auto share = [&](size_t member) {
      RunShare(member, parts, function);
    };
    RunMembers(share);
  }

  bool RunTeam(PartFunction function) override {
    RunMembers(function);
    return true;
  }
  void TeamParts(size_t member, size_t parts, PartFunction function) override {
    RunShare(member, parts, function);
    WaitForAll();
  }

 private:
  // About 0.5 ms: several times the serial stretches between the products of a
  // large decoder layer (waking a halted virtual core takes 0.1 ms and more),
  // short enough to leave the core to others when idle.
  static constexpr int kSpins = 20000;
  // With more members than CPUs, a member that spins keeps another from
  // working.
  static constexpr int kCrowdedSpins = 200;

  // Spins at most spins_ times while the condition holds. Returns the last
  // value that it read.
  template <class T, class Condition>
  T WaitWhile(const std::atomic<T>& value, Condition condition) const {
    T seen = value.load(std::memory_order_acquire);
    for (int spin = 0; spin < spins_ && condition(seen); ++spin) {
      CpuRelax();
      seen = value.load(std::memory_order_acquire);
    }
    return seen;
  }

  // Calls function(member) for every member and waits for the helpers.
  void RunMembers(PartFunction function) {
    next_part_.store(0, std::memory_order_relaxed);
    function_ = &function;
    running_.store(helpers_.size(), std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    function(0);
    for (size_t left = WaitWhile(running_, [](size_t n) { return n != 0; });
         left != 0;) {
      running_.wait(left, std::memory_order_acquire);
      left = running_.load(std::memory_order_acquire);
    }
  }

  // A barrier within RunTeam: returns when all members have called it. The last
  // one to arrive resets the count of parts for the next TeamParts.
  void WaitForAll() {
    const uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads()) {
      arrived_.store(0, std::memory_order_relaxed);
      next_part_.store(0, std::memory_order_relaxed);
      phase_.fetch_add(1, std::memory_order_release);
      phase_.notify_all();
      return;
    }
    WaitWhile(phase_, [&](uint32_t now) { return now == phase; });
    phase_.wait(phase, std::memory_order_acquire);
  }

  void RunShare(size_t member, size_t parts, PartFunction function) {
    if (parts <= threads()) {
      if (member < parts) function(member);
      return;
    }
    const auto next = [&] {
      return next_part_.fetch_add(1, std::memory_order_relaxed);
    };
    for (size_t part = next(); part < parts; part = next()) function(part);
  }

  void Help(size_t member) {
    uint32_t seen = 0;
    while (true) {
      WaitWhile(generation_, [&](uint32_t now) { return now == seen; });
      generation_.wait(seen, std::memory_order_acquire);
      seen = generation_.load(std::memory_order_acquire);
      if (stopping_.load(std::memory_order_relaxed)) return;
      (*function_)(member);
      if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        running_.notify_one();
      }
    }
  }

  const int spins_;
  std::vector<std::thread> helpers_;
  std::atomic<uint32_t> generation_{0};
  std::atomic<size_t> running_{0};
  std::atomic<size_t> next_part_{0};
  std::atomic<size_t> arrived_{0};
  std::atomic<uint32_t> phase_{0};
  std::atomic<bool> stopping_{false};
  // Written before generation_ is raised, read after that.
  const PartFunction* function_ = nullptr;
};

}  // namespace

std::unique_ptr<Executor> MakeSerialExecutor() {
  return std::make_unique<SerialExecutor>();
}

std::unique_ptr<Executor> MakeHostExecutor(const HostParallelFor& host) {
  return std::make_unique<HostExecutor>(host);
}

std::unique_ptr<Executor> MakeTeamExecutor(size_t threads) {
  return std::make_unique<TeamExecutor>(threads);
}

std::unique_ptr<Executor> MakeDefaultExecutor(size_t threads) {
  return threads <= 1 ? MakeSerialExecutor() : MakeTeamExecutor(threads);
}

}  // namespace rankforge
