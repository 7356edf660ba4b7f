// Files of packed weights (docs/pack.md): written once, mapped at every start.
// A file is hostile until its header, its directory and every matrix in the
// directory have been checked.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_PACK_FILE_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_PACK_FILE_H_

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/atomic_file.h"
#include "base/files.h"
#include "base/status.h"
#include "runtime/plan/packed_matrix.h"

namespace rankforge {

// What a pack was made from.
struct PackOrigin {
  std::string checkpoint;  // Checkpoint::FullHash()
  std::string adapter;     // Adapter::identity; empty: none
  // The tokens that its integers were chosen on, for people; empty: they are
  // rounded to nearest.
  std::string calibration = {};

  bool operator==(const PackOrigin&) const = default;
};

// The names of the tensors that are stacked in a matrix.
using TensorNames = std::vector<std::string>;

class PackFile {
 public:
  struct Matrix {
    size_t rows = 0;
    size_t cols = 0;
    WeightType type = WeightType::kF32;
    Layout layout = Layout::kOutIn;
    std::span<const std::byte> bytes;  // in the mapped file
    QuantizationError error;           // of rounding it
  };

  // Maps the file and checks all of it except the weights themselves, for which
  // any bits are valid.
  static Result<PackFile> Open(const std::string& path);

  const std::string& path() const { return path_; }
  const PackOrigin& origin() const { return origin_; }
  const std::map<TensorNames, Matrix>& matrices() const { return matrices_; }
  // `matrix` of this file, in place. The result keeps the mapping alive.
  Result<PackedMatrix> Adopt(const Matrix& matrix) const;

 private:
  PackFile(std::string path, MappedFile file)
      : path_(std::move(path)),
        file_(std::make_shared<const MappedFile>(std::move(file))) {}
  Status Read();
  Status ReadDirectory(std::span<const std::byte> directory, size_t end);

  std::string path_;
  std::shared_ptr<const MappedFile> file_;
  PackOrigin origin_;
  std::map<TensorNames, Matrix> matrices_;
};

// Writes matrices one after the other. The file appears under its name when
// complete (AtomicFile).
class PackWriter {
 public:
  static Result<PackWriter> Create(const std::string& path,
                                   const PackOrigin& origin);
  ~PackWriter();
  PackWriter(PackWriter&&) noexcept;
  PackWriter& operator=(PackWriter&&) noexcept;

  Status Append(const TensorNames& names, const PackedMatrix& matrix);
  Status Commit();

 private:
  struct Impl;
  explicit PackWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_PACK_FILE_H_
