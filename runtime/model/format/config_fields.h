// Reading the fields of config.json. Its users are the .cc files that read one:
// JsonFields is known to them.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_CONFIG_FIELDS_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_CONFIG_FIELDS_H_

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "runtime/model/format/config.h"
#include "runtime/model/format/family.h"

namespace rankforge {

class JsonFields;

// The longest sequence that a config may speak of. It bounds memory.
inline constexpr size_t kMaxPositions = size_t{1} << 30;

// Null counts as absent. Without `absent` a field must be there.
// A whole number in [1, most].
size_t ReadSize(JsonFields& fields, const std::string& name, size_t most,
                std::optional<size_t> absent = std::nullopt);
// A finite number above zero.
double ReadPositive(JsonFields& fields, const std::string& name,
                    std::optional<double> absent = std::nullopt);
bool ReadFlag(JsonFields& fields, const std::string& name, bool absent);
// A token id or a list of them; negative ones are none.
std::vector<int> ReadTokenIds(JsonFields& fields, const std::string& name);

// Fail unless the field is absent or as wanted. With another value the runtime
// would compute something other than the model.
void RequireFlag(JsonFields& fields, const std::string& name, bool wanted);
void RequireNumber(JsonFields& fields, const std::string& name, double wanted);

// Reads theta, share and scaling of the rotary embedding into `config`, whose
// sizes are known. They stand in either spelling: `rope_theta` beside
// `rope_scaling`, or all of it inside `rope_parameters` (Transformers 5).
void ReadRope(const ModelFamily& family, JsonFields& fields,
              ModelConfig& config);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_CONFIG_FIELDS_H_
