// Layers of an adapter on the graphs of a llama_context.
#ifndef RANKFORGE_INTEGRATIONS_LLAMA_LLAMA_LAYERS_H_
#define RANKFORGE_INTEGRATIONS_LLAMA_LLAMA_LAYERS_H_

#include <cstdint>
#include <rankforge/rankforge.hpp>

#include "integrations/ggml/graph_patch.h"
#include "integrations/llama/adapter_layers.h"

namespace rankforge::llama {

// Packs `layers` as `weight_type` (ggml::kStoredType: what the file has, f32
// for adapters) into `patch`, and returns the largest quantization_error.
api::Result<double> AddLayers(const api::Context& context,
                              const api::Table& table,
                              const AdapterLayers& layers, int32_t weight_type,
                              uint32_t tokens, ggml::GraphPatch& patch);

}  // namespace rankforge::llama

#endif  // RANKFORGE_INTEGRATIONS_LLAMA_LLAMA_LAYERS_H_
