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
  uint32_t type = 0;                   // a GgmlType, or another number
  const GgmlFormat* format = nullptr;  // null: of a type that is not read
  std::vector<size_t> shape;           // rows before columns, unlike the file
  std::span<const std::byte> bytes;    // empty without a format
};

class GgufFile {
 public:
  // One file of a split model, or the whole of another.
  struct Part {
    std::string path;
    MappedFile file;
    size_t data_begin = 0;

    // Everything before the data of the tensors.
    std::span<const std::byte> header() const {
      return file.bytes().first(data_begin);
    }
    std::span<const std::byte> data() const {
      return file.bytes().subspan(data_begin);
    }
  };

  // Maps the file and checks all of its header. Versions 2 and 3, little
  // endian. The first file of a split model ("-00001-of-00003.gguf") stands for
  // all of them; another one is an error.
  static Result<GgufFile> Open(const std::string& path);

  const std::string& path() const { return parts_.front().path; }
  const std::vector<Part>& parts() const { return parts_; }
  // Of the first part.
  const std::map<std::string, GgufValue, std::less<>>& metadata() const {
    return metadata_;
  }
  // Of all parts.
  const std::map<std::string, GgufTensor, std::less<>>& tensors() const {
    return tensors_;
  }

  // The value of `key`; none: it is not there. Errors: it has another type.
  // Integers of all widths are read as one, floats, too.
  Result<std::optional<uint64_t>> Count(std::string_view key) const;
  Result<std::optional<double>> Number(std::string_view key) const;
  Result<std::optional<bool>> Flag(std::string_view key) const;
  // A flag counts as 0 or 1.
  Result<std::optional<double>> NumberOrFlag(std::string_view key) const;
  Result<std::optional<std::string>> Text(std::string_view key) const;
  // Arrays. The strings lie in the mapped file.
  Result<std::optional<std::vector<std::string_view>>> Texts(
      std::string_view key) const;
  Result<std::optional<std::vector<double>>> Numbers(
      std::string_view key) const;

 private:
  class Parser;
  GgufFile() = default;
  static Result<GgufFile> OpenPart(const std::string& path);
  Status AddOtherParts();
  // Null: not there. Errors: `accepts` refuses the type.
  Result<const GgufValue*> Find(std::string_view key, bool is_array,
                                bool (*accepts)(GgufType),
                                std::string_view expected) const;

  std::vector<Part> parts_;  // never empty
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::map<std::string, GgufTensor, std::less<>> tensors_;
};

// Whether a file begins as GGUF files do.
bool IsGguf(const std::string& path);
// The GGUF file that a model's path stands for: the path itself, or the only
// GGUF file (or first of a split model) in a folder without config.json.
std::optional<std::string> GgufPathOf(const std::string& model);

// `text` for messages: what is not printable ASCII becomes '?', and what is
// long is cut.
std::string Printable(std::string_view text);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_GGUF_H_
