// The rules about who may include whom (docs/architecture.md), checked on the
// sources: a wrong include of a header-only part would link.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace rankforge {
namespace {

namespace fs = std::filesystem;

// Every room, and the rooms right below it. A room may include itself and all
// that lies below it, however far down.
using Rooms = std::map<std::string, std::set<std::string>>;

const Rooms kRooms = {
    {"base", {}},
    {"meta", {}},
    {"kernels", {"meta"}},
    {"kernels/numbers", {"kernels"}},
    {"kernels/layer", {"kernels/numbers"}},
    {"kernels/mask", {"kernels/layer"}},
    {"kernels/gemv", {"kernels/numbers"}},
    {"kernels/rounded", {"kernels/gemv"}},
    {"kernels/tokens", {"kernels/gemv", "kernels/mask"}},
    {"kernels/xsimd", {"kernels/gemv"}},
    {"kernels/reference", {"kernels/rounded"}},
    {"generated/units", {"kernels/gemv"}},
    {"runtime", {"base", "kernels"}},
    {"runtime/threads", {"base"}},
    {"runtime/table", {"runtime"}},
    {"runtime/plan",
     {"kernels/rounded", "kernels/tokens", "runtime/table", "runtime/threads"}},
    {"runtime/model/text", {"base"}},
    {"runtime/model/format", {"runtime/plan", "runtime/model/text"}},
    {"runtime/model/weights", {"runtime/model/format"}},
    {"runtime/model/forward", {"runtime/model/weights"}},
    {"runtime/model/use", {"runtime/model/forward"}},
    {"include/rankforge", {}},
    {"examples/library", {"include/rankforge"}},
    {"examples/ggml", {"integrations/ggml"}},
    {"integrations/ggml", {}},
    {"integrations/llama", {"integrations/ggml", "runtime/model/use"}},
    {"integrations/onnxruntime", {}},
    {"tuner/search", {"runtime/plan"}},
    {"tuner/measure", {"tuner/search"}},
    {"tuner/forge", {"runtime/plan"}},
    {"tuner", {"tuner/measure"}},
    {"capi", {"include/rankforge", "runtime/plan"}},
    {"capi/tuner", {"capi", "tuner"}},
    {"python/src", {"include/rankforge", "runtime/model/use"}},
    {"adapt/math", {"runtime/model/use"}},
    {"adapt/calibrate", {"adapt/math"}},
    {"adapt/forms", {"adapt/math"}},
    {"adapt/run", {"adapt/calibrate", "adapt/forms"}},
    {"adapt/methods", {"adapt/run"}},
    {"adapt/a3", {"adapt/run"}},
    {"adapt/rounding", {"adapt/calibrate", "adapt/forms"}},
    {"adapt", {"adapt/methods", "adapt/a3", "adapt/rounding"}},
    {"cli", {"cli/commands"}},
    {"optimize", {"adapt", "tuner"}},
    {"cli/support", {"optimize", "tuner/forge"}},
    {"cli/chat", {"cli/support"}},
    {"cli/compare", {"cli/support"}},
    {"cli/table", {"cli/support"}},
    {"cli/report", {"cli/support"}},
    {"cli/describe", {}},
    {"cli/commands",
     {"cli/table", "cli/report", "cli/chat", "cli/compare", "cli/describe"}},
    {"bench", {"include/rankforge", "runtime/model/use", "tuner"}},
    {"bench/peers", {"bench"}},
};

// All rooms that `room` may include, itself among them.
std::set<std::string> Below(const Rooms& rooms, const std::string& room) {
  std::set<std::string> below = {room};
  for (const std::string& next : rooms.at(room))
    below.merge(Below(rooms, next));
  return below;
}

struct Source {
  std::string path;  // from the root of the project
  std::string text;

