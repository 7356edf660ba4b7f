// Makes adapters: calibration on token ids, then a method for every layer.
#ifndef RANKFORGE_ADAPT_ADAPT_H_
#define RANKFORGE_ADAPT_ADAPT_H_

#include <span>
#include <string>
#include <vector>

#include "adapt/run/options.h"
#include "base/status.h"
#include "runtime/model/format/adapter.h"
#include "runtime/model/format/checkpoint.h"

namespace rankforge {

// Names of the methods `adapt --method` knows.
const std::vector<std::string>& AdaptMethods();

// The adapter for `checkpoint`, calibrated on `ids`. Errors: keep outside
// (0, 1], too few ids, an unknown method, a keep that cannot be reached.
Result<Adapter> Adapt(const Checkpoint& checkpoint, std::span<const int> ids,
                      const AdaptOptions& options);

// The same, written to `out`, with finished blocks in the folder `state`
// instead of in memory: a killed run goes on behind the last of them, to the
// same adapter bit for bit. The folder is removed when the adapter is complete.
// Returns the adapter without its matrices. Errors, also: `state` is of another
// run (checkpoint, calibration or options) or damaged.
Result<Adapter> AdaptToFile(const Checkpoint& checkpoint,
                            std::span<const int> ids,
                            const AdaptOptions& options,
                            const std::string& state, const std::string& out);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_ADAPT_H_
