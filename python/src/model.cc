// Checkpoints that run: loading, logits, generation token by token.
#include "runtime/model/forward/model.h"

#include <fmt/format.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/affinity.h"
#include "meta/types.h"
#include "python/src/arrays.h"
#include "python/src/bindings.h"
#include "python/src/library.h"
#include "runtime/model/format/adapter.h"
#include "runtime/model/format/checkpoint.h"
#include "runtime/model/format/tokenizer.h"
#include "runtime/model/format/weight_source.h"
#include "runtime/model/use/generate.h"
#include "runtime/model/use/generated_text.h"
#include "runtime/model/use/packed_weights.h"
#include "runtime/model/weights/stored_types.h"
#include "runtime/table/dispatch.h"

namespace rankforge {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <size_t n>
WeightType TypeNamed(const std::array<WeightType, n>& types,
                     const std::string& name, const char* argument,
                     const char* more = "") {
  const std::optional<WeightType> type = FromName(types, name);
  if (type) return *type;
  std::string names;
  for (const WeightType known : types) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", Name(known));
  }
  throw BadArgument(
      fmt::format("{}: '{:.64}' is none of {}{}", argument, name, names, more));
}

struct LoadOptions {
  std::string path;
  std::string dtype;
  std::string lm_head_dtype;  // empty: as dtype
  std::string kv_dtype;       // empty: as the program's default
  std::string activations;    // empty: those of the types of weights
  std::string adapter;        // empty: none
  std::string table;          // empty: that of RANKFORGE_TABLE
  std::string pack;           // empty: none
  uint32_t threads = 0;       // 0: all that this process can keep busy
  double tau_scale = 1;
  SkipOptions skip = {};
};

// A checkpoint with what runs it. One thread at a time runs it.
class LoadedModel {
 public:
  explicit LoadedModel(const LoadOptions& options);

  const ModelConfig& config() const { return model_->config(); }
  const Tokenizer& tokenizer() const {
    if (!tokenizer_) throw PythonError(RANKFORGE_ERROR_FAILED, no_tokenizer_);
    return *tokenizer_;
  }
  bool has_tokenizer() const { return tokenizer_.has_value(); }
  const std::vector<std::string>& notes() const { return notes_; }
  KvCache NewCache(size_t positions) const {
    return ValueOf(model_->NewCache(positions));
  }
  std::vector<float> Logits(const std::vector<int>& ids);
  // Calls body(model) while no other thread does. Without the GIL.
  template <class Body>
  auto WithModel(const Body& body) {
    const std::lock_guard lock(mutex_);
    return body(*model_);
  }

 private:
  void OpenAdapter(const LoadOptions& options);
  // Empty: there is none.
  std::optional<DispatchTable> OpenTable(const LoadOptions& options);
  void OpenTokenizer(const std::string& path);
  void Note(const std::vector<std::string>& notes) {
    notes_.insert(notes_.end(), notes.begin(), notes.end());
  }

  std::mutex mutex_;
  Checkpoint checkpoint_;
  std::optional<Adapter> adapter_;
  std::optional<PackedWeights> pack_;
  std::optional<Model> model_;
  std::optional<Tokenizer> tokenizer_;
  std::string no_tokenizer_;
  std::vector<std::string> notes_;
};

// The dtype that keeps the types of the checkpoint. What none stores (A and B
// of adapters) then has 8 bits, as in `rankforge generate`.
constexpr char kStored[] = "stored";

WeightType ModelTypeNamed(const std::string& name, const char* argument) {
  if (name == kStored) return WeightType::kI8Group32;
  return TypeNamed(kWeightTypes, name, argument, ", stored");
}

ModelOptions ReadOptions(const LoadOptions& options,
                         const Checkpoint& checkpoint) {
  const std::string& lm_head_dtype =
      options.lm_head_dtype.empty() ? options.dtype : options.lm_head_dtype;
  ModelOptions read;
  read.type = ModelTypeNamed(options.dtype, "dtype");
  read.lm_head_type = ModelTypeNamed(lm_head_dtype, "lm_head_dtype");
  if (options.dtype == kStored || lm_head_dtype == kStored) {
    read.stored_types =
        std::make_shared<const StoredTypes>(ValueOf(StoredTypesOf(
            checkpoint, options.dtype == kStored, lm_head_dtype == kStored)));
  }
  read.kv_type = options.kv_dtype.empty()
                     ? DefaultKvType(read.type)
                     : TypeNamed(kKvTypes, options.kv_dtype, "kv_dtype");
  if (!options.activations.empty()) {
    read.activations = FromName(kActivations, options.activations);
    if (!read.activations) {
      throw BadArgument(
          fmt::format("activations: '{:.64}' is none of f32, bf16, i8",
                      options.activations));
    }
  }
  read.threads = options.threads == 0 ? UsableThreads() : options.threads;
  read.tau_scale = options.tau_scale;
  read.skip = options.skip;
  return read;
}

