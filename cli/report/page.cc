#include "cli/report/page.h"

#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>

#include "base/atomic_file.h"
#include "base/child_process.h"
#include "base/files.h"

namespace rankforge {
namespace {

namespace fs = std::filesystem;

struct EmbeddedText {
  std::string_view name;
  std::string_view text;
};
constexpr EmbeddedText kModules[] = {
#include "report_page.inc"
};

// The page is drawn by the first of these that has matplotlib: the user's own,
// then Debian's, which python3-matplotlib belongs to.
constexpr const char* kInterpreters[] = {"python3", "/usr/bin/python3"};
constexpr int kNoMatplotlib = 3;  // exit code of report_page.py

// A temporary folder that is removed with this object.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::error_code error;
    const fs::path parent = fs::temp_directory_path(error);
    std::string name = (parent / "rankforge-report.XXXXXX").string();
    if (!error && mkdtemp(name.data()) != nullptr) path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const fs::path& path() const { return path_; }  // empty: there is none

 private:
  fs::path path_;
};

Status WriteTemporary(const fs::path& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  return file.flush() ? Status()
                      : Failed(path.string() +
                               ": cannot be written; check "
                               "TMPDIR and the space there");
}

// Leaves report.html and the plots in `folder`.
Status DrawIn(const fs::path& folder, const Json& data) {
  const fs::path program = folder / "report_page.py";
  const fs::path input = folder / "data.json";
  for (const EmbeddedText& module : kModules) {
    RANKFORGE_RETURN_IF_ERROR(WriteTemporary(
        folder / (std::string(module.name) + ".py"), module.text));
  }
  RANKFORGE_RETURN_IF_ERROR(WriteTemporary(
      input, data.dump(-1, ' ', true, Json::error_handler_t::replace)));
  for (const char* interpreter : kInterpreters) {
    const Result<ChildResult> child = RunChild(
        {interpreter, program.string(), input.string(), folder.string()});
    if (!child.ok()) continue;
    if (child->exit_code == 0) return {};
    if (child->exit_code != kNoMatplotlib && child->exit_code != 127) {
      return Failed(fmt::format("report: {} ended with {}: {:.200}",
                                interpreter, child->exit_code,
                                LastLine(child->output)));
    }
  }
  return EnvironmentError(
      "report: no Python with matplotlib; apt-get install python3-matplotlib");
}

// Copies a drawn file to where it is wanted, whole or not at all.
Status Deliver(const fs::path& from, const std::string& to) {
  constexpr size_t kMostBytes = size_t{64} << 20;
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text,
                             ReadTextFile(from.string(), kMostBytes));
  return WriteFileAtomically(to, text);
}

}  // namespace

Result<std::vector<std::string>> DrawPage(const Json& data,
                                          const std::string& out,
                                          const std::string& svg) {
  const ScratchFolder scratch;
  if (scratch.path().empty()) {
    return EnvironmentError(
        "report: no temporary folder; set TMPDIR to one that can be written");
  }
  RANKFORGE_RETURN_IF_ERROR(DrawIn(scratch.path(), data));
  std::vector<std::string> plots;
  for (const auto& file : fs::directory_iterator(scratch.path())) {
    if (file.path().extension() == ".svg") {
      plots.push_back(file.path().filename().string());
    }
  }
  std::ranges::sort(plots);
  RANKFORGE_RETURN_IF_ERROR(Deliver(scratch.path() / "report.html", out));
  if (!svg.empty()) {
    for (const std::string& plot : plots) {
      RANKFORGE_RETURN_IF_ERROR(
          Deliver(scratch.path() / plot, svg + "/" + plot));
    }
  }
  return plots;
}

}  // namespace rankforge
