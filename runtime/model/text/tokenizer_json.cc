#include "runtime/model/text/tokenizer_json.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>
#include <utility>

#include "base/json_fields.h"
#include "runtime/model/text/byte_alphabet.h"
#include "runtime/model/text/unicode.h"

namespace rankforge {

namespace {

using Json = nlohmann::json;

constexpr size_t kMaxDepth = 64;
constexpr uint64_t kMaxId = (1 << 24) - 1;
// Finding added tokens takes forty bytes for each of theirs.
constexpr size_t kMaxAddedBytes = size_t{4} << 20;
constexpr size_t kMaxTemplateIds = 1024;
// The pattern of GPT-2, which a ByteLevel pre-tokenizer implies.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)"
    R"(|\s+(?!\S)|\s+)";
// "pre_tokenizer.type is "Unknown", expected ...".
Status StatusOf(const FieldError& error) {
  if (error.empty()) return {};
  return Failed(fmt::format("{} is {}, {}", PathOf(error.where, error.field),
                            error.value, error.reason));
}

// A flag that may be absent.
bool FlagOr(JsonFields fields, const char* key, bool other) {
  return fields.Has(key) ? fields.Flag(key) : other;
}

// A string that may be absent.
std::string TextOr(JsonFields fields, const char* key, const char* other) {
  return fields.Has(key) ? fields.Text(key) : other;
}

// One of `values` by its name.
template <class Enum, size_t n>
Enum OneOf(JsonFields fields, const char* key,
           const std::array<Enum, n>& values, Enum other) {
  if (!fields.Has(key)) return other;
  const std::string name = fields.Text(key);
  std::vector<std::string_view> names;
  for (const Enum value : values) {
    if (Name(value) == name) return value;
    names.push_back(Name(value));
  }
  if (fields.ok()) {
    fields.Fail(key, Shown(name),
                fmt::format("expected one of {}", fmt::join(names, ", ")));
  }
  return other;
}

char32_t OneCharacter(JsonFields fields, const char* key) {
  const std::string text = fields.Text(key);
  std::string_view rest = text;
  const char32_t character = rest.empty() ? 0 : TakeCharacter(rest);
  if (fields.ok() && (text.empty() || !rest.empty())) {
    fields.Fail(key, Shown(text), "expected one character");
  }
  return character;
}

TextPattern CompiledPattern(JsonFields fields, const char* key,
                            std::string_view pattern) {
  Result<TextPattern> compiled = TextPattern::Regex(pattern);
  if (compiled.ok()) return std::move(compiled).value();
  if (fields.ok()) {
    fields.Fail(key, Shown(std::string(pattern)),
                "which cannot be used: " + compiled.status().message());
  }
  return TextPattern::Literal("");
}

// {"String": " "} or {"Regex": "\\s+"}.
TextPattern ReadPattern(JsonFields fields) {
  JsonFields pattern = fields.Object("pattern");
  if (pattern.Has("String")) {
    return TextPattern::Literal(pattern.Text("String"));
  }
  return CompiledPattern(pattern, "Regex", pattern.Text("Regex"));
}

// ---------------------------------------------------------------------------
// Steps. Each kind of step has a function that reads it and adds it to a list.

template <class Steps>
struct StepKind {
  std::string_view type;
  void (*read)(JsonFields fields, Steps& steps);
};

// Reads the step `object` (null: none) of one of `kinds`, or a Sequence of them
// in its field `inner`.
template <class Steps>
void ReadSteps(JsonFields parent, const std::string& key, const Json& object,
               std::span<const StepKind<Steps>> kinds, const char* inner,
               Steps& steps) {
  if (object.is_null() || !parent.ok()) return;
  JsonFields fields = parent.Inner(object, parent.PathOf(key));
  const std::string type = fields.Text("type");
  if (!fields.ok()) return;
  if (type == "Sequence") {
    const Json& list = fields.Array(inner);
    for (size_t i = 0; i < list.size(); ++i) {
      ReadSteps(fields, fmt::format("{}[{}]", inner, i), list[i], kinds, inner,
                steps);
    }
    return;
  }
  std::vector<std::string_view> known;
  for (const StepKind<Steps>& kind : kinds) {
    if (kind.type == type) return kind.read(fields, steps);
    known.push_back(kind.type);
  }
  fields.Fail(
      "type", Shown(type),
      fmt::format("this build reads Sequence, {}", fmt::join(known, ", ")));
}

using Normalizers = std::vector<NormalizerStep>;

template <bool composes, bool compatible>
void ReadUnicodeForm(JsonFields, Normalizers& steps) {
  steps.emplace_back(UnicodeForm{composes, compatible});
}

constexpr StepKind<Normalizers> kNormalizers[] = {
    {"NFC", ReadUnicodeForm<true, false>},
    {"NFD", ReadUnicodeForm<false, false>},
    {"NFKC", ReadUnicodeForm<true, true>},
    {"NFKD", ReadUnicodeForm<false, true>},
    {"Lowercase",
     [](JsonFields, Normalizers& steps) {
       steps.emplace_back(LowercaseStep());
     }},
    {"ByteLevel",
     [](JsonFields, Normalizers& steps) {
       steps.emplace_back(ByteCharactersStep());
     }},
    {"Prepend",
     [](JsonFields fields, Normalizers& steps) {
       steps.emplace_back(PrependStep{fields.Text("prepend")});
     }},
    {"Replace",
     [](JsonFields fields, Normalizers& steps) {
       steps.emplace_back(
           ReplaceStep{ReadPattern(fields), fields.Text("content")});
     }},
    {"Strip",
     [](JsonFields fields, Normalizers& steps) {
       steps.emplace_back(
           TrimStep{fields.Flag("strip_left"), fields.Flag("strip_right")});
     }},
};

using PreTokenizers = std::vector<PreTokenizerStep>;

PrependScheme ReadPrependScheme(JsonFields fields) {
  // Older files say it with a flag.
  const bool adds = FlagOr(fields, "add_prefix_space", true);
  return OneOf(fields, "prepend_scheme", kPrependSchemes,
               adds ? PrependScheme::kAlways : PrependScheme::kNever);
}

void ReadMetaspace(JsonFields fields, PreTokenizers& steps) {
  MetaspaceStep step;
  AppendCharacter(OneCharacter(fields, "replacement"), step.replacement);
  step.prepends = ReadPrependScheme(fields);
  step.splits = FlagOr(fields, "split", true);
  steps.emplace_back(std::move(step));
}

void ReadByteLevel(JsonFields fields, PreTokenizers& steps) {
  ByteLevelStep step;
  step.adds_space = fields.Flag("add_prefix_space");
  if (FlagOr(fields, "use_regex", true)) {
    step.pattern = CompiledPattern(fields, "use_regex", kGpt2Pattern);
  }
  steps.emplace_back(std::move(step));
}

void AddCharacterSplit(bool (*contains)(char32_t), SplitBehavior behavior,
                       PreTokenizers& steps) {
  steps.emplace_back(
      SplitStep{TextPattern::Characters(contains), behavior, false});
}

constexpr StepKind<PreTokenizers> kPreTokenizers[] = {
    {"Split",
     [](JsonFields fields, PreTokenizers& steps) {
       fields.Text("behavior");  // is there
       steps.emplace_back(SplitStep{
           ReadPattern(fields),
           OneOf(fields, "behavior", kSplitBehaviors, SplitBehavior::kIsolated),
           FlagOr(fields, "invert", false)});
     }},
    {"ByteLevel", ReadByteLevel},
    {"Digits",
     [](JsonFields fields, PreTokenizers& steps) {
       AddCharacterSplit(IsNumber,
                         fields.Flag("individual_digits")
                             ? SplitBehavior::kIsolated
                             : SplitBehavior::kContiguous,
                         steps);
     }},
    {"Punctuation",
     [](JsonFields fields, PreTokenizers& steps) {
       AddCharacterSplit(
           IsPunctuation,
           OneOf(fields, "behavior", kSplitBehaviors, SplitBehavior::kIsolated),
           steps);
     }},
    {"Metaspace", ReadMetaspace},
    {"Whitespace",  // words, and what else lies between spaces
     [](JsonFields, PreTokenizers& steps) {
       AddCharacterSplit(IsSpace, SplitBehavior::kRemoved, steps);
       AddCharacterSplit(IsWord, SplitBehavior::kContiguous, steps);
     }},
    {"WhitespaceSplit",
     [](JsonFields, PreTokenizers& steps) {
       AddCharacterSplit(IsSpace, SplitBehavior::kRemoved, steps);
     }},
    {"BertPreTokenizer",
     [](JsonFields, PreTokenizers& steps) {
       AddCharacterSplit(IsSpace, SplitBehavior::kRemoved, steps);
       AddCharacterSplit(IsPunctuation, SplitBehavior::kIsolated, steps);
     }},
    {"CharDelimiterSplit",
     [](JsonFields fields, PreTokenizers& steps) {
       std::string delimiter;
       AppendCharacter(OneCharacter(fields, "delimiter"), delimiter);
       steps.emplace_back(SplitStep{TextPattern::Literal(delimiter),
                                    SplitBehavior::kRemoved, false});
     }},
    {"FixedLength",
     [](JsonFields fields, PreTokenizers& steps) {
       steps.emplace_back(FixedLengthStep{fields.Count("length", 1)});
     }},
};

using Decoders = std::vector<DecoderStep>;

constexpr StepKind<Decoders> kDecoders[] = {
    {"ByteLevel",
     [](JsonFields, Decoders& steps) {
       steps.emplace_back(BytesOfCharacters());
     }},
    {"ByteFallback",
     [](JsonFields, Decoders& steps) { steps.emplace_back(BytesOfNames()); }},
    {"Fuse",
     [](JsonFields, Decoders& steps) { steps.emplace_back(FuseTokens()); }},
    {"Replace",
     [](JsonFields fields, Decoders& steps) {
       steps.emplace_back(
           ReplaceInTokens{ReadPattern(fields), fields.Text("content")});
     }},
    {"Strip",
     [](JsonFields fields, Decoders& steps) {
       steps.emplace_back(StripTokens{OneCharacter(fields, "content"),
                                      fields.Count("start"),
                                      fields.Count("stop")});
     }},
    {"Metaspace",
     [](JsonFields fields, Decoders& steps) {
       steps.emplace_back(
           MetaspaceTokens{OneCharacter(fields, "replacement"),
                           ReadPrependScheme(fields) != PrependScheme::kNever});
     }},
};

// ---------------------------------------------------------------------------
// What is put around a text

struct Surroundings {
  std::vector<int> prefix, suffix;
};

// Ids of one more post-processor go around those of the ones before it.
void Surround(const std::vector<int>& prefix, const std::vector<int>& suffix,
              Surroundings& around) {
  around.prefix.insert(around.prefix.begin(), prefix.begin(), prefix.end());
  around.suffix.insert(around.suffix.end(), suffix.begin(), suffix.end());
}

void ReadTemplate(JsonFields fields, Surroundings& around) {
  Surroundings own;
  bool after = false;  // the text
  const Json& pieces = fields.Array("single");
  JsonFields tokens = fields.Object("special_tokens");
  for (size_t i = 0; i < pieces.size() && fields.ok(); ++i) {
    JsonFields piece =
        fields.Inner(pieces[i], fields.PathOf(fmt::format("single[{}]", i)));
    if (!piece.ok()) return;
    if (piece.Has("Sequence")) {
      const std::string id = piece.Object("Sequence").Text("id");
      if (piece.ok() && (id != "A" || after)) {
        piece.Fail("Sequence", Shown(id), "expected A, once");
      }
      after = true;
      continue;
    }
    const std::string name = piece.Object("SpecialToken").Text("id");
    for (const Json& id : tokens.Object(name).Array("ids")) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() > kMaxId) {
        tokens.Fail(name, Shown(id), "expected ids below 2^24");
        return;
      }
      (after ? own.suffix : own.prefix).push_back(id.get<int>());
      if (own.prefix.size() + own.suffix.size() > kMaxTemplateIds) {
        tokens.Fail(name, "too long",
                    fmt::format("expected {} ids around a text, at most",
                                kMaxTemplateIds));
        return;
      }
    }
  }
  Surround(own.prefix, own.suffix, around);
}

