#include "runtime/model/format/tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <optional>
#include <utility>
#include <variant>

#include "base/files.h"
#include "runtime/model/format/byte_pair_tokenizer.h"
#include "runtime/model/format/gguf.h"
#include "runtime/model/format/gguf_model.h"
#include "runtime/model/format/gguf_tokenizer.h"

namespace rankforge {

namespace {

constexpr char kSentencePieceFile[] = "/tokenizer.model";
constexpr char kBytePairFile[] = "/tokenizer.json";

class PieceTokenizer {
 public:
  static Result<PieceTokenizer> Load(const std::string& path) {
    constexpr size_t kMaxTokenizerBytes = size_t{256} << 20;
    RANKFORGE_ASSIGN_OR_RETURN(const std::string model,
                               ReadTextFile(path, kMaxTokenizerBytes));
    PieceTokenizer tokenizer;
    tokenizer.processor_ =
        std::make_unique<sentencepiece::SentencePieceProcessor>();
    if (!tokenizer.processor_->LoadFromSerializedProto(model).ok()) {
      return Failed(fmt::format(
          "{}: not a SentencePiece model; download it again", path));
    }
    return tokenizer;
  }

  std::vector<int> Encode(std::string_view text) const {
    return processor_->EncodeAsIds({text.data(), text.size()});
  }
  std::string Decode(std::span<const int> ids) const {
    // A vocabulary padded beyond the tokenizer's pieces can produce ids that
    // stand for no text.
    std::vector<int> known;
    for (const int id : ids) {
      if (id >= 0 && static_cast<size_t>(id) < vocab()) known.push_back(id);
    }
    return processor_->DecodeIds(known);
  }
  size_t vocab() const {
    return static_cast<size_t>(processor_->GetPieceSize());
  }

 private:
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
};

}  // namespace

struct Tokenizer::Impl {
  std::variant<PieceTokenizer, BytePairTokenizer> kind;
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
  return FileExists(model + kSentencePieceFile) ||
         FileExists(model + kBytePairFile);
}

Result<Tokenizer> Tokenizer::FromJson(const std::string& text,
                                      const std::string& name) {
  RANKFORGE_ASSIGN_OR_RETURN(BytePairTokenizer tokenizer,
                             BytePairTokenizer::Parse(text, name));
  return Tokenizer(std::make_unique<Impl>(Impl{std::move(tokenizer)}));
}

Result<Tokenizer> Tokenizer::Load(const std::string& model) {
  if (const std::optional<std::string> path = GgufPathOf(model)) {
    RANKFORGE_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(*path));
    RANKFORGE_ASSIGN_OR_RETURN(const std::string text, GgufTokenizerJson(file));
    return FromJson(text, *path);
  }
  if (FileExists(model + kSentencePieceFile)) {
    RANKFORGE_ASSIGN_OR_RETURN(
        PieceTokenizer tokenizer,
        PieceTokenizer::Load(model + kSentencePieceFile));
    return Tokenizer(std::make_unique<Impl>(Impl{std::move(tokenizer)}));
  }
  if (FileExists(model + kBytePairFile)) {
    RANKFORGE_ASSIGN_OR_RETURN(BytePairTokenizer tokenizer,
                               BytePairTokenizer::Load(model + kBytePairFile));
    return Tokenizer(std::make_unique<Impl>(Impl{std::move(tokenizer)}));
  }
  return Failed(fmt::format(
      "{}: neither tokenizer.model nor tokenizer.json is there; give the "
      "folder of a complete checkpoint",
      model));
}

std::vector<int> Tokenizer::Encode(std::string_view text) const {
  return std::visit([&](const auto& kind) { return kind.Encode(text); },
                    impl_->kind);
}

std::string Tokenizer::Decode(std::span<const int> ids) const {
  return std::visit([&](const auto& kind) { return kind.Decode(ids); },
                    impl_->kind);
}

size_t Tokenizer::vocab() const {
  return std::visit([](const auto& kind) { return kind.vocab(); }, impl_->kind);
}

}  // namespace rankforge
