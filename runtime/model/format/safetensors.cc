#include "runtime/model/format/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/content_hash.h"

namespace rankforge {

static_assert(std::endian::native == std::endian::little,
              "safetensors data is little-endian and used in place");

namespace {

using nlohmann::json;

struct ElementType {
  std::string_view dtype;
  size_t bytes;
};
constexpr ElementType kElementTypes[] = {
    {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
    {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
    {"U32", 4},  {"F32", 4}, {"I64", 8}, {"U64", 8},     {"F64", 8},
};

// The value as a size. Negative and fractional numbers are none.
std::optional<size_t> AsSize(const json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  return value.get<size_t>();
}

std::optional<std::vector<size_t>> AsSizes(const json& value) {
  if (!value.is_array()) return std::nullopt;
  std::vector<size_t> sizes;
  for (const json& item : value) {
    const std::optional<size_t> size = AsSize(item);
    if (!size) return std::nullopt;
    sizes.push_back(*size);
  }
  return sizes;
}

std::optional<size_t> BytesOf(std::span<const size_t> shape, size_t element) {
  size_t bytes = element;
  for (const size_t extent : shape) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) return std::nullopt;
  }
  return bytes;
}

constexpr std::string_view kDownloadAgain =
    "the file is damaged or no safetensors file, download it again";

// Reads one entry of the header and checks it against a data section of
// `data_bytes`.
Result<TensorInfo> ParseTensor(const std::string& where, const json& entry,
                               size_t data_bytes) {
  const auto wrong = [&](const std::string& what) {
    return Failed(fmt::format("{}: {}; {}", where, what, kDownloadAgain));
  };
  if (!entry.is_object()) return wrong("not a JSON object");
  TensorInfo info;
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string()) {
    return wrong("no string 'dtype'");
  }
  info.dtype = dtype->get<std::string>();
  const std::optional<size_t> element = SafetensorsElementBytes(info.dtype);

  const auto shape_field = entry.find("shape");
  const auto shape =
      shape_field == entry.end() ? std::nullopt : AsSizes(*shape_field);
  if (!shape) return wrong("'shape' is not an array of sizes");
  info.shape = *shape;

  const auto offsets_field = entry.find("data_offsets");
  const auto offsets =
      offsets_field == entry.end() ? std::nullopt : AsSizes(*offsets_field);
  if (!offsets || offsets->size() != 2) {
    return wrong("'data_offsets' is not an array of two offsets");
  }
  info.begin = (*offsets)[0];
  info.end = (*offsets)[1];
  if (info.begin > info.end || info.end > data_bytes) {
    return wrong(
        fmt::format("'data_offsets' [{}, {}] lie outside the {} bytes of data "
                    "that the file has",
                    info.begin, info.end, data_bytes));
  }
  if (element && BytesOf(info.shape, *element) != info.end - info.begin) {
    return wrong(fmt::format("{} does not take the {} bytes of 'data_offsets'",
                             ToString(info), info.end - info.begin));
  }
  return info;
}

// The length of the header, which the first 8 of the `bytes` of a file state.
Result<size_t> HeaderLength(const std::string& path,
                            std::span<const std::byte> bytes) {
  uint64_t length = 0;
  if (bytes.size() < sizeof(length)) {
    return Failed(fmt::format("{}: {} bytes, too short for a header; {}", path,
                              bytes.size(), kDownloadAgain));
  }
  std::memcpy(&length, bytes.data(), sizeof(length));
  if (length > kMaxSafetensorsHeader) {
    return Failed(
        fmt::format("{}: header length {} is above the limit of {}; "
                    "{}",
                    path, length, kMaxSafetensorsHeader, kDownloadAgain));
  }
  if (length > bytes.size() - sizeof(length)) {
    return Failed(
        fmt::format("{}: header length {} is beyond the end of the "
                    "file ({} bytes); {}",
                    path, length, bytes.size(), kDownloadAgain));
  }
  return length;
}

// Parses the header as an object without duplicate keys.
Result<json> ParseObject(const std::string& path,
                         std::span<const std::byte> text) {
  // nlohmann/json keeps the last of two equal keys; the callback sees both.
  std::set<std::string> names;
  std::string duplicate;
  const auto find_duplicates = [&](int depth, json::parse_event_t event,
                                   json& parsed) {
    if (event == json::parse_event_t::key && depth == 1) {
      const auto& name = parsed.get_ref<const std::string&>();
      if (!names.insert(name).second) duplicate = name;
    }
    return true;
  };
  json header;
  try {
    const auto* begin = reinterpret_cast<const char*>(text.data());
    header = json::parse(begin, begin + text.size(), find_duplicates);
  } catch (const json::exception& error) {
    return Failed(fmt::format("{}: the header is not JSON ({:.160}); {}", path,
                              std::string_view(error.what()), kDownloadAgain));
  }
  if (!header.is_object()) {
    return Failed(fmt::format("{}: the header is not a JSON object; {}", path,
                              kDownloadAgain));
  }
  if (!duplicate.empty()) {
    return Failed(fmt::format("{}: tensor '{}' stands twice in the header; {}",
                              path, duplicate, kDownloadAgain));
  }
  return header;
}

Result<std::map<std::string, std::string>> ParseMetadata(
    const std::string& path, const json& entry) {
  if (entry.is_null()) return std::map<std::string, std::string>();
  if (!entry.is_object()) {
    return Failed(fmt::format("{}: '__metadata__' is not a JSON object; {}",
                              path, kDownloadAgain));
  }
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) {
      return Failed(
          fmt::format("{}: '__metadata__' field '{}' is not a string; {}", path,
                      key, kDownloadAgain));
    }
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

Status CheckOverlaps(const std::string& path,
                     const std::map<std::string, TensorInfo>& tensors) {
  std::vector<const std::pair<const std::string, TensorInfo>*> by_offset;
  for (const auto& tensor : tensors) by_offset.push_back(&tensor);
  std::sort(by_offset.begin(), by_offset.end(), [](auto* a, auto* b) {
    return std::pair(a->second.begin, a->second.end) <
           std::pair(b->second.begin, b->second.end);
  });
  for (size_t i = 1; i < by_offset.size(); ++i) {
    if (by_offset[i]->second.begin < by_offset[i - 1]->second.end) {
      return Failed(fmt::format(
          "{}: 'data_offsets' of tensors '{}' and '{}' overlap; {}", path,
          by_offset[i - 1]->first, by_offset[i]->first, kDownloadAgain));
    }
  }
  return {};
}

}  // namespace

