#include "runtime/model/format/gguf_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace rankforge {
namespace {

using nlohmann::json;

constexpr char kTokens[] = "tokenizer.ggml.tokens";
constexpr char kModelKey[] = "tokenizer.ggml.model";
constexpr char kPreKey[] = "tokenizer.ggml.pre";
constexpr std::string_view kUseAnother = "use another file";

// What a token is, by the numbers in tokenizer.ggml.token_type.
enum class TokenKind : uint8_t {
  kUndefined,
  kNormal,
  kUnknown,
  kControl,
  kUserDefined,
  kUnused,
  kByte
};

constexpr char kGpt2Words[] = "";  // the pattern that ByteLevel has itself
constexpr char kLlama3Words[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2Words[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// A word ends where a capital follows a small letter.
constexpr char kTekkenWords[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*)"
    R"([\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+)"
    R"([\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kGpt4oWords[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*)"
    R"([\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+)"
    R"([\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr char kSeedCoderWords[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}|)"
    R"( ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Chinese characters, kana; in the older one also syllables of Korean.
constexpr char kDeepSeek3Characters[] =
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";
constexpr char kDeepSeek3Words[] =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|)"
    R"([^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kDeepSeekCoderCharacters[] =
    "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+";

// How a byte-level tokenizer cuts text into pieces.
struct PreTokenizer {
  std::string_view name;                   // tokenizer.ggml.pre
  const char* words;                       // pattern
  std::array<const char*, 3> before = {};  // patterns that cut first
  // Digits are alone. No pattern beside this has a digit and another character
  // in one piece, so that it does not matter which is first.
  bool single_digits = false;
  bool composes = false;        // NFC
  bool ignores_merges = false;  // for pieces that are tokens
  bool adds_bos = false;        // unless the file says otherwise
};

// THE list of pre-tokenizers. A file without one has the first.
constexpr PreTokenizer kPreTokenizers[] = {
    {.name = "default", .words = kGpt2Words},
    {.name = "gpt-2", .words = kGpt2Words},
    {.name = "mpt", .words = kGpt2Words},
    {.name = "olmo", .words = kGpt2Words, .composes = true},
    {.name = "jais", .words = kGpt2Words},
    {.name = "phi-2", .words = kGpt2Words},
    {.name = "mellum", .words = kGpt2Words},
    {.name = "trillion", .words = kGpt2Words},
    {.name = "a.x-4.0", .words = kGpt2Words},
    {.name = "smollm", .words = kGpt2Words, .single_digits = true},
    {.name = "starcoder", .words = kGpt2Words, .single_digits = true},
    {.name = "refact", .words = kGpt2Words, .single_digits = true},
    {.name = "command-r",
     .words = kGpt2Words,
     .single_digits = true,
     .composes = true},
    {.name = "codeshell", .words = kGpt2Words, .single_digits = true},
    {.name = "exaone", .words = kGpt2Words, .single_digits = true},
    {.name = "minerva-7b", .words = kGpt2Words, .single_digits = true},
    {.name = "llama3",
     .words = kLlama3Words,
     .ignores_merges = true,
     .adds_bos = true},
    {.name = "llama-v3",
     .words = kLlama3Words,
     .ignores_merges = true,
     .adds_bos = true},
    {.name = "llama-bpe",
     .words = kLlama3Words,
     .ignores_merges = true,
     .adds_bos = true},
    {.name = "falcon3",
     .words = kLlama3Words,
     .ignores_merges = true,
     .adds_bos = true},
    {.name = "pixtral",
     .words = kLlama3Words,
     .ignores_merges = true,
     .adds_bos = true},
    {.name = "midm-2.0",
     .words = kLlama3Words,
     .ignores_merges = true,
     .adds_bos = true},
    {.name = "dbrx", .words = kLlama3Words},
    {.name = "smaug-bpe", .words = kLlama3Words},
    {.name = "chatglm-bpe", .words = kLlama3Words},
    {.name = "glm4", .words = kLlama3Words},
    {.name = "qwen2", .words = kQwen2Words, .composes = true},
    {.name = "stablelm2", .words = kQwen2Words, .composes = true},
    {.name = "deepseek-r1-qwen", .words = kQwen2Words},
    {.name = "megrez", .words = kQwen2Words},
    {.name = "seed-coder", .words = kSeedCoderWords},
    {.name = "deepseek-v3",
     .words = kDeepSeek3Words,
     .before = {R"(\p{N}{1,3})", kDeepSeek3Characters}},
    {.name = "deepseek-coder",
     .words = kDeepSeekCoderCharacters,
     .before = {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)"},
     .single_digits = true},
    {.name = "tekken",
     .words = kTekkenWords,
     .ignores_merges = true,
     .adds_bos = true},
    {.name = "gpt-4o", .words = kGpt4oWords},
};

json ByteLevel(bool has_words) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", has_words}};
}

json PreTokenizerJson(const PreTokenizer& pre) {
  json steps = json::array();
  if (pre.single_digits) {
    steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  }
  const auto split = [&](const char* pattern) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", pattern}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  };
  for (const char* pattern : pre.before) {
    if (pattern != nullptr) split(pattern);
  }
  const bool has_pattern = *pre.words != '\0';
  if (has_pattern) split(pre.words);
  steps.push_back(ByteLevel(!has_pattern));
  if (steps.size() == 1) return steps.front();
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

json ReplaceStep(const char* from, const char* to) {
  return {
      {"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

// U+2581, which stands for a space in SentencePiece.
constexpr char kMark[] = "\xe2\x96\x81";

std::string WithSpaces(std::string_view text) {
  constexpr size_t kMarkBytes = sizeof(kMark) - 1;
  std::string spaced;
  while (!text.empty()) {
    const bool mark = text.starts_with(kMark);
    spaced += mark ? ' ' : text.front();
    text.remove_prefix(mark ? kMarkBytes : 1);
  }
  return spaced;
}

bool BeginsCharacter(char byte) { return (byte & 0xc0) != 0x80; }

size_t Characters(std::string_view text) {
  return static_cast<size_t>(std::ranges::count_if(text, BeginsCharacter));
}

// A pair of pieces that become one.
struct PieceMerge {
  std::string_view left, right;
  double score;
  // Before others of the same score: longer parts.
  auto Order() const {
    return std::tuple(score, Characters(left), Characters(right));
  }
};

class TokenizerBuilder {
 public:
  TokenizerBuilder(const GgufFile& file, std::vector<std::string>& notes)
      : file_(file), notes_(notes) {}

  Result<json> Build() {
    RANKFORGE_RETURN_IF_ERROR(ReadTokens());
    RANKFORGE_ASSIGN_OR_RETURN(const auto model, file_.Text(kModelKey));
    root_ = {{"version", "1.0"},
             {"truncation", nullptr},
             {"padding", nullptr},
             {"normalizer", nullptr}};
    if (model == "gpt2") {
      RANKFORGE_RETURN_IF_ERROR(BuildByteLevel());
    } else if (model == "llama") {
      RANKFORGE_RETURN_IF_ERROR(BuildPieces());
    } else {
      return Wrong(kModelKey,
                   model ? fmt::format("'{}'", Printable(*model)) : "missing",
                   "gpt2 and llama are read, give token ids or use another "
                   "file");
    }
    root_["added_tokens"] = AddedTokens();
    return std::move(root_);
  }

 private:
  Status Wrong(std::string_view field, const std::string& value,
               std::string_view why) const {
    return Failed(fmt::format("{}: field '{}' is {}; {}", file_.path(), field,
                              value, why));
  }

  // As many numbers as tokens, or none.
  Result<std::vector<double>> NumbersOfTokens(const char* key) const {
    RANKFORGE_ASSIGN_OR_RETURN(auto numbers, file_.Numbers(key));
    if (!numbers) return std::vector<double>();
    if (numbers->size() != texts_.size()) {
      return Wrong(
          key, fmt::format("a list of {}", numbers->size()),
          fmt::format("there are {} tokens, download it again", texts_.size()));
    }
    return std::move(*numbers);
  }

  Status ReadTokens() {
    constexpr size_t kMaxTokens = size_t{1} << 24;
    RANKFORGE_ASSIGN_OR_RETURN(auto tokens, file_.Texts(kTokens));
    if (!tokens || tokens->empty() || tokens->size() > kMaxTokens) {
      return Wrong(
          kTokens,
          tokens ? fmt::format("a list of {}", tokens->size()) : "missing",
          "use a file with a tokenizer");
    }
    texts_ = std::move(*tokens);
    RANKFORGE_ASSIGN_OR_RETURN(const std::vector<double> kinds,
                               NumbersOfTokens("tokenizer.ggml.token_type"));
    kinds_.assign(texts_.size(), TokenKind::kNormal);
    for (size_t i = 0; i < kinds.size(); ++i) {
      const bool known = kinds[i] >= 0 && kinds[i] <= 6;
      kinds_[i] =
          known ? static_cast<TokenKind>(kinds[i]) : TokenKind::kUndefined;
    }
    return {};
  }

  bool IsAdded(size_t id) const {
    return kinds_[id] == TokenKind::kControl ||
           kinds_[id] == TokenKind::kUserDefined ||
           kinds_[id] == TokenKind::kUnknown;
  }

  // The text of a token in tokenizer.json. Tokens that are recognised in text,
  // before spaces become marks, have spaces.
  std::string TextOf(size_t id) const {
    std::string text(texts_[id]);
    return kinds_[id] == TokenKind::kUserDefined && has_marks_
               ? WithSpaces(text)
               : text;
  }

  json AddedTokens() const {
    json added = json::array();
    for (size_t id = 0; id < texts_.size(); ++id) {
      if (!IsAdded(id) || texts_[id].empty()) continue;
      added.push_back({{"id", id},
                       {"content", TextOf(id)},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", kinds_[id] != TokenKind::kUserDefined}});
    }
    return added;
  }

  // Ids by text. Rows of the embedding without a token have a made-up name, and
  // are no tokens.
  Result<json> Vocabulary() const {
    json vocabulary = json::object();
    for (size_t id = 0; id < texts_.size(); ++id) {
      const std::string text = TextOf(id);
      const bool is_padding = kinds_[id] == TokenKind::kUnused &&
                              text == fmt::format("[PAD{}]", id);
      if (text.empty() || is_padding) continue;
      if (!vocabulary.emplace(text, id).second) {
        return Wrong(kTokens,
                     fmt::format("a list that has '{}' twice", Printable(text)),
                     "download it again");
      }
    }
    return vocabulary;
  }

  json Model(json vocabulary, json merges) const {
    return {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", std::move(vocabulary)},
            {"merges", std::move(merges)}};
  }

  Result<const PreTokenizer*> FindPreTokenizer() {
    RANKFORGE_ASSIGN_OR_RETURN(const auto name, file_.Text(kPreKey));
    if (!name || name == kPreTokenizers[0].name) {
      notes_.push_back(
          fmt::format("{}: field '{}' is {}; text is cut as GPT-2 cuts it",
                      file_.path(), kPreKey, name ? "'default'" : "missing"));
      return &kPreTokenizers[0];
    }
    std::string known;
    for (const PreTokenizer& pre : kPreTokenizers) {
      if (name == pre.name) return &pre;
      known += fmt::format("{}{}", known.empty() ? "" : ", ", pre.name);
    }
    return Wrong(
        kPreKey, fmt::format("'{}'", Printable(*name)),
        fmt::format("known are {}; give token ids or use another file", known));
  }

  Status BuildByteLevel() {
    RANKFORGE_ASSIGN_OR_RETURN(const PreTokenizer* pre, FindPreTokenizer());
    RANKFORGE_ASSIGN_OR_RETURN(const auto merges,
                               file_.Texts("tokenizer.ggml.merges"));
    if (!merges) {
      return Wrong("tokenizer.ggml.merges", "missing", kUseAnother);
    }
    json pairs = json::array();
    for (const std::string_view merge : *merges) {
      const size_t space = merge.find(' ', 1);
      if (space == std::string_view::npos) {
        return Wrong("tokenizer.ggml.merges",
                     fmt::format("a list with '{}'", Printable(merge)),
                     "download it again");
      }
      pairs.push_back({merge.substr(0, space), merge.substr(space + 1)});
    }
    RANKFORGE_ASSIGN_OR_RETURN(json vocabulary, Vocabulary());
    root_["model"] = Model(std::move(vocabulary), std::move(pairs));
    root_["model"]["ignore_merges"] = pre->ignores_merges;
    if (pre->composes) root_["normalizer"] = {{"type", "NFC"}};
    root_["pre_tokenizer"] = PreTokenizerJson(*pre);
    root_["decoder"] = ByteLevel(true);
    return AddTemplate(pre->adds_bos);
  }

  Status BuildPieces() {
    has_marks_ = true;
    RANKFORGE_ASSIGN_OR_RETURN(const auto prefix,
                               file_.Flag("tokenizer.ggml.add_space_prefix"));
    constexpr char kExtra[] = "tokenizer.ggml.remove_extra_whitespaces";
    RANKFORGE_ASSIGN_OR_RETURN(const auto extra, file_.Flag(kExtra));
    if (extra.value_or(false)) return Wrong(kExtra, "true", kUseAnother);
    RANKFORGE_ASSIGN_OR_RETURN(json merges, PieceMerges());
    RANKFORGE_ASSIGN_OR_RETURN(json vocabulary, Vocabulary());
    json model = Model(std::move(vocabulary), std::move(merges));
    model["fuse_unk"] = true;
    model["byte_fallback"] = true;
    const auto unknown = std::ranges::find(kinds_, TokenKind::kUnknown);
    if (unknown != kinds_.end()) {
      model["unk_token"] =
          texts_[static_cast<size_t>(unknown - kinds_.begin())];
    }
    root_["model"] = std::move(model);
    root_["pre_tokenizer"] = nullptr;
    json normalizers = json::array();
    json decoders = {ReplaceStep(kMark, " "),
                     {{"type", "ByteFallback"}},
                     {{"type", "Fuse"}}};
    if (prefix.value_or(true)) {
      normalizers.push_back({{"type", "Prepend"}, {"prepend", kMark}});
      decoders.push_back(
          {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    }
    normalizers.push_back(ReplaceStep(" ", kMark));
    root_["normalizer"] = {{"type", "Sequence"},
                           {"normalizers", std::move(normalizers)}};
    root_["decoder"] = {{"type", "Sequence"},
                        {"decoders", std::move(decoders)}};
    return AddTemplate(true);
  }

  // SentencePiece merges the neighbours whose union has the highest score. The
  // same order results from all pairs of pieces that are a piece, by its score.
  Result<json> PieceMerges() const {
    RANKFORGE_ASSIGN_OR_RETURN(const std::vector<double> scores,
                               NumbersOfTokens("tokenizer.ggml.scores"));
    if (scores.empty()) {
      return Wrong("tokenizer.ggml.scores", "missing", kUseAnother);
    }
    std::unordered_map<std::string_view, size_t> ids;
    for (size_t id = 0; id < texts_.size(); ++id) {
      if (kinds_[id] == TokenKind::kNormal) ids.emplace(texts_[id], id);
    }
    // Gemma's 256,000 pieces have 2.3 each. Made-up ones may have hundreds.
    const size_t most = 64 * texts_.size();
    std::vector<PieceMerge> merges;
    for (size_t id = 0; id < texts_.size(); ++id) {
      if (kinds_[id] != TokenKind::kNormal) continue;
      RANKFORGE_RETURN_IF_ERROR(AddSplits(ids, texts_[id], scores[id], merges));
      if (merges.size() > most) {
        return Wrong(kTokens,
                     fmt::format("a list with more than {} merges", most),
                     kUseAnother);
      }
    }
    std::ranges::stable_sort(merges, std::ranges::greater(),
                             &PieceMerge::Order);
    json pairs = json::array();
    for (const PieceMerge& merge : merges) {
      pairs.push_back({merge.left, merge.right});
    }
    return pairs;
  }

  // The ways to make `piece` of two others.
  Status AddSplits(const std::unordered_map<std::string_view, size_t>& ids,
                   std::string_view piece, double score,
                   std::vector<PieceMerge>& merges) const {
    // Far longer than any piece; bounds the time that a hostile file takes.
    constexpr size_t kMaxPiece = 512;
    if (piece.size() > kMaxPiece) {
      return Wrong(kTokens,
                   fmt::format("a list with a piece of {} bytes", piece.size()),
                   kUseAnother);
    }
    for (size_t at = 1; at < piece.size(); ++at) {
      if (!BeginsCharacter(piece[at])) continue;
      const std::string_view left = piece.substr(0, at);
      const std::string_view right = piece.substr(at);
      if (ids.contains(left) && ids.contains(right)) {
        merges.push_back({left, right, score});
      }
    }
    return {};
  }

  // The token `key` names, if the file asks for it at an end of each text.
  Result<std::optional<size_t>> TokenAtEnd(const char* flag, bool absent,
                                           const char* key) const {
    RANKFORGE_ASSIGN_OR_RETURN(const auto adds, file_.Flag(flag));
    if (!adds.value_or(absent)) return std::optional<size_t>();
    RANKFORGE_ASSIGN_OR_RETURN(const auto id, file_.Count(key));
    if (!id && !adds) return std::optional<size_t>();
    if (!id || *id >= texts_.size() || texts_[*id].empty()) {
      return Wrong(key, id ? fmt::to_string(*id) : "missing",
                   fmt::format("field '{}' needs it, {}", flag, kUseAnother));
    }
    return std::optional<size_t>(*id);
  }

  // What is added to a text: tokens before and after it.
  Status AddTemplate(bool adds_bos) {
    RANKFORGE_ASSIGN_OR_RETURN(
        const auto bos, TokenAtEnd("tokenizer.ggml.add_bos_token", adds_bos,
                                   "tokenizer.ggml.bos_token_id"));
    RANKFORGE_ASSIGN_OR_RETURN(const auto eos,
                               TokenAtEnd("tokenizer.ggml.add_eos_token", false,
                                          "tokenizer.ggml.eos_token_id"));
    json single = json::array(), pair = json::array();
    json special = json::object();
    const auto add = [&](const std::optional<size_t>& id, int text) {
      if (!id) return;
      const std::string name = TextOf(*id);
      const json token = {{"SpecialToken", {{"id", name}, {"type_id", text}}}};
      if (text == 0) single.push_back(token);
      pair.push_back(token);
      special[name] = {
          {"id", name}, {"ids", {*id}}, {"tokens", json::array({name})}};
    };
    for (int text = 0; text < 2; ++text) {
      add(bos, text);
      const json sequence = {
          {"Sequence", {{"id", text == 0 ? "A" : "B"}, {"type_id", text}}}};
      if (text == 0) single.push_back(sequence);
      pair.push_back(sequence);
      add(eos, text);
    }
    root_["post_processor"] = {{"type", "TemplateProcessing"},
                               {"single", std::move(single)},
                               {"pair", std::move(pair)},
                               {"special_tokens", std::move(special)}};
    return {};
  }

  const GgufFile& file_;
  std::vector<std::string>& notes_;
  std::vector<std::string_view> texts_;  // by id
  std::vector<TokenKind> kinds_;
  bool has_marks_ = false;  // for spaces, in texts_
  json root_;
};

}  // namespace

bool HasTokenizer(const GgufFile& file) {
  return file.metadata().contains(kTokens);
}

Result<std::string> GgufTokenizerJson(const GgufFile& file,
                                      std::vector<std::string>& notes) {
  RANKFORGE_ASSIGN_OR_RETURN(const json root,
                             TokenizerBuilder(file, notes).Build());
  try {
    return root.dump();
  } catch (const json::exception& error) {
    return Failed(
        fmt::format("{}: field '{}' has text that is not UTF-8 "
                    "({:.160}); download it again",
                    file.path(), kTokens, std::string_view(error.what())));
  }
}

}  // namespace rankforge
