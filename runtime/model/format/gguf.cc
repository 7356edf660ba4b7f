#include "runtime/model/format/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

namespace rankforge {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr std::string_view kDownloadAgain = "download it again";
constexpr size_t kMaxDimensions = 4;  // of ggml
constexpr size_t kMaxName = 64 << 10;
constexpr uint64_t kDefaultAlignment = 32;
// More than any file has; keeps a hostile one from padding away the data.
constexpr uint64_t kMaxAlignment = 1 << 16;

// Bytes of a value; 0: it has no fixed size.
constexpr size_t BytesOf(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return 0;
}

constexpr bool IsFloat(GgufType type) {
  return type == GgufType::kFloat32 || type == GgufType::kFloat64;
}
constexpr bool IsInteger(GgufType type) {
  return BytesOf(type) != 0 && !IsFloat(type) && type != GgufType::kBool;
}
constexpr bool IsNumber(GgufType type) {
  return IsInteger(type) || IsFloat(type);
}

template <class T>
T Load(std::span<const std::byte> bytes, size_t element) {
  T value;
  std::memcpy(&value, bytes.data() + element * sizeof(T), sizeof(T));
  return value;
}

// use(element `i`) of values that IsNumber accepts.
template <class Use>
auto WithNumber(const GgufValue& value, size_t i, Use use) {
  switch (value.type) {
    case GgufType::kInt8:
      return use(Load<int8_t>(value.bytes, i));
    case GgufType::kUint16:
      return use(Load<uint16_t>(value.bytes, i));
    case GgufType::kInt16:
      return use(Load<int16_t>(value.bytes, i));
    case GgufType::kUint32:
      return use(Load<uint32_t>(value.bytes, i));
    case GgufType::kInt32:
      return use(Load<int32_t>(value.bytes, i));
    case GgufType::kUint64:
      return use(Load<uint64_t>(value.bytes, i));
    case GgufType::kInt64:
      return use(Load<int64_t>(value.bytes, i));
    case GgufType::kFloat32:
      return use(Load<float>(value.bytes, i));
    case GgufType::kFloat64:
      return use(Load<double>(value.bytes, i));
    default:
      return use(Load<uint8_t>(value.bytes, i));
  }
}

double NumberAt(const GgufValue& value, size_t i) {
  return WithNumber(value, i,
                    [](auto number) { return static_cast<double>(number); });
}

// The string at `bytes`, which was checked to be there. Takes it off `bytes`.
std::string_view TakeText(std::span<const std::byte>& bytes) {
  const auto length = Load<uint64_t>(bytes, 0);
  const std::string_view text(
      reinterpret_cast<const char*>(bytes.data()) + sizeof(length), length);
  bytes = bytes.subspan(sizeof(length) + length);
  return text;
}

// Whether `name` is that of a part of a split model, but not of the first.
bool IsLaterPart(const std::string& name) {
  constexpr std::string_view kPattern = "-00001-of-00001.gguf";
  if (name.size() < kPattern.size()) return false;
  const std::string_view end =
      std::string_view(name).substr(name.size() - kPattern.size());
  return end.substr(6, 4) == "-of-" && end.front() == '-' &&
         end.substr(1, 5) != "00001" &&
         std::ranges::all_of(end.substr(1, 5),
                             [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

bool IsGguf(const std::string& path) {
  if (!FileExists(path)) return false;
  char begin[kMagic.size()] = {};
  std::ifstream file(path, std::ios::binary);
  file.read(begin, sizeof(begin));
  return std::string_view(begin, sizeof(begin)) == kMagic;
}

std::optional<std::string> GgufPathOf(const std::string& model) {
  namespace fs = std::filesystem;
  if (IsGguf(model)) return model;
  std::error_code error;
  if (!fs::is_directory(model, error) || FileExists(model + "/config.json")) {
    return std::nullopt;
  }
  std::vector<std::string> found;
  for (auto entry = fs::directory_iterator(model, error);
       !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const std::string path = entry->path().string();
    if (path.ends_with(".gguf") && !IsLaterPart(path) && IsGguf(path)) {
      found.push_back(path);
    }
  }
  if (found.size() != 1) return std::nullopt;
  return found.front();
}

std::string Printable(std::string_view text) {
  constexpr size_t kMost = 160;
  std::string shown(text.substr(0, kMost));
  for (char& c : shown) {
    if (c < ' ' || c > '~') c = '?';
  }
  return text.size() > kMost ? shown + "..." : shown;
}

// Reads the header from front to back; nothing lies beyond what is left.
class GgufFile::Parser {
 public:
  explicit Parser(GgufFile& file)
      : file_(file), part_(file.parts_.front()), left_(part_.file.bytes()) {}

  Status Run() {
    RANKFORGE_RETURN_IF_ERROR(ReadVersion());
    RANKFORGE_ASSIGN_OR_RETURN(const auto tensors,
                               Take<uint64_t>("tensor count"));
    RANKFORGE_ASSIGN_OR_RETURN(const auto values,
                               Take<uint64_t>("metadata count"));
    for (uint64_t i = 0; i < values; ++i) {
      RANKFORGE_RETURN_IF_ERROR(ReadPair());
    }
    std::vector<uint64_t> offsets;
    std::vector<Named*> order;
    for (uint64_t i = 0; i < tensors; ++i) {
      RANKFORGE_RETURN_IF_ERROR(ReadTensor(offsets, order));
    }
    RANKFORGE_RETURN_IF_ERROR(FindData());
    for (size_t i = 0; i < order.size(); ++i) {
      RANKFORGE_RETURN_IF_ERROR(Place(*order[i], offsets[i]));
    }
    return {};
  }

 private:
  using Named = std::pair<const std::string, GgufTensor>;

  // About what is being read.
  Status Wrong(const std::string& what) const {
    return Failed(fmt::format("{}: {}{}; {}", part_.path, subject_, what,
                              kDownloadAgain));
  }

  template <class T>
  Result<T> Take(std::string_view what) {
    if (left_.size() < sizeof(T)) {
      return Wrong(fmt::format("ends before its {}", what));
    }
    const T value = Load<T>(left_, 0);
    left_ = left_.subspan(sizeof(T));
    return value;
  }

  Result<std::string_view> TakeName(std::string_view what) {
    RANKFORGE_ASSIGN_OR_RETURN(const std::span<const std::byte> bytes,
                               Text(what));
    if (bytes.size() > kMaxName + sizeof(uint64_t)) {
      return Wrong(fmt::format("has a {} of {} bytes", what, bytes.size()));
    }
    std::span<const std::byte> text = bytes;
    return TakeText(text);
  }

  // A string with its length in front, checked to be there.
  Result<std::span<const std::byte>> Text(std::string_view what) {
    const std::span<const std::byte> begin = left_;
    RANKFORGE_ASSIGN_OR_RETURN(const auto length, Take<uint64_t>(what));
    if (length > left_.size()) {
      return Wrong(fmt::format("has a {} of {} bytes, {} are left", what,
                               length, left_.size()));
    }
    left_ = left_.subspan(length);
    return begin.first(sizeof(length) + length);
  }

  Status ReadVersion() {
    subject_ = "the file ";
    RANKFORGE_ASSIGN_OR_RETURN(const auto magic,
                               Take<uint32_t>("magic number"));
    if (std::memcmp(&magic, kMagic.data(), sizeof(magic)) != 0) {
      return Failed(fmt::format(
          "{}: does not begin with 'GGUF'; give a GGUF file", part_.path));
    }
    RANKFORGE_ASSIGN_OR_RETURN(const auto version, Take<uint32_t>("version"));
    if (version == 2 || version == 3) return {};
    // A version in the other byte order is large.
    const std::string_view next =
        (version & 0xffff) == 0
            ? "it is big endian; give a little-endian one"
            : "versions 2 and 3 are read; convert the model again";
    return Failed(fmt::format("{}: field 'version' is {}: {}", part_.path,
                              version, next));
  }

  Status ReadPair() {
    subject_ = "the metadata ";
    RANKFORGE_ASSIGN_OR_RETURN(const std::string_view key, TakeName("key"));
    subject_ = fmt::format("metadata '{}' ", Printable(key));
    GgufValue value;
    RANKFORGE_ASSIGN_OR_RETURN(value.type, TakeType());
    if (value.type == GgufType::kArray) {
      value.is_array = true;
      RANKFORGE_ASSIGN_OR_RETURN(value.type, TakeType());
      RANKFORGE_ASSIGN_OR_RETURN(value.count, Take<uint64_t>("length"));
      if (value.type == GgufType::kArray) {
        return Wrong("is an array of arrays, which no known field is");
      }
    }
    RANKFORGE_ASSIGN_OR_RETURN(value.bytes, TakeValues(value));
    if (!file_.metadata_.emplace(key, value).second) {
      return Wrong("stands twice");
    }
    return {};
  }

  Result<GgufType> TakeType() {
    RANKFORGE_ASSIGN_OR_RETURN(const auto type, Take<uint32_t>("type"));
    if (type > static_cast<uint32_t>(GgufType::kFloat64)) {
      return Wrong(fmt::format("has the unknown type {}", type));
    }
    return static_cast<GgufType>(type);
  }

  Result<std::span<const std::byte>> TakeValues(const GgufValue& value) {
    const std::span<const std::byte> begin = left_;
    if (value.type == GgufType::kString) {
      for (uint64_t i = 0; i < value.count; ++i) {
        RANKFORGE_RETURN_IF_ERROR(Text("string").status());
      }
      return begin.first(begin.size() - left_.size());
    }
    const size_t bytes = BytesOf(value.type);
    if (value.count > left_.size() / bytes) {
      return Wrong(fmt::format("has {} values, {} bytes are left", value.count,
                               left_.size()));
    }
    left_ = left_.subspan(value.count * bytes);
    return begin.first(value.count * bytes);
  }

  Status ReadTensor(std::vector<uint64_t>& offsets,
                    std::vector<Named*>& order) {
    subject_ = "the list of tensors ";
    RANKFORGE_ASSIGN_OR_RETURN(const std::string_view name, TakeName("name"));
    subject_ = fmt::format("tensor '{}' ", Printable(name));
    RANKFORGE_ASSIGN_OR_RETURN(const auto dimensions,
                               Take<uint32_t>("number of dimensions"));
    if (dimensions == 0 || dimensions > kMaxDimensions) {
      return Wrong(fmt::format("has {} dimensions", dimensions));
    }
    GgufTensor tensor;
    tensor.shape.resize(dimensions);
    for (uint32_t i = dimensions; i-- > 0;) {
      RANKFORGE_ASSIGN_OR_RETURN(tensor.shape[i], Take<uint64_t>("dimension"));
    }
    RANKFORGE_ASSIGN_OR_RETURN(tensor.type, Take<uint32_t>("type"));
    tensor.format = FindGgmlFormat(tensor.type);
    RANKFORGE_ASSIGN_OR_RETURN(const auto offset, Take<uint64_t>("offset"));
    const auto [place, added] = file_.tensors_.emplace(name, std::move(tensor));
    if (!added) return Wrong("stands twice");
    offsets.push_back(offset);
    order.push_back(&*place);
    return {};
  }

  Status FindData() {
    subject_ = "the file ";
    RANKFORGE_ASSIGN_OR_RETURN(const std::optional<uint64_t> stated,
                               file_.Count("general.alignment"));
    alignment_ = stated.value_or(kDefaultAlignment);
    if (alignment_ == 0 || alignment_ % 8 != 0 || alignment_ > kMaxAlignment) {
      return Failed(fmt::format("{}: field 'general.alignment' is {}; {}",
                                part_.path, alignment_, kDownloadAgain));
    }
    const size_t all = part_.file.bytes().size();
    const size_t header = all - left_.size();
    part_.data_begin = std::min<size_t>(
        (header + alignment_ - 1) / alignment_ * alignment_, all);
    return {};
  }

  // Sets the bytes of a tensor whose type is known.
  Status Place(Named& named, uint64_t offset) {
    GgufTensor& tensor = named.second;
    if (tensor.format == nullptr) return {};
    subject_ = fmt::format("tensor '{}' ", Printable(named.first));
    const size_t line = tensor.shape.back();
    if (line % tensor.format->weights != 0) {
      return Wrong(fmt::format("has lines of {} weights, {} has blocks of {}",
                               line, tensor.format->name,
                               tensor.format->weights));
    }
    size_t blocks = line / tensor.format->weights;
    const std::span<const std::byte> data = part_.data();
    for (size_t i = 0; i + 1 < tensor.shape.size(); ++i) {
      if (tensor.shape[i] != 0 && blocks > data.size() / tensor.shape[i]) {
        return Wrong("is larger than the file");
      }
      blocks *= tensor.shape[i];
    }
    if (offset % alignment_ != 0) {
      return Wrong(fmt::format("lies at {}, which is no multiple of {}", offset,
                               alignment_));
    }
    if (offset > data.size() ||
        blocks > (data.size() - offset) / tensor.format->bytes) {
      return Wrong(fmt::format(
          "lies beyond the end of the file ({} blocks at {} of {} bytes)",
          blocks, offset, data.size()));
    }
    tensor.bytes = data.subspan(offset, blocks * tensor.format->bytes);
    return {};
  }

  GgufFile& file_;
  Part& part_;
  std::span<const std::byte> left_;
  uint64_t alignment_ = kDefaultAlignment;  // of tensors
  std::string subject_;                     // of messages
};

Result<GgufFile> GgufFile::OpenPart(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  GgufFile file;
  file.parts_.push_back({path, std::move(mapped)});
  RANKFORGE_RETURN_IF_ERROR(Parser(file).Run());
  return file;
}

Result<GgufFile> GgufFile::Open(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(GgufFile file, OpenPart(path));
  RANKFORGE_RETURN_IF_ERROR(file.AddOtherParts());
  return file;
}

Status GgufFile::AddOtherParts() {
  RANKFORGE_ASSIGN_OR_RETURN(const auto stated, Count("split.count"));
  const uint64_t count = stated.value_or(1);
  if (count <= 1) return {};
  const auto suffix = [&](uint64_t part) {
    return fmt::format("-{:05}-of-{:05}.gguf", part + 1, count);
  };
  const std::string first = path();
  if (!first.ends_with(suffix(0))) {
    return Failed(fmt::format(
        "{}: is one of {} files (field 'split.count'); give the first of them, "
        "whose name ends in '{}'",
        first, count, suffix(0)));
  }
  const std::string stem = first.substr(0, first.size() - suffix(0).size());
  for (uint64_t i = 1; i < count; ++i) {
    if (!FileExists(stem + suffix(i))) {
      return Failed(fmt::format(
          "{}: is missing; {} is the first of {} files (field 'split.count'), "
          "put all of them into one folder",
          stem + suffix(i), first, count));
    }
    RANKFORGE_ASSIGN_OR_RETURN(GgufFile other, OpenPart(stem + suffix(i)));
    RANKFORGE_ASSIGN_OR_RETURN(const auto number, other.Count("split.no"));
    if (number != i) {
      return Failed(fmt::format(
          "{}: field 'split.no' is {}, not {}; {}", other.path(),
          number ? fmt::to_string(*number) : "missing", i, kDownloadAgain));
    }
    for (auto& [name, tensor] : other.tensors_) {
      if (!tensors_.emplace(name, std::move(tensor)).second) {
        return Failed(
            fmt::format("{}: tensor '{}' stands in an earlier file, too; {}",
                        other.path(), Printable(name), kDownloadAgain));
      }
    }
    parts_.push_back(std::move(other.parts_.front()));
  }
  RANKFORGE_ASSIGN_OR_RETURN(const auto tensors, Count("split.tensors.count"));
  if (tensors && *tensors != tensors_.size()) {
    return Failed(fmt::format(
        "{}: field 'split.tensors.count' is {}, the files have {}; {}", first,
        *tensors, tensors_.size(), kDownloadAgain));
  }
  return {};
}

Result<const GgufValue*> GgufFile::Find(std::string_view key, bool is_array,
                                        bool (*accepts)(GgufType),
                                        std::string_view expected) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return nullptr;
  if (found->second.is_array != is_array || !accepts(found->second.type)) {
    return Failed(fmt::format("{}: field '{}' is no {}; {}", path(), key,
                              expected, kDownloadAgain));
  }
  return &found->second;
}

Result<std::optional<uint64_t>> GgufFile::Count(std::string_view key) const {
  RANKFORGE_ASSIGN_OR_RETURN(const GgufValue* value,
                             Find(key, false, IsInteger, "integer"));
  if (value == nullptr) return std::optional<uint64_t>();
  const auto count = WithNumber(*value, 0, [](auto number) {
    return number < 0 ? std::nullopt
                      : std::optional<uint64_t>(static_cast<uint64_t>(number));
  });
  if (!count) {
    return Failed(fmt::format("{}: field '{}' is {}; {}", path(), key,
                              NumberAt(*value, 0), kDownloadAgain));
  }
  return count;
}

Result<std::optional<double>> GgufFile::Number(std::string_view key) const {
  RANKFORGE_ASSIGN_OR_RETURN(const GgufValue* value,
                             Find(key, false, IsNumber, "number"));
  if (value == nullptr) return std::optional<double>();
  const double number = NumberAt(*value, 0);
  if (!std::isfinite(number)) {
    return Failed(fmt::format("{}: field '{}' is {}; {}", path(), key, number,
                              kDownloadAgain));
  }
  return std::optional(number);
}

Result<std::optional<bool>> GgufFile::Flag(std::string_view key) const {
  RANKFORGE_ASSIGN_OR_RETURN(
      const GgufValue* value,
      Find(
          key, false, [](GgufType type) { return type == GgufType::kBool; },
          "truth value"));
  if (value == nullptr) return std::optional<bool>();
  return std::optional(value->bytes[0] != std::byte{0});
}

Result<std::optional<double>> GgufFile::NumberOrFlag(
    std::string_view key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end() || found->second.type != GgufType::kBool) {
    return Number(key);
  }
  RANKFORGE_ASSIGN_OR_RETURN(const auto flag, Flag(key));
  return std::optional<double>(flag.value_or(false) ? 1 : 0);
}

Result<std::optional<std::string>> GgufFile::Text(std::string_view key) const {
  RANKFORGE_ASSIGN_OR_RETURN(
      const GgufValue* value,
      Find(
          key, false, [](GgufType type) { return type == GgufType::kString; },
          "string"));
  if (value == nullptr) return std::optional<std::string>();
  std::span<const std::byte> bytes = value->bytes;
  return std::optional(std::string(TakeText(bytes)));
}

Result<std::optional<std::vector<std::string_view>>> GgufFile::Texts(
    std::string_view key) const {
  RANKFORGE_ASSIGN_OR_RETURN(
      const GgufValue* value,
      Find(
          key, true, [](GgufType type) { return type == GgufType::kString; },
          "array of strings"));
  if (value == nullptr) return std::optional<std::vector<std::string_view>>();
  std::vector<std::string_view> texts;
  std::span<const std::byte> bytes = value->bytes;
  for (uint64_t i = 0; i < value->count; ++i) texts.push_back(TakeText(bytes));
  return std::optional(std::move(texts));
}

Result<std::optional<std::vector<double>>> GgufFile::Numbers(
    std::string_view key) const {
  RANKFORGE_ASSIGN_OR_RETURN(const GgufValue* value,
                             Find(key, true, IsNumber, "array of numbers"));
  if (value == nullptr) return std::optional<std::vector<double>>();
  std::vector<double> numbers(value->count);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = NumberAt(*value, i);
  return std::optional(std::move(numbers));
}

}  // namespace rankforge
