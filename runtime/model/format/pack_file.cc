#include "runtime/model/format/pack_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "base/content_hash.h"
#include "base/json_fields.h"
#include "meta/packing.h"

namespace rankforge {

static_assert(std::endian::native == std::endian::little,
              "packed weights are little-endian and used in place");

namespace {

using nlohmann::json;

constexpr std::array<char, 8> kMagic = {'r', 'a', 'n', 'k', 'p', 'a', 'c', 'k'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kByteOrder = 0x01020304;
constexpr std::string_view kWriteAgain =
    "write the pack again with `rankforge pack`";

// The file begins with it. The directory ends the file, because it is complete
// only when all matrices have been written.
struct Header {
  std::array<char, 8> magic = kMagic;
  uint32_t version = kVersion;
  uint32_t byte_order = kByteOrder;
  uint64_t file_bytes = 0;
  uint64_t directory_begin = 0;
  uint64_t directory_bytes = 0;
  std::array<char, 32> directory_hash{};  // HashBytes
};
static_assert(sizeof(Header) == 72);

// Matrices begin on pages, so that rows of whole pages do, too. A larger
// alignment would gain nothing: the whole file is mapped at once, and where the
// page cache holds 2 MiB in one piece (ext4 since Linux 6.16), a piece may hold
// parts of several matrices.
constexpr size_t kAlignment = kSmallPage;

// Makes the message about the first thing that is wrong with a file.
class Wrong {
 public:
  explicit Wrong(const std::string& path) : path_(path) {}

  Status operator()(const std::string& what) const {
    return Failed(fmt::format("{}: {}; {}", path_, what, kWriteAgain));
  }
  template <class Value, class Expected>
  Status Field(std::string_view name, const Value& value,
               const Expected& expected) const {
    return (*this)(
        fmt::format("field '{}' is {}, expected {}", name, value, expected));
  }

 private:
  const std::string& path_;
};

// The status for a field that is missing or has a wrong value.
Status StatusOf(const Wrong& wrong, const FieldError& error) {
  if (error.empty()) return {};
  if (error.missing()) {
    return wrong(
        fmt::format("{} lacks the field '{}'", error.where, error.field));
  }
  if (error.where.empty()) {
    return wrong(
        fmt::format("{} is {}, {}", error.field, error.value, error.reason));
  }
  return wrong(fmt::format("{} has {} as '{}', {}", error.where, error.value,
                           error.field, error.reason));
}

// NaN and infinities, which JSON lacks, are null.
double Fraction(JsonFields& fields, const char* key) {
  const json* value = fields.Get(key, "a fraction", [](const json& v) {
    return v.is_null() || v.is_number_float();
  });
  return value == nullptr || value->is_null()
             ? std::numeric_limits<double>::quiet_NaN()
             : value->get<double>();
}

// What the directory says of one matrix.
struct DirectoryEntry {
  TensorNames names;
  PackFile::Matrix matrix;  // without its bytes
  size_t stride;
  size_t offset;
  size_t bytes;
};

DirectoryEntry ReadEntry(JsonFields& fields) {
  DirectoryEntry entry;
  entry.names = fields.Texts("tensors");
  if (entry.names.empty()) {
    fields.Fail("tensors", "[]", "expected a list of names");
  }
  PackFile::Matrix& matrix = entry.matrix;
  matrix.rows = fields.Count("rows");
  matrix.cols = fields.Count("cols");
  matrix.type = fields.OneOf("type", kWeightTypes);
  matrix.layout = fields.OneOf("layout", kLayouts);
  entry.stride = fields.Count("stride");
  entry.offset = fields.Count("offset");
  entry.bytes = fields.Count("bytes");
  matrix.error.squares = Fraction(fields, "squares");
  matrix.error.error = Fraction(fields, "error");
  return entry;
}

}  // namespace

// Maps the file without madvise. Reading 2.1 GB from disk took 1.2 s (1.0 to
// 1.4) without advice, 1.3 s (1.1 to 1.5) with MADV_WILLNEED and 2.2 s (1.0 to
// 2.8) with MADV_HUGEPAGE. This was on Linux 6.18 with ext4, where the page
// cache holds most of such a file in pieces of 2 MiB and maps them as such.
Result<PackFile> PackFile::Open(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  PackFile file(path, std::move(mapped));
  RANKFORGE_RETURN_IF_ERROR(file.Read());
  return file;
}

Status PackFile::Read() {
  const Wrong wrong(path_);
  const std::span<const std::byte> bytes = file_->bytes();
  Header header;
  if (bytes.size() >= sizeof(header)) {
    std::memcpy(&header, bytes.data(), sizeof(header));
  }
  if (bytes.size() < sizeof(header) || header.magic != kMagic) {
    return wrong("no pack file, or one without its beginning");
  }
  if (header.byte_order != kByteOrder) {
    return wrong.Field("byte_order", header.byte_order, kByteOrder);
  }
  if (header.version != kVersion) {
    return wrong.Field("version", header.version, kVersion);
  }
  if (header.file_bytes != bytes.size()) {
    return wrong(fmt::format("field 'file_bytes' is {}, the file has {}",
                             header.file_bytes, bytes.size()));
  }
  if (header.directory_begin < sizeof(header) ||
      header.directory_begin > bytes.size()) {
    return wrong.Field("directory_begin", header.directory_begin,
                       fmt::format("less than {}", bytes.size()));
  }
  const auto directory = bytes.subspan(header.directory_begin);
  if (header.directory_bytes != directory.size()) {
    return wrong.Field("directory_bytes", header.directory_bytes,
                       directory.size());
  }
  const std::string hash = HashBytes(directory);
  if (!std::ranges::equal(hash, header.directory_hash)) {
    return wrong(fmt::format(
        "the directory has hash {}, 'directory_hash' says another: damaged",
        hash));
  }
  return ReadDirectory(directory, header.directory_begin);
}

Status PackFile::ReadDirectory(std::span<const std::byte> directory,
                               size_t end) {
  const Wrong wrong(path_);
  const Result<json> parsed = ParseJson(
      {reinterpret_cast<const char*>(directory.data()), directory.size()},
      {.unique_keys = false});
  // What is no object lacks every field.
  const json root =
      parsed.ok() && parsed->is_object() ? *parsed : json::object();
  FieldError error;
  JsonFields fields(root, "the directory", &error);
  const uint64_t revision = fields.Count("packing");
  if (fields.ok() && revision != kPackingRevision) {
    return wrong.Field("packing", revision, kPackingRevision);
  }
  origin_.checkpoint = fields.Text("checkpoint");
  origin_.adapter = fields.Text("adapter");
  if (fields.Has("calibration")) {
    origin_.calibration = fields.Text("calibration");
  }
  size_t free = sizeof(Header);  // matrices are in order and do not overlap
  size_t index = 0;
  for (const json& object : fields.Array("matrices")) {
    const std::string where = fmt::format("matrix {}", index++);
    JsonFields inner = fields.Inner(object, where);
    DirectoryEntry entry = ReadEntry(inner);
    if (entry.offset % kAlignment != 0 || entry.offset < free ||
        entry.offset > end || entry.bytes > end - entry.offset) {
      inner.Fail("offset", fmt::to_string(entry.offset),
                 fmt::format("expected a multiple of {} that leaves its {} "
                             "bytes between {} and {}",
                             kAlignment, entry.bytes, free, end));
    }
    RANKFORGE_RETURN_IF_ERROR(StatusOf(wrong, error));
    free = entry.offset + entry.bytes;
    entry.matrix.bytes = file_->bytes().subspan(entry.offset, entry.bytes);
    const Result<PackedMatrix> adopted = Adopt(entry.matrix);
    if (!adopted.ok()) {
      return wrong(fmt::format("{}: {}", where, adopted.status().message()));
    }
    if (adopted->stride() != entry.stride) {
      inner.Fail("stride", fmt::to_string(entry.stride),
                 fmt::format("expected {}", adopted->stride()));
    }
    if (!matrices_.emplace(entry.names, entry.matrix).second) {
      return wrong(fmt::format("matrix '{}' stands twice in the directory",
                               fmt::join(entry.names, "+")));
    }
  }
  return StatusOf(wrong, error);
}

Result<PackedMatrix> PackFile::Adopt(const Matrix& matrix) const {
  return PackedMatrix::Adopt(matrix.rows, matrix.cols, matrix.type,
                             matrix.layout, matrix.bytes, file_, matrix.error);
}

struct PackWriter::Impl {
  AtomicFile file;
  json directory;
  size_t size = 0;

