// Tokenizers against the tokenizers library (scripts/check_tokenizers.py) and
// against Hugging Face Transformers, and files that are not read.
#include "runtime/model/format/tokenizer.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Ids = std::vector<int>;

const std::string kData = RANKFORGE_SOURCE_DIR "/tests/model/data/";

Tokenizer FromJson(const json& document) {
  auto tokenizer = Tokenizer::FromJson(document.dump(), "test.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return std::move(tokenizer).value();
}

Tokenizer Loaded(const std::string& folder) {
  auto tokenizer = Tokenizer::Load(folder);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return std::move(tokenizer).value();
}

std::string Streamed(const Tokenizer& tokenizer, const Ids& ids) {
  DecodingStream stream(tokenizer);
  std::string text;
  for (const int id : ids) text += stream.Add(id);
  return text + stream.Finish();
}

// ---------------------------------------------------------------------------
// Against the tokenizers library

class StoredTokenizerTest : public testing::TestWithParam<std::string> {};

TEST_P(StoredTokenizerTest, AsTheTokenizersLibrary) {
  const json stored =
      json::parse(ReadAll(kData + "tokenizers/" + GetParam() + ".json"));
  const Tokenizer tokenizer = FromJson(stored["tokenizer"]);
  ASSERT_GT(stored["cases"].size(), 50u);
  for (const json& entry : stored["cases"]) {
    const auto text = entry[0].get<std::string>();
    const auto ids = entry[1].get<Ids>();
    EXPECT_EQ(tokenizer.Encode(text), ids) << entry[0];
    EXPECT_EQ(tokenizer.Decode(ids), entry[2].get<std::string>()) << entry[0];
    EXPECT_EQ(Streamed(tokenizer, ids), tokenizer.Decode(ids)) << entry[0];
  }
}

INSTANTIATE_TEST_SUITE_P(All, StoredTokenizerTest, testing::ValuesIn([] {
                           std::vector<std::string> names;
                           for (const auto& entry :
                                fs::directory_iterator(kData + "tokenizers")) {
                             names.push_back(entry.path().stem().string());
                           }
                           std::sort(names.begin(), names.end());
                           return names;
                         }()),
                         [](const auto& info) { return info.param; });

class ByteTokenizerTest : public testing::TestWithParam<std::string> {
 protected:
  std::string folder_ = kData + "families/" + GetParam();
  Tokenizer tokenizer_ = Loaded(folder_);
};

TEST_P(ByteTokenizerTest, AsTheTokenizersLibrary) {
  const json golden =
      json::parse(ReadAll(folder_ + "/golden.json"))["tokenizer"];
  const auto ids = golden["ids"].get<Ids>();
  EXPECT_EQ(tokenizer_.Encode(golden["text"].get<std::string>()), ids);
  EXPECT_EQ(tokenizer_.Decode(ids), golden["decoded"].get<std::string>());
}

TEST_P(ByteTokenizerTest, AnyTextComesBack) {
  EXPECT_TRUE(tokenizer_.Encode("").empty());
  const std::string text =
      ReadAll(RANKFORGE_SOURCE_DIR "/examples/models/text/evaluation.txt");
  EXPECT_EQ(tokenizer_.Decode(tokenizer_.Encode(text)), text);
  // One piece, which merging pair by pair from the start would take minutes.
  const std::string long_word(1 << 20, 'e');
  EXPECT_EQ(tokenizer_.Decode(tokenizer_.Encode(long_word)), long_word);
  // Not UTF-8.
  EXPECT_EQ(tokenizer_.Encode("a\xe6\x97"), tokenizer_.Encode("a\ufffd"));
  EXPECT_EQ(tokenizer_.Decode(Ids{-1, 1 << 30}), "");
}

INSTANTIATE_TEST_SUITE_P(All, ByteTokenizerTest,
                         testing::Values("llama3", "qwen2"),
                         [](const auto& info) { return info.param; });

// The folders of ../shared/cases, where they are.
class SharedCaseTest : public testing::TestWithParam<std::string> {};

void ExpectCases(const Tokenizer& tokenizer, const json& cases) {
  ASSERT_FALSE(cases.empty());
  for (const json& entry : cases) {
    const auto text = entry["text"].get<std::string>();
    const auto ids = entry["ids"].get<Ids>();
    EXPECT_EQ(tokenizer.Encode(text), ids) << text;
    Ids whole = tokenizer.prefix();
    whole.insert(whole.end(), ids.begin(), ids.end());
    EXPECT_EQ(whole, entry["with_special"].get<Ids>()) << text;
    // Theirs shows special tokens.
    if (text.find("<|") != text.npos || text.find("<s>") != text.npos) continue;
    EXPECT_EQ(tokenizer.Decode(ids), entry["decoded"].get<std::string>());
  }
}

TEST_P(SharedCaseTest, IdsAndText) {
  const std::string folder = SharedFile("cases/" + GetParam());
  if (folder.empty()) GTEST_SKIP() << "../shared/cases is not there";
  ExpectCases(Loaded(folder + "/model"),
              json::parse(ReadAll(folder + "/expected_ids.json")));
}

INSTANTIATE_TEST_SUITE_P(
    All, SharedCaseTest,
    testing::Values("tok-bos", "tok-deepseek-llm", "tok-llama3", "tok-nfkc",
                    "tok-smollm2-digits", "tok-split-string",
                    "tok-spm-added-tokens", "tok-spm-json-only"),
    [](const auto& info) {
      std::string name = info.param;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

// RANKFORGE_REAL_MODEL names a folder with the tokenizer of SmolLM2.
TEST(RealTokenizerTest, SmolLm2) {
  const char* const folder = std::getenv("RANKFORGE_REAL_MODEL");
  const std::string golden = SharedFile("real/smollm2_bf16_golden.json");
  if (folder == nullptr || golden.empty()) {
    GTEST_SKIP() << "RANKFORGE_REAL_MODEL is not set";
  }
  const Tokenizer tokenizer = Loaded(folder);
  EXPECT_EQ(tokenizer.vocab(), 49152u);
  const json expected = json::parse(ReadAll(golden));
  ASSERT_EQ(expected["token_ids"].size(), 26u);
  for (const auto& [text, value] : expected["token_ids"].items()) {
    const auto ids = value.get<Ids>();
    EXPECT_EQ(tokenizer.Encode(text), ids) << text;
    if (text.find("<|") != text.npos) continue;  // theirs shows special tokens
    EXPECT_EQ(tokenizer.Decode(ids),
              expected["decoded"][text].get<std::string>());
  }
}

// ---------------------------------------------------------------------------
// tokenizer.model and the files beside it

class PieceTokenizerTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"tokenizer.json", "tokenizer.model",
                             "added_tokens.json", "tokenizer_config.json"}) {
      fs::copy_file(kData + "sentence_piece/" + name, folder_.File(name));
    }
    json_ = json::parse(ReadAll(folder_.File("tokenizer.json")));
    cases_ = json::parse(ReadAll(kData + "sentence_piece/expected_ids.json"));
  }
  void Remove(const std::string& name) { fs::remove(folder_.File(name)); }
  void Write(const std::string& name, const json& value) {
    WriteAll(folder_.File(name), value.dump());
  }

  TemporaryFolder folder_;
  json json_;
  json cases_;
};

