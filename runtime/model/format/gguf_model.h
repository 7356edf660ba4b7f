// What a GGUF file says of its model, in the words of a Hugging Face folder:
// the rest of the runtime knows one kind of config, of names and of row order.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_GGUF_MODEL_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_GGUF_MODEL_H_

#include <cstddef>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/model/format/config.h"
#include "runtime/model/format/gguf.h"

namespace rankforge {

// The config.json of the model. Errors: an architecture, a rope or a mixture of
// experts that is not computed. `notes` gets a line for each field of the
// architecture that nothing reads.
Result<std::string> GgufConfigJson(const GgufFile& file,
                                   std::vector<std::string>& notes);

// Rows of a matrix in the file whose order differs from the checkpoint's: seen
// as (outer, middle, inner, kept), the file has the two in the middle swapped.
struct RowSwap {
  size_t middle = 1;
  size_t inner = 1;
  size_t kept = 1;

  // Where the file has row `row` of the checkpoint.
  size_t operator()(size_t row) const {
    const size_t k = row % kept;
    const size_t i = row / kept % inner;
    const size_t m = row / kept / inner % middle;
    const size_t outer = row / kept / inner / middle;
    return ((outer * inner + i) * middle + m) * kept + k;
  }
};

// How the file stores tensor `name` of the checkpoint
// ("model.layers.3.mlp.up_proj.weight").
struct GgufTensorPlace {
  std::string name;  // "blk.3.ffn_up.weight"
  RowSwap rows;
  float offset = 0;  // to be added to its values
};

// Names and row orders of a model.
class GgufNames {
 public:
  explicit GgufNames(const ModelConfig& config);
  // An empty name: no tensor of the model is called so.
  GgufTensorPlace Find(const std::string& name) const;

 private:
  const ModelConfig config_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_GGUF_MODEL_H_
