// The safetensors container: 8 bytes of header length, a JSON header, data.
// A file is hostile until every name, size and offset in it has been checked.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_SAFETENSORS_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_SAFETENSORS_H_

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/atomic_file.h"
#include "base/files.h"
#include "base/status.h"
#include "runtime/plan/packed_matrix.h"

namespace rankforge {

// The longest header that is read: the limit of the format itself.
inline constexpr size_t kMaxSafetensorsHeader = 100'000'000;

// Bytes of one element of a dtype of the format ("BF16": 2), or nothing if it
// has no such dtype.
std::optional<size_t> SafetensorsElementBytes(std::string_view dtype);

struct TensorInfo {
  std::string dtype;
  std::vector<size_t> shape;
  size_t begin = 0;  // within the data section
  size_t end = 0;
};

// For messages: "BF16 (4096, 256)".
std::string ToString(const TensorInfo& info);

class SafetensorsFile {
 public:
  // Maps the file and checks all of its header: every tensor lies inside the
  // file, has the bytes that its shape and dtype need, and overlaps no other.
  // A dtype that is not known here may be that of tensors that nothing reads.
  static Result<SafetensorsFile> Open(const std::string& path);

  const std::string& path() const { return path_; }
  const MappedFile& file() const { return file_; }
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  // The strings of `__metadata__`.
  const std::map<std::string, std::string>& metadata() const {
    return metadata_;
  }
  std::span<const std::byte> header() const;  // the JSON text
  std::span<const std::byte> data() const;    // the data section

  // The bytes of tensor `name`, which must have this dtype and shape.
  Result<std::span<const std::byte>> Bytes(const std::string& name,
                                           std::string_view dtype,
                                           std::span<const size_t> shape) const;
  // The bytes of tensor `name`, which must have the shape (rows, cols), or
  // (cols,) for one row, or none for one value.
  Result<std::span<const std::byte>> WeightBytes(const std::string& name,
                                                 size_t rows,
                                                 size_t cols) const;
  // The weights of a tensor of such a shape.
  // Its dtype must be F32, F16 or BF16.
  Result<SourceMatrix> Matrix(const std::string& name, size_t rows,
                              size_t cols) const;
  // An F32 tensor of this shape, copied.
  Result<std::vector<float>> Floats(const std::string& name,
                                    std::span<const size_t> shape) const;

 private:
  SafetensorsFile(std::string path, MappedFile file)
      : path_(std::move(path)), file_(std::move(file)) {}
  Status ParseHeader();
  Result<const TensorInfo*> Find(const std::string& name) const;

  std::string path_;
  MappedFile file_;
  size_t header_bytes_ = 0;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

// A file of a checkpoint, of whichever format.
struct FileParts {
  const MappedFile* file;
  std::span<const std::byte> header;  // what says where tensors lie
  std::span<const std::byte> data;
};
inline FileParts PartsOf(const SafetensorsFile& file) {
  return {&file.file(), file.header(), file.data()};
}

// Identifies files without reading them whole: a hash of their headers and of
// 64 blocks of their data.
std::string SampledHash(std::span<const FileParts> files);

// Writes a file in one pass: shapes first, then the data of each tensor in the
// order of the declaration. The file appears under its name when complete
// (AtomicFile).
class SafetensorsWriter {
 public:
  struct Tensor {
    std::string name;
    std::string dtype;
    std::vector<size_t> shape;
  };
  static Result<SafetensorsWriter> Create(
      const std::string& path, std::span<const Tensor> tensors,
      const std::map<std::string, std::string>& metadata);

  // The JSON text before the data section.
  std::span<const std::byte> header() const {
    return std::as_bytes(std::span(header_));
  }
  // The next bytes of the data section.
  Status Append(std::span<const std::byte> bytes);
  // Fails unless exactly the declared bytes have been appended.
  Status Commit();

 private:
  SafetensorsWriter(std::string path, std::string header, AtomicFile file,
                    size_t missing)
      : path_(std::move(path)),
        header_(std::move(header)),
        file_(std::move(file)),
        missing_(missing) {}

  std::string path_;
  std::string header_;
  AtomicFile file_;
  size_t missing_;  // declared bytes that have not been appended
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_SAFETENSORS_H_