// ["<s>", 0]: the id.
std::vector<int> TokenPair(JsonFields fields, const char* key) {
  const Json& pair = fields.Array(key);
  if (!fields.ok()) return {};
  if (pair.size() == 2 && pair[1].is_number_unsigned() &&
      pair[1].get<uint64_t>() <= kMaxId) {
    return {pair[1].get<int>()};
  }
  fields.Fail(key, Shown(pair), "expected a token and its id");
  return {};
}

void ReadClsAndSep(JsonFields fields, Surroundings& around) {
  Surround(TokenPair(fields, "cls"), TokenPair(fields, "sep"), around);
}

constexpr StepKind<Surroundings> kPostProcessors[] = {
    {"TemplateProcessing", ReadTemplate},
    {"ByteLevel", [](JsonFields, Surroundings&) {}},  // moves offsets only
    {"BertProcessing", ReadClsAndSep},
    {"RobertaProcessing", ReadClsAndSep},
};

// ---------------------------------------------------------------------------
// The model

// The vocabulary and the merges, which are most of a file. They never become a
// part of its tree: half of the time would go into that.
class ModelLists {
 public:
  // For ParseJson: takes what belongs to the lists.
  bool Keep(int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::key) return KeepKey(depth, parsed);
    const bool is_item = event == Json::parse_event_t::value ||
                         event == Json::parse_event_t::array_end;
    if (depth != 3 || !is_item) return true;
    if (section_ == Section::kVocabulary) return TakeToken(parsed);
    if (section_ == Section::kMerges) return TakeMerge(parsed);
    return true;
  }

  // Adds all of it to `model`. `fields` are those of the model.
  void Add(JsonFields fields, BytePairModel& model) const;

 private:
  enum class Section { kOther, kVocabulary, kMerges };
  struct Merge {
    std::string left, right;
  };

  // Depth 1 is the document, 2 the model, 3 an item of a list.
  bool KeepKey(int depth, Json& key) {
    if (depth == 3 && section_ == Section::kVocabulary) {
      token_ = std::move(key.get_ref<std::string&>());
      return false;
    }
    if (depth > 2) return true;
    const auto& name = key.get_ref<const std::string&>();
    if (depth == 1) in_model_ = name == "model";
    section_ = depth == 1 || !in_model_ ? Section::kOther
               : name == "vocab"        ? Section::kVocabulary
               : name == "merges"       ? Section::kMerges
                                        : Section::kOther;
    return true;
  }
  bool TakeToken(const Json& value) {
    if (value.is_number_unsigned() && value.get<uint64_t>() <= kMaxId) {
      tokens_.emplace_back(std::move(token_), value.get<int>());
    } else if (bad_token_.empty()) {
      bad_token_ = {"", fmt::format("'{:.64}'", token_), Shown(value),
                    "expected an id below 2^24"};
    }
    return false;
  }
  bool TakeMerge(Json& entry) {
    Merge merge;
    if (ReadMerge(entry, merge)) {
      merges_.push_back(std::move(merge));
    } else if (bad_merge_.empty()) {
      bad_merge_ = {"", fmt::format("merges[{}]", merges_.size()), Shown(entry),
                    "expected two tokens"};
    }
    return false;
  }
  static bool ReadMerge(Json& entry, Merge& merge);

  Section section_ = Section::kOther;
  bool in_model_ = false;
  std::string token_;  // the last key of the vocabulary
  std::vector<std::pair<std::string, int>> tokens_;
  std::vector<Merge> merges_;
  FieldError bad_token_, bad_merge_;
};

