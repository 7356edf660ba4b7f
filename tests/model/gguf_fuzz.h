// What tests of hostile GGUF files share.
#ifndef RANKFORGE_TESTS_MODEL_GGUF_FUZZ_H_
#define RANKFORGE_TESTS_MODEL_GGUF_FUZZ_H_

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <random>
#include <string>

namespace rankforge {

// A file in memory: a run of the fuzzer is then no wait for a disk.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("gguf", MFD_CLOEXEC)) {}
  ~MemoryFile() { close(descriptor_); }
  std::string path() const {
    return "/proc/self/fd/" + std::to_string(descriptor_);
  }
  bool Write(const std::string& bytes) const {
    return ftruncate(descriptor_, 0) == 0 &&
           pwrite(descriptor_, bytes.data(), bytes.size(), 0) ==
               static_cast<ssize_t>(bytes.size());
  }

 private:
  int descriptor_;
};

// How many files to try: RANKFORGE_FUZZ_RUNS (meant for a build with
// sanitizers), else `usual`.
inline size_t FuzzRuns(size_t usual) {
  const char* const asked = std::getenv("RANKFORGE_FUZZ_RUNS");
  return asked == nullptr ? usual : std::strtoull(asked, nullptr, 10);
}

// `bytes` with one to four wrong bytes, numbers or ends.
inline std::string Mutated(std::string bytes, std::mt19937& random) {
  constexpr uint64_t kEdges[] = {0,
                                 1,
                                 255,
                                 uint64_t{1} << 31,
                                 ~uint32_t{0},
                                 uint64_t{1} << 32,
                                 uint64_t{1} << 63,
                                 ~uint64_t{0}};
  for (size_t change = random() % 4 + 1; change-- > 0;) {
    const size_t at = random() % bytes.size();
    switch (random() % 8) {
      case 0:
        bytes.resize(at + 1);
        break;
      case 1:
      case 2:
      case 3: {
        const uint64_t edge = kEdges[random() % std::size(kEdges)];
        std::memcpy(&bytes[at], &edge,
                    std::min(bytes.size() - at, sizeof(edge)));
        break;
      }
      case 4:
      case 5:
        bytes[at] = static_cast<char>(random());
        break;
      default:
        bytes[at] = static_cast<char>(bytes[at] ^ 1 << random() % 8);
    }
  }
  return bytes;
}

}  // namespace rankforge

#endif  // RANKFORGE_TESTS_MODEL_GGUF_FUZZ_H_