TEST_F(PieceTokenizerTest, BothFiles) {
  const Tokenizer tokenizer = Loaded(folder_.path());
  ExpectCases(tokenizer, cases_);
  EXPECT_EQ(tokenizer.vocab(), 2002u);
  EXPECT_TRUE(tokenizer.notes().empty());
}

TEST_F(PieceTokenizerTest, EitherFileGivesTheSameIds) {
  Write("tokenizer_config.json", {{"add_bos_token", true}});
  Remove("tokenizer.json");
  ExpectCases(Loaded(folder_.path()), cases_);
  Write("tokenizer.json", json_);
  Remove("tokenizer.model");
  ExpectCases(Loaded(folder_.path()), cases_);
}

TEST_F(PieceTokenizerTest, AddedTokensOfEveryFile) {
  const std::string text = "<|im_start|>us<|im_end|>";
  const Ids expected = Loaded(folder_.path()).Encode(text);
  EXPECT_EQ(expected.front(), 2000);
  EXPECT_EQ(expected.back(), 2001);
  Remove("tokenizer.json");
  EXPECT_EQ(Loaded(folder_.path()).Encode(text), expected);
  // tokenizer_config.json names <|im_end|> as the end of a text.
  EXPECT_EQ(Loaded(folder_.path()).Decode(Ids{415, 2001}), "Once");
  EXPECT_EQ(Loaded(folder_.path()).Decode(Ids{415, 2000}), "Once<|im_start|>");
  Remove("added_tokens.json");
  EXPECT_NE(Loaded(folder_.path()).Encode(text), expected);
  const auto token = [](const char* content) {
    return json{{"content", content}, {"special", true}};
  };
  Write("tokenizer_config.json",
        {{"added_tokens_decoder",
          {{"2000", token("<|im_start|>")}, {"2001", token("<|im_end|>")}}}});
  Tokenizer tokenizer = Loaded(folder_.path());
  EXPECT_EQ(tokenizer.Encode(text), expected);
  EXPECT_EQ(tokenizer.vocab(), 2002u);
  // A tokenizer.json of another kind still says what is added.
  Remove("tokenizer_config.json");
  json_["model"] = {{"type", "Unigram"}, {"vocab", json::array()}};
  Write("tokenizer.json", json_);
  tokenizer = Loaded(folder_.path());
  EXPECT_EQ(tokenizer.Encode(text), expected);
  ASSERT_EQ(tokenizer.notes().size(), 1u);
  EXPECT_NE(tokenizer.notes()[0].find("model.type is \"Unigram\""),
            std::string::npos)
      << tokenizer.notes()[0];
}

