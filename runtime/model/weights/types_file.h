// The weight types that somebody chose for each matrix of a model, as a file
// (docs/optimize.md). The file is hostile until read.
#ifndef RANKFORGE_RUNTIME_MODEL_WEIGHTS_TYPES_FILE_H_
#define RANKFORGE_RUNTIME_MODEL_WEIGHTS_TYPES_FILE_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/model/format/adapter.h"
#include "runtime/model/format/config.h"
#include "runtime/model/weights/model_options.h"
#include "runtime/model/weights/modules.h"

namespace rankforge {

// What a types file belongs to.
struct TypesOrigin {
  std::string checkpoint;  // Checkpoint::Identity()
  std::string adapter;     // Adapter::identity; empty: none

  bool operator==(const TypesOrigin&) const = default;
};

// The products whose tensors a types file names: those of the dense model, the
// lm_head and, where there is an adapter (else null), those of the adapted
// model, whose masks point to `adapter`. None that turn the residual stream:
// they have a type of their own (TypeOf).
std::vector<ProductSpec> TypedProducts(const ModelConfig& config,
                                       const Adapter* adapter);

// The types in the file `path`, chosen. Errors: no such file, no types file, a
// field or a tensor that is missing or unknown, a type that this build does not
// have, tensors that one product reads with different types, another origin.
Result<StoredTypes> LoadTypes(const std::string& path,
                              const ModelConfig& config, const Adapter* adapter,
                              const TypesOrigin& origin);

// Writes what LoadTypes reads, whole or not at all.
Status SaveTypes(const StoredTypes& types, const TypesOrigin& origin,
                 const std::string& path);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_WEIGHTS_TYPES_FILE_H_
