#include "python/src/library.h"

#include <fmt/format.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <array>
#include <string_view>

#include "python/src/openmp_threads.h"

namespace rankforge {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

constexpr std::array kActivationsNames = {"default", "f32", "bf16", "i8"};
static_assert(RANKFORGE_ACTIVATIONS_DEFAULT == 0 &&
              RANKFORGE_ACTIVATIONS_F32 == 1 &&
              RANKFORGE_ACTIVATIONS_BF16 == 2 && RANKFORGE_ACTIVATIONS_I8 == 3);

constexpr std::array kOperationNames = {"dense", "row_mask", "column_mask"};
static_assert(RANKFORGE_DENSE == 0 && RANKFORGE_ROW_MASK == 1 &&
              RANKFORGE_COLUMN_MASK == 2);

std::string ProblemText(const rankforge_problem& problem) {
  return fmt::format(
      "Problem('{}', {}, {}, '{}', granularity={}, tokens={}, threads={}, "
      "density={}, activations={})",
      OperationName(problem.operation), problem.rows, problem.cols,
      rankforge_weight_type_name(problem.weight_type), problem.granularity,
      problem.tokens, problem.threads, problem.density,
      problem.activations == RANKFORGE_ACTIVATIONS_DEFAULT
          ? "None"
          : fmt::format("'{}'", ActivationsName(problem.activations)));
}

std::string ExplainProblem(const rankforge_problem& problem,
                           const BoundTable* table) {
  return TextOf([&](char* text, size_t capacity, size_t* length) {
    return rankforge_table_explain(HandleOf(table), &problem, text, capacity,
                                   length);
  });
}

void BindProblem(nb::module_& module) {
  nb::class_<rankforge_problem>(module, "Problem",
                                "What is to be computed: y (rows,) = w @ x "
                                "(cols,), with or without a mask.")
      .def(
          "__init__",
          [](rankforge_problem* self, const std::string& operation, size_t rows,
             size_t cols, const std::string& dtype, uint32_t granularity,
             uint32_t tokens, uint32_t threads, double density,
             const std::optional<std::string>& activations) {
            new (self) rankforge_problem RANKFORGE_PROBLEM_INIT;
            self->operation = OperationFromName(operation);
            self->rows = rows;
            self->cols = cols;
            self->weight_type = WeightTypeFromName(dtype);
            self->granularity = granularity;
            self->tokens = tokens;
            self->threads = threads;
            self->density = density;
            self->activations = ActivationsFromName(activations);
          },
          "operation"_a, "rows"_a, "cols"_a, "dtype"_a = "f32", nb::kw_only(),
          "granularity"_a = 1, "tokens"_a = 1, "threads"_a = 0,
          "density"_a = 0.0, "activations"_a = nb::none())
      .def_prop_ro("operation",
                   [](const rankforge_problem& problem) {
                     return OperationName(problem.operation);
                   })
      .def_ro("rows", &rankforge_problem::rows)
      .def_ro("cols", &rankforge_problem::cols)
      .def_prop_ro("dtype",
                   [](const rankforge_problem& problem) {
                     return rankforge_weight_type_name(problem.weight_type);
                   })
      .def_ro("granularity", &rankforge_problem::granularity)
      .def_ro("tokens", &rankforge_problem::tokens)
      .def_ro("threads", &rankforge_problem::threads)
      .def_ro("density", &rankforge_problem::density)
      .def_prop_ro(
          "activations",
          [](const rankforge_problem& problem) -> std::optional<std::string> {
            if (problem.activations == RANKFORGE_ACTIVATIONS_DEFAULT) {
              return std::nullopt;
            }
            return ActivationsName(problem.activations);
          })
      .def("__repr__", &ProblemText);
}

}  // namespace