TEST_F(PieceTokenizerTest, TokensThatAreNotSpecialAreText) {
  Remove("tokenizer.json");
  Write("added_tokens.json", {{"<tool>", 2000}});
  const Tokenizer tokenizer = Loaded(folder_.path());
  for (const std::string text : {"Once<tool> upon", "<tool>", "a<tool>  b"}) {
    const Ids ids = tokenizer.Encode(text);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), 2000), 1) << text;
    EXPECT_EQ(Streamed(tokenizer, ids), tokenizer.Decode(ids));
  }
  const Ids ids = {415, 2000, 416, 1, 2005, -1};
  EXPECT_EQ(tokenizer.Decode(ids), "Once<tool> upon");
}

TEST_F(PieceTokenizerTest, WhoAddsBos) {
  const std::string text = "Once upon a time";
  const Ids plain = {415, 416, 261, 390};
  const Ids with_bos = {1, 415, 416, 261, 390};
  // With tokenizer.json its post-processor alone decides, as in Transformers.
  Write("tokenizer_config.json", {{"add_bos_token", false}});
  EXPECT_EQ(Loaded(folder_.path()).EncodeFromStart(text), with_bos);
  json_["post_processor"] = nullptr;
  Write("tokenizer.json", json_);
  Write("tokenizer_config.json",
        {{"add_bos_token", true}, {"bos_token", "<s>"}});
  EXPECT_EQ(Loaded(folder_.path()).EncodeFromStart(text), plain);
  // Without it, the settings.
  Remove("tokenizer.json");
  const Tokenizer tokenizer = Loaded(folder_.path());
  EXPECT_EQ(tokenizer.EncodeFromStart(text), with_bos);
  EXPECT_EQ(tokenizer.EncodeFromStart("<s>" + text), with_bos);
  EXPECT_EQ(tokenizer.Encode(text), plain);
  Write("tokenizer_config.json",
        {{"add_bos_token", true},
         {"add_eos_token", true},
         {"bos_token", {{"content", "<|im_start|>"}}}});
  EXPECT_EQ(Loaded(folder_.path()).prefix(), Ids{2000});
  EXPECT_EQ(Loaded(folder_.path()).suffix(), Ids{2});
  Write("tokenizer_config.json", {{"add_bos_token", false}});
  EXPECT_EQ(Loaded(folder_.path()).EncodeFromStart(text), plain);
  Remove("tokenizer_config.json");
  EXPECT_EQ(Loaded(folder_.path()).EncodeFromStart(text), plain);
}