// ["a", "b"], or "a b" in older files. A line of merges.txt that names its
// version becomes a merge of nothing.
bool ModelLists::ReadMerge(Json& entry, Merge& merge) {
  if (entry.is_array() && entry.size() == 2 && entry[0].is_string() &&
      entry[1].is_string()) {
    merge.left = std::move(entry[0].get_ref<std::string&>());
    merge.right = std::move(entry[1].get_ref<std::string&>());
    return true;
  }
  if (!entry.is_string()) return false;
  const std::string_view text = entry.get_ref<const std::string&>();
  if (text.starts_with("#version")) return true;
  const size_t space = text.find(' ');
  if (space == text.npos || text.find(' ', space + 1) != text.npos) {
    return false;
  }
  merge.left = text.substr(0, space);
  merge.right = text.substr(space + 1);
  return true;
}

void ModelLists::Add(JsonFields fields, BytePairModel& model) const {
  model.Reserve(tokens_.size(), merges_.size());
  JsonFields vocabulary = fields.Object("vocab");
  fields.Array("merges");
  const auto fail = [](JsonFields of, const FieldError& error) {
    of.Fail(error.field, error.value, error.reason);
  };
  if (!bad_token_.empty()) return fail(vocabulary, bad_token_);
  if (!bad_merge_.empty()) return fail(fields, bad_merge_);
  for (const auto& [token, id] : tokens_) {
    if (model.AddToken(token, id)) continue;
    const std::string* const holder = model.TokenOf(id);
    if (holder == nullptr || *holder != token) {
      return vocabulary.Fail(fmt::format("'{:.64}'", token), std::to_string(id),
                             "but a token has one id, and an id one token");
    }
  }
  for (size_t i = 0; i < merges_.size() && fields.ok(); ++i) {
    const auto& [left, right] = merges_[i];
    if (left.empty() && right.empty()) continue;
    const Status added = model.AddMerge(left, right);
    if (added.ok()) continue;
    fields.Fail(fmt::format("merges[{}]", i), Shown(Json::array({left, right})),
                added.message());
  }
}

