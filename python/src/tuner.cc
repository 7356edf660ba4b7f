#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "include/rankforge/rankforge_tuner.h"
#include "python/src/bindings.h"
#include "python/src/library.h"

namespace rankforge {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

constexpr std::array kRigors = {"measure", "estimate", "patient"};
static_assert(RANKFORGE_MEASURE == 0 && RANKFORGE_ESTIMATE == 1 &&
              RANKFORGE_PATIENT == 2);

int32_t RigorFromName(const std::string& name) {
  for (size_t i = 0; i < kRigors.size(); ++i) {
    if (name == kRigors[i]) return static_cast<int32_t>(i);
  }
  throw BadArgument("rigor: '" + name.substr(0, 64) +
                    "' is none of measure, estimate, patient");
}

// The caller's function, and what it raised: tuning cannot be left in the
// middle, and asks nobody any more.
struct Progress {
  nb::object function;
  nb::object raised;
};

void Report(void* user, size_t done, size_t total, double seconds_left,
            const char* message) {
  auto& progress = *static_cast<Progress*>(user);
  const nb::gil_scoped_acquire acquire;
  if (progress.raised.is_valid()) return;
  try {
    progress.function(done, total, seconds_left, message);
  } catch (nb::python_error& error) {
    progress.raised = nb::borrow(error.value());
  }
}

void Tune(const std::vector<const rankforge_problem*>& problems,
          const std::string& path, const std::string& rigor,
          double budget_seconds, uint64_t seed, bool allow_noise,
          const std::string& journal, bool resume,
          const nb::object& on_progress) {
  if (problems.empty()) throw BadArgument("problems: is empty");
  std::vector<rankforge_problem> given;
  for (const rankforge_problem* problem : problems) given.push_back(*problem);
  Progress progress{on_progress, {}};
  rankforge_tune_options options = RANKFORGE_TUNE_OPTIONS_INIT;
  options.rigor = RigorFromName(rigor);
  options.budget_seconds = budget_seconds;
  options.seed = seed;
  options.allow_noise = allow_noise;
  options.journal = journal.empty() ? nullptr : journal.c_str();
  options.resume = resume;
  if (!on_progress.is_none()) {
    options.progress = &Report;
    options.user = &progress;
  }
  rankforge_status status = RANKFORGE_OK;
  {
    const nb::gil_scoped_release release;
    status = rankforge_tune(given.data(), given.size(), &options, path.c_str());
  }
  if (progress.raised.is_valid()) {
    PyErr_SetObject(progress.raised.type().ptr(), progress.raised.ptr());
    throw nb::python_error();
  }
  if (status != RANKFORGE_OK) {
    throw PythonError(status, rankforge_tuner_last_error());
  }
}

}  // namespace

void BindTuner(nb::module_& module) {
  module.def("tune", &Tune, "problems"_a, "path"_a, "rigor"_a,
             "budget_seconds"_a, "seed"_a, "allow_noise"_a, "journal"_a,
             "resume"_a, "progress"_a.none());
}

}  // namespace rankforge
