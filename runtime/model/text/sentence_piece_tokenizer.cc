#include "runtime/model/text/sentence_piece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <utility>

#include "runtime/model/text/unicode.h"

namespace rankforge {

namespace {

constexpr std::string_view kSpaceMark = "\xe2\x96\x81";  // U+2581

}  // namespace

struct SentencePieceTokenizer::Library {
  sentencepiece::SentencePieceProcessor processor;
};

SentencePieceTokenizer::SentencePieceTokenizer(std::unique_ptr<Library> library)
    : library_(std::move(library)) {}
SentencePieceTokenizer::~SentencePieceTokenizer() = default;
SentencePieceTokenizer::SentencePieceTokenizer(
    SentencePieceTokenizer&&) noexcept = default;
SentencePieceTokenizer& SentencePieceTokenizer::operator=(
    SentencePieceTokenizer&&) noexcept = default;

Result<SentencePieceTokenizer> SentencePieceTokenizer::Parse(
    const std::string& model, std::vector<AddedToken> added) {
  auto library = std::make_unique<Library>();
  if (!library->processor.LoadFromSerializedProto(model).ok()) {
    return Failed("not a SentencePiece model");
  }
  const auto& processor = library->processor;
  for (int id = 0; id < processor.GetPieceSize(); ++id) {
    if (!processor.IsControl(id) && !processor.IsUnknown(id)) continue;
    AddedToken token;
    token.content = processor.IdToPiece(id);
    token.id = id;
    token.special = true;
    added.push_back(std::move(token));
  }
  SentencePieceTokenizer tokenizer(std::move(library));
  for (const AddedToken& token : added) {
    if (!tokenizer.added_.emplace(token.id, token).second) continue;
    tokenizer.finder_.Add(token, token.content);
  }
  tokenizer.adds_space_ = tokenizer.AddsSpace();
  return tokenizer;
}

// Whether the library puts a space before a text, which decoding removes.
bool SentencePieceTokenizer::AddsSpace() const {
  std::vector<std::string> pieces;
  library_->processor.Encode("a", &pieces).IgnoreError();
  return !pieces.empty() && pieces.front().starts_with(kSpaceMark);
}

std::vector<int> SentencePieceTokenizer::Encode(std::string_view text) const {
  return finder_.Encode(WithoutInvalid(text), [&](std::string_view between,
                                                  bool, std::vector<int>& ids) {
    const std::vector<int> pieces =
        library_->processor.EncodeAsIds({between.data(), between.size()});
    ids.insert(ids.end(), pieces.begin(), pieces.end());
  });
}

void SentencePieceTokenizer::DecodePieces(std::vector<int>& pieces, bool first,
                                          std::string& text) const {
  if (pieces.empty()) return;
  const auto& processor = library_->processor;
  // The library takes the space from every start, also from one after an added
  // token.
  if (!first && adds_space_ &&
      processor.IdToPiece(pieces.front()).starts_with(kSpaceMark)) {
    text += ' ';
  }
  text += processor.DecodeIds(pieces);
  pieces.clear();
}

std::string SentencePieceTokenizer::Decode(std::span<const int> ids) const {
  std::string text;
  std::vector<int> pieces;  // since the last added token
  bool first = true;
  for (const int id : ids) {
    const auto added = added_.find(id);
    if (added != added_.end()) {
      if (added->second.special) continue;
      DecodePieces(pieces, first, text);
      text += added->second.content;
      first = false;
    } else if (id >= 0 && id < library_->processor.GetPieceSize()) {
      // A vocabulary padded beyond the tokenizer's pieces can produce ids that
      // stand for no text.
      pieces.push_back(id);
    }
  }
  DecodePieces(pieces, first, text);
  return text;
}

size_t SentencePieceTokenizer::vocab() const {
  int size = library_->processor.GetPieceSize();
  for (const auto& [id, token] : added_) size = std::max(size, id + 1);
  return static_cast<size_t>(size);
}

int SentencePieceTokenizer::IdOf(const std::string& token) const {
  for (const auto& [id, added] : added_) {
    if (added.content == token) return id;
  }
  const int id = library_->processor.PieceToId(token);
  return library_->processor.IsUnknown(id) ? -1 : id;
}

int SentencePieceTokenizer::bos_id() const {
  return library_->processor.bos_id();
}
int SentencePieceTokenizer::eos_id() const {
  return library_->processor.eos_id();
}

}  // namespace rankforge
