#include "runtime/model/format/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>
#include <utility>
#include <variant>

#include "base/files.h"
#include "runtime/model/format/gguf.h"
#include "runtime/model/format/gguf_tokenizer.h"
#include "runtime/model/text/byte_pair_tokenizer.h"
#include "runtime/model/text/sentence_piece_tokenizer.h"
#include "runtime/model/text/tokenizer_json.h"
#include "runtime/model/text/unicode.h"

namespace rankforge {

namespace {

constexpr char kPieceFile[] = "/tokenizer.model";
constexpr char kJsonFile[] = "/tokenizer.json";
constexpr char kConfigFile[] = "/tokenizer_config.json";
constexpr char kAddedFile[] = "/added_tokens.json";
constexpr size_t kMaxTokenizerBytes = size_t{256} << 20;
constexpr size_t kMaxConfigBytes = size_t{16} << 20;
constexpr const char* kNextStep = "download it again, or give token ids";

// `read` applied to the text of a file, with the file's name before the
// message of an error.
template <class Read>
auto ReadNamed(const std::string& path, size_t limit, const Read& read)
    -> decltype(read(std::string())) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, limit));
  auto result = read(text);
  if (result.ok()) return result;
  return Failed(
      fmt::format("{}: {}; {}", path, result.status().message(), kNextStep));
}

// The settings beside a tokenizer; none if there is no file.
Result<TokenizerConfig> LoadTokenizerConfig(const std::string& directory) {
  const std::string path = directory + kConfigFile;
  if (!FileExists(path)) return TokenizerConfig();
  return ReadNamed(path, kMaxConfigBytes, ReadTokenizerConfig);
}

// Adds the tokens that only tokenizer_config.json has.
void AddFromConfig(const std::string& directory, const TokenizerConfig& config,
                   BytePairParts& parts) {
  std::unordered_set<std::string> contents;
  std::unordered_set<int> ids;
  int next = static_cast<int>(parts.model.size());
  const auto count = [&](const AddedToken& token) {
    next = std::max(next, token.id + 1);
    contents.insert(token.content);
    ids.insert(token.id);
  };
  for (const AddedToken& token : parts.added) count(token);
  for (const AddedToken& token : config.added) {
    if (token.content.empty() || contents.contains(token.content) ||
        ids.contains(token.id)) {
      continue;
    }
    const int in_model = parts.model.IdOf(token.content);
    if (token.id == (in_model >= 0 ? in_model : next)) {
      parts.added.push_back(token);
      count(token);
    } else {
      parts.notes.push_back(fmt::format(
          "{}{}: field 'added_tokens_decoder' gives '{:.64}' the id {}, which "
          "tokenizer.json does not leave for it; the token is not used",
          directory, kConfigFile, token.content, token.id));
      break;  // so are those after it
    }
  }
}

// The special tokens that the settings name, where `id_of` finds them.
template <class IdOf>
void AddNamed(const TokenizerConfig& config, const IdOf& id_of,
              std::vector<AddedToken>& added) {
  std::unordered_set<std::string> known;
  for (const AddedToken& token : added) known.insert(token.content);
  for (const std::string& name : config.special) {
    const int id = id_of(name);
    if (id < 0 || !known.insert(name).second) continue;
    AddedToken token;
    token.content = name;
    token.id = id;
    token.special = true;
    added.push_back(std::move(token));
  }
}

// The tokens that files add to a tokenizer.model, the most exact file first.
Result<std::vector<AddedToken>> AddedBeside(const std::string& directory,
                                            const TokenizerConfig& config) {
  std::vector<AddedToken> added = config.added;
  const auto add = [&](const char* file, size_t limit,
                       const auto& read) -> Status {
    if (!FileExists(directory + file)) return {};
    RANKFORGE_ASSIGN_OR_RETURN(const std::vector<AddedToken> tokens,
                               ReadNamed(directory + file, limit, read));
    added.insert(added.end(), tokens.begin(), tokens.end());
    return {};
  };
  // A damaged tokenizer.json adds nothing: LoadJson has said so.
  if (!add(kJsonFile, kMaxTokenizerBytes, ReadAddedTokens).ok()) {
    added = config.added;
  }
  RANKFORGE_RETURN_IF_ERROR(
      add(kAddedFile, kMaxConfigBytes, ReadAddedTokensFile));
  // added_tokens.json does not say which tokens are special.
  const std::unordered_set<std::string> special(config.special.begin(),
                                                config.special.end());
  for (AddedToken& token : added) {
    token.special = token.special || special.contains(token.content);
  }
  return added;
}

}  // namespace