std::optional<size_t> SafetensorsElementBytes(std::string_view dtype) {
  for (const ElementType& type : kElementTypes) {
    if (type.dtype == dtype) return type.bytes;
  }
  return std::nullopt;
}

std::string ToString(const TensorInfo& info) {
  return fmt::format("{} ({})", info.dtype, fmt::join(info.shape, ", "));
}

Result<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  SafetensorsFile file(path, std::move(mapped));
  RANKFORGE_RETURN_IF_ERROR(file.ParseHeader());
  return file;
}

Status SafetensorsFile::ParseHeader() {
  RANKFORGE_ASSIGN_OR_RETURN(header_bytes_, HeaderLength(path_, file_.bytes()));
  RANKFORGE_ASSIGN_OR_RETURN(const json header,
                             ParseObject(path_, this->header()));
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      RANKFORGE_ASSIGN_OR_RETURN(metadata_, ParseMetadata(path_, entry));
      continue;
    }
    RANKFORGE_ASSIGN_OR_RETURN(
        TensorInfo info,
        ParseTensor(fmt::format("{}: tensor '{}'", path_, name), entry,
                    data().size()));
    tensors_.emplace(name, std::move(info));
  }
  return CheckOverlaps(path_, tensors_);
}

std::span<const std::byte> SafetensorsFile::header() const {
  return file_.bytes().subspan(sizeof(uint64_t), header_bytes_);
}

std::span<const std::byte> SafetensorsFile::data() const {
  return file_.bytes().subspan(sizeof(uint64_t) + header_bytes_);
}

Result<const TensorInfo*> SafetensorsFile::Find(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return Failed(
        fmt::format("{}: tensor '{}' is missing; use a file that has "
                    "all tensors of its model",
                    path_, name));
  }
  return &found->second;
}

Result<std::span<const std::byte>> SafetensorsFile::Bytes(
    const std::string& name, std::string_view dtype,
    std::span<const size_t> shape) const {
  RANKFORGE_ASSIGN_OR_RETURN(const TensorInfo* info, Find(name));
  if (info->dtype != dtype || !std::ranges::equal(info->shape, shape)) {
    return Failed(fmt::format(
        "{}: tensor '{}' is {}, expected {} ({}); use a "
        "file that fits its configuration",
        path_, name, ToString(*info), dtype, fmt::join(shape, ", ")));
  }
  return data().subspan(info->begin, info->end - info->begin);
}

Result<std::span<const std::byte>> SafetensorsFile::WeightBytes(
    const std::string& name, size_t rows, size_t cols) const {
  RANKFORGE_ASSIGN_OR_RETURN(const TensorInfo* info, Find(name));
  const std::vector<size_t>& shape = info->shape;
  const bool fits =
      (shape.size() == 2 && shape[0] == rows && shape[1] == cols) ||
      (shape.size() == 1 && rows == 1 && shape[0] == cols) ||
      (shape.empty() && rows == 1 && cols == 1);
  if (!fits) {
    const std::string expected = rows == 1
                                     ? fmt::format("({})", cols)
                                     : fmt::format("({}, {})", rows, cols);
    return Failed(
        fmt::format("{}: tensor '{}' is {}, expected {}; use a file "
                    "that fits its configuration",
                    path_, name, ToString(*info), expected));
  }
  return data().subspan(info->begin, info->end - info->begin);
}