BytePairModel ReadModel(JsonFields fields, const ModelLists& lists) {
  const std::string type = TextOr(fields, "type", "BPE");
  if (fields.ok() && type != "BPE") {
    fields.Fail("type", Shown(type), "this build reads BPE");
  }
  if (fields.Has("dropout") && fields.Number("dropout", 0, 1) != 0) {
    fields.Fail("dropout", Shown(*fields.Find("dropout")),
                "this build reads tokenizers without it");
  }
  BytePairOptions options;
  if (fields.Has("unk_token")) options.unknown = fields.Text("unk_token");
  options.fuses_unknown = FlagOr(fields, "fuse_unk", false);
  options.falls_back = FlagOr(fields, "byte_fallback", false);
  options.ignores_merges = FlagOr(fields, "ignore_merges", false);
  options.prefix = TextOr(fields, "continuing_subword_prefix", "");
  options.suffix = TextOr(fields, "end_of_word_suffix", "");
  BytePairModel model(std::move(options));
  if (!fields.ok()) return model;
  lists.Add(fields, model);
  if (fields.ok()) model.Finish();
  return model;
}

// ---------------------------------------------------------------------------
// Added tokens

// The fields of an added token but its id.
AddedToken ReadAddedToken(JsonFields fields) {
  AddedToken token;
  token.content = fields.Text("content");
  token.special = FlagOr(fields, "special", false);
  token.normalized = FlagOr(fields, "normalized", !token.special);
  token.single_word = FlagOr(fields, "single_word", false);
  token.takes_left = FlagOr(fields, "lstrip", false);
  token.takes_right = FlagOr(fields, "rstrip", false);
  return token;
}