struct Tokenizer::Impl {
  std::variant<SentencePieceTokenizer, BytePairTokenizer> kind;
  std::vector<int> prefix = {}, suffix = {};
  std::vector<std::string> notes = {};
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

bool Tokenizer::IsIn(const std::string& model) {
  if (const std::optional<std::string> path = GgufPathOf(model)) {
    const Result<GgufFile> file = GgufFile::Open(*path);
    return !file.ok() || HasTokenizer(*file);  // Load says what is wrong
  }
  return FileExists(model + kPieceFile) || FileExists(model + kJsonFile);
}

namespace {

// Moves what concerns a whole text out of `parts`.
template <class Impl>
std::unique_ptr<Impl> ImplOf(BytePairParts parts, const std::string& name) {
  std::vector<int> prefix = parts.prefix, suffix = parts.suffix;
  std::vector<std::string> notes;
  for (const std::string& note : parts.notes) {
    // Those about another file name it themselves.
    notes.push_back(note.starts_with("field") || note.starts_with("model")
                        ? fmt::format("{}: {}", name, note)
                        : note);
  }
  return std::make_unique<Impl>(Impl{BytePairTokenizer(std::move(parts)),
                                     std::move(prefix), std::move(suffix),
                                     std::move(notes)});
}

}  // namespace

Result<Tokenizer> Tokenizer::FromJson(const std::string& text,
                                      const std::string& name) {
  Result<BytePairParts> parts = ReadTokenizerJson(text);
  if (!parts.ok()) {
    return Failed(
        fmt::format("{}: {}; {}", name, parts.status().message(), kNextStep));
  }
  return Tokenizer(ImplOf<Impl>(std::move(parts).value(), name));
}

Result<Tokenizer> Tokenizer::LoadJson(const std::string& directory) {
  const std::string path = directory + kJsonFile;
  RANKFORGE_ASSIGN_OR_RETURN(
      BytePairParts parts,
      ReadNamed(path, kMaxTokenizerBytes, ReadTokenizerJson));
  const Result<TokenizerConfig> config = LoadTokenizerConfig(directory);
  if (config.ok()) {
    AddFromConfig(directory, *config, parts);
    AddNamed(
        *config,
        [&](const std::string& name) { return parts.model.IdOf(name); },
        parts.added);
  } else {
    parts.notes.push_back(config.status().message() +
                          "; tokenizer.json is used without it");
  }
  return Tokenizer(ImplOf<Impl>(std::move(parts), path));
}

Result<Tokenizer> Tokenizer::LoadPieces(const std::string& directory) {
  RANKFORGE_ASSIGN_OR_RETURN(const TokenizerConfig config,
                             LoadTokenizerConfig(directory));
  RANKFORGE_ASSIGN_OR_RETURN(std::vector<AddedToken> added,
                             AddedBeside(directory, config));
  RANKFORGE_ASSIGN_OR_RETURN(
      SentencePieceTokenizer pieces,
      ReadNamed(directory + kPieceFile, kMaxTokenizerBytes,
                [&](const std::string& model) {
                  return SentencePieceTokenizer::Parse(model, std::move(added));
                }));
  std::vector<int> prefix, suffix;
  const auto add = [&](bool adds, const std::string& name, int id,
                       std::vector<int>& ids) {
    if (!name.empty()) id = pieces.IdOf(name);
    if (adds && id >= 0) ids.push_back(id);
  };
  add(config.adds_bos.value_or(false), config.bos, pieces.bos_id(), prefix);
  add(config.adds_eos.value_or(false), config.eos, pieces.eos_id(), suffix);
  return Tokenizer(std::make_unique<Impl>(
      Impl{std::move(pieces), std::move(prefix), std::move(suffix)}));
}

Result<Tokenizer> Tokenizer::Load(const std::string& model) {
  if (const std::optional<std::string> path = GgufPathOf(model)) {
    RANKFORGE_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(*path));
    std::vector<std::string> notes;
    RANKFORGE_ASSIGN_OR_RETURN(const std::string text,
                               GgufTokenizerJson(file, notes));
    RANKFORGE_ASSIGN_OR_RETURN(Tokenizer tokenizer, FromJson(text, *path));
    std::vector<std::string>& all = tokenizer.impl_->notes;
    all.insert(all.end(), notes.begin(), notes.end());
    return tokenizer;
  }
  return LoadFolder(model);
}

