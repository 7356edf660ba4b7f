// A killed run goes on after its last finished block, to the same result.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "adapt/adapt.h"
#include "adapt/methods/plan_search.h"
#include "adapt/methods/probe_plan.h"
#include "adapt/run/adapt_state.h"
#include "adapt/run/work_meter.h"
#include "runtime/model/weights/synthetic.h"
#include "tests/adapt/adapt_testing.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

ModelConfig SmallConfig() {
  ModelConfig config = TinyConfig();
  config.layers = 3;
  return config;
}

class ResumeTest : public testing::Test {
 protected:
  ResumeTest() {
    EXPECT_TRUE(
        WriteSyntheticCheckpoint(SmallConfig(), 1, folder_.File("model")).ok());
    checkpoint_.emplace(Checkpoint::Open(folder_.File("model")).value());
    ids_ = SyntheticIds(checkpoint_->config(), 400, 2);
  }

  AdaptOptions Options(const std::string& method) const {
    AdaptOptions options;
    options.method = method;
    options.keep = 0.6;
    options.window = 16;
    options.calibration_tokens = 320;
    options.split_tokens = 64;
    return options;
  }
  Result<Adapter> Run(const AdaptOptions& options, const std::string& out) {
    return AdaptToFile(*checkpoint_, ids_, options, State(), folder_.File(out));
  }
  std::string State() const { return folder_.File("state"); }

