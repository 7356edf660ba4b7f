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

// The file begins with it; the directory, which is known when all matrices have
// been written, ends the file.
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

// Matrices begin on pages, so that rows of whole pages do, too. More would gain
// nothing: the whole file is mapped at once, and where the page cache holds 2
// MiB in one piece (ext4 since Linux 6.16) such pieces hold several matrices.
constexpr size_t kAlignment = kSmallPage;

// The first thing that is wrong with a file.
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

// Typed access to the fields of a JSON object that stands at `where`.
class PackFields {
 public:
  PackFields(const json& object, std::string where, const Wrong& wrong)
      : object_(object), where_(std::move(where)), wrong_(wrong) {}

  Result<const json*> Get(const char* key, json::value_t type,
                          std::string_view expected) const {
    const auto found = object_.is_object() ? object_.find(key) : object_.end();
    if (found == object_.end()) {
      return wrong_(fmt::format("{} lacks the field '{}'", where_, key));
    }
    if (found->type() != type) return Unexpected(key, *found, expected);
    return &*found;
  }
  Result<size_t> Size(const char* key) const {
    RANKFORGE_ASSIGN_OR_RETURN(
        const json* value,
        Get(key, json::value_t::number_unsigned, "a number of 0 or more"));
    return value->get<size_t>();
  }
  Result<std::string> Text(const char* key) const {
    RANKFORGE_ASSIGN_OR_RETURN(const json* value,
                               Get(key, json::value_t::string, "a string"));
    return value->get<std::string>();
  }
  // NaN and infinities, which JSON lacks, are null.
  Result<double> Number(const char* key) const {
    if (object_.is_object() && object_.contains(key) &&
        object_[key].is_null()) {
      return std::numeric_limits<double>::quiet_NaN();
    }
    RANKFORGE_ASSIGN_OR_RETURN(
        const json* value, Get(key, json::value_t::number_float, "a fraction"));
    return value->get<double>();
  }
  template <class Enum, size_t n>
  Result<Enum> OneOf(const char* key, const std::array<Enum, n>& values) const {
    RANKFORGE_ASSIGN_OR_RETURN(const std::string name, Text(key));
    const std::optional<Enum> value = FromName(values, name);
    if (!value) return Unexpected(key, name, "a name that this build knows");
    return *value;
  }
  // What is said of the field `key`.
  Status Unexpected(const char* key, const json& value,
                    std::string_view expected) const {
    return wrong_(fmt::format("{} has {:.60} as '{}', expected {}", where_,
                              value.dump(-1, ' ', true), key, expected));
  }

 private:
  const json& object_;
  std::string where_;
  const Wrong& wrong_;
};

Result<TensorNames> ReadNames(const json& list, const Wrong& wrong,
                              size_t index) {
  TensorNames names;
  for (const json& name : list) {
    if (name.is_string()) names.push_back(name.get<std::string>());
  }
  if (names.empty() || names.size() != list.size()) {
    return wrong(
        fmt::format("matrix {} has 'tensors' that are no names", index));
  }
  return names;
}

}  // namespace

// Mapped without advice. On Linux 6.18 with ext4, where the page cache holds
// most of such a file in pieces of 2 MiB and maps them as such, 2.1 GB from
// disk were read in 1.2 s (1.0 to 1.4), with MADV_WILLNEED in 1.3 (1.1 to 1.5),
// with MADV_HUGEPAGE in 2.2 (1.0 to 2.8).
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
    return wrong.Field("file_bytes", header.file_bytes, bytes.size());
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
  const auto* text = reinterpret_cast<const char*>(directory.data());
  const json root = json::parse(text, text + directory.size(), nullptr,
                                /*allow_exceptions=*/false);
  const PackFields fields(root, "the directory", wrong);
  RANKFORGE_ASSIGN_OR_RETURN(const size_t revision, fields.Size("packing"));
  if (revision != kPackingRevision) {
    return wrong.Field("packing", revision, kPackingRevision);
  }
  RANKFORGE_ASSIGN_OR_RETURN(origin_.checkpoint, fields.Text("checkpoint"));
  RANKFORGE_ASSIGN_OR_RETURN(origin_.adapter, fields.Text("adapter"));
  RANKFORGE_ASSIGN_OR_RETURN(
      const json* list, fields.Get("matrices", json::value_t::array, "a list"));

  size_t free = sizeof(Header);  // matrices stand in order and do not overlap
  for (size_t i = 0; i < list->size(); ++i) {
    Matrix matrix;
    const PackFields entry((*list)[i], fmt::format("matrix {}", i), wrong);
    RANKFORGE_ASSIGN_OR_RETURN(
        const json* tensors,
        entry.Get("tensors", json::value_t::array, "a list of names"));
    RANKFORGE_ASSIGN_OR_RETURN(const TensorNames names,
                               ReadNames(*tensors, wrong, i));
    RANKFORGE_ASSIGN_OR_RETURN(matrix.rows, entry.Size("rows"));
    RANKFORGE_ASSIGN_OR_RETURN(matrix.cols, entry.Size("cols"));
    RANKFORGE_ASSIGN_OR_RETURN(matrix.type, entry.OneOf("type", kWeightTypes));
    RANKFORGE_ASSIGN_OR_RETURN(matrix.layout, entry.OneOf("layout", kLayouts));
    RANKFORGE_ASSIGN_OR_RETURN(const size_t stride, entry.Size("stride"));
    RANKFORGE_ASSIGN_OR_RETURN(const size_t offset, entry.Size("offset"));
    RANKFORGE_ASSIGN_OR_RETURN(const size_t bytes, entry.Size("bytes"));
    RANKFORGE_ASSIGN_OR_RETURN(matrix.error.squares, entry.Number("squares"));
    RANKFORGE_ASSIGN_OR_RETURN(matrix.error.error, entry.Number("error"));
    if (offset % kAlignment != 0 || offset < free || offset > end ||
        bytes > end - offset) {
      return entry.Unexpected(
          "offset", offset,
          fmt::format("a multiple of {} that leaves its {} bytes between {} "
                      "and {}",
                      kAlignment, bytes, free, end));
    }
    matrix.bytes = file_->bytes().subspan(offset, bytes);
    const Result<PackedMatrix> adopted = Adopt(matrix);
    if (!adopted.ok()) {
      return wrong(fmt::format("matrix {}: {}", i, adopted.status().message()));
    }
    if (adopted->stride() != stride) {
      return entry.Unexpected("stride", stride,
                              fmt::format("{}", adopted->stride()));
    }
    free = offset + bytes;
    if (!matrices_.emplace(names, matrix).second) {
      return wrong(fmt::format("matrix '{}' stands twice in the directory",
                               fmt::join(names, "+")));
    }
  }
  return {};
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
