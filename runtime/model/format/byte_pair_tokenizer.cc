#include "runtime/model/format/byte_pair_tokenizer.h"

#include <fmt/format.h>
#include <utf8proc.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <queue>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "base/files.h"
#include "base/json_fields.h"

namespace rankforge {

namespace {

using nlohmann::json;

// The pattern of GPT-2, which a ByteLevel pre-tokenizer implies.
constexpr char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)"
    R"(|\s+(?!\S)|\s+)";
constexpr char kReplacement[] = "\xef\xbf\xbd";
constexpr int kMaxId = 1 << 24;

// Removes the first character of `text` and returns it. If `text` does not
// begin with valid UTF-8, returns a negative number and leaves `text` as it is.
int32_t TakeCharacter(std::string_view& text) {
  int32_t character = -1;
  const auto used =
      utf8proc_iterate(reinterpret_cast<const uint8_t*>(text.data()),
                       static_cast<utf8proc_ssize_t>(text.size()), &character);
  if (used <= 0) return -1;
  text.remove_prefix(static_cast<size_t>(used));
  return character;
}

// The characters that stand for bytes in the vocabulary. Printable characters
// of Latin-1 stand for their own bytes, characters from U+0100 on for the
// others.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    bytes_.fill(-1);
    int next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) ||
                             (byte >= 161 && byte <= 172) || byte >= 174;
      bytes_[static_cast<size_t>(printable ? byte : next++)] = byte;
    }
  }

  // The bytes that `token` stands for. None if one of its characters stands for
  // no byte.
  std::optional<std::string> Bytes(std::string_view token) const {
    std::string bytes;
    while (!token.empty()) {
      const int32_t character = TakeCharacter(token);
      if (character < 0 || static_cast<size_t>(character) >= bytes_.size() ||
          bytes_[static_cast<size_t>(character)] < 0) {
        return std::nullopt;
      }
      bytes += static_cast<char>(bytes_[static_cast<size_t>(character)]);
    }
    return bytes;
  }

 private:
  std::array<int, 256 + 68> bytes_;  // by character
};

// A regular expression that cuts text into its matches and the pieces between
// them.
class Splitter {
 public:
  static Result<Splitter> Compile(const std::string& pattern) {
    int error = 0;
    size_t offset = 0;
    pcre2_code* const code = pcre2_compile(
        reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
        PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF, &error, &offset,
        nullptr);
    if (code == nullptr) {
      std::array<unsigned char, 120> message{};
      pcre2_get_error_message(error, message.data(), message.size());
      return Failed(fmt::format("{} at character {}",
                                reinterpret_cast<char*>(message.data()),
                                offset));
    }
    // Makes matching four times as fast. Where it is unavailable, matching
    // works without it.
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    Splitter splitter;
    splitter.code_.reset(code);
    return splitter;
  }

  template <class Function>
  void ForEachPiece(std::string_view text, Function function) const {
    const std::unique_ptr<pcre2_match_data, FreeMatch> match(
        pcre2_match_data_create_from_pattern(code_.get(), nullptr));
    if (match == nullptr) throw std::bad_alloc();
    const size_t* const found = pcre2_get_ovector_pointer(match.get());
    size_t begin = 0;  // of the text that is in no piece yet
    size_t from = 0;
    while (from < text.size() &&
           pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                       text.size(), from, 0, match.get(), nullptr) > 0) {
      if (found[1] == found[0]) {  // an empty match cuts nothing
        from = found[1] + 1;
        continue;
      }
      if (begin < found[0]) function(text.substr(begin, found[0] - begin));
      function(text.substr(found[0], found[1] - found[0]));
      begin = from = found[1];
    }
    // The rest, in which nothing matches or the matcher has given up.
    if (begin < text.size()) function(text.substr(begin));
  }

 private:
  struct FreeCode {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  };
  struct FreeMatch {
    void operator()(pcre2_match_data* match) const {
      pcre2_match_data_free(match);
    }
  };
  std::unique_ptr<pcre2_code, FreeCode> code_;
};