Result<SourceMatrix> SafetensorsFile::Matrix(const std::string& name,
                                             size_t rows, size_t cols) const {
  struct WeightDtype {
    std::string_view dtype;
    SourceMatrix::Type type;
  };
  constexpr WeightDtype kWeightDtypes[] = {{"F32", SourceMatrix::Type::kF32},
                                           {"F16", SourceMatrix::Type::kF16},
                                           {"BF16", SourceMatrix::Type::kBf16}};

  RANKFORGE_ASSIGN_OR_RETURN(const std::span<const std::byte> bytes,
                             WeightBytes(name, rows, cols));
  const std::string& dtype = tensors_.at(name).dtype;
  for (const WeightDtype& weight : kWeightDtypes) {
    if (weight.dtype == dtype) {
      return SourceMatrix{bytes.data(), weight.type, rows, cols};
    }
  }
  return Failed(
      fmt::format("{}: tensor '{}' has dtype {}, weights may be F32, "
                  "F16 or BF16; convert the checkpoint",
                  path_, name, dtype));
}

Result<std::vector<float>> SafetensorsFile::Floats(
    const std::string& name, std::span<const size_t> shape) const {
  RANKFORGE_ASSIGN_OR_RETURN(const std::span<const std::byte> bytes,
                             Bytes(name, "F32", shape));
  std::vector<float> values(bytes.size() / sizeof(float));
  // memcpy takes no null, which an empty vector has.
  if (!values.empty()) {
    std::memcpy(values.data(), bytes.data(), bytes.size());
  }
  return values;
}

std::string SampledHash(std::span<const FileParts> files) {
  constexpr size_t kBlocks = 64;
  constexpr size_t kBlockBytes = 4096;
  ContentHash hash;
  size_t total = 0;
  for (const FileParts& file : files) {
    hash.Add(file.header);
    total += file.data.size();
    file.file->ExpectSparseReads(true);
  }
  // Evenly spaced over the data of all files, first and last bytes included.
  for (size_t block = 0; block < kBlocks; ++block) {
    size_t offset =
        total < kBlockBytes ? 0 : (total - kBlockBytes) * block / (kBlocks - 1);
    for (const FileParts& file : files) {
      const std::span<const std::byte> data = file.data;
      if (offset < data.size()) {
        hash.Add(
            data.subspan(offset, std::min(kBlockBytes, data.size() - offset)));
        break;
      }
      offset -= data.size();
    }
  }
  for (const FileParts& file : files) {
    file.file->ExpectSparseReads(false);
  }
  return hash.Digest();
}

Result<SafetensorsWriter> SafetensorsWriter::Create(
    const std::string& path, std::span<const Tensor> tensors,
    const std::map<std::string, std::string>& metadata) {
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  size_t offset = 0;
  for (const Tensor& tensor : tensors) {
    const std::optional<size_t> element = SafetensorsElementBytes(tensor.dtype);
    const std::optional<size_t> bytes =
        element ? BytesOf(tensor.shape, *element) : std::nullopt;
    if (!bytes || header.contains(tensor.name)) {
      return UsageError(fmt::format(
          "{}: tensor '{}' has an unknown dtype '{}', an impossible shape or "
          "the name of another tensor; correct the caller",
          path, tensor.name, tensor.dtype));
    }
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + *bytes}}};
    offset += *bytes;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception& error) {  // a name that is not UTF-8
    return UsageError(
        fmt::format("{}: cannot write the header: {:.160}; use UTF-8 "
                    "names",
                    path, std::string_view(error.what())));
  }
  // Data starts 64-byte aligned in the file, so that mapped tensors are too.
  constexpr size_t kAlignment = 64;
  text.append(kAlignment - (text.size() + sizeof(uint64_t)) % kAlignment, ' ');
  if (text.size() > kMaxSafetensorsHeader) {
    return UsageError(
        fmt::format("{}: a header of {} bytes is above the limit "
                    "of {}; write fewer tensors",
                    path, text.size(), kMaxSafetensorsHeader));
  }
  const uint64_t length = text.size();
  RANKFORGE_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  RANKFORGE_RETURN_IF_ERROR(file.Append(std::as_bytes(std::span(&length, 1))));
  RANKFORGE_RETURN_IF_ERROR(file.Append(std::as_bytes(std::span(text))));
  return SafetensorsWriter(path, std::move(text), std::move(file), offset);
}

Status SafetensorsWriter::Append(std::span<const std::byte> bytes) {
  if (bytes.size() > missing_) {
    return UsageError(
        fmt::format("{}: {} bytes more than the declared tensors "
                    "have; correct the caller",
                    path_, bytes.size() - missing_));
  }
  missing_ -= bytes.size();
  return file_.Append(bytes);
}

Status SafetensorsWriter::Commit() {
  if (missing_ != 0) {
    return UsageError(
        fmt::format("{}: {} bytes of the declared tensors were "
                    "not written; correct the caller",
                    path_, missing_));
  }
  return file_.Commit();
}

}  // namespace rankforge
