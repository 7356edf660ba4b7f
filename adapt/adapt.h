// Makes adapters and smaller checkpoints: calibration on token ids, then a
// method for every layer.
#ifndef RANKFORGE_ADAPT_ADAPT_H_
#define RANKFORGE_ADAPT_ADAPT_H_

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adapt/a3/a3.h"
#include "adapt/run/method.h"
#include "adapt/run/options.h"
#include "base/status.h"
#include "runtime/model/format/adapter.h"
#include "runtime/model/format/checkpoint.h"

namespace rankforge {

// The methods that `adapt --method` knows, the default first.
const std::vector<Method>& Methods();
// Null: there is none of this name.
const Method* MethodNamed(std::string_view name);

// The adapter for `checkpoint`, calibrated on `ids`. Errors: keep outside
// (0, 1], too few ids, an unknown method or one that makes no adapter, a keep
// that cannot be reached, stopped as asked.
Result<Adapter> Adapt(const Checkpoint& checkpoint, std::span<const int> ids,
                      const AdaptOptions& options);

// The same, written to `out`. Finished blocks are kept in the folder `state`
// instead of in memory. A killed run goes on after the last of them, and makes
// the same adapter bit for bit. The folder is removed when the adapter is
// complete.
// Methods of Makes::kLayers, which take no longer than one pass over the
// sample, keep nothing and start from the beginning. Returns the adapter
// without its matrices. Errors, also: `state` is of another run (checkpoint,
// calibration or options) or damaged.
Result<Adapter> AdaptToFile(const Checkpoint& checkpoint,
                            std::span<const int> ids,
                            const AdaptOptions& options,
                            const std::string& state, const std::string& out);

// Writes the smaller checkpoint that a method of Makes::kCheckpoint makes to
// the folder `out`, which must not exist or be empty: config.json,
// model.safetensors in the type of `checkpoint`, and its other files. A killed
// run goes on from the folder `state`, as in AdaptToFile. If `state` is empty,
// it starts from the beginning. Errors, also: `out` is taken or not writable.
Result<A3Summary> ShrinkToFolder(const Checkpoint& checkpoint,
                                 std::span<const int> ids,
                                 const AdaptOptions& options,
                                 const std::string& state,
                                 const std::string& out);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_ADAPT_H_
