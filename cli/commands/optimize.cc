// `rankforge optimize`: chooses forms and weight types of all layers under one
// budget, from models that it measures as a whole.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "adapt/adapt.h"
#include "base/atomic_file.h"
#include "base/content_hash.h"
#include "base/files.h"
#include "base/lock_file.h"
#include "cli/report/front.h"
#include "cli/report/page.h"
#include "cli/support/commands.h"
#include "cli/support/interrupt.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "cli/support/plugin_option.h"
#include "cli/support/progress.h"
#include "cli/support/session.h"
#include "cli/support/shapes.h"
#include "cli/support/token_ids.h"
#include "optimize/points.h"
#include "optimize/prices.h"
#include "optimize/proposals.h"
#include "optimize/sensitivities.h"
#include "optimize/type_groups.h"
#include "runtime/model/weights/stored_types.h"
#include "runtime/model/weights/types_file.h"
#include "runtime/table/choice.h"
#include "runtime/table/cpu.h"
#include "tuner/tuner.h"

namespace rankforge {
namespace {

namespace fs = std::filesystem;

// --front without a budget takes the quickest point within this.
constexpr double kDefaultLoss = 0.05;
constexpr char kNoKeeps[] = "none";

struct OptimizeArguments {
  CommonOptions common;
  std::string model;
  TokenSource calibration;
  std::optional<double> max_loss;
  std::optional<double> time_ratio;
  bool front = false;
  std::vector<std::string> keeps = {"0.7", "0.56"};
  std::vector<std::string> types = {"i8_group32", "i4m_group32", "i4_group32"};
  AdaptOptions adapt;
  MeterOptions meter;
  // What all points compute with: of integers, unless bf16 is asked for.
  Activations activations() const {
    return common.activations.value_or(Activations::kI8);
  }
  size_t held = 4096;
  size_t probe_tokens = 1024;
  size_t points = 6;
  double budget_seconds = 90;
  bool allow_noise = false;
  std::string out;
};

// Which tokens are for what. The three are apart from each other, but for
// `probe`, on which nothing but types is compared.
struct TokenSplit {
  std::span<const int> fit;    // of adapters
  std::span<const int> probe;  // the last of `fit`: sensitivities to types
  std::span<const int> held;   // of the final figures
};

Result<TokenSplit> Split(std::span<const int> ids,
                         const OptimizeArguments& arguments) {
  const size_t window = arguments.meter.window;
  const size_t windows = ids.size() / window;
  if (windows < 2) {
    return Failed(fmt::format(
        "optimize: {} tokens are less than two windows of {}, one to fit and "
        "one to measure; give a longer text or a smaller --window",
        ids.size(), window));
  }
  constexpr size_t kMostShare = 4;  // of the text is held out
  const size_t held = std::clamp(arguments.held / window, size_t{1},
                                 std::max(windows / kMostShare, size_t{1}));
  const size_t probe =
      std::clamp(arguments.probe_tokens / window, size_t{1}, windows - held);
  const std::span<const int> whole = ids.first(windows * window);
  TokenSplit split;
  split.held = whole.last(held * window);
  split.fit = whole.first(whole.size() - split.held.size());
  split.probe = split.fit.last(probe * window);
  return split;
}

// What would end the run when most of it is done.
Status CheckLengths(const OptimizeArguments& arguments,
                    const ModelConfig& config, const TokenSplit& tokens) {
  const MeterOptions& meter = arguments.meter;
  RANKFORGE_RETURN_IF_ERROR(CheckHeldTokens(tokens.held.size(), meter));
  const size_t most = config.max_positions;
  if (meter.window > most) {
    return UsageError(fmt::format(
        "--window {}: the model has {} positions; use a smaller one",
        meter.window, most));
  }
  if (meter.context + meter.tokens > most) {
    return UsageError(fmt::format(
        "--context {} and -n {}: the model has {} positions; use less",
        meter.context, meter.tokens, most));
  }
  return {};
}

// bf16, with which all are compared, and those asked for, each once.
std::vector<WeightType> CandidateTypes(const OptimizeArguments& arguments) {
  std::vector<WeightType> types = {WeightType::kBf16};
  for (const std::string& name : arguments.types) {
    const WeightType type = *WeightTypeNamed(name);
    if (std::ranges::count(types, type) == 0) types.push_back(type);
  }
  return types;
}

Result<std::vector<double>> KeepsOf(const OptimizeArguments& arguments) {
  std::vector<double> keeps;
  for (const std::string& text : arguments.keeps) {
    if (text == kNoKeeps) {
      if (arguments.keeps.size() == 1) return keeps;
      return UsageError("--keeps none: stands alone; leave out the others");
    }
    const double keep = std::strtod(text.c_str(), nullptr);
    if (std::ranges::count(keeps, keep) == 0) keeps.push_back(keep);
  }
  return keeps;
}

// The folders of a run: the result appears under its name when complete.
struct Folders {
  std::string out;
  std::string state;   // what a killed run leaves for the next one
  std::string result;  // inside `state`
};

Result<Folders> MakeFolders(std::string out) {
  while (out.size() > 1 && out.back() == '/') out.pop_back();
  const Folders folders = {out, out + ".state", out + ".state/result"};
  std::error_code error;
  if (fs::exists(out, error) &&
      (!fs::is_directory(out, error) || !fs::is_empty(out, error))) {
    return UsageError(fmt::format(
        "--out {}: is there and not an empty folder; name another one", out));
  }
  return folders;
}

// Called with the lock: what another run writes there stays.
Status ClearResult(const Folders& folders) {
  std::error_code error;
  fs::remove_all(folders.result, error);
  fs::create_directories(folders.result, error);
  if (!error) return {};
  return Failed(fmt::format("{}: cannot be made: {}; name another --out",
                            folders.result, error.message()));
}

// A form of the whole model: dense, or with an adapter.
struct ModelForm {
  std::string name = "dense";
  std::optional<Adapter> adapter = {};
  std::string path = {};  // of the adapter

