#include "capi/weights.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "base/atomic_file.h"
#include "base/files.h"
#include "capi/arguments.h"
#include "capi/context.h"
#include "capi/problem.h"
#include "meta/packing.h"
#include "meta/variant.h"

namespace rankforge::capi {
namespace {

SourceMatrix ReadSource(const rankforge_source& given) {
  CheckReserved(given.reserved, "source");
  if (given.data == nullptr) throw ArgumentError("source: data is null");
  const GgmlFormat* format =
      FindGgmlFormat(static_cast<uint32_t>(given.format));
  if (format == nullptr) {
    throw ArgumentError("source: format {} is not known", given.format);
  }
  constexpr size_t kMost = size_t{1} << 31;
  if (given.rows == 0 || given.cols == 0 || given.rows > kMost ||
      given.cols > kMost) {
    throw ArgumentError("source: {} x {} is no shape", given.rows, given.cols);
  }
  SourceMatrix source;
  source.data = given.data;
  source.type = format->type;
  source.rows = given.rows;
  source.cols = given.cols;
  source.transposed = given.transposed != 0;
  if (source.line_length() % format->weights != 0) {
    throw ArgumentError("source: lines of {} weights are no whole blocks of {}",
                        source.line_length(), format->name);
  }
  if (given.line_stride != 0 && given.line_stride < source.line_bytes()) {
    throw ArgumentError("source: line_stride is {}, but a line has {} bytes",
                        given.line_stride, source.line_bytes());
  }
  source.line_stride = given.line_stride;
  return source;
}

Problem ProblemFor(const rankforge_context* context,
                   const rankforge_problem* problem) {
  const auto& threads = *ContextPool::Of(context, "context");
  return ReadProblem(ReadStruct(problem, "problem"), threads.threads()).problem;
}

// Fails unless the sources, on top of each other, have the problem's shape.
void CheckShape(const std::vector<SourceMatrix>& sources,
                const Problem& problem) {
  size_t rows = 0;
  for (const SourceMatrix& source : sources) {
    if (source.cols != problem.cols) {
      throw ArgumentError("source: has {} cols, but the problem has {}",
                          source.cols, problem.cols);
    }
    rows += source.rows;
  }
  if (rows != problem.rows) {
    throw ArgumentError("sources: have {} rows, but the problem has {}", rows,
                        problem.rows);
  }
}

PackedMatrix Pack(const std::vector<SourceMatrix>& sources,
                  const Problem& problem, Layout layout) {
  PackedMatrix matrix =
      ValueOf(PackedMatrix::Pack(sources, problem.type, layout));
  for (size_t i = 0; i < sources.size() && !matrix.finite(); ++i) {
    Check(CheckWeights("sources", std::to_string(i), sources[i], problem.type));
  }
  return matrix;
}

rankforge_weights* MakeWeights(PackedMatrix matrix, bool adopted) {
  auto weights = std::make_shared<Weights>();
  weights->matrix = std::move(matrix);
  weights->adopted = adopted;
  return WeightsPool::Make(std::move(weights));
}

// A file of weights: this header, padded to a page, then the packed bytes.
// Types and layouts stand there by name.
struct FileHeader {
  std::array<char, 16> magic;
  uint64_t packing_revision;
  uint64_t rows;
  uint64_t cols;
  std::array<char, 32> type;
  std::array<char, 32> layout;
  double squares;  // QuantizationError
  double error;
  uint64_t hash;  // of everything above
};
constexpr std::array<char, 16> kMagic = {"rankforge-w 0.1"};
constexpr size_t kHeaderBytes = kSmallPage;

uint64_t HashOfHeader(const FileHeader& header) {
  return HashOf(
      {reinterpret_cast<const char*>(&header), offsetof(FileHeader, hash)});
}

std::array<char, 32> Padded(std::string_view name) {
  std::array<char, 32> padded{};
  std::ranges::copy(name.substr(0, padded.size() - 1), padded.begin());
  return padded;
}

template <class Enum, size_t n>
Enum ByName(const std::string& path, const std::array<Enum, n>& values,
            const std::array<char, 32>& padded, const char* field) {
  const std::string name(padded.data(), strnlen(padded.data(), padded.size()));
  const std::optional<Enum> value = FromName(values, name);
  if (!value) {
    throw Error(RANKFORGE_ERROR_FAILED,
                fmt::format("{}: {} '{:.32}' is not known; pack again", path,
                            field, name));
  }
  return *value;
}

FileHeader ReadHeader(const std::string& path, const MappedFile& file) {
  FileHeader header{};
  if (file.bytes().size() >= kHeaderBytes) {
    std::memcpy(&header, file.bytes().data(), sizeof(header));
  }
  if (header.magic != kMagic) {
    throw Error(RANKFORGE_ERROR_FAILED,
                fmt::format("{}: is no file of rankforge_weights_save", path));
  }
  if (header.hash != HashOfHeader(header)) {
    throw Error(RANKFORGE_ERROR_FAILED,
                fmt::format("{}: its header is damaged; pack again", path));
  }
  if (header.packing_revision != kPackingRevision) {
    throw Error(
        RANKFORGE_ERROR_FAILED,
        fmt::format("{}: was packed in revision {}, here {}; pack again", path,
                    header.packing_revision, kPackingRevision));
  }
  return header;
}

PackedMatrix Open(const std::string& path) {
  auto file =
      std::make_shared<const MappedFile>(ValueOf(MappedFile::Open(path)));
  const FileHeader header = ReadHeader(path, *file);
  const auto type = ByName(path, kWeightTypes, header.type, "weight type");
  const auto layout = ByName(path, kLayouts, header.layout, "layout");
  const std::span<const std::byte> bytes = file->bytes().subspan(kHeaderBytes);
  Result<PackedMatrix> matrix =
      PackedMatrix::Adopt(header.rows, header.cols, type, layout, bytes,
                          std::move(file), {header.squares, header.error});
  if (!matrix.ok()) {
    throw Error(RANKFORGE_ERROR_FAILED,
                fmt::format("{}: {}", path, matrix.status().message()));
  }
  return std::move(*matrix);
}

void Save(const PackedMatrix& matrix, const std::string& path) {
  std::array<std::byte, kHeaderBytes> page{};
  FileHeader header = {kMagic,
                       kPackingRevision,
                       matrix.rows(),
                       matrix.cols(),
                       Padded(Name(matrix.type())),
                       Padded(Name(matrix.layout())),
                       matrix.quantization_error().squares,
                       matrix.quantization_error().error,
                       0};
  header.hash = HashOfHeader(header);
  std::memcpy(page.data(), &header, sizeof(header));
  AtomicFile file = ValueOf(AtomicFile::Create(path));
  Check(file.Append(page));
  Check(file.Append({matrix.data(), matrix.bytes()}));
  Check(file.Commit());
}

}  // namespace

std::shared_ptr<const Weights> WeightsOf(const rankforge_weights* weights,
                                         const char* name) {
  return WeightsPool::Of(weights, name);
}

}  // namespace rankforge::capi

