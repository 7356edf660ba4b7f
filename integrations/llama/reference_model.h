// The model runtime of this project, to compare another one's logits with.
#ifndef RANKFORGE_INTEGRATIONS_LLAMA_REFERENCE_MODEL_H_
#define RANKFORGE_INTEGRATIONS_LLAMA_REFERENCE_MODEL_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace rankforge::llama {

class ReferenceModel {
 public:
  // `adapter` may be empty. `type` is a name of a weight type ("f32"). Null,
  // and the reason in *error.
  static std::unique_ptr<ReferenceModel> Open(const std::string& gguf,
                                              const std::string& adapter,
                                              const std::string& type,
                                              size_t positions,
                                              std::string* error);
  virtual ~ReferenceModel() = default;
  // Logits (vocab,) after one more token; empty where it cannot run.
  virtual std::vector<float> Next(int token) = 0;
};

}  // namespace rankforge::llama

#endif  // RANKFORGE_INTEGRATIONS_LLAMA_REFERENCE_MODEL_H_
