// The layers that an adapter of RankForge changes in a GGUF model, as plain
// data: it crosses from the model runtime, which reads files, to the C library,
// whose C++ header has types of the same names.
#ifndef RANKFORGE_INTEGRATIONS_LLAMA_ADAPTER_LAYERS_H_
#define RANKFORGE_INTEGRATIONS_LLAMA_ADAPTER_LAYERS_H_

#include <rankforge/rankforge.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace rankforge::llama {

// A product of a layer; PatchedLayers::Step says what the places are.
struct LayerProduct {
  std::vector<rankforge_source> sources;  // in memory of AdapterLayers::files
  int32_t operation = RANKFORGE_DENSE;    // or RANKFORGE_COLUMN_MASK
  std::vector<float> taus;                // of a column mask
  size_t input = 0;
  size_t output = 0;
  bool to_ranks = false;
};

// Layers of the graph; PatchedLayers::Member.
struct LayerMember {
  std::string weights;
  size_t rows = 0;
  std::vector<size_t> order;
};

struct LayerStack {
  std::vector<LayerProduct> first;
  std::vector<LayerProduct> second;
  std::vector<LayerMember> members;
  size_t rows = 0;
  size_t cols = 0;
  size_t ranks = 0;
};

struct AdapterLayers {
  std::vector<LayerStack> stacks;
  std::shared_ptr<const void> files;  // must outlive what reads the sources
};

// The layers of the model in `gguf` that `adapter` changes. False, and the
// reason in *error: a file cannot be read, the adapter is another model's, or
// it has masks over neurons of gated MLPs (CATS), which need a product between
// gate and up that graphs of llama.cpp do not have, or masks with gains.
bool ReadAdapterLayers(const std::string& gguf, const std::string& adapter,
                       AdapterLayers* layers, std::string* error);

}  // namespace rankforge::llama

#endif  // RANKFORGE_INTEGRATIONS_LLAMA_ADAPTER_LAYERS_H_
