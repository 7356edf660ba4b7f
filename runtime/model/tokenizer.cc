#include "runtime/model/tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <utility>

#include "runtime/model/files.h"

namespace rankforge {

struct Tokenizer::Impl {
  sentencepiece::SentencePieceProcessor processor;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Result<Tokenizer> Tokenizer::Load(const std::string& directory) {
  constexpr size_t kMaxTokenizerBytes = size_t{256} << 20;
  const std::string path = directory + "/tokenizer.model";
  RANKFORGE_ASSIGN_OR_RETURN(const std::string model,
                             ReadTextFile(path, kMaxTokenizerBytes));
  auto impl = std::make_unique<Impl>();
  const auto status = impl->processor.LoadFromSerializedProto(model);
  if (!status.ok()) {
    return Failed(
        fmt::format("{}: not a SentencePiece model; download it again", path));
  }
  return Tokenizer(std::move(impl));
}

std::vector<int> Tokenizer::Encode(std::string_view text) const {
  return impl_->processor.EncodeAsIds({text.data(), text.size()});
}

std::string Tokenizer::Decode(std::span<const int> ids) const {
  // A vocabulary padded beyond the tokenizer's pieces can produce ids that
  // stand for no text.
  std::vector<int> known;
  for (const int id : ids) {
    if (id >= 0 && static_cast<size_t>(id) < vocab()) known.push_back(id);
  }
  return impl_->processor.DecodeIds(known);
}

size_t Tokenizer::vocab() const {
  return static_cast<size_t>(impl_->processor.GetPieceSize());
}

}  // namespace rankforge