// Canonical composition. Text that is not UTF-8 is returned unchanged.
std::string Composed(std::string_view text) {
  uint8_t* composed = nullptr;
  const auto size = utf8proc_map(
      reinterpret_cast<const uint8_t*>(text.data()),
      static_cast<utf8proc_ssize_t>(text.size()), &composed,
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<uint8_t, void (*)(void*)> owner(composed, std::free);
  if (size < 0) return std::string(text);
  return {reinterpret_cast<char*>(composed), static_cast<size_t>(size)};
}

std::string WithoutInvalid(std::string_view bytes) {
  std::string text;
  while (!bytes.empty()) {
    const std::string_view rest = bytes;
    if (TakeCharacter(bytes) < 0) {
      text += kReplacement;
      bytes.remove_prefix(1);
    } else {
      text += rest.substr(0, rest.size() - bytes.size());
    }
  }
  return text;
}

struct Merge {
  int rank = 0;
  int id = 0;  // of the merged token
};

uint64_t PairKey(int left, int right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 |
         static_cast<uint32_t>(right);
}

struct AddedToken {
  std::string content;
  int id = 0;
};

}  // namespace

struct BytePairTokenizer::Impl {
  std::unordered_map<std::string, int> ids;    // of byte strings
  std::unordered_map<int, std::string> bytes;  // special tokens: none
  std::array<int, 256> byte_ids;               // tokens of one byte
  std::unordered_map<uint64_t, Merge> merges;  // by PairKey
  std::array<std::vector<AddedToken>, 256>
      added;  // by first byte, longest first
  std::vector<Splitter> splitters;
  bool composes = false;        // NFC
  bool ignores_merges = false;  // for pieces that are tokens
  int largest_id = -1;

  // These read the file. They throw json::exception if a field is missing or of
  // another type.
  Status ReadNormalizer(const json& normalizer);
  Status ReadPreTokenizer(const json& pre_tokenizer, bool& is_byte_level);
  Status ReadVocabulary(const json& vocabulary);
  Status ReadMerges(const json& list);
  Status ReadAdded(const json& list);
  Status Read(const json& root);
  Status AddSplitter(const std::string& pattern);
  Result<int> CheckedId(const json& id);

  const AddedToken* AddedAt(std::string_view text) const;
  void EncodeText(std::string_view text, std::vector<int>& out) const;
  void Split(std::string_view text, size_t stage, std::vector<int>& out) const;
  void EncodePiece(std::string_view piece, std::vector<int>& out) const;
};

namespace {

Status Unsupported(const std::string& field, const json& value) {
  return Failed(
      fmt::format("field '{}' is {}; only byte-level BPE is "
                  "supported, use a checkpoint with such a tokenizer "
                  "or with a tokenizer.model",
                  field, Shown(value)));
}

}  // namespace

Status BytePairTokenizer::Impl::AddSplitter(const std::string& pattern) {
  Result<Splitter> splitter = Splitter::Compile(pattern);
  if (!splitter.ok()) {
    return Failed(
        fmt::format("field 'pre_tokenizer' has a pattern that cannot be used "
                    "({}); download it again",
                    splitter.status().message()));
  }
  splitters.push_back(std::move(splitter).value());
  return {};
}

Status BytePairTokenizer::Impl::ReadNormalizer(const json& normalizer) {
  if (normalizer.is_null()) return {};
  const json& type = normalizer.at("type");
  if (type == "Sequence") {
    for (const json& part : normalizer.at("normalizers")) {
      RANKFORGE_RETURN_IF_ERROR(ReadNormalizer(part));
    }
    return {};
  }
  if (type != "NFC") return Unsupported("normalizer", type);
  composes = true;
  return {};
}

Status BytePairTokenizer::Impl::ReadPreTokenizer(const json& pre_tokenizer,
                                                 bool& is_byte_level) {
  if (pre_tokenizer.is_null()) return {};
  const json& type = pre_tokenizer.at("type");
  if (type == "Sequence") {
    for (const json& part : pre_tokenizer.at("pretokenizers")) {
      RANKFORGE_RETURN_IF_ERROR(ReadPreTokenizer(part, is_byte_level));
    }
    return {};
  }
  if (type == "Split") {
    if (pre_tokenizer.at("behavior") != "Isolated") {
      return Unsupported("behavior", pre_tokenizer.at("behavior"));
    }
    return AddSplitter(
        pre_tokenizer.at("pattern").at("Regex").get<std::string>());
  }
  if (type != "ByteLevel") return Unsupported("pre_tokenizer", type);
  is_byte_level = true;
  if (pre_tokenizer.at("add_prefix_space").get<bool>()) {
    return Unsupported("add_prefix_space", true);
  }
  return pre_tokenizer.value("use_regex", true) ? AddSplitter(kGpt2Pattern)
                                                : Status();
}

Result<int> BytePairTokenizer::Impl::CheckedId(const json& id) {
  if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMaxId) {
    return Failed(
        fmt::format("a token has the id {}; ids are whole numbers "
                    "below {}, download it again",
                    Shown(id), kMaxId));
  }
  largest_id = std::max(largest_id, id.get<int>());
  return id.get<int>();
}