  // Runs in a process that is killed when it has done `steps` of them; false:
  // it ended before.
  bool Killed(AdaptOptions options, size_t steps, const std::string& out) {
    const pid_t child = fork();
    if (child == 0) {
      options.progress = [&](size_t done, size_t, const std::string&,
                             std::optional<double>) {
        if (done == steps) kill(getpid(), SIGKILL);
      };
      _exit(Run(options, out).ok() ? 0 : 1);
    }
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(!WIFEXITED(status) || WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
  }

  // The message of a refused run.
  std::string Refusal(const AdaptOptions& options) {
    const Result<Adapter> adapter = Run(options, "refused");
    EXPECT_FALSE(adapter.ok());
    EXPECT_FALSE(std::filesystem::exists(folder_.File("refused")));
    return adapter.ok() ? "" : adapter.status().message();
  }

  TemporaryFolder folder_;
  std::optional<Checkpoint> checkpoint_;
  std::vector<int> ids_;
};

TEST_F(ResumeTest, AKillAnywhereChangesNothing) {
  for (const char* method : {"rana", "rana-paper", "cats", "rotated"}) {
    AdaptOptions options = Options(method);
    if (options.method == "cats") options.keep = 0.85;  // only MLPs are cut
    size_t steps = 0;
    options.progress = [&](size_t done, size_t total, const std::string&,
                           std::optional<double> left) {
      EXPECT_EQ(done, ++steps);
      EXPECT_LE(done, total);
      ASSERT_TRUE(left.has_value());
      EXPECT_TRUE(done < total || *left < 1e-3) << *left;
    };
    ASSERT_TRUE(Run(options, "whole").ok());
    EXPECT_GE(steps, SmallConfig().layers);
    const std::string whole = ReadAll(folder_.File("whole"));
    EXPECT_FALSE(std::filesystem::exists(State()));

    for (size_t killed = 1; killed <= steps; ++killed) {
      ASSERT_TRUE(Killed(options, killed, "resumed")) << killed;
      EXPECT_FALSE(std::filesystem::exists(folder_.File("resumed")));
      // No finished block is worked on again.
      std::optional<size_t> first;
      options.progress = [&](size_t done, size_t, const std::string&,
                             std::optional<double>) {
        if (!first) first = done;
      };
      const Result<Adapter> resumed = Run(options, "resumed");
      ASSERT_TRUE(resumed.ok()) << resumed.status().message();
      EXPECT_TRUE(killed == steps || first == killed + 1)
          << method << " killed after step " << killed << ", went on with "
          << first.value_or(0);
      EXPECT_EQ(ReadAll(folder_.File("resumed")), whole)
          << method << " killed after step " << killed;
      EXPECT_FALSE(std::filesystem::exists(State()));
      std::filesystem::remove(folder_.File("resumed"));
    }
  }
}

TEST_F(ResumeTest, TheFileIsWhatAdaptReturns) {
  for (const char* method : {"rana", "wina", "svd"}) {
    const AdaptOptions options = Options(method);
    ASSERT_TRUE(Run(options, "streamed").ok());
    const Adapter adapter = Adapt(*checkpoint_, ids_, options).value();
    ASSERT_TRUE(SaveAdapter(adapter, folder_.File("whole")).ok());
    EXPECT_EQ(ReadAll(folder_.File("streamed")), ReadAll(folder_.File("whole")))
        << method;
  }
}

// Method a3: the same, for a checkpoint.
class ShrinkResumeTest : public ResumeTest {
 protected:
  AdaptOptions A3() const {
    AdaptOptions options = Options("a3");
    options.keep = 0.7;
    options.head_multiple = 2;
    options.mlp_multiple = 4;
    return options;
  }
  Result<A3Summary> Shrink(const AdaptOptions& options,
                           const std::string& out) {
    return ShrinkToFolder(*checkpoint_, ids_, options, State(),
                          folder_.File(out));
  }
  std::map<std::string, std::string> FilesOf(const std::string& out) const {
    std::map<std::string, std::string> files;
    for (const auto& entry :
         std::filesystem::directory_iterator(folder_.File(out))) {
      const std::string path = entry.path().string();
      files[entry.path().filename()] = ReadAll(path);
    }
    return files;
  }
};

TEST_F(ShrinkResumeTest, StoppingAnywhereChangesNothing) {
  for (const bool uniform : {false, true}) {
    AdaptOptions options = A3();
    options.uniform = uniform;
    size_t steps = 0;
    options.progress = [&](size_t done, size_t total, const std::string&,
                           std::optional<double> left) {
      EXPECT_EQ(done, ++steps);
      EXPECT_LE(done, total);
      EXPECT_TRUE(left.has_value());
    };
    const Result<A3Summary> whole = Shrink(options, "whole");
    ASSERT_TRUE(whole.ok()) << whole.status().message();
    ASSERT_EQ(steps, SmallConfig().layers * (uniform ? 1 : 2));
    ASSERT_FALSE(whole->config.layer_dims.empty());
    EXPECT_FALSE(std::filesystem::exists(State()));

    for (size_t stopped = 1; stopped <= steps; ++stopped) {
      size_t asked = 0;
      options.progress = {};
      options.cancelled = [&] { return ++asked == stopped; };
      EXPECT_FALSE(Shrink(options, "resumed").ok());
      EXPECT_FALSE(std::filesystem::exists(folder_.File("resumed")));
      options.cancelled = {};
      std::optional<size_t> first;
      options.progress = [&](size_t done, size_t, const std::string&,
                             std::optional<double>) {
        if (!first) first = done;
      };
      const Result<A3Summary> resumed = Shrink(options, "resumed");
      ASSERT_TRUE(resumed.ok()) << resumed.status().message();
      // No finished layer is worked on again.
      EXPECT_TRUE(stopped == steps || first == stopped + 1)
          << "stopped after step " << stopped << ", went on with "
          << first.value_or(0);
      EXPECT_EQ(FilesOf("resumed"), FilesOf("whole")) << stopped;
      EXPECT_EQ(resumed->losses, whole->losses);
      EXPECT_FALSE(std::filesystem::exists(State()));
      std::filesystem::remove_all(folder_.File("resumed"));
    }
    std::filesystem::remove_all(folder_.File("whole"));
  }
}

TEST_F(ShrinkResumeTest, AnotherRunIsRefused) {
  AdaptOptions options = A3();
  options.cancelled = [] { return true; };
  EXPECT_FALSE(Shrink(options, "out").ok());
  options = A3();
  options.mlp_multiple = 8;
  const Result<A3Summary> refused = Shrink(options, "out");
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find("'mlp_multiple'"),
            std::string::npos)
      << refused.status().message();
  EXPECT_TRUE(Shrink(A3(), "out").ok());
}