std::vector<AddedToken> ReadAddedList(JsonFields fields) {
  std::vector<AddedToken> tokens;
  if (!fields.Has("added_tokens")) return tokens;
  const Json& list = fields.Array("added_tokens");
  size_t bytes = 0;
  for (size_t i = 0; i < list.size() && fields.ok(); ++i) {
    JsonFields entry =
        fields.Inner(list[i], fmt::format("added_tokens[{}]", i));
    AddedToken token = ReadAddedToken(entry);
    token.id = static_cast<int>(entry.Count("id", 0, kMaxId));
    bytes += token.content.size();
    if (entry.ok() && bytes > kMaxAddedBytes) {
      entry.Fail("content", Shown(token.content),
                 "more than 4 MiB of added tokens");
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

// The id that the tokenizers library gives to an added token, whatever its
// field 'id' says: that of the vocabulary, or the next free one.
class IdAssigner {
 public:
  explicit IdAssigner(const BytePairModel& model) : model_(model) {}

  int IdFor(const std::string& content) {
    const auto [entry, added] = ids_.emplace(content, 0);
    if (!added) return entry->second;
    int id = model_.IdOf(content);
    const auto size = static_cast<int>(model_.size());
    if (id < 0) id = largest_ >= size || size == 0 ? largest_ + 1 : size;
    largest_ = std::max(largest_, id);
    return entry->second = id;
  }

 private:
  const BytePairModel& model_;
  std::map<std::string, int> ids_;
  int largest_ = -1;
};

void CheckIds(JsonFields fields, const BytePairParts& parts) {
  IdAssigner assigner(parts.model);
  for (size_t i = 0; i < parts.added.size(); ++i) {
    const AddedToken& token = parts.added[i];
    if (token.content.empty()) continue;
    const int id = assigner.IdFor(token.content);
    if (id == token.id) continue;
    return fields.Fail(fmt::format("added_tokens[{}].id", i),
                       std::to_string(token.id),
                       fmt::format("but the tokenizers library reads {}", id));
  }
}

// Fields that change nothing here.
void AddNotes(JsonFields fields, BytePairParts& parts) {
  const auto note = [&](const std::string& sentence) {
    parts.notes.push_back(sentence);
  };
  if (fields.Has("truncation")) {
    note("field 'truncation' is not used: texts are not cut");
  }
  if (fields.Has("padding")) {
    note("field 'padding' is not used: texts are not padded");
  }
  const std::optional<std::string>& unknown = parts.model.options().unknown;
  const ByteAlphabet& alphabet = ByteAlphabet::Get();
  bool complete = true;  // every byte has a token
  for (int byte = 0; byte < 256; ++byte) {
    complete =
        complete &&
        parts.model.IdOf(alphabet.CharacterOf(static_cast<char>(byte))) >= 0;
  }
  if (unknown && !complete && parts.model.IdOf(*unknown) < 0) {
    note(
        fmt::format("model.unk_token is '{:.64}', which 'vocab' lacks; "
                    "characters without a token are left out",
                    *unknown));
  }
}

// ---------------------------------------------------------------------------

// The document in `text`, without what `lists` take.
Result<Json> ParseObject(const std::string& text, ModelLists& lists) {
  RANKFORGE_ASSIGN_OR_RETURN(
      Json root,
      ParseJson(text, kMaxDepth,
                [&](int depth, Json::parse_event_t event, Json& parsed) {
                  return lists.Keep(depth, event, parsed);
                }));
  if (!root.is_object()) return Failed("is no JSON object");
  return root;
}

Result<Json> ParseObject(const std::string& text) {
  ModelLists none;
  return ParseObject(text, none);
}

// A token in tokenizer_config.json: a string, or an object with its content.
std::string TokenText(JsonFields fields, const char* key) {
  const Json* const value = fields.Find(key);
  if (value == nullptr) return "";
  return value->is_object() ? fields.Object(key).Text("content")
                            : fields.Text(key);
}

// The special tokens that tokenizer_config.json names.
std::vector<std::string> NamedTokens(JsonFields fields) {
  std::vector<std::string> names;
  const auto add = [&](std::string name) {
    if (!name.empty()) names.push_back(std::move(name));
  };
  for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token",
                          "sep_token", "cls_token", "mask_token"}) {
    add(TokenText(fields, key));
  }
  for (const char* key :
       {"additional_special_tokens", "extra_special_tokens"}) {
    const Json* const list = fields.Find(key);
    if (list == nullptr || !list->is_array()) continue;
    for (const Json& token : *list) {
      if (token.is_string()) add(token.get<std::string>());
    }
  }
  return names;
}

// The tokens of `added_tokens_decoder`, whose keys are ids.
std::vector<AddedToken> ReadAddedDecoder(JsonFields fields) {
  std::map<int, AddedToken> tokens;
  if (!fields.Has("added_tokens_decoder")) return {};
  JsonFields list = fields.Object("added_tokens_decoder");
  for (const auto& [key, value] : list.json().items()) {
    uint32_t id = 0;
    const char* const end = key.data() + key.size();
    const auto parsed = std::from_chars(key.data(), end, id);
    if (parsed.ec != std::errc() || parsed.ptr != end || id > kMaxId) {
      list.Fail(key, Shown(value), "whose key is no id below 2^24");
      break;
    }
    AddedToken token = ReadAddedToken(list.Inner(value, list.PathOf(key)));
    token.id = static_cast<int>(id);
    tokens.emplace(token.id, std::move(token));
  }
  std::vector<AddedToken> by_id;
  for (auto& [id, token] : tokens) by_id.push_back(std::move(token));
  return by_id;
}

}  // namespace

