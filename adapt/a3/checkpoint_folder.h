// A checkpoint's folder that appears whole or not at all.
#ifndef RANKFORGE_ADAPT_A3_CHECKPOINT_FOLDER_H_
#define RANKFORGE_ADAPT_A3_CHECKPOINT_FOLDER_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/model/format/checkpoint.h"

namespace rankforge {

// A folder under another name beside its own, which it gets by Commit. Without
// Commit it disappears.
class NewFolder {
 public:
  // Fails where `path` is something other than an empty folder, or its parent
  // cannot be written to.
  static Result<NewFolder> Create(const std::string& path);
  ~NewFolder();
  NewFolder(NewFolder&& other) noexcept;
  NewFolder& operator=(NewFolder&& other) noexcept;

  const std::string& temporary() const { return temporary_; }
  Status Commit();

 private:
  NewFolder() = default;

  std::string path_;
  std::string temporary_;  // empty: gone
};

// The tensors of a layer that are new, by name.
using NewTensors = std::map<std::string, std::vector<float>>;

// Writes `folder`/model.safetensors: the tensors of `source` with those of each
// layer that `layer_tensors` returns, called once a layer in order, in place of
// its own; values are rounded to the type that the tensor has in `source`.
// `config` says their shapes.
Status WriteTensors(
    const Checkpoint& source, const ModelConfig& config,
    const std::function<Result<NewTensors>(size_t layer)>& layer_tensors,
    const std::string& folder);

// Copies tokenizer and generation settings, where `source` has them.
Status CopySettings(const std::string& source, const std::string& folder);

// Writes config.json, and where layers differ the file by which Transformers
// loads such a model (adapt/a3/modeling_shrunk.py).
Status WriteConfigs(const Checkpoint& source, const ModelConfig& config,
                    const std::string& folder);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_A3_CHECKPOINT_FOLDER_H_
