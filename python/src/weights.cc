#include "python/src/weights.h"

#include <fmt/format.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <filesystem>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/numbers/ggml_block.h"

namespace rankforge {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Code = nb::dlpack::dtype_code;

// The format of an array of floats. `is_bits`: bf16 as integers of 16 bits,
// because NumPy cannot hand out its type.
int32_t FloatFormat(nb::dlpack::dtype type, bool is_bits) {
  const auto code = static_cast<Code>(type.code);
  if (is_bits && code == Code::UInt && type.bits == 16) {
    return RANKFORGE_SOURCE_BF16;
  }
  if (!is_bits && code == Code::Float && type.bits == 32) {
    return RANKFORGE_SOURCE_F32;
  }
  if (!is_bits && code == Code::Float && type.bits == 16) {
    return RANKFORGE_SOURCE_F16;
  }
  if (!is_bits && code == Code::Bfloat && type.bits == 16) {
    return RANKFORGE_SOURCE_BF16;
  }
  throw BadArgument(fmt::format("source: dtype {}, expected {}", TypeName(type),
                                is_bits ? "uint16 with the bits of bfloat16"
                                        : "float32, float16 or bfloat16"));
}

const GgmlFormat& BlockFormat(const std::string& name) {
  std::string names;
  for (const GgmlFormat& format : GgmlFormats()) {
    if (format.weights == 1) continue;
    if (format.name == name) return format;
    names += fmt::format(", {}", format.name);
  }
  throw BadArgument(
      fmt::format("format: '{:.64}' is none of BF16{}", name, names));
}

size_t LineStride(const ReadableArray& array, size_t axis, size_t line_length,
                  const char* what) {
  if (array.shape(axis) <= 1) return 0;
  if (array.stride(axis) < 0 ||
      static_cast<size_t>(array.stride(axis)) < line_length) {
    throw BadArgument(
        fmt::format("source: {} are {} elements apart, expected at least the "
                    "{} of one",
                    what, array.stride(axis), line_length));
  }
  return static_cast<size_t>(array.stride(axis)) * array.itemsize();
}

// Rows that are contiguous, or else columns.
void ReadFloats(const ReadableArray& array, rankforge_source& source) {
  source.rows = array.shape(0);
  source.cols = array.shape(1);
  if (IsLineContiguous(array)) {
    source.line_stride = LineStride(array, 0, source.cols, "rows");
    return;
  }
  if (source.rows > 1 && array.stride(0) != 1) {
    throw BadArgument(
        fmt::format("source: strides ({}, {}), expected contiguous rows or "
                    "contiguous columns",
                    array.stride(0), array.stride(1)));
  }
  source.transposed = 1;
  source.line_stride = LineStride(array, 1, source.rows, "columns");
}

void ReadBlocks(const ReadableArray& array, const GgmlFormat& format,
                size_t cols, rankforge_source& source) {
  const nb::dlpack::dtype type = array.dtype();
  if (static_cast<Code>(type.code) != Code::UInt || type.bits != 8) {
    throw BadArgument(
        fmt::format("source: dtype {}, expected uint8 with blocks "
                    "of {}",
                    TypeName(type), format.name));
  }
  const size_t row_bytes = cols / format.weights * format.bytes;
  if (cols == 0 || cols % format.weights != 0 || array.shape(1) != row_bytes ||
      !IsLineContiguous(array)) {
    throw BadArgument(fmt::format(
        "source: shape {} and cols {}, expected contiguous rows of cols / {} "
        "blocks of {} bytes",
        ShapeOf(array), cols, format.weights, format.bytes));
  }
  source.format = static_cast<int32_t>(format.type);
  source.rows = array.shape(0);
  source.cols = cols;
  source.line_stride = LineStride(array, 0, row_bytes, "rows");
}

rankforge_problem ProblemFor(const std::vector<const BoundSource*>& sources,
                             const std::string& operation,
                             const std::string& dtype, uint32_t granularity,
                             uint32_t tokens, uint32_t threads,
                             const std::optional<std::string>& activations) {
  rankforge_problem problem = RANKFORGE_PROBLEM_INIT;
  problem.operation = OperationFromName(operation);
  problem.weight_type = WeightTypeFromName(dtype);
  problem.granularity = granularity;
  problem.tokens = tokens;
  problem.threads = threads;
  problem.activations = ActivationsFromName(activations);
  if (sources.empty()) throw BadArgument("sources: is empty");
  for (const BoundSource* source : sources) {
    problem.rows += source->source.rows;
    problem.cols = source->source.cols;
  }
  return problem;
}

std::unique_ptr<BoundWeights> PackWeights(
    const std::vector<const BoundSource*>& sources,
    const std::string& operation, const std::string& dtype,
    uint32_t granularity, uint32_t tokens, uint32_t threads,
    const std::optional<std::string>& activations, const BoundTable* table,
    const BoundContext* context) {
  const rankforge_problem problem = ProblemFor(
      sources, operation, dtype, granularity, tokens, threads, activations);
  std::vector<rankforge_source> given;
  for (const BoundSource* source : sources) given.push_back(source->source);
  const rankforge_context* const runs = HandleOf(context);
  rankforge_weights* made = nullptr;
  CheckWithoutGil([&] {
    return rankforge_weights_pack(runs, HandleOf(table), &problem, given.data(),
                                  given.size(), &made);
  });
  auto weights = std::make_unique<BoundWeights>();
  weights->handle.reset(made);
  weights->problem = problem;
  return weights;
}

std::unique_ptr<BoundWeights> AdoptWeights(const BoundSource& source,
                                           const std::string& operation,
                                           uint32_t granularity,
                                           uint32_t tokens, uint32_t threads,
                                           const BoundContext* context) {
  const std::string dtype =
      source.source.format == RANKFORGE_SOURCE_F16 ? "f16" : "f32";
  const rankforge_problem problem =
      ProblemFor({&source}, operation, dtype, granularity, tokens, threads, {});
  rankforge_weights* made = nullptr;
  Check(rankforge_weights_adopt(HandleOf(context), &problem, &source.source,
                                &made));
  auto weights = std::make_unique<BoundWeights>();
  weights->handle.reset(made);
  weights->problem = problem;
  weights->adopted = source.array;
  return weights;
}

std::unique_ptr<BoundWeights> OpenWeights(const std::filesystem::path& path) {
  rankforge_weights* opened = nullptr;
  CheckWithoutGil(
      [&] { return rankforge_weights_open(path.c_str(), &opened); });
  auto weights = std::make_unique<BoundWeights>();
  weights->handle.reset(opened);
  return weights;
}

void SaveWeights(const BoundWeights& weights,
                 const std::filesystem::path& path) {
  CheckWithoutGil([&] {
    return rankforge_weights_save(weights.handle.get(), path.c_str());
  });
}

}  // namespace