// The steps of a normaliser may lengthen what is found in normalised text.
void CheckNormalized(JsonFields fields, const BytePairParts& parts) {
  size_t bytes = 0;
  for (const AddedToken& token : parts.added) {
    if (!token.normalized) continue;
    bytes += Normalized(parts.normalizer, token.content).size();
    if (bytes > kMaxAddedBytes) {
      fields.Fail("added_tokens", Shown(token.content),
                  "more than 4 MiB of added tokens, normalised");
      return;
    }
  }
}

Result<BytePairParts> ReadTokenizerJson(const std::string& text) {
  ModelLists lists;
  RANKFORGE_ASSIGN_OR_RETURN(const Json root, ParseObject(text, lists));
  FieldError error;
  JsonFields fields(root, "", &error);
  const auto value = [&](const char* key) -> const Json& {
    static const Json kNull;
    const Json* const found = fields.Find(key);
    return found == nullptr ? kNull : *found;
  };
  BytePairParts parts;
  ReadSteps<Normalizers>(fields, "normalizer", value("normalizer"),
                         kNormalizers, "normalizers", parts.normalizer);
  ReadSteps<PreTokenizers>(fields, "pre_tokenizer", value("pre_tokenizer"),
                           kPreTokenizers, "pretokenizers",
                           parts.pre_tokenizer);
  Surroundings around;
  ReadSteps<Surroundings>(fields, "post_processor", value("post_processor"),
                          kPostProcessors, "processors", around);
  parts.prefix = std::move(around.prefix);
  parts.suffix = std::move(around.suffix);
  if (fields.Has("decoder")) {
    ReadSteps<Decoders>(fields, "decoder", value("decoder"), kDecoders,
                        "decoders", parts.decoder.emplace());
  }
  JsonFields model = fields.Object("model");
  if (fields.ok()) parts.model = ReadModel(model, lists);
  if (fields.ok()) parts.added = ReadAddedList(fields);
  if (fields.ok()) CheckNormalized(fields, parts);
  if (fields.ok()) CheckIds(fields, parts);
  if (fields.ok()) AddNotes(fields, parts);
  RANKFORGE_RETURN_IF_ERROR(StatusOf(error));
  return parts;
}