TEST_F(PieceTokenizerTest, OneDamagedFileOfTwo) {
  const std::string model = ReadAll(folder_.File("tokenizer.model"));
  // tokenizer.json is there: the other one is not asked.
  WriteAll(folder_.File("tokenizer.model"), "damaged");
  ExpectCases(Loaded(folder_.path()), cases_);
  WriteAll(folder_.File("tokenizer.json"), "{");
  EXPECT_FALSE(Tokenizer::Load(folder_.path()).ok());
  WriteAll(folder_.File("tokenizer.model"), model);
  Write("tokenizer_config.json", {{"add_bos_token", true}});
  const Tokenizer tokenizer = Loaded(folder_.path());
  ExpectCases(tokenizer, cases_);
  ASSERT_EQ(tokenizer.notes().size(), 1u);
  EXPECT_NE(tokenizer.notes()[0].find(
                "tokenizer.json: is no JSON: it ends too early"),
            std::string::npos)
      << tokenizer.notes()[0];
  // A damaged setting does not keep tokenizer.json from being read.
  Write("tokenizer.json", json_);
  WriteAll(folder_.File("tokenizer_config.json"), "[");
  EXPECT_EQ(Loaded(folder_.path()).notes().size(), 1u);
}

TEST(TokenizerFilesTest, BadFilesAreErrors) {
  TemporaryFolder folder;
  EXPECT_FALSE(Tokenizer::IsIn(folder.path()));
  const auto missing = Tokenizer::Load(folder.path());
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(missing.status().message().find("tokenizer.model"),
            std::string::npos);
  for (const std::string contents : {"", "not a model", "\x0a\xff\xff\xff"}) {
    WriteAll(folder.File("tokenizer.model"), contents);
    const auto damaged = Tokenizer::Load(folder.path());
    ASSERT_FALSE(damaged.ok());
    EXPECT_NE(damaged.status().message().find(
                  "tokenizer.model: not a SentencePiece model"),
              std::string::npos);
  }
}

// ---------------------------------------------------------------------------
// tokenizer.json

// A tokenizer of few tokens.
json Small() {
  json vocab;
  for (const char* token : {"a", "b", "c", " ", "<", ">", "x", "ab", "?"}) {
    vocab[token] = vocab.size();
  }
  return {
      {"added_tokens", json::array()},
      {"normalizer", nullptr},
      {"pre_tokenizer", nullptr},
      {"post_processor", nullptr},
      {"decoder", {{"type", "Fuse"}}},
      {"model",
       {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array({"a b"})}}}};
}

json Added(int id, const std::string& content) {
  return {{"id", id}, {"content", content}, {"special", true}};
}

