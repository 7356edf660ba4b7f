// Generates with llama.cpp as it is, and with an adapter of RankForge on its
// graphs: tokens per second of both, and how far the adapted logits are from
// those of this project's own runtime. Built where llama.cpp is installed.
#include <llama.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "integrations/llama/adapter_layers.h"
#include "integrations/llama/llama_layers.h"
#include "integrations/llama/reference_model.h"

namespace {

namespace rf = rankforge;

struct Options {
  std::string model, adapter, table, prompt = "Once upon a time";
  std::string type = "bf16";
  int tokens = 64;
  int threads = 1;
  bool compare = false;
};

struct FreeModel {
  void operator()(llama_model* model) const { llama_model_free(model); }
};
struct FreeContext {
  void operator()(llama_context* context) const { llama_free(context); }
};
using LlamaModel = std::unique_ptr<llama_model, FreeModel>;
using LlamaContext = std::unique_ptr<llama_context, FreeContext>;

struct Run {
  std::vector<llama_token> tokens;         // the prompt and what follows
  std::vector<std::vector<float>> logits;  // after each token of `tokens`
  double seconds = 0;                      // of decoding what follows
};

LlamaContext MakeContext(llama_model* model, const Options& options,
                         rf::ggml::GraphPatch* patch) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = 2048;
  params.n_threads = params.n_threads_batch = options.threads;
  // The same numbers on both sides.
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  if (patch != nullptr) {
    params.cb_eval = rf::ggml::GraphPatch::Visit;
    params.cb_eval_user_data = patch;
  }
  return LlamaContext(llama_init_from_model(model, params));
}

std::vector<llama_token> Tokens(const llama_vocab* vocab,
                                const std::string& text) {
  std::vector<llama_token> tokens(text.size() + 8);
  const int count = llama_tokenize(vocab, text.data(),
                                   static_cast<int>(text.size()), tokens.data(),
                                   static_cast<int>(tokens.size()), true, true);
  tokens.resize(static_cast<size_t>(std::max(count, 0)));
  return tokens;
}

// Greedy, one token at a time. An empty run: llama.cpp failed.
Run Generate(llama_context* context, const llama_vocab* vocab,
             const std::vector<llama_token>& prompt, int count) {
  Run run;
  run.tokens = prompt;
  const auto size = static_cast<size_t>(llama_vocab_n_tokens(vocab));
  const size_t length = prompt.size() + static_cast<size_t>(count);
  auto begin = std::chrono::steady_clock::now();
  for (size_t i = 0; i < length; ++i) {
    if (i == prompt.size()) begin = std::chrono::steady_clock::now();
    llama_token token = run.tokens[i];
    if (llama_decode(context, llama_batch_get_one(&token, 1)) != 0) return {};
    const float* logits = llama_get_logits_ith(context, -1);
    run.logits.emplace_back(logits, logits + size);
    if (i + 1 < run.tokens.size()) continue;
    run.tokens.push_back(static_cast<llama_token>(
        std::max_element(logits, logits + size) - logits));
  }
  run.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin)
          .count();
  return run;
}

std::string Text(const llama_vocab* vocab,
                 const std::vector<llama_token>& tokens) {
  std::string text;
  for (const llama_token token : tokens) {
    char piece[256];
    const int length =
        llama_token_to_piece(vocab, token, piece, sizeof(piece), 0, false);
    text.append(piece, static_cast<size_t>(std::max(length, 0)));
  }
  return text;
}

void Print(const char* name, const Run& run, const llama_vocab* vocab,
           int count) {
  std::printf("%s: %.2f tokens/s\n%s\n\n", name, count / run.seconds,
              Text(vocab, run.tokens).c_str());
}

int Fail(const std::string& message) {
  std::fprintf(stderr, "llama_generate: %s\n", message.c_str());
  return 1;
}

