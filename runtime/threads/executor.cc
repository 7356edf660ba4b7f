#include "runtime/threads/executor.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <cassert>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
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

// What the parts of one run threw first. A part runs where the thrower's stack
// ends, in a thread or in a loop of C, so nothing may leave it.
class FirstException {
 public:
  template <class F>
  void Guard(const F& function) noexcept {
    try {
      function();
    } catch (...) {
      if (!failed_.exchange(true)) first_ = std::current_exception();
    }
  }
  bool failed() const { return failed_.load(std::memory_order_relaxed); }
  // Throws it, and forgets it. To be called when no part runs.
  void Rethrow() {
    if (!failed()) return;
    failed_.store(false, std::memory_order_relaxed);
    std::rethrow_exception(std::exchange(first_, nullptr));
  }

 private:
  std::atomic<bool> failed_{false};
  std::exception_ptr first_;
};

class HostExecutor : public Executor {
 public:
  explicit HostExecutor(const HostParallelFor& host) : host_(host) {}
  size_t threads() const override { return host_.threads; }
  void Run(size_t parts, PartFunction function) override {
    struct Loop {
      PartFunction function;
      std::atomic<size_t> done{0};
      FirstException exception{};
    } loop{function};
    const auto body = [](void* context, size_t part) {
      Loop& loop = *static_cast<Loop*>(context);
      loop.exception.Guard([&] { loop.function(part); });
      loop.done.fetch_add(1, std::memory_order_release);
    };
    host_.run(host_.host, parts, body, &loop);
    loop.exception.Rethrow();
    const size_t done = loop.done.load(std::memory_order_acquire);
    if (done != parts) {
      throw std::runtime_error("the parallel_for of the host called " +
                               std::to_string(done) + " of " +
                               std::to_string(parts) + " items");
    }
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

// How often this process was forked off: the threads of the team of a parent
// are not in its child.
std::atomic<uint32_t> forks{0};

uint32_t WatchForks() {
  static const int failed = pthread_atfork(
      nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
  if (failed != 0) throw std::bad_alloc();
  return forks.load(std::memory_order_relaxed);
}

// Threads that are started meanwhile get no signals, so that handlers of the
// host program run on its own threads. Faults of a thread reach it all the
// same, and profilers need SIGPROF.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t set;
    sigfillset(&set);
    for (const int signal :
         {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGPROF}) {
      sigdelset(&set, signal);
    }
    pthread_sigmask(SIG_BLOCK, &set, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
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
//
// Members read the caller's stack. A member that throws is done, and so are
// those that wait for it at a barrier; the caller throws when all are.
class TeamExecutor : public Executor {
 public:
  explicit TeamExecutor(size_t threads)
      : spins_(UsableCpus().size() >= threads ? kSpins : kCrowdedSpins),
        forks_(WatchForks()),
        helpers_(std::make_unique<std::vector<std::thread>>()) {
    try {
      Start(threads);
    } catch (...) {
      Stop();
      throw;
    }
  }
  ~TeamExecutor() override {
    if (!IsForked()) {
      Stop();
    } else {
      // There is nobody to join. A std::thread that was not joined would end
      // the process.
      static_cast<void>(helpers_.release());
    }
  }

  size_t threads() const override { return helpers_->size() + 1; }
  std::string_view name() const override { return "team"; }

  void Run(size_t parts, PartFunction function) override {
    if (parts <= 1 || helpers_->empty() || IsForked()) {
      for (size_t part = 0; part < parts; ++part) function(part);
      return;
    }
    const auto share = [&](size_t member) {
      RunShare(member, parts, function);
    };
    RunMembers(share);
  }

  bool RunTeam(PartFunction function) override {
    if (IsForked()) return false;
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

  // Thrown through a member that waits for one that threw.
  struct Abandoned {};

  bool IsForked() const {
    return forks.load(std::memory_order_relaxed) != forks_;
  }

  void Start(size_t threads) {
    const std::vector<int> cpus = UsableCpus();
    const SignalsBlocked blocked;
    for (size_t member = 1; member < threads; ++member) {
      helpers_->emplace_back([this, member] { Help(member); });
      // Pinned only when every member has a CPU of its own; the caller's
      // thread belongs to the host program and stays as it is.
      if (cpus.size() >= threads) {
        const CpuSet set = CpuSet::Of(cpus[member]);
        static_cast<void>(pthread_setaffinity_np(
            helpers_->back().native_handle(), set.bytes(), set.data()));
      }
    }
  }

  void Stop() {
    stopping_.store(true, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    for (std::thread& helper : *helpers_) helper.join();
  }

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
    running_.store(helpers_->size(), std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    RunMember(function, 0);
    for (size_t left = WaitWhile(running_, [](size_t n) { return n != 0; });
         left != 0;) {
      running_.wait(left, std::memory_order_acquire);
      left = running_.load(std::memory_order_acquire);
    }
    if (!exception_.failed()) return;
    arrived_.store(0, std::memory_order_relaxed);
    exception_.Rethrow();
  }

  void RunMember(PartFunction function, size_t member) noexcept {
    exception_.Guard([&] { function(member); });
    if (!exception_.failed()) return;
    // Whoever waits at a barrier wakes, and sees the failure.
    phase_.fetch_add(1, std::memory_order_release);
    phase_.notify_all();
  }

  // A barrier within RunTeam: returns when all members have called it. The last
  // one to arrive resets the count of parts for the next TeamParts.
  void WaitForAll() {
    const uint32_t phase = phase_.load(std::memory_order_acquire);
    if (exception_.failed()) throw Abandoned();
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads()) {
      arrived_.store(0, std::memory_order_relaxed);
      next_part_.store(0, std::memory_order_relaxed);
      phase_.fetch_add(1, std::memory_order_release);
      phase_.notify_all();
      return;
    }
    WaitWhile(phase_, [&](uint32_t now) { return now == phase; });
    phase_.wait(phase, std::memory_order_acquire);
    if (exception_.failed()) throw Abandoned();
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
      RunMember(*function_, member);
      if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        running_.notify_one();
      }
    }
  }

  const int spins_;
  const uint32_t forks_;  // when the team was started
  // Its own allocation, so that a child of fork can leave it behind.
  std::unique_ptr<std::vector<std::thread>> helpers_;
  FirstException exception_;
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
