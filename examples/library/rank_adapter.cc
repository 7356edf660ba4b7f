// y = A (m(z) * z), z = B x, from C++17 and C++20. Prints what was kept.
#include <cstdio>
#include <rankforge/rankforge.hpp>
#include <stdexcept>
#include <vector>

namespace rf = rankforge;

namespace {

constexpr size_t kRows = 256, kRanks = 64, kCols = 128;

int Run() {
  std::vector<float> b(kRanks * kCols), a(kRows * kRanks), x(kCols), y(kRows);
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i % 7) - 3;
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i % 5) - 2;
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 4) / 4;

  const rf::Context context = rf::Context::Create().value();
  const rf::Weights first =
      rf::Weights::Pack(context,
                        {RANKFORGE_DENSE, kRanks, kCols, RANKFORGE_F32},
                        rf::Source(b.data(), kRanks, kCols))
          .value();
  const rf::Weights second =
      rf::Weights::Pack(context,
                        {RANKFORGE_COLUMN_MASK, kRows, kRanks, RANKFORGE_F32},
                        rf::Source(a.data(), kRows, kRanks))
          .value();
  const rf::Mask rule = rf::Mask::Threshold(2);
  rf::RankAdapter adapter;
  adapter.b = first.get();
  adapter.a = second.get();
  adapter.rule = &rule;
  const rf::Plan plan = rf::Plan::Of(context, adapter).value();
  rf::Scratch scratch = plan.MakeScratch().value();

  size_t kept = 0;
  rf::RunArgs args;
  args.x = x.data();
  args.y = y.data();
  args.kept = &kept;
  plan.Run(args, scratch).value();
  std::printf("kept %zu of %zu ranks; y[1] is %g\n", kept, kRanks,
              static_cast<double>(y[1]));

  // An error is a value, until somebody insists.
  const rf::Result<void> wrong =
      plan.Run(rf::Span<const float>(x.data(), 3), y, scratch);
  return kept > 0 && kept < kRanks && !wrong ? 0 : 1;
}

}  // namespace

int main() {
  try {
    return Run();
  } catch (const std::runtime_error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