// What the runtime of this project makes of the same tokens.
int Compare(const Run& run, const Options& options, const std::string& adapter,
            const char* name) {
  std::string error;
  const auto reference = rf::llama::ReferenceModel::Open(
      options.model, adapter, options.type, run.tokens.size(), &error);
  if (reference == nullptr) return Fail(error);
  double largest = 0, squares = 0, all = 0;
  size_t same = 0;
  for (size_t i = 0; i < run.logits.size(); ++i) {
    const std::vector<float>& got = run.logits[i];
    const std::vector<float> ours = reference->Next(run.tokens[i]);
    if (ours.size() != got.size()) return Fail("the vocabularies differ");
    for (size_t j = 0; j < ours.size(); ++j) {
      const double difference = std::fabs(double{got[j]} - ours[j]);
      largest = std::max(largest, difference);
      squares += difference * difference;
      all += double{ours[j]} * ours[j];
    }
    same += std::max_element(got.begin(), got.end()) - got.begin() ==
            std::max_element(ours.begin(), ours.end()) - ours.begin();
  }
  std::printf(
      "%s: logits differ from rankforge's (%s) by at most %.2g, relative "
      "%.2g; %zu of %zu greedy tokens are equal\n",
      name, options.type.c_str(), largest, std::sqrt(squares / all), same,
      run.logits.size());
  return 0;
}

int Main(const Options& options) {
  llama_log_set(
      [](ggml_log_level level, const char* text, void*) {
        if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
      },
      nullptr);
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  const LlamaModel model(
      llama_model_load_from_file(options.model.c_str(), params));
  if (model == nullptr) return Fail(options.model + ": is not loaded");
  const llama_vocab* vocab = llama_model_get_vocab(model.get());
  const std::vector<llama_token> prompt = Tokens(vocab, options.prompt);
  if (prompt.empty()) return Fail("--prompt: has no tokens");

  std::string error;
  rf::llama::AdapterLayers layers;
  if (!rf::llama::ReadAdapterLayers(options.model, options.adapter, &layers,
                                    &error)) {
    return Fail(error);
  }
  rf::ContextOptions one;
  one.threads = 1;  // threads are ggml's
  const rf::Context context = rf::Context::Create(one).value();
  rf::Table table;
  if (!options.table.empty()) table = rf::Table::Open(options.table).value();
  int32_t type = 0;
  if (rankforge_weight_type_from_name(options.type.c_str(), &type) !=
      RANKFORGE_OK) {
    return Fail(std::string("--dtype: ") + rankforge_last_error());
  }
  rf::ggml::GraphPatch patch;
  const double rounding =
      rf::llama::AddLayers(context, table, layers, type, 1, patch).value();
  std::printf("%zu stacks of layers, largest quantization error %.4f\n\n",
              layers.stacks.size(), rounding);

  const LlamaContext plain = MakeContext(model.get(), options, nullptr);
  const LlamaContext patched = MakeContext(model.get(), options, &patch);
  if (plain == nullptr || patched == nullptr) return Fail("no context");
  const Run before = Generate(plain.get(), vocab, prompt, options.tokens);
  const Run after = Generate(patched.get(), vocab, prompt, options.tokens);
  if (before.tokens.empty() || after.tokens.empty()) {
    return Fail("llama_decode failed");
  }
  if (!patch.error().empty()) return Fail(patch.error());
  for (const std::string& name : patch.Unseen()) {
    return Fail(name + ": is in no graph of llama.cpp");
  }
  Print("llama.cpp", before, vocab, options.tokens);
  Print("with the adapter", after, vocab, options.tokens);
  if (!options.compare) return 0;
  const int compared = Compare(before, options, "", "llama.cpp");
  return compared != 0
             ? compared
             : Compare(after, options, options.adapter, "with the adapter");
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Generates with llama.cpp, without and with an adapter");
  app.add_option("--model", options.model, "GGUF file")->required();
  app.add_option("--adapter", options.adapter, "of `rankforge adapt`")
      ->required();
  app.add_option("--table", options.table, "of `rankforge tune`");
  app.add_option("--dtype", options.type, "weight type of adapted layers");
  app.add_option("--prompt", options.prompt, "text to go on from");
  app.add_option("-n,--tokens", options.tokens, "tokens to generate")
      ->check(CLI::Range(1, 1000));
  app.add_option("--threads", options.threads, "of ggml")
      ->check(CLI::Range(1, 256));
  app.add_flag("--compare", options.compare,
               "compare logits with those of rankforge's runtime");
  CLI11_PARSE(app, argc, argv);
  try {
    return Main(options);
  } catch (const std::exception& failed) {
    return Fail(failed.what());
  }
}