  const Adapter* adapter_or_null() const {
    return adapter ? &*adapter : nullptr;
  }
};

// The adapter's folder below `state` is named after all that decides about it,
// so that another run finds it.
std::string AdapterFolder(const std::string& state,
                          const Checkpoint& checkpoint,
                          std::span<const int> ids,
                          const AdaptOptions& options) {
  ContentHash hash;
  for (const auto& [name, value] :
       IdentityOf(checkpoint.FullHash(), ids, options)) {
    hash.Add(std::as_bytes(std::span(name)));
    hash.Add(std::as_bytes(std::span(value)));
  }
  return state + "/adapter-" + hash.Digest();
}

Result<ModelForm> MakeForm(double keep, const OptimizeArguments& arguments,
                           const Checkpoint& checkpoint,
                           std::span<const int> ids, const std::string& state) {
  ModelForm form{fmt::format("keep {}", keep)};
  AdaptOptions options = arguments.adapt;
  options.keep = keep;
  options.window = arguments.meter.window;
  options.seed = arguments.common.seed;
  options.threads = arguments.common.threads;
  options.bos = RecordedBos(arguments.calibration);
  const std::string folder = AdapterFolder(state, checkpoint, ids, options);
  form.path = folder + "/" + kOptimizedAdapter;
  if (!FileExists(form.path)) {
    std::error_code ignored;  // AdaptToFile says what is wrong with it
    fs::create_directories(folder, ignored);
    Progress progress(fmt::format("adapt to {}", keep));
    const InterruptScope interrupts;
    options.cancelled = InterruptScope::Asked;
    options.progress = [&](size_t done, size_t total, const std::string& what,
                           std::optional<double> seconds_left) {
      progress.Update(done, total, what, seconds_left);
    };
    RANKFORGE_RETURN_IF_ERROR(
        AdaptToFile(checkpoint, ids, options, folder + "/state", form.path)
            .status());
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      form.adapter, LoadAdapterOf(checkpoint, form.path, AdapterParts::kAll));
  return form;
}

// Dense first.
Result<std::vector<ModelForm>> MakeForms(const std::vector<double>& keeps,
                                         const OptimizeArguments& arguments,
                                         const Checkpoint& checkpoint,
                                         std::span<const int> ids,
                                         const std::string& state) {
  std::vector<ModelForm> forms(1);
  for (const double keep : keeps) {
    RANKFORGE_ASSIGN_OR_RETURN(
        ModelForm form, MakeForm(keep, arguments, checkpoint, ids, state));
    forms.push_back(std::move(form));
  }
  return forms;
}

// Whether a matrix of the checkpoint is stored as integers. A layout whose
// groups do not run along rows would round it again, which nothing here weighs
// against its time.
Result<bool> HoldsIntegers(const Checkpoint& checkpoint) {
  RANKFORGE_ASSIGN_OR_RETURN(const StoredTypes stored,
                             StoredTypesOf(checkpoint, true, true));
  return std::ranges::any_of(stored.by_tensor, [](const auto& tensor) {
    return IsQuantized(tensor.second);
  });
}

Result<DispatchTable> TuneAll(const OptimizeArguments& arguments,
                              const Checkpoint& checkpoint,
                              const std::vector<ModelForm>& forms,
                              const std::vector<WeightType>& types) {
  const ModelConfig& config = checkpoint.config();
  const size_t threads = arguments.common.threads;
  std::vector<const Adapter*> adapters;
  for (const ModelForm& form : forms) {
    if (form.adapter) adapters.push_back(&*form.adapter);
  }
  const std::vector<Workload> workloads = WorkloadsOfTypes(
      config, adapters, types, arguments.activations(), threads);
  TuneOptions options;
  options.budget_seconds = arguments.budget_seconds;
  options.seed = arguments.common.seed;
  options.allow_noise = arguments.allow_noise;
  RANKFORGE_ASSIGN_OR_RETURN(options.integers_on_rows,
                             HoldsIntegers(checkpoint));
  // As `tune` does it for the baseline.
  options.cold =
      WeightBytes(WorkloadsOfTypes(config, {}, std::span(types).first(1),
                                   arguments.activations(), threads)) >
      CpuInfo::Detect().l3_bytes;
  Progress progress("tune");
  options.progress = [&](const TuneProgress& state) {
    progress.Update(state.done, state.total, state.message, state.seconds_left);
  };
  return Tune(workloads, options);
}

// Everything that proposals rest on.
struct Search {
  const OptimizeArguments& arguments;
  const Checkpoint& checkpoint;
  DispatchTable tuned;
  std::vector<ModelForm> forms;
  std::vector<WeightType> types;
  std::vector<TypeGroup> groups;
  std::vector<double> weights;                     // of each group, dense
  std::vector<std::vector<double>> divergences{};  // by group and type
  std::vector<FormCosts> costs{};                  // by form
  std::vector<Proposal> candidates{};  // measured, with their figures
  std::vector<PointFigures> figures{};

