// Checkpoints, mapped read-only: a Hugging Face folder (model.safetensors, or
// shards with an index) or a GGUF file. The files are hostile until parsed:
// every size and offset is checked.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_CHECKPOINT_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_CHECKPOINT_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/model/format/config.h"
#include "runtime/model/format/weight_source.h"
#include "runtime/plan/packed_matrix.h"

namespace rankforge {

// Whether the folder of a checkpoint may have this file: weights, settings or a
// tokenizer.
bool IsCheckpointFile(std::string_view name);

class Checkpoint : public WeightSource {
 public:
  // `path` is a folder or a GGUF file (GgufPathOf).
  static Result<Checkpoint> Open(const std::string& path);
  ~Checkpoint() override;
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;

  const ModelConfig& config() const;
  // What Open was given.
  const std::string& directory() const;
  // What a user should know about how the files were read, a sentence each.
  const std::vector<std::string>& notes() const;
  // Writes config.json and what else the readers of a checkpoint need, without
  // weights, to `folder`.
  Status WriteSettings(const std::string& folder) const;
  // A hash of the headers and of 64 sampled blocks. FullHash() covers every
  // byte; it reads all of them once and is remembered (base/hash_cache.h).
  std::string Identity() const;
  std::string FullHash() const;
  // For callers that read only rows and vectors from this call on, because they
  // have the matrices from elsewhere: stops reading ahead.
  void ExpectSparseReads() const;
  // Takes the pages that were read out of the memory of the process.
  void ReleasePages() const;

  Result<PackedMatrix> Pack(std::span<const std::string> names,
                            std::span<const size_t> rows, size_t cols,
                            WeightType type, Layout layout) const override;
  Result<std::vector<float>> Vector(const std::string& name,
                                    size_t n) const override;
  Status Embedding(size_t row, std::span<float> out) const override;
  // The matrix `name` (rows, cols), in place in the mapped file. Fails for
  // 8-bit floats, which the others widen.
  Result<SourceMatrix> Matrix(const std::string& name, size_t rows,
                              size_t cols) const;
  // The type that loses nothing, or least, of the matrix `name` (rows, cols).
  // 8-bit floats are widened; bf16 holds them, but for a factor of their scale.
  Result<WeightType> StoredTypeOf(const std::string& name, size_t rows,
                                  size_t cols) const;

 private:
  struct Impl;
  struct Folder;
  struct Gguf;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_CHECKPOINT_H_