Status BytePairTokenizer::Impl::ReadVocabulary(const json& vocabulary) {
  const ByteAlphabet alphabet;
  for (const auto& [token, value] : vocabulary.items()) {
    RANKFORGE_ASSIGN_OR_RETURN(const int id, CheckedId(value));
    const std::optional<std::string> text = alphabet.Bytes(token);
    if (text) ids.emplace(*text, id);
    bytes.emplace(id, text.value_or(token));
  }
  for (size_t byte = 0; byte < byte_ids.size(); ++byte) {
    const auto found = ids.find(std::string(1, static_cast<char>(byte)));
    if (found == ids.end()) {
      return Failed(
          fmt::format("field 'vocab' has no token for the byte {}; only "
                      "byte-level BPE is supported, use another tokenizer",
                      byte));
    }
    byte_ids[byte] = found->second;
  }
  return {};
}

Status BytePairTokenizer::Impl::ReadMerges(const json& list) {
  const ByteAlphabet alphabet;
  for (const json& entry : list) {
    // ["a", "b"], or "a b" in older files.
    std::string left, right;
    if (entry.is_string()) {
      const auto text = entry.get<std::string>();
      const size_t space = text.find(' ');
      left = text.substr(0, space);
      right = space == std::string::npos ? "" : text.substr(space + 1);
    } else {
      left = entry.at(0).get<std::string>();
      right = entry.at(1).get<std::string>();
    }
    const auto id_of = [&](const std::string& token) {
      const auto text = alphabet.Bytes(token);
      const auto found = text ? ids.find(*text) : ids.end();
      return found == ids.end() ? -1 : found->second;
    };
    const int first = id_of(left), second = id_of(right);
    const int merged = id_of(left + right);
    if (first < 0 || second < 0 || merged < 0) {
      return Failed(
          fmt::format("field 'merges' has {}, which 'vocab' lacks; "
                      "download it again",
                      Shown(entry)));
    }
    const auto rank = static_cast<int>(merges.size());
    merges.emplace(PairKey(first, second), Merge{rank, merged});
  }
  return {};
}

Status BytePairTokenizer::Impl::ReadAdded(const json& list) {
  for (const json& entry : list) {
    const auto content = entry.at("content").get<std::string>();
    RANKFORGE_ASSIGN_OR_RETURN(const int id, CheckedId(entry.at("id")));
    for (const char* flag : {"single_word", "lstrip", "rstrip"}) {
      if (entry.value(flag, false)) return Unsupported(flag, true);
    }
    bytes[id] = entry.value("special", false) ? "" : content;
    if (content.empty()) continue;
    added[static_cast<uint8_t>(content.front())].push_back({content, id});
  }
  for (std::vector<AddedToken>& tokens : added) {
    std::stable_sort(tokens.begin(), tokens.end(),
                     [](const AddedToken& a, const AddedToken& b) {
                       return a.content.size() > b.content.size();
                     });
  }
  return {};
}

Status BytePairTokenizer::Impl::Read(const json& root) {
  const json& model = root.at("model");
  if (model.value("type", "BPE") != "BPE") {
    return Unsupported("model.type", model.at("type"));
  }
  RANKFORGE_RETURN_IF_ERROR(ReadNormalizer(root.value("normalizer", json())));
  bool is_byte_level = false;
  const json pre_tokenizer = root.value("pre_tokenizer", json());
  RANKFORGE_RETURN_IF_ERROR(ReadPreTokenizer(pre_tokenizer, is_byte_level));
  if (!is_byte_level) return Unsupported("pre_tokenizer", pre_tokenizer);
  ignores_merges = model.value("ignore_merges", false);
  RANKFORGE_RETURN_IF_ERROR(ReadVocabulary(model.at("vocab")));
  RANKFORGE_RETURN_IF_ERROR(ReadMerges(model.at("merges")));
  return ReadAdded(root.value("added_tokens", json::array()));
}

const AddedToken* BytePairTokenizer::Impl::AddedAt(
    std::string_view text) const {
  for (const AddedToken& token : added[static_cast<uint8_t>(text.front())]) {
    if (text.starts_with(token.content)) return &token;
  }
  return nullptr;
}

// Encodes text in which there are no added tokens.
void BytePairTokenizer::Impl::EncodeText(std::string_view text,
                                         std::vector<int>& out) const {
  if (composes) {
    Split(Composed(text), 0, out);
  } else {
    Split(text, 0, out);
  }
}