  std::string folder() const { return fs::path(path).parent_path().string(); }
  // Headers that are compiled once per target are code, not interfaces.
  bool is_interface() const {
    return path.ends_with(".h") && !path.ends_with("-inl.h");
  }
};

// Everything that `source` includes, as written.
std::vector<std::string> IncludesOf(const Source& source) {
  static const std::regex kInclude(
      R"re((?:^|\n)[ \t]*#[ \t]*include[ \t]*["<]([^">]+)[">])re");
  std::vector<std::string> includes;
  for (std::sregex_iterator
           match(source.text.begin(), source.text.end(), kInclude),
       end;
       match != end; ++match) {
    includes.push_back((*match)[1]);
  }
  return includes;
}

// What is wrong with `source`: an unknown room first, then includes of rooms
// that are not below its own.
std::vector<std::string> Faults(const Rooms& rooms, const Source& source) {
  if (!rooms.contains(source.folder())) {
    return {source.path + " is in no known room; name it in kRooms"};
  }
  const std::set<std::string> below = Below(rooms, source.folder());
  // A folder of this project, not of a library.
  const auto is_ours = [&](const std::string& folder) {
    const std::string top = folder.substr(0, folder.find('/'));
    return top == "tests" || std::ranges::any_of(rooms, [&](const auto& room) {
             return room.first.substr(0, room.first.find('/')) == top;
           });
  };
  std::vector<std::string> faults;
  for (const std::string& include : IncludesOf(source)) {
    const std::string folder = fs::path(include).parent_path().string();
    // <xsimd/xsimd.hpp> is a library's; our rooms lie below their top folder.
    if (folder.empty() || !is_ours(folder) || below.contains(folder)) continue;
    faults.push_back(source.path + " includes " + include);
  }
  return faults;
}

// All sources outside tests/, which lies above every room, and the build
// folder.
std::vector<Source> ProjectSources() {
  const fs::path root = RANKFORGE_SOURCE_DIR;
  std::vector<Source> sources;
  for (auto entry = fs::recursive_directory_iterator(root);
       entry != fs::recursive_directory_iterator(); ++entry) {
    const std::string path = entry->path().lexically_relative(root).string();
    if (entry->is_directory()) {
      if (path == "tests" || path == "build" || path.starts_with(".")) {
        entry.disable_recursion_pending();
      }
      continue;
    }
    if (!path.ends_with(".h") && !path.ends_with(".cc")) continue;
    std::ifstream file(entry->path());
    sources.push_back({path, {std::istreambuf_iterator<char>(file), {}}});
  }
  return sources;
}

TEST(StructureTest, IncludesFollowTheDataFlow) {
  std::set<std::string> seen;
  for (const Source& source : ProjectSources()) {
    seen.insert(source.folder());
    for (const std::string& fault : Faults(kRooms, source)) {
      ADD_FAILURE() << fault;
    }
  }
  for (const auto& [room, below] : kRooms) {
    EXPECT_TRUE(seen.contains(room)) << room << " has no sources";
  }
}

TEST(StructureTest, TheDocumentListsTheRooms) {
  std::ifstream file(fs::path(RANKFORGE_SOURCE_DIR) / "docs/architecture.md");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  for (const auto& [room, below] : kRooms) {
    EXPECT_NE(text.find("`" + room + "/`"), std::string::npos) << room;
  }
}

// The check itself: a folder that nobody listed, an include that goes up
// between top folders and between folders of one, and one that is right.
TEST(StructureTest, UnknownRoomsAndUpwardIncludesAreFaults) {
  const auto faults = [](const std::string& path, const std::string& include) {
    return Faults(kRooms, {path, "#include \"" + include + "\"\n"});
  };
  using Lines = std::vector<std::string>;
  EXPECT_EQ(faults("kernels/attic/a.cc", "meta/types.h"),
            Lines{"kernels/attic/a.cc is in no known room; name it in kRooms"});
  EXPECT_EQ(faults("attic/a.cc", "cli/support/log.h").size(), 1u);
  EXPECT_EQ(faults("base/a.cc", "meta/types.h"),
            Lines{"base/a.cc includes meta/types.h"});
  EXPECT_EQ(faults("runtime/model/format/a.h", "runtime/model/forward/b.h"),
            Lines{"runtime/model/format/a.h includes "
                  "runtime/model/forward/b.h"});
  EXPECT_EQ(faults("kernels/xsimd/a.cc", "kernels/attic/b.h").size(), 1u);
  EXPECT_EQ(faults("cli/support/a.cc", "tests/cli/program.h").size(), 1u);
  EXPECT_EQ(faults("kernels/xsimd/a.cc", "xsimd/xsimd.hpp"), Lines{});
  EXPECT_EQ(faults("runtime/model/use/a.cc", "kernels/numbers/float16.h"),
            Lines{});
}

// base/json_fields.h is what the .cc files that read JSON share, and no part of
// any interface.
TEST(StructureTest, NoHeaderOfALibraryShowsJsonOrSimd) {
  const std::string json_fields = "base/json_fields.h";
  for (const Source& source : ProjectSources()) {
    // A program, not a library.
    if (!source.is_interface() || source.path.starts_with("cli/")) continue;
    if (source.path == json_fields) continue;
    for (const std::string& include : IncludesOf(source)) {
      EXPECT_FALSE(include == json_fields || include.starts_with("nlohmann/") ||
                   include.starts_with("hwy/") || include.starts_with("xsimd/"))
          << source.path << " includes " << include;
    }
  }
}

// Two rooms with a type of one name link without a word, and the members of one
// run on the other.
TEST(StructureTest, NoTwoHeadersDefineOneName) {
  static const std::regex kType(
      R"re((?:^|\n)(?:struct|class) (\w+)[^;\n]*\{)re");
  std::map<std::string, std::string> seen;
  for (const Source& source : ProjectSources()) {
    if (!source.is_interface() || source.path.starts_with("bench/")) continue;
    const std::string& text = source.text;
    for (std::sregex_iterator match(text.begin(), text.end(), kType), end;
         match != end; ++match) {
      const auto [first, added] = seen.try_emplace((*match)[1], source.path);
      EXPECT_TRUE(added) << (*match)[1] << ": " << first->second << " and "
                         << source.path;
    }
  }
  EXPECT_GT(seen.size(), 100u);
}

TEST(StructureTest, HeadersHaveTheGuardOfTheirPath) {
  for (const Source& source : ProjectSources()) {
    if (!source.is_interface()) continue;
    std::string guard = "RANKFORGE_" + source.path + "_";
    for (char& c : guard) {
      c = std::isalnum(static_cast<unsigned char>(c))
              ? static_cast<char>(std::toupper(c))
              : '_';
    }
    EXPECT_NE(
        source.text.find("#ifndef " + guard + "\n#define " + guard + "\n"),
        std::string::npos)
        << source.path << " lacks " << guard;
  }
}

}  // namespace
}  // namespace rankforge
