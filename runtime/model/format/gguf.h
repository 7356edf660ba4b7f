// The GGUF container: metadata by key, tensors in blocks of ggml's types. A
// file is hostile until every name, count, size and offset in it has been
// checked.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_GGUF_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_GGUF_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "base/status.h"
#include "kernels/numbers/ggml_block.h"

namespace rankforge {

// The value types of metadata, by their numbers in the file.
enum class GgufType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

// One value, or an array of them, where it lies in the file.
struct GgufValue {
  GgufType type = GgufType::kUint8;  // of the elements
  bool is_array = false;
  uint64_t count = 1;
  std::span<const std::byte> bytes;
};

// A tensor whose bytes lie inside the file.
struct GgufTensor {
  uint32_t type = 0;                   // ggml_type
  const GgmlFormat* format = nullptr;  // null: of a type that is not read
  std::vector<size_t> shape;           // rows before columns, unlike the file
  std::span<const std::byte> bytes;    // empty without a format
};

class GgufFile {
 public:
  // Maps the file and checks all of its header. Versions 2 and 3, little
  // endian.
  static Result<GgufFile> Open(const std::string& path);

  const std::string& path() const { return path_; }
  const MappedFile& file() const { return file_; }
  uint32_t version() const { return version_; }
  const std::map<std::string, GgufValue, std::less<>>& metadata() const {
    return metadata_;
  }
  const std::map<std::string, GgufTensor, std::less<>>& tensors() const {
    return tensors_;
  }
  // Everything before the data of the tensors.
  std::span<const std::byte> header() const;
  // The data of the tensors.
  std::span<const std::byte> data() const;

  // The value of `key`; none: it is not there. Errors: it has another type.
  // Integers of all widths are read as one, floats, too.
  Result<std::optional<uint64_t>> Count(std::string_view key) const;
  Result<std::optional<double>> Number(std::string_view key) const;
  Result<std::optional<bool>> Flag(std::string_view key) const;
  Result<std::optional<std::string>> Text(std::string_view key) const;
  // Arrays. The strings lie in the mapped file.
  Result<std::optional<std::vector<std::string_view>>> Texts(
      std::string_view key) const;
  Result<std::optional<std::vector<double>>> Numbers(
      std::string_view key) const;

 private:
  class Parser;
  GgufFile(std::string path, MappedFile file)
      : path_(std::move(path)), file_(std::move(file)) {}
  // Null: not there. Errors: `accepts` refuses the type.
  Result<const GgufValue*> Find(std::string_view key, bool is_array,
                                bool (*accepts)(GgufType),
                                std::string_view expected) const;

  std::string path_;
  MappedFile file_;
  uint32_t version_ = 0;
  size_t data_begin_ = 0;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::map<std::string, GgufTensor, std::less<>> tensors_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_GGUF_H_