LoadedModel::LoadedModel(const LoadOptions& options)
    : checkpoint_(ValueOf(Checkpoint::Open(options.path))) {
  const ModelOptions model_options = ReadOptions(options, checkpoint_);
  Note(checkpoint_.notes());
  OpenAdapter(options);
  Check(CheckActivations(checkpoint_.config(), adapter_ ? &*adapter_ : nullptr,
                         model_options));
  const std::optional<DispatchTable> table = OpenTable(options);
  Dispatcher dispatcher(table ? &*table : nullptr);
  Note(dispatcher.notes());
  std::string tuned_otherwise;
  if (table && !TablesAreOff()) {
    const std::string name =
        options.table.empty() ? "RANKFORGE_TABLE" : options.table;
    dispatcher.Observe(
        [&table, &tuned_otherwise, name](const Problem& problem,
                                         const DispatchTable::Answer& answer) {
          if (!tuned_otherwise.empty()) return;
          tuned_otherwise = TunedOtherwise(*table, name, problem, answer);
        });
  }
  const WeightSource* weights = &checkpoint_;
  if (pack_) weights = &*pack_;
  model_ = ValueOf(Model::Create(
      checkpoint_.config(), *weights, adapter_ ? &*adapter_ : nullptr,
      dispatcher, model_options, MakeDefaultExecutor(model_options.threads)));
  for (const std::string& note :
       {tuned_otherwise, dispatcher.ForcedNowhere()}) {
    if (!note.empty()) Note({note});
  }
  OpenTokenizer(options.path);
}

void LoadedModel::OpenAdapter(const LoadOptions& options) {
  const bool has_pack = !options.pack.empty();
  if (!options.adapter.empty()) {
    adapter_ = ValueOf(LoadAdapterOf(
        checkpoint_, options.adapter,
        has_pack ? AdapterParts::kWithoutMatrices : AdapterParts::kAll));
  }
  if (!has_pack) return;
  const PackOrigin origin = {checkpoint_.FullHash(),
                             adapter_ ? adapter_->identity : ""};
  pack_.emplace(
      ValueOf(PackedWeights::Open(options.pack, checkpoint_, origin)));
  checkpoint_.ExpectSparseReads();
}

std::optional<DispatchTable> LoadedModel::OpenTable(
    const LoadOptions& options) {
  std::string path = options.table;
  if (path.empty() && !TablesAreOff()) path = TableOfEnvironment();
  if (path.empty()) return std::nullopt;
  Result<DispatchTable> table = DispatchTable::Load(path);
  if (!table.ok() && options.table.empty()) {
    Note({fmt::format("RANKFORGE_TABLE: {}; running without it",
                      table.status().message())});
    return std::nullopt;
  }
  std::optional<DispatchTable> loaded = ValueOf(std::move(table));
  Note(loaded->notes());
  return loaded;
}

void LoadedModel::OpenTokenizer(const std::string& path) {
  if (!Tokenizer::IsIn(path)) {
    no_tokenizer_ = path +
                    ": has neither tokenizer.model nor tokenizer.json; give "
                    "the prompt as ids";
    return;
  }
  Result<Tokenizer> tokenizer = Tokenizer::Load(path);
  if (!tokenizer.ok()) {
    no_tokenizer_ = tokenizer.status().message();
    Note({no_tokenizer_ + "; texts cannot be read"});
    return;
  }
  tokenizer_ = std::move(tokenizer).value();
  Note(tokenizer_->notes());
}

std::vector<float> LoadedModel::Logits(const std::vector<int>& ids) {
  if (ids.empty()) throw BadArgument("ids: is empty");
  KvCache cache = NewCache(ids.size());
  std::vector<float> logits(ids.size() * config().vocab);
  WithModel([&](Model& model) {
    Check(model.Forward(ids, cache, logits, /*all_logits=*/true));
  });
  return logits;
}

// The tokens after a prompt, one for each call of Next.
class TokenStream {
 public:
  TokenStream(std::shared_ptr<LoadedModel> model, std::vector<int> prompt,
              size_t count, const SamplingOptions& sampling, size_t lookup,
              std::vector<std::string> stops)
      : model_(std::move(model)),
        left_(RoomFor(prompt.size(), count)),
        full_(left_ < count),
        lookup_(lookup),
        cache_(model_->NewCache(prompt.size() + left_)),
        sampler_(sampling),
        prompt_(std::move(prompt)) {
    if (!model_->has_tokenizer()) {
      if (stops.empty()) return;
      throw BadArgument("stop: no tokenizer of the model could be read");
    }
    text_.emplace(
        model_->tokenizer(), prompt_, std::move(stops),
        [this](std::string_view text) { waiting_.back().text += text; });
  }