  Status Append(std::span<const std::byte> bytes) {
    size += bytes.size();
    return file.Append(bytes);
  }
  // Zeros up to the next multiple of kAlignment.
  Status Align() {
    return Append(std::vector<std::byte>(RoundUp(size, kAlignment) - size));
  }
};

PackWriter::PackWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
PackWriter::~PackWriter() = default;
PackWriter::PackWriter(PackWriter&&) noexcept = default;
PackWriter& PackWriter::operator=(PackWriter&&) noexcept = default;

Result<PackWriter> PackWriter::Create(const std::string& path,
                                      const PackOrigin& origin) {
  RANKFORGE_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  auto impl = std::make_unique<Impl>(Impl{std::move(file),
                                          {{"packing", kPackingRevision},
                                           {"checkpoint", origin.checkpoint},
                                           {"adapter", origin.adapter},
                                           {"matrices", json::array()}}});
  if (!origin.calibration.empty()) {
    impl->directory["calibration"] = origin.calibration;
  }
  const Header room;
  RANKFORGE_RETURN_IF_ERROR(impl->Append(std::as_bytes(std::span(&room, 1))));
  return PackWriter(std::move(impl));
}

Status PackWriter::Append(const TensorNames& names,
                          const PackedMatrix& matrix) {
  RANKFORGE_RETURN_IF_ERROR(impl_->Align());
  const QuantizationError& error = matrix.quantization_error();
  impl_->directory["matrices"].push_back({{"tensors", names},
                                          {"rows", matrix.rows()},
                                          {"cols", matrix.cols()},
                                          {"type", Name(matrix.type())},
                                          {"layout", Name(matrix.layout())},
                                          {"stride", matrix.stride()},
                                          {"offset", impl_->size},
                                          {"bytes", matrix.bytes()},
                                          {"squares", error.squares},
                                          {"error", error.error}});
  return impl_->Append({matrix.data(), matrix.bytes()});
}

Status PackWriter::Commit() {
  const std::string text =
      impl_->directory.dump(1, ' ', true, json::error_handler_t::replace);
  Header header;
  header.directory_begin = impl_->size;
  header.directory_bytes = text.size();
  header.file_bytes = impl_->size + text.size();
  const auto bytes = std::as_bytes(std::span(text));
  std::ranges::copy(HashBytes(bytes), header.directory_hash.begin());
  RANKFORGE_RETURN_IF_ERROR(impl_->Append(bytes));
  RANKFORGE_RETURN_IF_ERROR(
      impl_->file.Overwrite(0, std::as_bytes(std::span(&header, 1))));
  return impl_->file.Commit();
}

}  // namespace rankforge