TEST_F(ResumeTest, StopsWhenAskedAndGoesOn) {
  AdaptOptions options = Options("wina");
  ASSERT_TRUE(Run(options, "whole").ok());
  options.cancelled = [] { return true; };
  const Result<Adapter> stopped = Run(options, "out");
  ASSERT_FALSE(stopped.ok());
  EXPECT_NE(stopped.status().message().find("after layer 0"), std::string::npos)
      << stopped.status().message();
  EXPECT_FALSE(std::filesystem::exists(folder_.File("out")));
  EXPECT_TRUE(std::filesystem::exists(State()));
  ASSERT_TRUE(Run(Options("wina"), "out").ok());
  EXPECT_EQ(ReadAll(folder_.File("out")), ReadAll(folder_.File("whole")));
}

TEST_F(ResumeTest, AnotherRunIsRefused) {
  const AdaptOptions options = Options("rana-paper");
  ASSERT_TRUE(Killed(options, 1, "out"));
  AdaptOptions other = options;
  other.keep = 0.5;
  EXPECT_NE(Refusal(other).find("'keep' is 0.6, here it is 0.5"),
            std::string::npos);
  other = options;
  other.method = "wina";
  EXPECT_NE(Refusal(other).find("'method'"), std::string::npos);
  other = options;
  other.times = CostModel{};
  EXPECT_NE(Refusal(other).find("'keep_of' is multiply-adds, here it is time"),
            std::string::npos);
  const std::vector<int> ids = ids_;
  ids_.back() ^= 1;
  EXPECT_NE(Refusal(options).find("'calibration'"), std::string::npos);
  ids_ = ids;
  ASSERT_TRUE(
      WriteSyntheticCheckpoint(SmallConfig(), 2, folder_.File("other")).ok());
  checkpoint_.emplace(Checkpoint::Open(folder_.File("other")).value());
  EXPECT_NE(Refusal(options).find("'checkpoint'"), std::string::npos);
  // The work is still there.
  checkpoint_.emplace(Checkpoint::Open(folder_.File("model")).value());
  EXPECT_TRUE(Run(options, "out").ok());
}

TEST_F(ResumeTest, DamageIsRefused) {
  AdaptOptions options = Options("rana");
  options.effort = 0;
  ASSERT_TRUE(Run(options, "whole").ok());
  // Within the survey, within the search, and after it, with the bases of the
  // stream, and one block, so that there is a file of every kind.
  const size_t layers = SmallConfig().layers, starts = Starts().size();
  std::set<std::string> refused;  // kinds of files
  for (const size_t steps :
       {layers + 1, 2 * layers + 1, 3 * layers + starts + 1}) {
    std::filesystem::remove_all(State());
    ASSERT_TRUE(Killed(options, steps, "out"));
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(State())) {
      files[entry.path().string()] = ReadAll(entry.path().string());
    }
    for (const auto& [path, contents] : files) {
      // A block that is done needs its bases no more.
      if (path.find("/basis.0.") != std::string::npos) continue;
      for (const size_t at : {size_t{9}, contents.size() - 3}) {
        for (const auto& [other, whole] : files) WriteAll(other, whole);
        std::string changed = contents;
        changed[at] = static_cast<char>(changed[at] ^ 0x11);
        WriteAll(path, changed);
        const Result<Adapter> adapter = Run(options, "out");
        // A place that became no rank adapter needs no basis, and so on. Trials
        // are written again, and bases that are found need no stream.
        const bool needless =
            path.find("/basis.") != std::string::npos ||
            path.find("/slopes.") != std::string::npos ||
            path.find("/fisher.") != std::string::npos ||
            path.find("/hidden.stream") != std::string::npos ||
            path.find("/trial.") != std::string::npos;
        if (adapter.ok() && needless) {
          EXPECT_EQ(ReadAll(folder_.File("out")),
                    ReadAll(folder_.File("whole")));
          std::filesystem::remove(folder_.File("out"));
          std::filesystem::create_directory(State());
          continue;
        }
        ASSERT_FALSE(adapter.ok()) << path << " at " << at;
        EXPECT_NE(adapter.status().message().find("remove the folder"),
                  std::string::npos)
            << adapter.status().message();
        EXPECT_FALSE(std::filesystem::exists(folder_.File("out"))) << path;
        const std::string name = std::filesystem::path(path).filename();
        refused.insert(name.substr(0, name.find('.')));
      }
    }
  }
  for (const char* kind :
       {"run", "hidden", "survey", "search", "block", "place"}) {
    EXPECT_TRUE(refused.contains(kind)) << kind;
  }
}