  struct Next {
    int id = 0;
    std::string text;
  };
  // A token whose text is certain: it ends in no part of a character or of a
  // stop text, or nothing comes after it. None: there are no more.
  std::optional<Next> Continue() {
    const std::lock_guard lock(mutex_);
    while (ended_.empty() && (waiting_.empty() || (text_ && text_->holds()))) {
      Step();
    }
    if (waiting_.empty()) return std::nullopt;
    Next next = std::move(waiting_.front());
    waiting_.pop_front();
    return next;
  }
  // None: no token has been computed, or the model never leaves out layers.
  std::optional<LayerDecision> layers() {
    const std::lock_guard lock(mutex_);
    return cache_.decision();
  }
  DraftCounts drafts() {
    const std::lock_guard lock(mutex_);
    return decoder_ ? decoder_->counts() : DraftCounts();
  }
  // Empty: it goes on, or tokens are left.
  std::string ended() {
    const std::lock_guard lock(mutex_);
    return waiting_.empty() ? ended_ : "";
  }

 private:
  // One position stays free, so that a sampled token can be run.
  size_t RoomFor(size_t prompt, size_t count) const {
    if (prompt == 0) throw BadArgument("prompt: has no tokens");
    const size_t positions = model_->config().max_positions;
    if (prompt >= positions) {
      throw BadArgument(
          fmt::format("prompt: {} tokens leave no room in a context of {}",
                      prompt, positions));
    }
    return std::min(count, positions - prompt);
  }

  // One token more, or the end.
  void Step() {
    if (left_ == 0) return End(full_ ? "context" : "length");
    const int id = model_->WithModel([&](Model& loaded) {
      // Not before: whoever makes a stream holds the GIL, and would wait here
      // for what other threads generate.
      if (!decoder_) {
        decoder_.emplace(loaded, cache_, std::move(prompt_), left_, lookup_,
                         sampler_);
      }
      return ValueOf(decoder_->Next());
    });
    if (std::ranges::count(model_->config().eos_ids, id) > 0) {
      return End("eos");
    }
    --left_;
    waiting_.push_back({id, ""});
    if (text_ && !text_->Add(id)) End("stop");
  }
  void End(const char* by) {
    // What is left belongs to a token that waits.
    if (text_ && text_->holds()) text_->Finish();
    ended_ = by;
  }

  std::mutex mutex_;
  std::shared_ptr<LoadedModel> model_;
  size_t left_;
  bool full_;  // the context ends before the count does
  size_t lookup_;
  KvCache cache_;
  Sampler sampler_;
  std::vector<int> prompt_;         // until there is a decoder
  std::optional<Decoder> decoder_;  // of model_, cache_ and sampler_
  std::deque<Next> waiting_;        // for text that follows
  std::optional<GeneratedText> text_;
  // By "eos", "stop", "length" or "context"; empty: it goes on.
  std::string ended_;
};

std::shared_ptr<LoadedModel> Load(const LoadOptions& options) {
  const nb::gil_scoped_release release;
  return std::make_shared<LoadedModel>(options);
}

nb::object LogitsAsNumPy(LoadedModel& model, const std::vector<int>& ids) {
  std::shared_ptr<const std::vector<float>> logits;
  {
    const nb::gil_scoped_release release;
    logits = std::make_shared<const std::vector<float>>(model.Logits(ids));
  }
  const std::array shape = {ids.size(), model.config().vocab};
  return ToNumPy(logits, logits->data(), shape);
}

std::optional<nb::tuple> NextToken(TokenStream& stream) {
  std::optional<TokenStream::Next> next;
  {
    const nb::gil_scoped_release release;
    next = stream.Continue();
  }
  if (!next) return std::nullopt;
  return nb::make_tuple(next->id, next->text);
}

