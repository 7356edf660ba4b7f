// Output files appear whole or not at all.
#ifndef RANKFORGE_RUNTIME_ATOMIC_FILE_H_
#define RANKFORGE_RUNTIME_ATOMIC_FILE_H_

#include <string>
#include <string_view>

#include "runtime/status.h"

namespace rankforge {

// Writes `contents` to a temporary file beside `path`, syncs it and renames it
// to `path`. After a failure `path` is as it was and nothing else is left.
Status WriteFileAtomically(const std::string& path, std::string_view contents);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_ATOMIC_FILE_H_
