// Adapter files as dictionaries of NumPy arrays.
#include "runtime/model/format/adapter.h"

#include <fmt/format.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/content_hash.h"
#include "python/src/arrays.h"
#include "python/src/bindings.h"
#include "runtime/model/format/checkpoint.h"
#include "runtime/model/weights/modules.h"

namespace rankforge {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Owner = std::shared_ptr<const Adapter>;

nb::object Vector(const Owner& owner, const std::vector<float>& values) {
  const std::array shape = {values.size()};
  return ToNumPy(owner, values.data(), shape);
}

nb::dict RankAsDict(const Owner& owner, const RankAdapter& rank) {
  const std::array a_shape = {rank.d, rank.rows};
  const std::array b_shape = {rank.d, rank.cols};
  nb::dict fields;
  fields["module"] = rank.module;
  fields["a"] = ToNumPy(owner, rank.a.data(), a_shape).attr("T");
  fields["b"] = ToNumPy(owner, rank.b.data(), b_shape);
  fields["tau"] = Vector(owner, rank.tau);
  fields["density"] = rank.density;
  return fields;
}

nb::dict MaskAsDict(const Owner& owner, const InputMask& mask) {
  nb::dict fields;
  fields["module"] = mask.module;
  fields["tau"] = Vector(owner, mask.tau);
  fields["density"] = mask.density;
  const bool learned = !mask.gain.empty();
  fields["gain"] = learned ? Vector(owner, mask.gain) : nb::none();
  fields["bias"] = learned ? Vector(owner, mask.bias) : nb::none();
  return fields;
}

template <class Module, class ToDict>
nb::dict AllAsDict(const std::map<std::string, Module>& modules,
                   const ToDict& to_dict) {
  nb::dict all;
  for (const auto& [name, module] : modules) {
    all[name.c_str()] = to_dict(module);
  }
  return all;
}

nb::dict LoadAdapterAsDict(const std::string& path,
                           const std::string& checkpoint_path) {
  Owner owner;
  {
    const nb::gil_scoped_release release;
    const Checkpoint checkpoint = ValueOf(Checkpoint::Open(checkpoint_path));
    owner = std::make_shared<const Adapter>(
        ValueOf(LoadAdapterOf(checkpoint, path, AdapterParts::kAll)));
  }
  if (!owner->rotation.empty()) {
    throw BadArgument(path +
                      ": rotates the residual stream of blocks, which modules "
                      "of PyTorch do not; run it by rankforge.Model, or use an "
                      "adapter of another method");
  }
  const auto mask = [&](const InputMask& of) { return MaskAsDict(owner, of); };
  nb::dict fields;
  fields["method"] = owner->method;
  fields["keep"] = owner->keep;
  fields["ranks"] = AllAsDict(owner->ranks, [&](const RankAdapter& rank) {
    return RankAsDict(owner, rank);
  });
  fields["masks"] = AllAsDict(owner->masks, mask);
  fields["gates"] = AllAsDict(owner->gates, mask);
  fields["left_dense"] = nb::cast(owner->left_dense);
  nb::dict routers;
  for (const auto& [block, weight] : owner->skip.routers) {
    routers[nb::int_(block)] = Vector(owner, weight);
  }
  fields["routers"] = routers;
  fields["skip_threshold"] = owner->skip.threshold;
  fields["skip_layers"] = nb::cast(owner->skip.layers);
  return fields;
}

// What an adapter's metadata say of its checkpoint: identity and full hash.
std::pair<std::string, std::string> CheckpointHashes(const std::string& path) {
  const nb::gil_scoped_release release;
  const Checkpoint checkpoint = ValueOf(Checkpoint::Open(path));
  return {checkpoint.Identity(), checkpoint.FullHash()};
}

// The hash of these pieces in turn: of a header and the tensors of an adapter
// file, the one that its last tensor holds.
std::string HashOfPieces(const std::vector<nb::bytes>& pieces) {
  ContentHash hash;
  for (const nb::bytes& piece : pieces) {
    hash.Add(std::as_bytes(std::span(piece.c_str(), piece.size())));
  }
  return hash.Digest();
}

// Writes an adapter with these routers, and what the adapter at `base` (empty:
// none) has.
void SaveRouters(const std::string& path, const std::string& checkpoint_path,
                 std::map<size_t, std::vector<float>> routers, double threshold,
                 const std::string& method,
                 const std::map<std::string, std::string>& parameters,
                 const std::string& base) {
  const nb::gil_scoped_release release;
  const Checkpoint checkpoint = ValueOf(Checkpoint::Open(checkpoint_path));
  Adapter adapter;
  if (!base.empty()) {
    adapter = ValueOf(LoadAdapterOf(checkpoint, base, AdapterParts::kAll));
    if (!adapter.skip.empty()) {
      throw BadArgument(base +
                        ": skips layers already; give the adapter without");
    }
  }
  adapter.method = method;
  adapter.checkpoint_hash = checkpoint.Identity();
  adapter.checkpoint_full_hash = checkpoint.FullHash();
  for (const auto& [name, value] : parameters) adapter.parameters[name] = value;
  adapter.skip.routers = std::move(routers);
  adapter.skip.threshold = threshold;
  if (adapter.skip.routers.empty()) throw BadArgument("routers: is empty");
  for (const auto& [block, weight] : adapter.skip.routers) {
    if (std::ranges::all_of(weight, [](float w) { return std::isfinite(w); })) {
      continue;
    }
    throw BadArgument(fmt::format(
        "routers: that of block {} has a value that is not finite", block));
  }
  Check(CheckAdapter(checkpoint.config(), adapter));
  Check(SaveAdapter(adapter, path));
}

}  // namespace

void BindAdapters(nb::module_& module) {
  module.def("save_routers", &SaveRouters, "path"_a, "checkpoint"_a,
             "routers"_a, "threshold"_a, "method"_a, "parameters"_a, "base"_a);
  module.def("load_adapter", &LoadAdapterAsDict, "path"_a, "checkpoint"_a);
  module.def("checkpoint_hashes", &CheckpointHashes, "path"_a);
  module.def("content_hash", &HashOfPieces, "pieces"_a);
}

}  // namespace rankforge