// What the options of `rankforge generate` allow.
void CheckOptions(const SamplingOptions& sampling, size_t lookup,
                  const std::vector<std::string>& stops) {
  const auto check = [](bool is_right, const char* name, double value,
                        const char* expected) {
    if (is_right) return;
    throw BadArgument(
        fmt::format("{}: is {}, expected {}", name, value, expected));
  };
  const auto is_share = [](double value) { return value >= 0 && value <= 1; };
  check(sampling.temperature >= 0 && std::isfinite(sampling.temperature),
        "temperature", sampling.temperature, "a number of at least 0");
  check(is_share(sampling.top_p), "top_p", sampling.top_p,
        "a number from 0 to 1");
  check(is_share(sampling.min_p), "min_p", sampling.min_p,
        "a number from 0 to 1");
  check(sampling.repetition_penalty > 0 &&
            std::isfinite(sampling.repetition_penalty),
        "repetition_penalty", sampling.repetition_penalty, "a number above 0");
  if (lookup > kMostDrafted) {
    throw BadArgument(
        fmt::format("lookup: is {}, expected 0 to {}", lookup, kMostDrafted));
  }
  for (const std::string& stop : stops) {
    if (stop.empty()) throw BadArgument("stop: has an empty text");
  }
}

void BindStream(nb::module_& module) {
  nb::class_<TokenStream>(module, "TokenStream")
      .def(
          "__init__",
          [](TokenStream* self, std::shared_ptr<LoadedModel> model,
             std::vector<int> prompt, size_t count, double temperature,
             size_t top_k, double top_p, double min_p,
             double repetition_penalty, uint64_t seed, size_t lookup,
             std::vector<std::string> stops) {
            const SamplingOptions sampling = {
                .temperature = temperature,
                .top_k = top_k,
                .top_p = top_p,
                .min_p = min_p,
                .repetition_penalty = repetition_penalty,
                .seed = seed};
            CheckOptions(sampling, lookup, stops);
            new (self) TokenStream(std::move(model), std::move(prompt), count,
                                   sampling, lookup, std::move(stops));
          },
          "model"_a, "prompt"_a, "count"_a, "temperature"_a, "top_k"_a,
          "top_p"_a, "min_p"_a, "repetition_penalty"_a, "seed"_a, "lookup"_a,
          "stops"_a)
      .def("next", &NextToken)
      .def_prop_ro("layers",
                   [](TokenStream& stream) -> std::optional<nb::tuple> {
                     const std::optional<LayerDecision> layers =
                         stream.layers();
                     if (!layers) return std::nullopt;
                     return nb::make_tuple(layers->skipped, layers->rho,
                                           layers->freed_bytes);
                   })
      .def_prop_ro("drafts",
                   [](TokenStream& stream) {
                     const DraftCounts counts = stream.drafts();
                     return nb::make_tuple(counts.passes, counts.decoded,
                                           counts.drafted, counts.accepted,
                                           counts.failed);
                   })
      .def_prop_ro("ended", &TokenStream::ended);
}

}  // namespace

void BindModels(nb::module_& module) {
  nb::class_<LoadedModel>(module, "Model")
      .def("logits", &LogitsAsNumPy, "ids"_a)
      .def(
          "encode",
          [](const LoadedModel& model, const std::string& text) {
            return model.tokenizer().EncodeFromStart(text);
          },
          "text"_a)
      .def(
          "decode",
          [](const LoadedModel& model, const std::vector<int>& ids) {
            return model.tokenizer().Decode(ids);
          },
          "ids"_a)
      .def_prop_ro("has_tokenizer", &LoadedModel::has_tokenizer)
      .def_prop_ro("notes", &LoadedModel::notes)
      .def_prop_ro(
          "family",
          [](const LoadedModel& model) { return model.config().family; })
      .def_prop_ro(
          "vocab",
          [](const LoadedModel& model) { return model.config().vocab; })
      .def_prop_ro("max_positions", [](const LoadedModel& model) {
        return model.config().max_positions;
      });
  module.def(
      "load_model",
      [](const std::string& path, const std::string& dtype,
         const std::string& lm_head_dtype, const std::string& kv_dtype,
         const std::string& activations, const std::string& adapter,
         const std::string& table, const std::string& pack, uint32_t threads,
         double tau_scale, std::vector<size_t> skip_layers,
         std::optional<double> skip_threshold, std::optional<size_t> max_skip,
         std::optional<std::pair<size_t, size_t>> always_on) {
        SkipOptions skip{.threshold = skip_threshold,
                         .most = max_skip,
                         .layers = std::move(skip_layers)};
        if (always_on) skip.always_on = {always_on->first, always_on->second};
        return Load({path, dtype, lm_head_dtype, kv_dtype, activations, adapter,
                     table, pack, threads, tau_scale, std::move(skip)});
      },
      "path"_a, "dtype"_a, "lm_head_dtype"_a, "kv_dtype"_a, "activations"_a,
      "adapter"_a, "table"_a, "pack"_a, "threads"_a, "tau_scale"_a,
      "skip_layers"_a, "skip_threshold"_a.none(), "max_skip"_a.none(),
      "always_on"_a.none());
  BindStream(module);
}

}  // namespace rankforge
