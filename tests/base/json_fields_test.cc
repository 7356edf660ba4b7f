// The first wrong field is the one that is reported; later reads do no harm.
#include "base/json_fields.h"

#include <gtest/gtest.h>

namespace rankforge {
namespace {

using Json = nlohmann::json;

TEST(JsonFieldsTest, ReadsEveryType) {
  const Json object = {{"text", "a"},
                       {"flag", true},
                       {"number", 0.5},
                       {"count", 7u},
                       {"hash", "00000000000000ff"},
                       {"texts", Json::array({"a", "b"})},
                       {"list", {1, 2}},
                       {"inner", {{"count", 3u}}},
                       {"null", nullptr}};
  FieldError error;
  JsonFields fields(object, "", &error);
  EXPECT_EQ(fields.Text("text"), "a");
  EXPECT_TRUE(fields.Flag("flag"));
  EXPECT_EQ(fields.Number("number", 0, 1), 0.5);
  EXPECT_EQ(fields.Count("count", 7, 7), 7u);
  EXPECT_EQ(fields.Hash("hash"), 255u);
  EXPECT_EQ(fields.Texts("texts"), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(fields.Array("list").size(), 2u);
  EXPECT_EQ(fields.Object("inner").Count("count"), 3u);
  EXPECT_TRUE(fields.Has("text"));
  EXPECT_FALSE(fields.Has("null"));
  EXPECT_FALSE(fields.Has("absent"));
  EXPECT_TRUE(fields.ok());
}

TEST(JsonFieldsTest, TheFirstErrorStays) {
  const Json object = {{"inner", {{"count", 12u}}}, {"flag", 1}};
  FieldError error;
  JsonFields fields(object, "root", &error);
  EXPECT_EQ(fields.Object("inner").Count("count", 1, 9), 1u);
  EXPECT_FALSE(fields.ok());
  EXPECT_FALSE(fields.Flag("flag"));
  EXPECT_EQ(fields.Text("absent"), "");
  EXPECT_EQ(error.where, "root.inner");
  EXPECT_EQ(error.field, "count");
  EXPECT_EQ(error.value, "12");
  EXPECT_EQ(error.reason, "expected an integer from 1 to 9");
  EXPECT_FALSE(error.missing());
}

TEST(JsonFieldsTest, AMissingFieldAndAWrongObjectAreErrors) {
  FieldError missing;
  const Json empty = Json::object();
  JsonFields(empty, "", &missing).Hash("hash");
  EXPECT_TRUE(missing.missing());
  EXPECT_EQ(missing.field, "hash");

  FieldError wrong;
  const Json list = {1, 2};
  JsonFields fields(list, "root", &wrong);
  EXPECT_EQ(fields.Array("list").size(), 0u);
  EXPECT_EQ(wrong.field, "root");
  EXPECT_EQ(wrong.reason, "expected an object");
}

TEST(JsonFieldsTest, WrongTypesAreErrors) {
  const auto reason = [](const Json& value, auto read) {
    const Json object = {{"x", value}};
    FieldError error;
    JsonFields fields(object, "", &error);
    read(fields);
    return error.reason;
  };
  const auto count = [](JsonFields& fields) { fields.Count("x", 0, 5); };
  const auto hash = [](JsonFields& fields) { fields.Hash("x"); };
  const auto texts = [](JsonFields& fields) { fields.Texts("x"); };
  for (const Json& value : {Json(-1), Json(6u), Json(1.5), Json("1"), Json()}) {
    EXPECT_NE(reason(value, count), "") << value;
  }
  for (const char* text : {"", "ff", "000000000000000g", "00000000000000000"}) {
    EXPECT_NE(reason(text, hash), "") << text;
  }
  EXPECT_NE(reason(Json::array({"a", 1}), texts), "");
}

TEST(JsonFieldsTest, ValuesAreShownShort) {
  EXPECT_EQ(Shown("a\nb"), "\"a\\nb\"");
  EXPECT_EQ(Shown(std::string(100, 'x')).size(), 48u);
  EXPECT_EQ(Shown("\xff"), "\"\\ufffd\"");
}

TEST(ParseJsonTest, DepthIsCheckedBeforeTheTreeIsBuilt) {
  const auto nested = [](size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_TRUE(ParseJson(nested(64)).ok());
  EXPECT_EQ(ParseJson(nested(65)).status().message(),
            "nested deeper than 64 levels");
  EXPECT_FALSE(ParseJson(std::string(1 << 22, '[')).ok());
  EXPECT_FALSE(ParseJson(nested(3), {.depth = 2}).ok());
  // Brackets inside strings do not nest, also after an escaped quote.
  EXPECT_TRUE(ParseJson(R"(["[[[\"[[["])", {.depth = 1}).ok());
  EXPECT_TRUE(ParseJson("[[],[],[]]", {.depth = 2}).ok());
}

TEST(ParseJsonTest, KeysOccurOnce) {
  const std::string twice = R"({"a": {"b": 1, "b": 2}})";
  EXPECT_EQ(ParseJson(twice).status().message(),
            "key \"b\" occurs twice in one object");
  const auto last = ParseJson(twice, {.unique_keys = false});
  ASSERT_TRUE(last.ok());
  EXPECT_EQ((*last)["a"]["b"], 2);
}

TEST(ParseJsonTest, WrongSyntax) {
  for (const bool unique : {true, false}) {
    const JsonLimits limits{.unique_keys = unique};
    EXPECT_EQ(ParseJson("{", limits).status().message(),
              "is no JSON: it ends too early, after 1 bytes");
    EXPECT_EQ(ParseJson("[1e999]", limits).status().message(),
              "holds a number out of range");
    EXPECT_FALSE(ParseJson("", limits).ok());
    EXPECT_FALSE(ParseJson("[\"\xff\"]", limits).ok());
    EXPECT_FALSE(ParseJson("\"\\", limits).ok());
  }
}

}  // namespace
}  // namespace rankforge
