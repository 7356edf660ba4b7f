// The config.json that the metadata and the tensors of a GGUF file imply.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_GGUF_CONFIG_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_GGUF_CONFIG_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/model/format/gguf.h"

namespace rankforge {

// A row of THE list of architectures.
struct GgufArchitecture {
  std::string_view name;    // general.architecture
  std::string_view family;  // model_type
  // The family, if attention has a window; empty: none is computed.
  std::string_view windowed_family = "";
  // Rows of q and k alternate between the halves of a head.
  bool interleaves_heads = false;
  // Rows of q, of k and of v together, where the checkpoint has those of each
  // head together.
  bool groups_qkv = false;
  // Weights of norms are stored with what the family adds to them.
  bool adds_norm_offset = false;
  // The number of blocks of the family's largest model, which scales queries by
  // the size of the hidden values per head.
  uint64_t largest_model = 0;
};

// Errors: an architecture that is not computed.
Result<const GgufArchitecture*> ArchitectureOf(const GgufFile& file);

// The text of config.json. Errors: a field that changes the model and is not
// computed (a rope, a window, a scale, a mixture of experts). `notes` gets a
// line for each field of the architecture that nothing reads.
Result<std::string> GgufConfigJson(const GgufFile& file,
                                   const GgufArchitecture& architecture,
                                   std::vector<std::string>& notes);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_GGUF_CONFIG_H_