TEST(TokenizerJsonTest, Templates) {
  json root = Small();
  const json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const auto token = [](const char* name) {
    return json{{"SpecialToken", {{"id", name}, {"type_id", 0}}}};
  };
  const json framed = {{"type", "TemplateProcessing"},
                       {"single", {token("<b>"), text, token("<e>")}},
                       {"special_tokens",
                        {{"<b>", {{"ids", {2, 3}}}}, {"<e>", {{"ids", {4}}}}}}};
  root["post_processor"] = framed;
  Tokenizer tokenizer = FromJson(root);
  EXPECT_EQ(tokenizer.prefix(), (Ids{2, 3}));
  EXPECT_EQ(tokenizer.suffix(), Ids{4});
  EXPECT_EQ(tokenizer.Encode("ab"), Ids{7});
  EXPECT_EQ(tokenizer.EncodeFromStart("ab"), (Ids{2, 3, 7}));
  EXPECT_EQ(tokenizer.EncodeFromStart(""), (Ids{2, 3}));
  // Others go around it.
  root["post_processor"] = {
      {"type", "Sequence"},
      {"processors",
       {{{"type", "ByteLevel"}, {"trim_offsets", true}},
        framed,
        {{"type", "BertProcessing"}, {"cls", {"x", 6}}, {"sep", {"?", 8}}}}}};
  tokenizer = FromJson(root);
  EXPECT_EQ(tokenizer.prefix(), (Ids{6, 2, 3}));
  EXPECT_EQ(tokenizer.suffix(), (Ids{4, 8}));
}

TEST(TokenizerJsonTest, Notes) {
  json root = Small();
  EXPECT_TRUE(FromJson(root).notes().empty());
  root["truncation"] = {{"max_length", 5}};
  root["model"]["unk_token"] = "<unk>";
  const Tokenizer tokenizer = FromJson(root);
  ASSERT_EQ(tokenizer.notes().size(), 2u);
  EXPECT_EQ(tokenizer.notes()[0],
            "test.json: field 'truncation' is not used: texts are not cut");
  EXPECT_EQ(tokenizer.notes()[1].find("test.json: model.unk_token is '<unk>'"),
            0u);
  EXPECT_EQ(tokenizer.Encode("a!b"), Ids{7});
}

TEST(TokenizerJsonTest, TokensOfTheConfigAreAdded) {
  TemporaryFolder folder;
  json root = Small();
  root["added_tokens"] = json::array({Added(9, "<x>")});
  WriteAll(folder.File("tokenizer.json"), root.dump());
  WriteAll(folder.File("tokenizer_config.json"),
           json{{"added_tokens_decoder",
                 {{"9", Added(9, "<x>")},
                  {"10", Added(10, "<y>")},
                  {"12", Added(12, "<z>")}}}}
               .dump());
  const Tokenizer tokenizer = Loaded(folder.path());
  EXPECT_EQ(tokenizer.Encode("<x>a<y>"), (Ids{9, 0, 10}));
  ASSERT_EQ(tokenizer.notes().size(), 1u);
  EXPECT_NE(tokenizer.notes()[0].find("gives '<z>' the id 12"),
            std::string::npos);
}

TEST(TokenizerJsonTest, TokensThatTheConfigNamesAreSpecial) {
  TemporaryFolder folder;
  WriteAll(folder.File("tokenizer.json"), Small().dump());
  EXPECT_EQ(Loaded(folder.path()).Encode("abab"), (Ids{7, 7}));
  WriteAll(folder.File("tokenizer_config.json"),
           json{{"pad_token", "b"},
                {"eos_token", {{"content", "?"}}},
                {"bos_token", "<nowhere>"},
                {"additional_special_tokens", {"x"}}}
               .dump());
  const Tokenizer tokenizer = Loaded(folder.path());
  EXPECT_EQ(tokenizer.Encode("abab?x"), (Ids{0, 1, 0, 1, 8, 6}));
  EXPECT_EQ(tokenizer.Decode(Ids{0, 1, 0, 8, 6}), "aa");
}

TEST(TokenizerJsonTest, Streaming) {
  const json stored =
      json::parse(ReadAll(kData + "tokenizers/gpt2.json"))["tokenizer"];
  const Tokenizer tokenizer = FromJson(stored);
  const Ids ids = tokenizer.Encode("a\U0001f600b");
  ASSERT_EQ(ids.size(), 6u);
  DecodingStream stream(tokenizer);
  EXPECT_EQ(stream.Add(ids[0]), "a");
  for (int i = 1; i < 4; ++i) EXPECT_EQ(stream.Add(ids[i]), "");
  EXPECT_EQ(stream.Add(ids[4]), "\U0001f600");
  EXPECT_EQ(stream.Add(ids[1]), "");
  EXPECT_EQ(stream.Finish(), "\ufffd");
  EXPECT_EQ(stream.Finish(), "");
  // Longer than what a stream remembers.
  const std::string text =
      ReadAll(RANKFORGE_SOURCE_DIR "/examples/models/text/evaluation.txt")
          .substr(0, 20000);
  EXPECT_EQ(Streamed(tokenizer, tokenizer.Encode(text)), text);
}