using namespace rankforge;        // NOLINT: the entries of the library
using namespace rankforge::capi;  // NOLINT

rankforge_status rankforge_weights_pack(const rankforge_context* context,
                                        const rankforge_table* table,
                                        const rankforge_problem* problem,
                                        const rankforge_source* sources,
                                        size_t count,
                                        rankforge_weights** weights) {
  return Guarded([&] {
    Checked(weights, "weights");
    const Problem packed = ProblemFor(context, problem);
    const DispatchTable* read = TableOf(table);
    if (count == 0 || count > packed.rows) {
      throw ArgumentError("count: {} sources cannot have {} rows", count,
                          packed.rows);
    }
    std::vector<SourceMatrix> matrices;
    for (size_t i = 0; i < count; ++i) {
      matrices.push_back(ReadSource(ReadElement(sources, i, "sources")));
    }
    CheckShape(matrices, packed);
    const Layout layout = Dispatcher(read).Decide(packed).choice.layout;
    *weights = MakeWeights(Pack(matrices, packed, layout), false);
  });
}

rankforge_status rankforge_weights_adopt(const rankforge_context* context,
                                         const rankforge_problem* problem,
                                         const rankforge_source* source,
                                         rankforge_weights** weights) {
  return Guarded([&] {
    Checked(weights, "weights");
    const Problem adopted = ProblemFor(context, problem);
    const SourceMatrix rows = ReadSource(ReadStruct(source, "source"));
    CheckShape({rows}, adopted);
    if (adopted.operation == Operation::kColumnMask) {
      throw UnsupportedError(
          "operation: the columns of a column mask are not contiguous in rows; "
          "pack them");
    }
    Result<PackedMatrix> matrix = PackedMatrix::AdoptRows(rows, adopted.type);
    if (!matrix.ok()) {
      throw UnsupportedError("source: {}", matrix.status().message());
    }
    *weights = MakeWeights(std::move(*matrix), true);
  });
}

rankforge_status rankforge_weights_save(const rankforge_weights* weights,
                                        const char* path) {
  return Guarded([&] {
    const std::shared_ptr<const Weights> saved = WeightsOf(weights, "weights");
    Checked(path, "path");
    if (saved->adopted) {
      throw UnsupportedError(
          "weights: are the caller's rows, in no packed order; save those");
    }
    Save(saved->matrix, path);
  });
}

rankforge_status rankforge_weights_open(const char* path,
                                        rankforge_weights** weights) {
  return Guarded([&] {
    Checked(path, "path");
    Checked(weights, "weights");
    *weights = MakeWeights(Open(path), false);
  });
}

rankforge_status rankforge_weights_destroy(rankforge_weights* weights) {
  return Guarded([&] { WeightsPool::Destroy(weights, "weights"); });
}

rankforge_status rankforge_weights_describe(const rankforge_weights* weights,
                                            rankforge_weights_info* info) {
  return Guarded([&] {
    const std::shared_ptr<const Weights> read = WeightsOf(weights, "weights");
    const uint32_t size = StructSize(info, "info");
    const PackedMatrix& matrix = read->matrix;
    rankforge_weights_info all = RANKFORGE_WEIGHTS_INFO_INIT;
    all.struct_size = size;
    all.weight_type = static_cast<int32_t>(
        std::ranges::find(kWeightTypeNumbers, matrix.type()) -
        kWeightTypeNumbers.begin());
    all.rows = matrix.rows();
    all.cols = matrix.cols();
    all.bytes =
        read->adopted ? matrix.rows() * matrix.stride() : matrix.bytes();
    all.layout = Name(matrix.layout()).data();
    all.adopted = read->adopted ? 1 : 0;
    all.quantization_error = matrix.quantization_error().Relative();
    std::memcpy(info, &all, std::min<size_t>(size, sizeof(all)));
  });
}
