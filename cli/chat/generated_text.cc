#include "cli/chat/generated_text.h"

#include <algorithm>
#include <utility>

namespace rankforge {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";
// As many ids of the context are decoded together with the text as may share a
// character or a space with its first token.
constexpr size_t kContextIds = 8;

}  // namespace

GeneratedText::GeneratedText(const Tokenizer& tokenizer,
                             std::span<const int> context,
                             std::vector<std::string> stops, Print print)
    : tokenizer_(tokenizer),
      stops_(std::move(stops)),
      print_(std::move(print)) {
  const auto last = context.last(std::min(context.size(), kContextIds));
  ids_.assign(last.begin(), last.end());
  context_ids_ = ids_.size();
  context_size_ = tokenizer_.Decode(ids_).size();
}

bool GeneratedText::Add(int id) {
  ids_.push_back(id);
  std::string whole = tokenizer_.Decode(ids_);
  text_ = whole.size() > context_size_ ? whole.substr(context_size_) : "";
  size_t end = text_.size();
  for (const std::string& stop : stops_) end = std::min(end, text_.find(stop));
  if (end < text_.size()) {
    text_.resize(end);
    PrintUpTo(end);
    return false;
  }
  if (!text_.ends_with(kReplacement)) PrintUpTo(text_.size() - HeldBack());
  return true;
}

void GeneratedText::Finish() { PrintUpTo(text_.size()); }

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
