// The version, errors, contexts.
#include "capi/context.h"

#include <array>
#include <system_error>

#include "base/affinity.h"
#include "capi/arguments.h"
#include "kernels/registry.h"

namespace rankforge::capi {
namespace {

constexpr uint32_t kMostThreads = 4096;

constexpr std::array<const char*, 8> kStatusTexts = {"ok",
                                                     "failed",
                                                     "bad argument",
                                                     "bad environment",
                                                     "out of memory",
                                                     "bad handle",
                                                     "not supported",
                                                     "internal error"};

#define RANKFORGE_TEXT_OF(number) #number
#define RANKFORGE_TEXT(number) RANKFORGE_TEXT_OF(number)
static_assert(
    std::string_view(RANKFORGE_VERSION) ==
        RANKFORGE_TEXT(RANKFORGE_VERSION_MAJOR) "." RANKFORGE_TEXT(
            RANKFORGE_VERSION_MINOR) "." RANKFORGE_TEXT(RANKFORGE_VERSION_PATCH),
    "rankforge.h has another version than CMakeLists.txt");

std::unique_ptr<Executor> MakeExecutor(
    size_t threads, const std::optional<HostParallelFor>& host) {
  try {
    return host ? MakeHostExecutor(*host) : MakeDefaultExecutor(threads);
  } catch (const std::system_error& error) {
    throw Error(RANKFORGE_ERROR_ENVIRONMENT,
                fmt::format("threads: cannot start {}: {}; ask for fewer",
                            threads, error.what()));
  }
}

}  // namespace

Context::Context(size_t threads, const std::optional<HostParallelFor>& host)
    : executor_(MakeExecutor(threads, host)),
      alone_(MakeSerialExecutor()),
      is_team_(!host && threads > 1) {}

}  // namespace rankforge::capi

using namespace rankforge;        // NOLINT: the entries of the library
using namespace rankforge::capi;  // NOLINT

uint32_t rankforge_version(void) { return RANKFORGE_VERSION_NUMBER; }

const char* rankforge_version_text(void) { return RANKFORGE_VERSION; }

const char* rankforge_status_text(rankforge_status status) {
  return status >= 0 && static_cast<size_t>(status) < kStatusTexts.size()
             ? kStatusTexts[static_cast<size_t>(status)]
             : "unknown status";
}

const char* rankforge_last_error(void) { return LastError(); }

rankforge_status rankforge_context_create(
    const rankforge_context_options* options, rankforge_context** context) {
  return Guarded([&] {
    Checked(context, "context");
    rankforge_context_options read = RANKFORGE_CONTEXT_OPTIONS_INIT;
    if (options != nullptr) read = ReadStruct(options, "context options");
    if (read.threads > kMostThreads) {
      throw ArgumentError("threads: {} is above {}", read.threads,
                          kMostThreads);
    }
    if (read.parallel_for == nullptr && read.host != nullptr) {
      throw ArgumentError("host: is set, but parallel_for is null");
    }
    const size_t threads = read.threads == 0 ? UsableThreads() : read.threads;
    std::optional<HostParallelFor> host;
    if (read.parallel_for != nullptr) {
      host = HostParallelFor{read.parallel_for, read.host, threads};
    }
    // Everything that dispatches asks the registry first.
    static_cast<void>(Registry::Get());
    *context =
        ContextPool::Make(std::make_shared<const Context>(threads, host));
  });
}

rankforge_status rankforge_context_destroy(rankforge_context* context) {
  return Guarded([&] { ContextPool::Destroy(context, "context"); });
}

rankforge_status rankforge_context_threads(const rankforge_context* context,
                                           uint32_t* threads) {
  return Guarded([&] {
    *Checked(threads, "threads") =
        static_cast<uint32_t>(ContextPool::Of(context, "context")->threads());
  });
}
