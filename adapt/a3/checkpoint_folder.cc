#include "adapt/a3/checkpoint_folder.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cassert>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/atomic_file.h"
#include "kernels/numbers/bfloat16.h"
#include "kernels/numbers/float16.h"
#include "runtime/model/format/family.h"
#include "runtime/model/format/safetensors.h"
#include "runtime/model/weights/modules.h"
#include "runtime/plan/source_weight.h"

namespace rankforge {
namespace {

namespace fs = std::filesystem;

// The module's name and its text.
constexpr std::pair<std::string_view, std::string_view> kModeling[] = {
#include "modeling_shrunk.inc"
};

const char* DtypeOf(SourceMatrix::Type type) {
  switch (type) {
    case SourceMatrix::Type::kF16:
      return "F16";
    case SourceMatrix::Type::kBf16:
      return "BF16";
    default:
      return "F32";
  }
}

template <class T, class Convert>
std::vector<std::byte> Converted(std::span<const float> values,
                                 Convert convert) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) {
    const T value = convert(values[i]);
    std::memcpy(bytes.data() + i * sizeof(T), &value, sizeof(T));
  }
  return bytes;
}

std::vector<std::byte> BytesAs(SourceMatrix::Type type,
                               std::span<const float> values) {
  switch (type) {
    case SourceMatrix::Type::kF16:
      return Converted<uint16_t>(values, ToF16);
    case SourceMatrix::Type::kBf16:
      return Converted<uint16_t>(values, ToBf16);
    default:
      return Converted<float>(values, [](float value) { return value; });
  }
}

// The bytes of `source`, row by row, in a type of single weights.
Status AppendSource(const SourceMatrix& source, SafetensorsWriter& writer) {
  if (source.is_plain() && !source.transposed) {
    return writer.Append(
        {static_cast<const std::byte*>(source.data),
         source.rows * source.cols * FormatOf(source.type).bytes});
  }
  std::vector<float> row(source.cols);
  for (size_t r = 0; r < source.rows; ++r) {
    for (size_t c = 0; source.transposed && c < source.cols; ++c) {
      row[c] = SourceAt(source, r, c);
    }
    if (!source.transposed) WidenLine(source, r, 0, source.cols, row.data());
    RANKFORGE_RETURN_IF_ERROR(writer.Append(BytesAs(source.type, row)));
  }
  return {};
}

std::string ErrorOf(const std::string& path, const std::string& what,
                    const std::error_code& error) {
  return fmt::format("{}: {}: {}; choose a writable place", path, what,
                     error.message());
}

}  // namespace

Result<NewFolder> NewFolder::Create(const std::string& path) {
  std::error_code error;
  fs::path place = fs::path(path).lexically_normal();
  if (!place.has_filename()) place = place.parent_path();  // "folder/"
  const bool exists = fs::exists(place, error);
  if (exists &&
      (!fs::is_directory(place, error) || !fs::is_empty(place, error))) {
    return UsageError(fmt::format(
        "{}: already there; name a folder that is not, or remove it", path));
  }
  if (place.has_parent_path()) {
    fs::create_directories(place.parent_path(), error);
    if (error) return Failed(ErrorOf(path, "cannot create its folder", error));
  }
  std::string name;
  int failed = EEXIST;
  while (failed == EEXIST) {
    name = place.string() + ".partial-" + RandomName();
    failed = mkdir(name.c_str(), 0777) == 0 ? 0 : errno;
  }
  if (failed != 0) {
    return Failed(ErrorOf(path, "cannot create the folder",
                          std::error_code(failed, std::generic_category())));
  }
  NewFolder folder;
  folder.path_ = place.string();
  folder.temporary_ = name;
  return folder;
}

NewFolder::~NewFolder() {
  if (temporary_.empty()) return;
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);
}

NewFolder::NewFolder(NewFolder&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})) {}

NewFolder& NewFolder::operator=(NewFolder&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  return *this;
}

Status NewFolder::Commit() {
  std::error_code error;
  fs::rename(temporary_, path_, error);
  if (error) return Failed(ErrorOf(path_, "cannot be given its name", error));
  temporary_.clear();
  return {};
}

Status WriteTensors(
    const Checkpoint& source, const ModelConfig& config,
    const std::function<Result<NewTensors>(size_t layer)>& layer_tensors,
    const std::string& folder) {
  const std::vector<TensorShape> old = CheckpointTensors(source.config());
  const std::vector<TensorShape> tensors = CheckpointTensors(config);
  std::vector<SourceMatrix> sources;
  std::vector<SafetensorsWriter::Tensor> declared;
  for (size_t i = 0; i < tensors.size(); ++i) {
    RANKFORGE_ASSIGN_OR_RETURN(
        const SourceMatrix matrix,
        source.Matrix(old[i].name, old[i].rows, old[i].cols));
    sources.push_back(matrix);
    std::vector<size_t> shape = {tensors[i].rows, tensors[i].cols};
    if (tensors[i].rows == 1) shape = {tensors[i].cols};
    declared.push_back({tensors[i].name, DtypeOf(matrix.type), shape});
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      SafetensorsWriter writer,
      SafetensorsWriter::Create(folder + "/model.safetensors", declared,
                                {{"format", "pt"}}));
  const std::string& layers = FamilyOf(config).layers;
  NewTensors replaced;
  size_t next = 0;  // layer
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::string& name = tensors[i].name;
    if (next < config.layers &&
        name.starts_with(fmt::format("{}.{}.", layers, next))) {
      RANKFORGE_ASSIGN_OR_RETURN(replaced, layer_tensors(next++));
    }
    const auto found = replaced.find(name);
    if (found == replaced.end()) {
      assert(old[i].rows == tensors[i].rows && old[i].cols == tensors[i].cols);
      RANKFORGE_RETURN_IF_ERROR(AppendSource(sources[i], writer));
      continue;
    }
    assert(found->second.size() == tensors[i].rows * tensors[i].cols);
    RANKFORGE_RETURN_IF_ERROR(
        writer.Append(BytesAs(sources[i].type, found->second)));
  }
  return writer.Commit();
}

Status WriteConfigs(const Checkpoint& source, const ModelConfig& config,
                    const std::string& folder) {
  const auto& [module, text] = kModeling[0];
  RANKFORGE_RETURN_IF_ERROR(source.WriteSettings(folder));
  RANKFORGE_RETURN_IF_ERROR(SaveShrunkConfig(
      config, folder,
      fmt::format("{}.Shrunk{}", module, FamilyOf(config).architecture),
      folder));
  if (config.layer_dims.empty()) return {};
  return WriteFileAtomically(fmt::format("{}/{}.py", folder, module), text);
}

}  // namespace rankforge
