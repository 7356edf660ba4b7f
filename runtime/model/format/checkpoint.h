// Hugging Face checkpoints: model.safetensors, or shards with an index, mapped
// read-only. Hostile until parsed: every size and offset is checked.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_CHECKPOINT_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_CHECKPOINT_H_

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/model/format/config.h"
#include "runtime/model/format/weight_source.h"
#include "runtime/plan/packed_matrix.h"

namespace rankforge {

class Checkpoint : public WeightSource {
 public:
  static Result<Checkpoint> Open(const std::string& directory);
  ~Checkpoint() override;
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;

  const ModelConfig& config() const;
  const std::string& directory() const;
  // Hash of the headers and 64 sampled blocks; FullHash() reads everything.
  std::string Identity() const;
  std::string FullHash() const;
  // From now on only rows and vectors are read: the matrices are elsewhere.
  void ExpectSparseReads() const;
  // What has been read of the files counts as memory of the process no more.
  void ReleasePages() const;

  Result<PackedMatrix> Pack(std::span<const std::string> names,
                            std::span<const size_t> rows, size_t cols,
                            WeightType type, Layout layout) const override;
  Result<std::vector<float>> Vector(const std::string& name,
                                    size_t n) const override;
  Status Embedding(size_t row, std::span<float> out) const override;
  // The matrix `name` (rows, cols) as it lies in the file.
  Result<SourceMatrix> Matrix(const std::string& name, size_t rows,
                              size_t cols) const;

 private:
  struct Impl;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_CHECKPOINT_H_