// A model that goes mad: its bytes never become characters.
TEST(TokenizerJsonTest, StreamingOfInvalidBytes) {
  for (const char* name : {"gpt2", "llama2"}) {
    SCOPED_TRACE(name);
    const json stored = json::parse(
        ReadAll(kData + "tokenizers/" + name + ".json"))["tokenizer"];
    const Tokenizer tokenizer = FromJson(stored);
    const json& vocab = stored["model"]["vocab"];
    const int invalid =
        vocab[name == std::string("gpt2") ? "\u00e2" : "<0xE2>"];
    DecodingStream stream(tokenizer);
    std::string text;
    for (int i = 0; i < 1000; ++i) text += stream.Add(invalid);
    const size_t printed = text.size();
    EXPECT_GE(printed, 3 * 990u);
    EXPECT_EQ(text + stream.Finish(), tokenizer.Decode(Ids(1000, invalid)));
  }
}

// "\u00e9" is there until a third byte makes U+FFFD of all three.
TEST(TokenizerJsonTest, StreamingOfBytesThatBecomeInvalid) {
  const json stored =
      json::parse(ReadAll(kData + "tokenizers/llama2.json"))["tokenizer"];
  const Tokenizer tokenizer = FromJson(stored);
  const json& vocab = stored["model"]["vocab"];
  const Ids ids = {vocab["<0xC3>"], vocab["<0xA9>"], vocab["<0xFF>"],
                   vocab["a"]};
  EXPECT_EQ(tokenizer.Decode(ids), "\ufffd\ufffd\ufffda");
  DecodingStream stream(tokenizer);
  EXPECT_EQ(stream.Add(ids[0]), "");
  EXPECT_EQ(stream.Add(ids[1]), "\u00e9");
  EXPECT_EQ(stream.Add(ids[2]), "");
  EXPECT_EQ(stream.Add(ids[3]), "\ufffd\ufffda");
  EXPECT_EQ(stream.Finish(), "");
}