TEST_F(ResumeTest, FoldersOfOthersAreLeftAlone) {
  std::filesystem::create_directory(State());
  WriteAll(State() + "/notes.txt", "mine");
  EXPECT_NE(Refusal(Options("wina")).find("notes.txt"), std::string::npos);
  EXPECT_EQ(ReadAll(State() + "/notes.txt"), "mine");
  // What stands beside the files of a run stays, too.
  std::filesystem::remove(State() + "/notes.txt");
  ASSERT_TRUE(Killed(Options("wina"), 1, "out"));
  WriteAll(State() + "/notes.txt", "mine");
  EXPECT_TRUE(Run(Options("wina"), "out").ok());
  EXPECT_EQ(ReadAll(State() + "/notes.txt"), "mine");
  EXPECT_FALSE(std::filesystem::exists(State() + "/run.json"));
}

TEST_F(ResumeTest, SnapshotsHaveNamesThatAreRemoved) {
  AdaptState state = AdaptState::Open(State(), {{"run", "names"}}).value();
  EXPECT_TRUE(state.SaveSnapshot("gains.5", {}).ok());
  const Status status = state.SaveSnapshot("gains-5", {});
  EXPECT_NE(status.message().find("gains-5.safetensors"), std::string::npos);
  state.Remove();
  EXPECT_FALSE(std::filesystem::exists(State()));
}

TEST_F(ResumeTest, WhatCannotBeHadLeavesNothing) {
  AdaptOptions options = Options("rana");
  options.window = 1000;
  Refusal(options);
  EXPECT_FALSE(std::filesystem::exists(State()));
  options = Options("rana");
  options.keep = 0.2;
  options.without = {Refinement::kInputMasks};  // o stays dense
  EXPECT_NE(Refusal(options).find("keep 0.2"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(State()));
}

TEST(ProbedBlocks, AreSpreadOverTheDepth) {
  EXPECT_EQ(ProbedBlocks(4, 0), (std::vector<size_t>{0, 1, 2, 3}));
  EXPECT_EQ(ProbedBlocks(4, 9), (std::vector<size_t>{0, 1, 2, 3}));
  EXPECT_EQ(ProbedBlocks(9, 3), (std::vector<size_t>{0, 4, 8}));
  EXPECT_EQ(ProbedBlocks(9, 1), (std::vector<size_t>{4}));
  const std::vector<size_t> few = ProbedBlocks(80, 0);
  EXPECT_LT(few.size(), 12u);
  EXPECT_EQ(few.front(), 0u);
  EXPECT_EQ(few.back(), 79u);
}

TEST(WorkMeter, TimeLeftGoesByWork) {
  static double seconds = 0;
  seconds = 100;
  std::vector<double> left;
  std::vector<size_t> done;
  WorkMeter meter(
      [&](size_t step, size_t total, const std::string&,
          std::optional<double> seconds_left) {
        EXPECT_EQ(total, 4u);
        done.push_back(step);
        left.push_back(seconds_left.value());
      },
      {}, [] { return seconds; });
  meter.Extend(4, 40);
  meter.Skip(10);
  seconds += 2;
  EXPECT_TRUE(meter.Step("a", 5).ok());
  seconds += 4;
  EXPECT_TRUE(meter.Step("b", 15).ok());
  EXPECT_TRUE(meter.Step("c", 10).ok());
  EXPECT_EQ(done, (std::vector<size_t>{2, 3, 4}));
  // 5 of 30 take 2 s, 20 of 30 take 6 s.
  EXPECT_DOUBLE_EQ(left[0], 10);
  EXPECT_DOUBLE_EQ(left[1], 3);
  EXPECT_EQ(left[2], 0);
}

}  // namespace
}  // namespace rankforge
