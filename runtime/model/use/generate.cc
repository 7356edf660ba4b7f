#include "runtime/model/use/generate.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "kernels/layer/elementwise.h"

namespace rankforge {

namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double PerSecond(size_t count, double seconds) {
  return count == 0 || seconds <= 0 ? 0 : static_cast<double>(count) / seconds;
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options)
    : options_(options), random_(options.seed) {}

void Sampler::See(std::span<const int> ids) {
  if (options_.repetition_penalty == 1) return;
  seen_.insert(ids.begin(), ids.end());
}

int Sampler::Sample(std::span<const float> logits) {
  logits = Penalized(logits);
  const size_t best = ArgMax(logits.data(), logits.size());
  int id = static_cast<int>(best);
  if (options_.temperature > 0) {
    // Weights are relative to the largest logit. As in ArgMax, NaN never wins.
    candidates_.clear();
    double total = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const double weight =
          std::exp((double{logits[i]} - logits[best]) / options_.temperature);
      if (!(weight > 0)) continue;
      candidates_.emplace_back(static_cast<float>(weight), static_cast<int>(i));
      total += weight;
    }
    if (!candidates_.empty() && std::isfinite(total))
      id = Draw(Truncate(total));
  }
  See({&id, 1});
  return id;
}

std::span<const float> Sampler::Penalized(std::span<const float> logits) {
  if (seen_.empty()) return logits;
  penalized_.assign(logits.begin(), logits.end());
  const auto penalty = static_cast<float>(options_.repetition_penalty);
  for (const int id : seen_) {
    if (id < 0 || static_cast<size_t>(id) >= logits.size()) continue;
    float& logit = penalized_[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
  return penalized_;
}

double Sampler::Truncate(double total) {
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  const auto weight_of_all = [&] {
    double sum = 0;
    for (const Candidate& candidate : candidates_) sum += candidate.first;
    return sum;
  };
  if (options_.top_k > 0 && options_.top_k < candidates_.size()) {
    const auto end =
        candidates_.begin() + static_cast<ptrdiff_t>(options_.top_k);
    std::nth_element(candidates_.begin(), end, candidates_.end(), likelier);
    candidates_.erase(end, candidates_.end());
    total = weight_of_all();
  }
  // The heap gives the most probable tokens first (of equals, the lower id). A
  // full sort of a 128,256-token vocabulary takes longer than a layer.
  if (options_.top_p < 1) {
    const auto less = [&](const Candidate& a, const Candidate& b) {
      return likelier(b, a);
    };
    std::make_heap(candidates_.begin(), candidates_.end(), less);
    auto rest = candidates_.end();
    double mass = 0;
    while (rest != candidates_.begin()) {
      std::pop_heap(candidates_.begin(), rest, less);
      mass += (--rest)->first;
      if (mass >= options_.top_p * total) break;
    }
    candidates_.erase(candidates_.begin(), rest);
    total = mass;
  }
  if (options_.min_p > 0) {
    // The likeliest token has the weight 1.
    std::erase_if(candidates_, [&](const Candidate& candidate) {
      return candidate.first < options_.min_p;
    });
    total = weight_of_all();
  }
  return total;
}

int Sampler::Draw(double total) {
  // 53 random bits: the same number on every standard library.
  const double uniform = static_cast<double>(random_() >> 11) * 0x1p-53;
  double remaining = uniform * total;
  for (const auto& [weight, id] : candidates_) {
    remaining -= weight;
    if (remaining < 0) return id;
  }
  return candidates_.back().second;
}

Decoder::Decoder(Model& model, KvCache& cache, std::vector<int> sequence,
                 size_t count, size_t lookup, Sampler& sampler)
    : model_(model),
      cache_(cache),
      sampler_(sampler),
      sequence_(std::move(sequence)),
      prompt_(sequence_.size()),
      end_(prompt_ + count),
      lookup_(lookup),
      logits_(model.config().vocab) {
  const size_t known = std::min(cache.length(), prompt_);
  if (cache.decision() && prompt_ - known > 1) cache.Clear();
}

Status Decoder::RunPrompt() {
  RANKFORGE_RETURN_IF_ERROR(Pass());
  sampler_.See(sequence_);
  return {};
}

Status Decoder::Pass() {
  draft_.clear();
  const size_t known = std::min(cache_.length(), sequence_.size());
  if (cache_.ChangesFrequencies(sequence_.size() - known)) {
    // The keys so far are rotated otherwise: all tokens run again.
    cache_.Clear();
  }
  bool drafted = false;
  if (rows_ > 0) {
    RANKFORGE_ASSIGN_OR_RETURN(drafted, RunDraft());
  }
  if (!drafted) {
    const std::span<const int> rest = sequence_;
    RANKFORGE_RETURN_IF_ERROR(
        model_.Forward(rest.subspan(cache_.length()), cache_,
                       std::span(logits_).first(model_.config().vocab)));
    if (!cache_.decision()) RANKFORGE_RETURN_IF_ERROR(model_.EndPrompt(cache_));
  }
  counts_.passes += rows_ > 0;
  rows_ = 1 + draft_.size();
  row_ = 0;
  return {};
}

Result<bool> Decoder::RunDraft() {
  const size_t known = cache_.length();
  if (sequence_.size() - known != 1) return false;
  draft_ = lookup_.Draft(sequence_, end_ - sequence_.size() - 1);
  // Nothing follows an end of text, and a pass has one set of frequencies.
  const auto end = std::ranges::find_first_of(draft_, model_.config().eos_ids);
  draft_.erase(end, draft_.end());
  while (!draft_.empty() && cache_.ChangesFrequencies(1 + draft_.size())) {
    draft_.pop_back();
  }
  if (draft_.empty()) return false;
  std::vector<int> ids = {sequence_.back()};
  ids.insert(ids.end(), draft_.begin(), draft_.end());
  const size_t size = ids.size() * model_.config().vocab;
  if (logits_.size() < size) logits_.resize(size);
  const Status status =
      model_.Decode(ids, cache_, std::span(logits_).first(size));
  if (!status.ok()) {
    cache_.Truncate(known);
    const size_t drafted = draft_.size();
    draft_.clear();
    if (status.code() != StatusCode::kFailed) return status;
    // What the draft's tokens overflow, those that come need not.
    if (counts_.failed++ == 0) counts_.failure = status.message();
    lookup_.Learn(drafted, 0);
    return false;
  }
  counts_.drafted += draft_.size();
  return true;
}

Result<int> Decoder::Next() {
  if (rows_ == 0) RANKFORGE_RETURN_IF_ERROR(RunPrompt());
  if (row_ == rows_) {
    Finish();
    RANKFORGE_RETURN_IF_ERROR(Pass());
  }
  const size_t vocab = model_.config().vocab;
  const int id =
      sampler_.Sample(std::span(logits_).subspan(row_ * vocab, vocab));
  counts_.decoded += sequence_.size() > prompt_;
  sequence_.push_back(id);
  const bool drafted = row_ < draft_.size() && draft_[row_] == id;
  counts_.accepted += drafted;
  if (drafted) {
    ++row_;
    return id;
  }
  // After another token than the draft's, its rest says nothing.
  lookup_.Learn(draft_.size(), row_);
  row_ = rows_;
  return id;
}

void Decoder::Finish() {
  cache_.Truncate(std::max(prompt_, sequence_.size() - 1));
}

Result<Generation> Generate(Model& model, std::span<const int> prompt,
                            size_t count, const SamplingOptions& options,
                            const TokenObserver& on_token, size_t lookup) {
  RANKFORGE_ASSIGN_OR_RETURN(KvCache cache,
                             model.NewCache(prompt.size() + count));
  Sampler sampler(options);
  return Continue(model, cache, {prompt.begin(), prompt.end()}, count, sampler,
                  on_token, lookup);
}

Result<Generation> Continue(Model& model, KvCache& cache,
                            std::vector<int> sequence, size_t count,
                            Sampler& sampler, const TokenObserver& on_token,
                            size_t lookup) {
  const size_t prompt = sequence.size();
  Decoder decoder(model, cache, std::move(sequence), count, lookup, sampler);
  const size_t known = std::min(cache.length(), prompt);
  Generation generation;
  Clock::time_point start = Clock::now();
  RANKFORGE_RETURN_IF_ERROR(decoder.RunPrompt());
  generation.prefill_tokens_per_s =
      PerSecond(prompt - known, SecondsSince(start));

  const std::vector<int>& ends = model.config().eos_ids;
  double seconds = 0;
  while (generation.ids.size() < count) {
    start = Clock::now();
    RANKFORGE_ASSIGN_OR_RETURN(const int id, decoder.Next());
    seconds += SecondsSince(start);
    generation.ended = std::ranges::count(ends, id) > 0;
    if (generation.ended) break;
    generation.ids.push_back(id);
    if (on_token && !on_token(id)) break;
  }
  decoder.Finish();
  generation.drafts = decoder.counts();
  generation.decode_tokens_per_s =
      PerSecond(generation.drafts.decoded, seconds);
  generation.layers = cache.decision();
  return generation;
}

}  // namespace rankforge