Result<Tokenizer> Tokenizer::LoadFolder(const std::string& directory) {
  const bool has_json = FileExists(directory + kJsonFile);
  const bool has_pieces = FileExists(directory + kPieceFile);
  if (!has_json && !has_pieces) {
    return Failed(fmt::format(
        "{}: neither tokenizer.model nor tokenizer.json is there; give the "
        "folder of a complete checkpoint",
        directory));
  }
  if (!has_json) return LoadPieces(directory);
  Result<Tokenizer> tokenizer = LoadJson(directory);
  if (tokenizer.ok() || !has_pieces) return tokenizer;
  Result<Tokenizer> pieces = LoadPieces(directory);
  if (!pieces.ok()) return tokenizer;
  pieces->impl_->notes.push_back(fmt::format(
      "{}; tokenizer.model beside it is used", tokenizer.status().message()));
  return pieces;
}

std::vector<int> Tokenizer::Encode(std::string_view text) const {
  return std::visit([&](const auto& kind) { return kind.Encode(text); },
                    impl_->kind);
}

std::vector<int> Tokenizer::EncodeFromStart(std::string_view text) const {
  std::vector<int> ids = Encode(text);
  const std::vector<int>& before = prefix();
  if (ids.size() < before.size() ||
      !std::equal(before.begin(), before.end(), ids.begin())) {
    ids.insert(ids.begin(), before.begin(), before.end());
  }
  return ids;
}

std::string Tokenizer::Decode(std::span<const int> ids) const {
  return std::visit([&](const auto& kind) { return kind.Decode(ids); },
                    impl_->kind);
}

size_t Tokenizer::vocab() const {
  return std::visit([](const auto& kind) { return kind.vocab(); }, impl_->kind);
}

const std::vector<int>& Tokenizer::prefix() const { return impl_->prefix; }
const std::vector<int>& Tokenizer::suffix() const { return impl_->suffix; }
const std::vector<std::string>& Tokenizer::notes() const {
  return impl_->notes;
}

std::string DecodingStream::Add(int id) {
  // A character has at most four bytes: what waits for longer stays U+FFFD,
  // but for the last three bytes. Before that, all of it may become text: a
  // ByteFallback decoder makes U+FFFD of every byte beside an incomplete one.
  constexpr size_t kMostHeld = 3;
  ids_.push_back(id);
  const std::string text = tokenizer_.Decode(ids_);
  std::string_view complete = text;
  const bool is_held = complete.ends_with(kReplacementCharacter);
  held_ids_ = is_held ? held_ids_ + 1 : 0;
  for (size_t i = 0; held_ids_ <= kMostHeld || i < kMostHeld; ++i) {
    if (!complete.ends_with(kReplacementCharacter)) break;
    complete.remove_suffix(kReplacementCharacter.size());
  }
  std::string added = Rest(complete);
  Forget(text.size() - complete.size());
  return added;
}

// What of `text` was not returned yet. Bytes that were a character may have
// become invalid, so that the text differs from what was returned: then the
// rest begins with the next character.
std::string DecodingStream::Rest(std::string_view text) {
  size_t begin = given_;
  while (begin < text.size() &&
         (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) {
    ++begin;
  }
  if (begin >= text.size()) return "";
  given_ = text.size();
  return std::string(text.substr(begin));
}

// Shortens the window, so that decoding a long text stays linear: between two
// characters if possible.
void DecodingStream::Forget(size_t held) {
  constexpr size_t kWindow = 64;
  if (ids_.size() - complete_ < (held == 0 ? kWindow : 4 * kWindow)) return;
  ids_.erase(ids_.begin(), ids_.begin() + static_cast<ptrdiff_t>(complete_));
  complete_ = ids_.size();
  const size_t size = tokenizer_.Decode(ids_).size();
  given_ = size - std::min(size, held);
}

std::string DecodingStream::Finish() { return Rest(tokenizer_.Decode(ids_)); }

}  // namespace rankforge
