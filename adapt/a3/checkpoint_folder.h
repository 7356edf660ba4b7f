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

// A folder that is filled under a temporary name beside its own. Commit gives
// it its own name. Without Commit it is removed.
class NewFolder {
 public:
  // Fails if `path` exists and is not an empty folder, or if its parent cannot
  // be written to.
  static Result<NewFolder> Create(const std::string& path);
  ~NewFolder();
  NewFolder(NewFolder&& other) noexcept;
  NewFolder& operator=(NewFolder&& other) noexcept;

  const std::string& temporary() const { return temporary_; }
  Status Commit();

 private:
  NewFolder() = default;

  std::string path_;
  std::string temporary_;  // empty: committed, or moved to another object
};

// The new tensors of a layer, by name.
using NewTensors = std::map<std::string, std::vector<float>>;

// Writes `folder`/model.safetensors. Calls `layer_tensors` once per layer, in
// order, and writes what it returns in place of the tensors that the layer has
// in `source`. Values are rounded to the type that the tensor has in `source`.
// `config` says the new shapes.
Status WriteTensors(
    const Checkpoint& source, const ModelConfig& config,
    const std::function<Result<NewTensors>(size_t layer)>& layer_tensors,
    const std::string& folder);

// Writes the settings of `source` with the sizes of `config`. Where layers
// differ, also writes the Python module by
// which Transformers loads such a model (adapt/a3/modeling_shrunk.py).
Status WriteConfigs(const Checkpoint& source, const ModelConfig& config,
                    const std::string& folder);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_A3_CHECKPOINT_FOLDER_H_
