#include "runtime/model/use/generated_text.h"

#include <algorithm>
#include <utility>

namespace rankforge {
namespace {

// As many ids of the context are decoded before the text as may share a
// character or a space with its first token.
constexpr size_t kContextIds = 8;

}  // namespace

GeneratedText::GeneratedText(const Tokenizer& tokenizer,
                             std::span<const int> context,
                             std::vector<std::string> stops, Print print)
    : stream_(tokenizer), stops_(std::move(stops)), print_(std::move(print)) {
  for (const int id : context.last(std::min(context.size(), kContextIds))) {
    stream_.Add(id);
  }
}

bool GeneratedText::Add(int id) {
  Append(stream_.Add(id));
  return !stopped_;
}

void GeneratedText::Finish() {
  Append(stream_.Finish());
  PrintUpTo(text_.size());
}

void GeneratedText::Append(std::string_view text) {
  if (stopped_) return;
  // A stop text may have begun in what was held back.
  const size_t from = printed_;
  text_ += text;
  size_t end = text_.size();
  for (const std::string& stop : stops_) {
    end = std::min(end, text_.find(stop, from));
  }
  stopped_ = end < text_.size();
  text_.resize(end);
  PrintUpTo(stopped_ ? end : end - HeldBack());
}

void GeneratedText::PrintUpTo(size_t size) {
  if (size <= printed_) return;
  if (print_) print_(std::string_view(text_).substr(printed_, size - printed_));
  printed_ = size;
}

size_t GeneratedText::HeldBack() const {
  size_t most = 0;
  for (const std::string& stop : stops_) {
    for (size_t size = std::min(stop.size() - 1, text_.size()); size > most;
         --size) {
      if (text_.ends_with(std::string_view(stop).substr(0, size))) most = size;
    }
  }
  return most;
}

}  // namespace rankforge
