// The C library from outside: checks in C11 (c_calls.c), memory that runs out,
// threads, fork.
#include <gtest/gtest.h>
#include <rankforge/rankforge.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <new>
#include <string>
#include <string_view>
#include <thread>

#include "tests/capi/c_calls.h"

namespace {

// Allocations until one fails; negative: none does.
std::atomic<long> allocations_left{-1};

void* Allocate(size_t size, size_t alignment) {
  if (allocations_left.load() >= 0 && allocations_left.fetch_sub(1) == 0) {
    throw std::bad_alloc();
  }
  void* memory = alignment == 0
                     ? std::malloc(size)
                     : std::aligned_alloc(alignment, (size + alignment - 1) /
                                                         alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

// Not std::free: the compiler pairs that with malloc, not with what it sees as
// new.
[[gnu::noinline]] void Release(void* memory) { std::free(memory); }

}  // namespace

// Those of the library, too: they are looked up in the program first.
void* operator new(size_t size) { return Allocate(size, 0); }
void* operator new(size_t size, std::align_val_t alignment) {
  return Allocate(size, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { Release(memory); }
void operator delete(void* memory, size_t) noexcept { Release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept {
  Release(memory);
}
void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  Release(memory);
}

namespace {

TEST(CApi, FromC) {
  const std::string folder = testing::TempDir() + "capi_test";
  std::filesystem::create_directories(folder);
  EXPECT_EQ(check_versions_and_contexts(), 0);
  EXPECT_EQ(check_products(), 0);
  EXPECT_EQ(check_activations(), 0);
  EXPECT_EQ(check_shares(), 0);
  EXPECT_EQ(check_sources(), 0);
  EXPECT_EQ(check_adopted_rows(), 0);
  EXPECT_EQ(check_files(folder.c_str()), 0);
  EXPECT_EQ(check_rank_adapters(), 0);
  EXPECT_EQ(check_gated_mlps(), 0);
  EXPECT_EQ(check_layer_activations(), 0);
  EXPECT_EQ(check_masks(), 0);
  EXPECT_EQ(check_tables(folder.c_str()), 0);
  EXPECT_EQ(check_wrong_arguments(), 0);
  EXPECT_EQ(check_handles(), 0);
  EXPECT_EQ(check_struct_sizes(), 0);
  EXPECT_EQ(check_tuner_arguments(), 0);
  std::filesystem::remove_all(folder);
}

// The variant that runs column masks of f32 untuned.
std::string ColumnVariant() {
  rankforge_context* context = nullptr;
  EXPECT_EQ(rankforge_context_create(nullptr, &context), RANKFORGE_OK);
  rankforge_problem problem = RANKFORGE_PROBLEM_INIT;
  problem.operation = RANKFORGE_COLUMN_MASK;
  problem.rows = problem.cols = 64;
  const std::vector<float> w(64 * 64, 0.5f);
  rankforge_source source = RANKFORGE_SOURCE_INIT;
  source.data = w.data();
  source.rows = source.cols = 64;
  rankforge_weights* weights = nullptr;
  rankforge_plan* plan = nullptr;
  EXPECT_EQ(
      rankforge_weights_pack(context, nullptr, &problem, &source, 1, &weights),
      RANKFORGE_OK);
  EXPECT_EQ(rankforge_plan_gemv(context, nullptr, &problem, weights, &plan),
            RANKFORGE_OK);
  std::array<char, 1024> text{};
  EXPECT_EQ(rankforge_plan_explain(plan, text.data(), text.size(), nullptr),
            RANKFORGE_OK);
  rankforge_plan_destroy(plan);
  rankforge_weights_destroy(weights);
  rankforge_context_destroy(context);
  const std::string_view explained = text.data();
  constexpr std::string_view kBefore = "density 1: ";
  const size_t begin = explained.find(kBefore) + kBefore.size();
  return std::string(
      explained.substr(begin, explained.find('\n', begin) - begin));
}

// All that runs masked columns, in the layout of two sums: products and shares
// of them, adapters, MLPs; also for several tokens, one after the other there.
TEST(CApi, LayoutsInSums) {
  const std::string forced = ColumnVariant() + "@in_out_2";
  setenv("RANKFORGE_FORCE", forced.c_str(), 1);
  EXPECT_EQ(check_sums(), 0);
  EXPECT_EQ(check_products(), 0);
  EXPECT_EQ(check_shares(), 0);
  EXPECT_EQ(check_rank_adapters(), 0);
  EXPECT_EQ(check_gated_mlps(), 0);
  unsetenv("RANKFORGE_FORCE");
}

// Every allocation of a plan's life fails once. The sanitizer sees what leaks.
TEST(CApi, EveryAllocationMayFail) {
  int wrong = 0;
  ASSERT_EQ(whole_life(nullptr, &wrong), RANKFORGE_OK);  // what is made once
  ASSERT_EQ(wrong, 0);
  long failed = 0;
  for (rankforge_status status = RANKFORGE_ERROR_MEMORY; status != RANKFORGE_OK;
       ++failed) {
    ASSERT_LT(failed, 10000);
    allocations_left = failed;
    status = whole_life(nullptr, &wrong);
    allocations_left = -1;
    if (status == RANKFORGE_OK) break;
    ASSERT_EQ(status, RANKFORGE_ERROR_MEMORY) << rankforge_last_error();
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(failed, 20);
}

// A dense plan of its own, and what a run of it needs.
class DensePlan {
 public:
  explicit DensePlan(uint32_t threads) {
    rankforge_context_options options = RANKFORGE_CONTEXT_OPTIONS_INIT;
    options.threads = threads;
    Expect(rankforge_context_create(&options, &context_));
    rankforge_problem problem = RANKFORGE_PROBLEM_INIT;
    problem.rows = kRows;
    problem.cols = kCols;
    const std::vector<float> w(kRows * kCols, 0.5f);
    rankforge_source source = RANKFORGE_SOURCE_INIT;
    source.data = w.data();
    source.rows = kRows;
    source.cols = kCols;
    Expect(rankforge_weights_pack(context_, nullptr, &problem, &source, 1,
                                  &weights_));
    Expect(rankforge_plan_gemv(context_, nullptr, &problem, weights_, &plan_));
    Expect(rankforge_plan_scratch_size(plan_, &bytes_));
  }
  ~DensePlan() {
    rankforge_plan_destroy(plan_);
    rankforge_weights_destroy(weights_);
    rankforge_context_destroy(context_);
  }
  void* MakeScratch() const {
    return std::aligned_alloc(64, (bytes_ + 63) / 64 * 64);
  }
  // Whether the status is as it should be, and y if it is OK.
  rankforge_status Run(void* scratch) const {
    const std::vector<float> x(kCols, 1.0f);
    std::vector<float> y(kRows, -1.0f);
    rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
    args.x = x.data();
    args.y = y.data();
    const rankforge_status status =
        rankforge_run(plan_, &args, scratch, bytes_);
    if (status == RANKFORGE_OK && y != std::vector<float>(kRows, kCols / 2.0f))
      return RANKFORGE_ERROR_INTERNAL;
    return status;
  }

 private:
  static constexpr size_t kRows = 256, kCols = 512;
  static void Expect(rankforge_status status) {
    EXPECT_EQ(status, RANKFORGE_OK) << rankforge_last_error();
  }
  rankforge_context* context_ = nullptr;
  rankforge_weights* weights_ = nullptr;
  rankforge_plan* plan_ = nullptr;
  size_t bytes_ = 0;
};

// Runs `body` on four threads at once; returns how many calls of it failed.
template <class Body>
int OnThreads(const Body& body) {
  std::atomic<int> failed{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) failed += !body();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return failed;
}

TEST(CApi, ThreadsShareAPlan) {
  const DensePlan plan(2);
  EXPECT_EQ(OnThreads([&] {
              void* scratch = plan.MakeScratch();
              const rankforge_status status = plan.Run(scratch);
              std::free(scratch);
              return status == RANKFORGE_OK;
            }),
            0);
}

#ifndef NDEBUG
// One scratch on several threads at a time: debug builds say so. The body of a
// parallel_for is inside a run, so that a second one surely meets it.
struct Nested {
  const DensePlan* plan;
  void* scratch;
  rankforge_status inner = RANKFORGE_OK;
  std::string message;
};
void RunsInside(void* host, size_t items, rankforge_body body, void* context) {
  auto& nested = *static_cast<Nested*>(host);
  if (nested.plan != nullptr) {
    const DensePlan* plan = std::exchange(nested.plan, nullptr);
    nested.inner = plan->Run(nested.scratch);
    nested.message = rankforge_last_error();
  }
  for (size_t item = 0; item < items; ++item) body(context, item);
}

TEST(CApi, DebugBuildsFindSharedScratch) {
  const DensePlan inner(1);
  Nested nested{&inner, nullptr, RANKFORGE_OK, ""};
  rankforge_context_options options = RANKFORGE_CONTEXT_OPTIONS_INIT;
  options.threads = 2;
  options.parallel_for = &RunsInside;
  options.host = &nested;
  rankforge_context* context = nullptr;
  ASSERT_EQ(rankforge_context_create(&options, &context), RANKFORGE_OK);
  rankforge_problem problem = RANKFORGE_PROBLEM_INIT;
  problem.rows = problem.cols = 512;
  const std::vector<float> w(512 * 512), x(512);
  std::vector<float> y(512);
  rankforge_source source = RANKFORGE_SOURCE_INIT;
  source.data = w.data();
  source.rows = source.cols = 512;
  rankforge_weights* weights = nullptr;
  rankforge_plan* plan = nullptr;
  ASSERT_EQ(
      rankforge_weights_pack(context, nullptr, &problem, &source, 1, &weights),
      RANKFORGE_OK);
  ASSERT_EQ(rankforge_plan_gemv(context, nullptr, &problem, weights, &plan),
            RANKFORGE_OK);
  size_t bytes = 0;
  ASSERT_EQ(rankforge_plan_scratch_size(plan, &bytes), RANKFORGE_OK);
  bytes = (bytes + 4096) / 64 * 64;
  nested.scratch = std::aligned_alloc(64, bytes);
  rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
  args.x = x.data();
  args.y = y.data();
  EXPECT_EQ(rankforge_run(plan, &args, nested.scratch, bytes), RANKFORGE_OK);
  EXPECT_EQ(nested.inner, RANKFORGE_ERROR_ARGUMENT);
  EXPECT_NE(nested.message.find("another run is using it"), std::string::npos);
  EXPECT_EQ(inner.Run(nested.scratch), RANKFORGE_OK);
  std::free(nested.scratch);
  rankforge_plan_destroy(plan);
  rankforge_weights_destroy(weights);
  rankforge_context_destroy(context);
}
#endif  // NDEBUG

TEST(CApi, AChildOfForkRunsAlone) {
  auto plan = std::make_unique<DensePlan>(3);
  void* scratch = plan->MakeScratch();
  ASSERT_EQ(plan->Run(scratch), RANKFORGE_OK);
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // ends a child that hangs
    const bool ran = plan->Run(scratch) == RANKFORGE_OK;
    plan.reset();
    const DensePlan other(2);
    _exit(ran && other.Run(scratch) == RANKFORGE_OK ? 0 : 1);
  }
  int state = 0;
  ASSERT_EQ(waitpid(child, &state, 0), child);
  EXPECT_TRUE(WIFEXITED(state) && WEXITSTATUS(state) == 0) << state;
  EXPECT_EQ(plan->Run(scratch), RANKFORGE_OK);
  std::free(scratch);
}

}  // namespace