BoundContext::BoundContext(uint32_t threads, bool openmp) {
  rankforge_context_options options = RANKFORGE_CONTEXT_OPTIONS_INIT;
  options.threads = threads;
  if (openmp) {
    const OpenMpThreads& host = OpenMpThreads::Of(threads);
    options.threads = host.threads();
    options.parallel_for = &OpenMpThreads::Run;
    options.host = const_cast<OpenMpThreads*>(&host);
  }
  rankforge_context* made = nullptr;
  Check(rankforge_context_create(&options, &made));
  handle.reset(made);
}

uint32_t BoundContext::threads() const {
  uint32_t threads = 0;
  Check(rankforge_context_threads(handle.get(), &threads));
  return threads;
}

BoundTable::BoundTable(const std::string& path) {
  rankforge_table* opened = nullptr;
  CheckWithoutGil([&] { return rankforge_table_open(path.c_str(), &opened); });
  handle.reset(opened);
}

std::string BoundTable::Notes() const {
  return TextOf([&](char* text, size_t capacity, size_t* length) {
    return rankforge_table_notes(handle.get(), text, capacity, length);
  });
}

int32_t OperationFromName(const std::string& name) {
  for (size_t i = 0; i < kOperationNames.size(); ++i) {
    if (name == kOperationNames[i]) return static_cast<int32_t>(i);
  }
  throw BadArgument(fmt::format(
      "operation: '{:.64}' is none of dense, row_mask, column_mask", name));
}

const char* OperationName(int32_t operation) {
  return kOperationNames.at(static_cast<size_t>(operation));
}

int32_t WeightTypeFromName(const std::string& name) {
  int32_t type = 0;
  Check(rankforge_weight_type_from_name(name.c_str(), &type));
  return type;
}

int32_t ActivationsFromName(const std::optional<std::string>& name) {
  if (!name) return RANKFORGE_ACTIVATIONS_DEFAULT;
  for (size_t i = 1; i < kActivationsNames.size(); ++i) {
    if (*name == kActivationsNames[i]) return static_cast<int32_t>(i);
  }
  throw BadArgument(
      fmt::format("activations: '{:.64}' is none of f32, bf16, i8", *name));
}

std::string ActivationsName(int32_t activations) {
  return kActivationsNames.at(static_cast<size_t>(activations));
}

const rankforge_context* HandleOf(const BoundContext* context) {
  if (context != nullptr) return context->handle.get();
  // Never destroyed: plans of other threads may outlive this module.
  static const auto* const ours = new BoundContext(0, false);
  return ours->handle.get();
}

const rankforge_table* HandleOf(const BoundTable* table) {
  return table == nullptr ? nullptr : table->handle.get();
}

void BindLibrary(nb::module_& module) {
  nb::class_<BoundContext>(
      module, "Context",
      "Threads that run the work. threads=0: as many as the CPUs and the CPU "
      "quota of this process keep busy. A second run of one context at the "
      "same time does its work on the thread that called it. openmp=True: on "
      "the threads of the OpenMP library that this process has loaded.")
      .def(nb::init<uint32_t, bool>(), "threads"_a = 0, nb::kw_only(),
           "openmp"_a = false)
      .def_prop_ro("threads", &BoundContext::threads,
                   "The threads that a run may use.");
  nb::class_<BoundTable>(module, "Table",
                         "What tuning found: which layout and which kernels "
                         "are fastest on this CPU. load_table opens one.")
      .def(nb::init<const std::string&>(), "path"_a)
      .def_prop_ro("notes", &BoundTable::Notes,
                   "What could not be honoured, one sentence per line.");
  BindProblem(module);
  module.def("explain", &ExplainProblem, "problem"_a, "table"_a = nb::none(),
             "Lines for people: which layout, threads and kernels the problem "
             "gets, from where, and what was measured.");
  module.def("version", &rankforge_version_text);
  module.def("weight_types", [] {
    nb::list names;
    for (int32_t type = 0; rankforge_weight_type_name(type) != nullptr;
         ++type) {
      names.append(rankforge_weight_type_name(type));
    }
    return nb::tuple(names);
  });
}

}  // namespace rankforge