class WrongTokenizerTest : public testing::Test {
 protected:
  // `change` at `pointer`, and the message of the file that is then read.
  void ExpectError(const char* pointer, const json& value,
                   const std::string& part) {
    json root = json::parse(ReadAll(kData + "families/llama3/tokenizer.json"));
    root[json::json_pointer(pointer)] = value;
    ExpectError(root.dump(), part);
  }
  void ExpectError(const std::string& text, const std::string& part) {
    const auto loaded = Tokenizer::FromJson(text, "tokenizer.json");
    ASSERT_FALSE(loaded.ok()) << part;
    const std::string& message = loaded.status().message();
    EXPECT_EQ(message.find("tokenizer.json: "), 0u) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
};

TEST_F(WrongTokenizerTest, OtherKinds) {
  ExpectError("/model/type", "Unigram", "model.type is \"Unigram\"");
  ExpectError("/model/dropout", 0.1, "model.dropout is 0.1");
  ExpectError("/normalizer", {{"type", "Nmt"}}, "normalizer.type is \"Nmt\"");
  ExpectError("/pre_tokenizer/pretokenizers/1", {{"type", "UnicodeScripts"}},
              "pre_tokenizer.pretokenizers[1].type is \"UnicodeScripts\"");
  ExpectError("/pre_tokenizer/pretokenizers/0/behavior", "Kept",
              "behavior is \"Kept\", expected one of Removed");
  ExpectError("/decoder", {{"type", "CTC"}}, "decoder.type is \"CTC\"");
  ExpectError("/post_processor", {{"type", "Other"}},
              "post_processor.type is \"Other\"");
}

TEST_F(WrongTokenizerTest, DamagedFiles) {
  for (const char* text : {"", "{", "7", "[]", "null"}) {
    ExpectError(std::string(text), "is no JSON");
  }
  ExpectError(std::string("{}"), "model is missing");
  ExpectError(std::string("{\"model\": 1}"), "model is 1");
  ExpectError(std::string(1 << 20, '['), "nested deeper");
  std::string deep = "{\"type\":\"NFC\"}";
  for (int i = 0; i < 200; ++i) {
    deep = "{\"type\":\"Sequence\",\"normalizers\":[" + deep + "]}";
  }
  ExpectError("{\"normalizer\":" + deep + "}", "nested deeper");
  ExpectError("/pre_tokenizer/pretokenizers/0/pattern/Regex", "(",
              "pretokenizers[0].pattern.Regex is \"(\"");
  ExpectError("/pre_tokenizer/pretokenizers/0/pattern", json::object(),
              "pattern.Regex is missing");
  ExpectError("/model/vocab", nullptr, "model.vocab is null");
  ExpectError("/model/merges", 1, "model.merges is 1");
}

TEST_F(WrongTokenizerTest, IdsAndMerges) {
  for (const json& id : {json(-1), json("a"), json(1 << 30), json(1.5)}) {
    ExpectError("/model/vocab/zzz", id, "model.vocab.'zzz' is " + id.dump());
  }
  ExpectError("/model/vocab/zzz", 5, "a token has one id");
  // A key that occurs twice.
  ExpectError(std::string(R"({"model":{"vocab":{"a":0,"a":1},"merges":[]}})"),
              "model.vocab.'a' is 1, but a token has one id");
  for (const json& merge :
       {json("a"), json("a b c"), json::array({"a"}), json::array({1, 2})}) {
    ExpectError("/model/merges/0", merge, "expected two tokens");
  }
  ExpectError("/model/merges/0", "nonsense zzz", "'vocab' lacks 'nonsense'");
  ExpectError("/model/merges/0", json{"a", "\u65e5"}, "'vocab' lacks");
}

TEST_F(WrongTokenizerTest, AddedTokens) {
  ExpectError("/added_tokens", json::array({json::object()}),
              "added_tokens[0].content is missing");
  ExpectError("/added_tokens/0/id", -1, "added_tokens[0].id is -1");
  ExpectError("/added_tokens/0/id", 17, "but the tokenizers library reads 0");
  ExpectError("/added_tokens/0/lstrip", 1, "added_tokens[0].lstrip is 1");
  ExpectError("/added_tokens/0/content", std::string(5 << 20, 'a'),
              "more than 4 MiB");
}

TEST_F(WrongTokenizerTest, PostProcessors) {
  const json text = {{"Sequence", {{"id", "A"}}}};
  const auto expect = [&](const json& single, const json& tokens,
                          const std::string& part) {
    ExpectError("/post_processor",
                {{"type", "TemplateProcessing"},
                 {"single", single},
                 {"special_tokens", tokens}},
                part);
  };
  const json none = json::object();
  expect("<s> $A", none, "post_processor.single is");
  expect({text, text}, none, "single[1].Sequence is \"A\"");
  expect({{{"Sequence", {{"id", "B"}}}}}, none, "single[0].Sequence is \"B\"");
  expect({{{"SpecialToken", {{"id", "<s>"}}}}}, none, "<s> is missing");
  expect({{{"SpecialToken", {{"id", "<s>"}}}}}, {{"<s>", {{"ids", {-1}}}}},
         "<s> is -1");
  ExpectError("/post_processor",
              {{"type", "BertProcessing"}, {"cls", {"x"}}, {"sep", {"x", 1}}},
              "post_processor.cls is [\"x\"]");
}

}  // namespace
}  // namespace rankforge