BoundSource::BoundSource(nb::handle data, const std::string& format,
                         size_t cols)
    : array(ToReadable(data, "source")) {
  if (array.ndim() != 2) {
    throw BadArgument(
        fmt::format("source: shape {}, expected (rows, cols)", ShapeOf(array)));
  }
  source.data = array.data();
  if (!format.empty() && format != "BF16") {
    ReadBlocks(array, BlockFormat(format), cols, source);
    return;
  }
  source.format = FloatFormat(array.dtype(), format == "BF16");
  ReadFloats(array, source);
}

rankforge_weights_info BoundWeights::Info() const {
  rankforge_weights_info info = RANKFORGE_WEIGHTS_INFO_INIT;
  Check(rankforge_weights_describe(handle.get(), &info));
  return info;
}

void BindWeights(nb::module_& module) {
  nb::class_<BoundSource>(
      module, "Source",
      "A matrix (rows, cols) of the caller's. blocks makes one for pack.")
      .def(nb::init<nb::handle, const std::string&, size_t>(), "data"_a,
           "format"_a = "", "cols"_a = 0)
      .def_prop_ro("rows",
                   [](const BoundSource& self) { return self.source.rows; })
      .def_prop_ro("cols",
                   [](const BoundSource& self) { return self.source.cols; });
  nb::class_<BoundWeights>(
      module, "Weights",
      "A matrix in the order that kernels read. Plans share it. Made by pack, "
      "adopt or Weights.open.")
      .def_static("open", &OpenWeights, "path"_a,
                  "Maps a file of Weights.save. It must stay as it is until "
                  "no plan uses the weights.")
      .def("save", &SaveWeights, "path"_a,
           "Writes them to a file, which appears whole or not at all.")
      .def_prop_ro("rows",
                   [](const BoundWeights& self) { return self.Info().rows; })
      .def_prop_ro("cols",
                   [](const BoundWeights& self) { return self.Info().cols; })
      .def_prop_ro("dtype",
                   [](const BoundWeights& self) {
                     return rankforge_weight_type_name(self.Info().weight_type);
                   })
      .def_prop_ro(
          "nbytes", [](const BoundWeights& self) { return self.Info().bytes; },
          "Bytes that kernels read, with padding.")
      .def_prop_ro("layout",
                   [](const BoundWeights& self) { return self.Info().layout; })
      .def_prop_ro(
          "adopted",
          [](const BoundWeights& self) { return self.Info().adopted != 0; },
          "Whether they are read where the caller has them.")
      .def_prop_ro(
          "quantization_error",
          [](const BoundWeights& self) {
            return self.Info().quantization_error;
          },
          "Root of the sum of squared errors of rounding to integers, "
          "relative to that of the weights.");
  module.def("pack", &PackWeights, "sources"_a, "operation"_a, "dtype"_a,
             "granularity"_a, "tokens"_a, "threads"_a, "activations"_a.none(),
             "table"_a.none(), "context"_a.none());
  module.def("adopt", &AdoptWeights, "source"_a, "operation"_a, "granularity"_a,
             "tokens"_a, "threads"_a, "context"_a.none());
}

}  // namespace rankforge
