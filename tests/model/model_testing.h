// What the tests of runtime/model share: where the reference checkpoints are,
// folders to write to, models built in one line.
#ifndef RANKFORGE_TESTS_MODEL_MODEL_TESTING_H_
#define RANKFORGE_TESTS_MODEL_MODEL_TESTING_H_

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/model/format/safetensors.h"
#include "runtime/model/forward/model.h"
#include "runtime/model/weights/synthetic.h"

namespace rankforge {

// The folder of checkpoint `name`: in this repository, else beside it, else
// empty.
std::string CheckpointFolder(const std::string& name);
// `name` beside the repository; empty where that folder is not.
std::string SharedFile(const std::string& name);

// Whether this runs in CI (environment CI=true), where no test may be skipped
// for want of a file.
bool InCi();

// A folder that disappears with the object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  // Names of the files in it.
  std::vector<std::string> Files() const;

 private:
  std::string path_;
};

std::string ReadAll(const std::string& path);
void WriteAll(const std::string& path, const std::string& contents);

// A model with the default kernels; fails the test if it cannot be made.
Model MakeModel(const ModelConfig& config, const WeightSource& source,
                const Adapter* adapter = nullptr,
                const ModelOptions& options = {});

// Gives every projection an input mask that drops values below tau.
void AddMasks(const ModelConfig& config, float tau, Adapter& adapter);

// A llama with few weights and all features: GQA, sizes that are no multiple of
// a block.
ModelConfig TinyConfig();

// logits (vocab,) after each id, one token at a time.
std::vector<float> DecodeLogits(Model& model, std::span<const int> ids);
// The same, decoding so many ids at a time.
std::vector<float> DecodeTogether(Model& model, std::span<const int> ids,
                                  size_t tokens);
// (ids.size(), vocab) in one call.
std::vector<float> PrefillLogits(Model& model, std::span<const int> ids);

// The I32 tensor `name`.
std::vector<int> IdsOf(const SafetensorsFile& file, const std::string& name);

// The largest |a[i] - b[i]|. NaN, which no comparison accepts, where a value is
// NaN; sizes that differ fail the test and give NaN too.
float LargestDifference(std::span<const float> a, std::span<const float> b);

}  // namespace rankforge

#endif  // RANKFORGE_TESTS_MODEL_MODEL_TESTING_H_
