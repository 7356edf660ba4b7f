// Seals and loads the files of plug-ins of `rankforge forge`; their binary
// interface is kernels/plugin_abi.h. A plug-in is code and runs with all rights
// of this process: trust one as you would a library.
#ifndef RANKFORGE_RUNTIME_PLUGIN_FILE_H_
#define RANKFORGE_RUNTIME_PLUGIN_FILE_H_

#include <string>
#include <string_view>

#include "base/status.h"

namespace rankforge {

// Adds the entries of the plug-in at `path` to the registry. To be called
// before anything else: once a kernel was asked for, many threads read the
// registry and nothing is added. A loaded plug-in stays until the process ends,
// so that pointers to its entries stay valid. Several threads may call it.
Status LoadPlugin(const std::string& path);

// Appends the seal by which LoadPlugin recognises a whole plug-in: a mark and a
// hash of all bytes before it. The loader of the system would run a damaged
// plug-in, or crash.
Status SealPlugin(const std::string& path);

// Why the registry has no variant of this name, as the end of a sentence about
// it: it is of a plug-in that was not loaded, or of another build.
std::string WhyAbsent(std::string_view full_name);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_PLUGIN_FILE_H_