  std::vector<WeightType> TypesOf(const Proposal& candidate) const {
    std::vector<WeightType> chosen;
    for (const size_t type : candidate.types) chosen.push_back(types[type]);
    return chosen;
  }
  StoredTypes StoredTypesOfCandidate(const Proposal& candidate) const {
    return TypesByTensor(checkpoint.config(),
                         forms[candidate.form].adapter_or_null(), groups,
                         TypesOf(candidate), arguments.activations());
  }
};

std::vector<double> WeightsOf(const ModelConfig& config,
                              std::span<const TypeGroup> groups) {
  std::vector<double> weights(groups.size());
  ForEachTypedProduct(config, nullptr, groups,
                      [&](size_t group, const ProductSpec& product) {
                        weights[group] += static_cast<double>(product.rows()) *
                                          static_cast<double>(product.cols());
                      });
  return weights;
}

Status MeasureCandidate(PointMeter& meter, Proposal candidate, Search& search) {
  const ModelForm& form = search.forms[candidate.form];
  RANKFORGE_ASSIGN_OR_RETURN(
      const PointFigures figures,
      meter.Measure(form.adapter_or_null(),
                    OptionsWith(search.StoredTypesOfCandidate(candidate),
                                search.arguments.common.threads)));
  search.candidates.push_back(std::move(candidate));
  search.figures.push_back(figures);
  return {};
}

// Every form in bf16, which says what the form costs, and the dense one in
// every type: the answer is never behind one of these.
Status MeasureUniform(PointMeter& meter, Search& search) {
  const size_t groups = search.groups.size();
  Progress progress("measure");
  const size_t total = search.forms.size() + search.types.size() - 1;
  size_t done = 0;
  for (size_t form = 0; form < search.forms.size(); ++form) {
    const size_t types = form == 0 ? search.types.size() : 1;
    for (size_t type = 0; type < types; ++type) {
      progress.Update(done++, total, search.forms[form].name);
      RANKFORGE_RETURN_IF_ERROR(MeasureCandidate(
          meter, {form, std::vector<size_t>(groups, type)}, search));
      if (type > 0) continue;
      search.costs[form].divergence =
          search.figures.back().against_dense.divergence.mean;
    }
  }
  progress.Update(total, total, "");
  // The first point is the baseline, whose ratio to itself is noise.
  search.figures.front().time_ratio = 1;
  for (Proposal& candidate : search.candidates) {
    candidate = Predicted(search.costs, search.divergences, candidate.form,
                          std::move(candidate.types));
  }
  return {};
}

// The time of products that takes `ratio` of the baseline's time per token,
// with what it spends between products.
double ProductNsFor(double ratio, const Search& search) {
  const double baseline_ns = search.figures.front().ms_per_token * 1e6;
  const double between =
      std::max(baseline_ns - search.candidates.front().ns, 0.0);
  return ratio * baseline_ns - between;
}

Status MeasureProposals(PointMeter& meter, Search& search) {
  const OptimizeArguments& arguments = search.arguments;
  ProposalOptions options;
  options.count = arguments.points;
  options.max_divergence = arguments.max_loss;
  if (arguments.front) options.max_divergence = kDefaultLoss;
  if (arguments.time_ratio) {
    options.max_ns = ProductNsFor(*arguments.time_ratio, search);
  }
  std::vector<Proposal> proposed =
      Propose(search.costs, search.divergences, options, search.candidates);
  Progress progress("measure");
  for (size_t i = 0; i < proposed.size(); ++i) {
    progress.Update(i, proposed.size(), search.forms[proposed[i].form].name);
    RANKFORGE_RETURN_IF_ERROR(
        MeasureCandidate(meter, std::move(proposed[i]), search));
  }
  progress.Update(proposed.size(), proposed.size(), "");
  return {};
}

// Fills `search` and measures its points with the table of `table`.
Status RunSearch(const TokenSplit& tokens, const SessionTable& table,
                 Search& search) {
  const OptimizeArguments& arguments = search.arguments;
  const ModelConfig& config = search.checkpoint.config();
  for (const ModelForm& form : search.forms) {
    FormCosts costs;
    RANKFORGE_ASSIGN_OR_RETURN(
        costs.ns, PricesOf(config, form.adapter_or_null(), search.groups,
                           search.types, arguments.activations(), search.tuned,
                           arguments.common.threads));
    search.costs.push_back(std::move(costs));
  }
  {
    Progress progress("sensitivities");
    RANKFORGE_ASSIGN_OR_RETURN(
        search.divergences,
        MeasureSensitivities(search.checkpoint, tokens.probe, search.groups,
                             search.types,
                             {.window = arguments.meter.window,
                              .threads = arguments.common.threads,
                              .activations = arguments.activations(),
                              .progress = [&](size_t done, size_t total) {
                                progress.Update(done, total, "blocks");
                              }}));
  }
  const std::vector<WeightType> bf16(search.groups.size(), WeightType::kBf16);
  RANKFORGE_ASSIGN_OR_RETURN(
      PointMeter meter,
      PointMeter::Create(
          search.checkpoint, table.dispatcher(),
          OptionsWith(TypesByTensor(config, nullptr, search.groups, bf16,
                                    arguments.activations()),
                      arguments.common.threads),
          tokens.held, arguments.meter));
  RANKFORGE_RETURN_IF_ERROR(MeasureUniform(meter, search));
  return MeasureProposals(meter, search);
}

Result<size_t> Choose(const Search& search) {
  const OptimizeArguments& arguments = search.arguments;
  if (arguments.time_ratio) {
    const auto found = ClosestWithin(search.figures, *arguments.time_ratio);
    if (found) return *found;
    const PointFigures& quickest = *std::ranges::min_element(
        search.figures, {}, &PointFigures::time_ratio);
    return Failed(fmt::format(
        "--time-ratio {}: no measured point is as quick, the quickest takes "
        "{:.3f} of the time of dense bf16; ask for that, or give more --keeps "
        "or --types",
        *arguments.time_ratio, std::ceil(quickest.time_ratio * 1000) / 1000));
  }
  const double most = arguments.max_loss.value_or(kDefaultLoss);
  const auto found = QuickestWithin(search.figures, most);
  if (found) return *found;
  double least = search.figures.front().against_dense.excess_loss.mean;
  for (const PointFigures& figures : search.figures) {
    least = std::min(least, figures.against_dense.excess_loss.mean);
  }
  return Failed(fmt::format(
      "--max-loss {}: no measured point loses so little, the least is {:.5f} "
      "nats; ask for that",
      most, std::ceil(least * 1e5) / 1e5));
}

std::string AnswerOf(const Search& search, const FrontPoint& point,
                     const Proposal& candidate, const std::string& out) {
  const OptimizeArguments& arguments = search.arguments;
  const std::string asked =
      arguments.time_ratio
          ? fmt::format("--time-ratio {}", *arguments.time_ratio)
      : arguments.max_loss
          ? fmt::format("--max-loss {}", *arguments.max_loss)
          : fmt::format("--front takes the quickest within {} nats",
                        kDefaultLoss);
  const bool uniform =
      std::ranges::count(candidate.types, candidate.types.front()) ==
      static_cast<std::ptrdiff_t>(candidate.types.size());
  std::string what = point.description;
  if (candidate.form == 0) {
    what = fmt::format(
        "{} is the best answer; {}",
        uniform ? fmt::format("dense {}",
                              Name(search.types[candidate.types.front()]))
                : what,
        search.forms.size() > 1 ? "no adapter pays, and none is written"
                                : "no adapter was asked for");
  }
  return fmt::format("{}: {}. Run it with --optimized {}", asked, what, out);
}

Front FrontOf(const Search& search, size_t chosen, const TokenSplit& tokens,
              const std::string& out) {
  const OptimizeArguments& arguments = search.arguments;
  const std::vector<bool> dominated = DominatedPoints(search.figures);
  Front front;
  front.model = fs::path(arguments.model + "/")
                    .lexically_normal()
                    .parent_path()
                    .filename()
                    .string();
  front.threads = arguments.common.threads;
  front.context = arguments.meter.context;
  front.timed_tokens = arguments.meter.tokens - 2;  // two warm up
  front.held_tokens = tokens.held.size();
  front.types = search.types;
  front.chosen = chosen;
  for (size_t i = 0; i < search.candidates.size(); ++i) {
    const Proposal& candidate = search.candidates[i];
    const std::string& form = search.forms[candidate.form].name;
    front.points.push_back(
        {form,
         fmt::format(
             "{}, {}", form,
             DescribeTypes(candidate.types, search.types, search.weights)),
         search.figures[i], candidate.divergence, candidate.ns * 1e-6,
         dominated[i]});
  }
  const Proposal& best = search.candidates[chosen];
  for (size_t g = 0; g < search.groups.size(); ++g) {
    front.groups.push_back({search.groups[g].name, search.types[best.types[g]],
                            search.divergences[g], search.costs.front().ns[g]});
  }
  front.conditions = fmt::format(
      "{} threads, medians of {} tokens after a context of {}; predictions on "
      "{} held-out tokens; {} activations where weights take them",
      front.threads, front.timed_tokens, front.context, front.held_tokens,
      Name(arguments.activations()));
  const TableEnvironment& environment = search.tuned.environment;
  if (environment.confidence == "low") {
    front.conditions += fmt::format("; low confidence in times: {}",
                                    environment.confidence_reason);
  }
  front.answer = AnswerOf(search, front.points[chosen], best, out);
  return front;
}

// The files beside the table, which is there.
Status WriteResult(const Search& search, const Front& front,
                   const std::string& folder) {
  const Proposal& best = search.candidates[front.chosen];
  const ModelForm& form = search.forms[best.form];
  if (form.adapter) {
    std::error_code error;
    fs::copy_file(form.path, folder + "/" + kOptimizedAdapter, error);
    if (error) {
      return Failed(fmt::format("{}/{}: cannot be written: {}; is there room?",
                                folder, kOptimizedAdapter, error.message()));
    }
  }
  RANKFORGE_RETURN_IF_ERROR(
      SaveTypes(search.StoredTypesOfCandidate(best),
                {search.checkpoint.Identity(),
                 form.adapter ? form.adapter->identity : ""},
                folder + "/" + kOptimizedTypes));
  const Json document = ToJson(front);
  RANKFORGE_RETURN_IF_ERROR(WriteFileAtomically(
      folder + "/front.json",
      document.dump(1, ' ', false, Json::error_handler_t::replace) + "\n"));
  const Result<std::vector<std::string>> page =
      DrawPage({{"front", document}}, folder + "/front.html", "");
  // The rest took hours, and front.json has all that the page shows.
  if (!page.ok()) {
    PrintMessage(
        fmt::format("front.html is not written: {}", page.status().message()));
  }
  return {};
}

// The result gets its name, and what only this run needed goes.
Status Publish(const Folders& folders) {
  std::error_code error;
  fs::rename(folders.result, folders.out, error);
  if (error) {
    return Failed(fmt::format("{}: cannot be made of {}: {}; move it by hand",
                              folders.out, folders.result, error.message()));
  }
  fs::remove_all(folders.state, error);
  return {};
}

Status RunOptimize(const OptimizeArguments& given) {
  OptimizeArguments arguments = given;
  arguments.meter.threads = arguments.common.threads;
  if (arguments.common.activations) {
    RANKFORGE_RETURN_IF_ERROR(
        CheckWeightsTake(arguments.activations(), CandidateTypes(arguments)));
  }
  RANKFORGE_RETURN_IF_ERROR(CheckCpu(arguments.activations()));
  RANKFORGE_ASSIGN_OR_RETURN(const std::vector<double> keeps,
                             KeepsOf(arguments));
  RANKFORGE_ASSIGN_OR_RETURN(const Folders folders, MakeFolders(arguments.out));
  RANKFORGE_ASSIGN_OR_RETURN(const LockFile lock, LockFile::Take(folders.out));
  RANKFORGE_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                             OpenCheckpoint(arguments.model));
  RANKFORGE_ASSIGN_OR_RETURN(const std::vector<int> ids,
                             LoadIds(arguments.model, arguments.calibration));
  RANKFORGE_ASSIGN_OR_RETURN(const TokenSplit tokens, Split(ids, arguments));
  RANKFORGE_RETURN_IF_ERROR(
      CheckLengths(arguments, checkpoint.config(), tokens));
  RANKFORGE_RETURN_IF_ERROR(ClearResult(folders));
  const ModelConfig& config = checkpoint.config();
  Search search{arguments,
                checkpoint,
                {},
                {},
                CandidateTypes(arguments),
                TypeGroupsOf(config),
                {}};
  search.weights = WeightsOf(config, search.groups);
  RANKFORGE_ASSIGN_OR_RETURN(
      search.forms,
      MakeForms(keeps, arguments, checkpoint, tokens.fit, folders.state));
  RANKFORGE_ASSIGN_OR_RETURN(
      search.tuned, TuneAll(arguments, checkpoint, search.forms, search.types));
  arguments.common.table = folders.result + "/" + kOptimizedTable;
  RANKFORGE_RETURN_IF_ERROR(search.tuned.Save(arguments.common.table));
  const SessionTable table(arguments.common);
  RANKFORGE_RETURN_IF_ERROR(RunSearch(tokens, table, search));
  RANKFORGE_ASSIGN_OR_RETURN(const size_t chosen, Choose(search));
  const Front front = FrontOf(search, chosen, tokens, folders.out);
  RANKFORGE_RETURN_IF_ERROR(WriteResult(search, front, folders.result));
  RANKFORGE_RETURN_IF_ERROR(Publish(folders));
  if (arguments.common.json) {
    Json document = ToJson(front);
    document["optimized"] = folders.out;
    PrintJson(document);
  } else {
    PrintFront(front);
  }
  return {};
}

void AddBudget(CLI::App& command, OptimizeArguments& arguments) {
  CLI::Option_group* budget = command.add_option_group("budget");
  budget
      ->add_option("--max-loss", arguments.max_loss,
                   "Nats per token that the model may lose to the dense one "
                   "on held-out tokens; the quickest such model is chosen")
      ->check(NumberFrom(0));
  budget
      ->add_option("--time-ratio", arguments.time_ratio,
                   "Share of dense bf16's time per token; the model nearest "
                   "to dense that takes no more is chosen")
      ->check(NumberFrom(0));
  budget->add_flag("--front", arguments.front,
                   fmt::format("Measure the front; the quickest model within "
                               "{} nats is chosen",
                               kDefaultLoss));
  budget->require_option(1);
}

void AddCandidates(CLI::App& command, OptimizeArguments& arguments) {
  const CLI::Validator keep(
      [](std::string& text) -> std::string {
        if (text == kNoKeeps) return {};
        double value = 0;
        if (CLI::detail::lexical_cast(text, value) && value > 0 && value < 1) {
          return {};
        }
        return fmt::format("{:.40} is neither {} nor in (0, 1)", text,
                           kNoKeeps);
      },
      "");
  command
      .add_option("--keeps", arguments.keeps,
                  "Shares of the multiply-adds to make an adapter for, "
                  "separated by commas; none: dense models only")
      ->delimiter(',')
      ->check(keep);
  const CLI::Validator type(
      [](std::string& name) -> std::string {
        if (WeightTypeNamed(name)) return {};
        return fmt::format("no type '{}', there are {}", name,
                           WeightTypeList());
      },
      "");
  command
      .add_option("--types", arguments.types,
                  "Types of weights beside bf16, separated by commas")
      ->delimiter(',')
      ->check(type);
  command
      .add_option("--points", arguments.points,
                  "Combinations to measure, at most, beside each form in bf16 "
                  "and the dense model in each type")
      ->check(WholeFrom(0));
}

void AddMeasuring(CLI::App& command, OptimizeArguments& arguments) {
  command
      .add_option("--window", arguments.meter.window,
                  "Tokens of a calibration sequence")
      ->check(WholeFrom(2));
  command
      .add_option("--held", arguments.held,
                  "Tokens at the end of the text that the final figures rest "
                  "on, at most a quarter of it")
      ->check(WholeFrom(1));
  command
      .add_option("--probe-tokens", arguments.probe_tokens,
                  "Tokens before them that sensitivities to types rest on")
      ->check(WholeFrom(1));
  command
      .add_option("--context", arguments.meter.context,
                  "Tokens in the KV cache when timing starts")
      ->check(CLI::Range(1, 1 << 20));
  command
      .add_option("-n", arguments.meter.tokens,
                  "Tokens to decode for a time; the first two are not timed")
      ->check(CLI::Range(4, 1 << 20));
  command
      .add_option("--tokens", arguments.adapt.calibration_tokens,
                  "Hidden vectors to calibrate each layer of an adapter on")
      ->check(WholeFrom(1));
  command
      .add_option("--effort", arguments.adapt.effort,
                  "How long to refine adapters (adapt --effort)")
      ->check(WholeFrom(0));
  command
      .add_option("--budget", arguments.budget_seconds,
                  "Approximate time for tuning; 90, 90s and 1.5min are the "
                  "same")
      ->transform(CLI::AsNumberWithUnit(
          std::map<std::string, double>{{"s", 1}, {"min", 60}, {"h", 3600}},
          CLI::AsNumberWithUnit::DEFAULT, "TIME"));
}

}  // namespace

void AddOptimize(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "optimize",
      "Choose adapter and weight types together, for a loss or a time");
  auto arguments = std::make_shared<OptimizeArguments>();
  AddModel(*command, arguments->model)->required();
  AddCalibration(*command, "calibrate and measure on", arguments->calibration);
  AddBudget(*command, *arguments);
  command
      ->add_option("--out", arguments->out,
                   "Folder to write, which must not exist or be empty")
      ->required();
  AddCandidates(*command, *arguments);
  AddMeasuring(*command, *arguments);
  AddAllowNoise(*command, arguments->allow_noise);
  AddActivations(*command, arguments->common)
      ->description(
          "What products round their inputs to, at all points: i8 "
          "for integer weights, f32: nothing, bf16 for bf16 weights; "
          "not given: i8");
  AddThreads(*command, arguments->common);
  AddSeed(*command, arguments->common);
  AddJson(*command, arguments->common);
  AddPlugins(*command, action);
  SetAction(*command, action, RunOptimize, arguments);
}

}  // namespace rankforge