void BytePairTokenizer::Impl::Split(std::string_view text, size_t stage,
                                    std::vector<int>& out) const {
  if (stage == splitters.size()) return EncodePiece(text, out);
  splitters[stage].ForEachPiece(
      text, [&](std::string_view piece) { Split(piece, stage + 1, out); });
}

// Merges the pair of neighbours with the lowest rank (of equals, the first)
// until no pair can be merged. Candidates are in a queue, because a piece may
// be as long as the text.
void BytePairTokenizer::Impl::EncodePiece(std::string_view piece,
                                          std::vector<int>& out) const {
  if (ignores_merges) {
    const auto whole = ids.find(std::string(piece));
    if (whole != ids.end()) {
      out.push_back(whole->second);
      return;
    }
  }
  constexpr size_t kNone = SIZE_MAX;
  struct Symbol {
    int id;
    size_t previous, next;
  };
  std::vector<Symbol> symbols(piece.size());
  for (size_t i = 0; i < piece.size(); ++i) {
    symbols[i] = {byte_ids[static_cast<uint8_t>(piece[i])],
                  i == 0 ? kNone : i - 1,
                  i + 1 == piece.size() ? kNone : i + 1};
  }
  // The rank, the place of the left symbol, and both ids, because another merge
  // may change one of them before this one's turn. A symbol that was merged
  // into its left neighbour has the id -1.
  using Candidate = std::tuple<int, size_t, int, int>;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](size_t left) {
    if (left == kNone || symbols[left].next == kNone) return;
    const int a = symbols[left].id, b = symbols[symbols[left].next].id;
    const auto merge = merges.find(PairKey(a, b));
    if (merge != merges.end()) queue.push({merge->second.rank, left, a, b});
  };
  for (size_t i = 0; i < symbols.size(); ++i) consider(i);
  while (!queue.empty()) {
    const auto [rank, left, a, b] = queue.top();
    queue.pop();
    Symbol& symbol = symbols[left];
    if (symbol.id != a || symbol.next == kNone || symbols[symbol.next].id != b)
      continue;
    symbol.id = merges.at(PairKey(a, b)).id;
    Symbol& gone = symbols[symbol.next];
    gone.id = -1;
    symbol.next = gone.next;
    if (symbol.next != kNone) symbols[symbol.next].previous = left;
    consider(symbol.previous);
    consider(left);
  }
  for (const Symbol& symbol : symbols) {
    if (symbol.id >= 0) out.push_back(symbol.id);
  }
}

BytePairTokenizer::BytePairTokenizer(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)) {}
BytePairTokenizer::~BytePairTokenizer() = default;
BytePairTokenizer::BytePairTokenizer(BytePairTokenizer&&) noexcept = default;
BytePairTokenizer& BytePairTokenizer::operator=(BytePairTokenizer&&) noexcept =
    default;

Result<BytePairTokenizer> BytePairTokenizer::Load(const std::string& path) {
  constexpr size_t kMaxBytes = size_t{256} << 20;
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text,
                             ReadTextFile(path, kMaxBytes));
  return Parse(text, path);
}

Result<BytePairTokenizer> BytePairTokenizer::Parse(const std::string& text,
                                                   const std::string& name) {
  auto impl = std::make_unique<Impl>();
  Status status;
  try {
    status = impl->Read(json::parse(text));
  } catch (const json::exception& error) {
    status = Failed(fmt::format("not a tokenizer ({:.160}); download it again",
                                std::string_view(error.what())));
  }
  if (!status.ok()) {
    return Failed(fmt::format("{}: {}", name, status.message()));
  }
  return BytePairTokenizer(std::move(impl));
}

std::vector<int> BytePairTokenizer::Encode(std::string_view text) const {
  std::vector<int> ids;
  size_t begin = 0;  // of the text that is not encoded yet
  for (size_t i = 0; i < text.size();) {
    const AddedToken* const token = impl_->AddedAt(text.substr(i));
    if (token == nullptr) {
      ++i;
      continue;
    }
    impl_->EncodeText(text.substr(begin, i - begin), ids);
    ids.push_back(token->id);
    begin = i += token->content.size();
  }
  impl_->EncodeText(text.substr(begin), ids);
  return ids;
}

std::string BytePairTokenizer::Decode(std::span<const int> ids) const {
  std::string bytes;
  for (const int id : ids) {
    const auto found = impl_->bytes.find(id);
    if (found != impl_->bytes.end()) bytes += found->second;
  }
  return WithoutInvalid(bytes);
}

size_t BytePairTokenizer::vocab() const {
  return static_cast<size_t>(impl_->largest_id + 1);
}

}  // namespace rankforge