Result<std::vector<AddedToken>> ReadAddedTokens(const std::string& text) {
  RANKFORGE_ASSIGN_OR_RETURN(const Json root, ParseObject(text));
  FieldError error;
  std::vector<AddedToken> tokens = ReadAddedList({root, "", &error});
  RANKFORGE_RETURN_IF_ERROR(StatusOf(error));
  return tokens;
}

Result<TokenizerConfig> ReadTokenizerConfig(const std::string& text) {
  RANKFORGE_ASSIGN_OR_RETURN(const Json root, ParseObject(text));
  FieldError error;
  JsonFields fields(root, "", &error);
  TokenizerConfig config;
  if (fields.Has("add_bos_token")) {
    config.adds_bos = fields.Flag("add_bos_token");
  }
  if (fields.Has("add_eos_token")) {
    config.adds_eos = fields.Flag("add_eos_token");
  }
  config.bos = TokenText(fields, "bos_token");
  config.eos = TokenText(fields, "eos_token");
  config.special = NamedTokens(fields);
  config.added = ReadAddedDecoder(fields);
  RANKFORGE_RETURN_IF_ERROR(StatusOf(error));
  return config;
}

Result<std::vector<AddedToken>> ReadAddedTokensFile(const std::string& text) {
  RANKFORGE_ASSIGN_OR_RETURN(const Json root, ParseObject(text));
  FieldError error;
  JsonFields fields(root, "", &error);
  std::vector<AddedToken> tokens;
  for (const auto& [content, value] : root.items()) {
    AddedToken token;
    token.content = content;
    token.id = static_cast<int>(fields.Count(content, 0, kMaxId));
    tokens.push_back(std::move(token));
  }
  RANKFORGE_RETURN_IF_ERROR(StatusOf(error));
  return tokens;
}

}  // namespace rankforge
