// The model in a GGUF file, in the words of a Hugging Face folder: the rest of
// the runtime knows one kind of config, of names and of row order.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_GGUF_MODEL_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_GGUF_MODEL_H_

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/model/format/config.h"
#include "runtime/model/format/gguf.h"
#include "runtime/plan/packed_matrix.h"

namespace rankforge {

class GgufModel {
 public:
  // Errors: an architecture, a rope or a mixture of experts that is not
  // computed; tensors of a block that no part of the model reads.
  static Result<GgufModel> Open(const std::string& path);

  const GgufFile& file() const { return file_; }
  const ModelConfig& config() const { return config_; }
  // The config.json of the model.
  const std::string& config_json() const { return config_json_; }
  // A line for each field of the architecture, and for each tensor outside of
  // the blocks, that nothing reads.
  const std::vector<std::string>& notes() const { return notes_; }

  // The matrix that a checkpoint calls `name`
  // ("model.layers.3.mlp.up_proj.weight"), in place in the mapped file.
  Result<SourceMatrix> Matrix(const std::string& name, size_t rows,
                              size_t cols) const;

 private:
  // How the file stores a tensor.
  struct Place {
    std::string name;  // "blk.3.ffn_up.weight"
    LineOrder order = {};
    float added = 0;
  };
  class Namer;

  explicit GgufModel(GgufFile file) : file_(std::move(file)) {}
  Status CheckTensors();
  Result<const GgufTensor*> Find(const Place& place) const;

  GgufFile file_;
  ModelConfig config_;
  std::string config_json_;
  std::vector<std::string> notes_;
  std::map<std::string, Place> places_;  // by the checkpoint's names
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_GGUF_MODEL_H_
