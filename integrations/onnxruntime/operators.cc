// Operators of domain "rankforge" for ONNX Runtime, on the threads of the
// session:
//
//   y = MaskedGemv(x, w, tau?, score?)
//     x (..., cols), w (rows, cols), y (..., rows) = x w^T, masked.
//     operation: "dense" (default), "column_mask": x_j with |x_j| < tau_j count
//     as 0, or "row_mask": outputs with |score_i| < tau_i are 0; score
//     (..., rows). tau is (1,) or one per channel.
//   y = RankAdapter(x, b, a, tau)
//     b (ranks, cols), a (rows, ranks): y = a (m(z) * z), z = b x,
//     m: |z_r| >= tau_r.
//
// Both have an attribute dtype, the name of a weight type ("bf16", the
// default), and activations, what products round their inputs to: "f32"
// nothing, "i8" for integer weights, "bf16" for bf16 weights; "default": "i8"
// for integer weights, else "f32". w, a, b (f32, f16 or bf16) and tau are
// initializers, which are packed when the session is made; everything else is
// f32.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

#include <algorithm>
#include <array>
#include <memory>
#include <new>
#include <optional>
#include <rankforge/rankforge.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

namespace rf = rankforge;

// The run of a session that this thread computes for: parallel loops of a plan
// run on the thread that runs the plan.
thread_local OrtKernelContext* running = nullptr;

struct Loop {
  rankforge_body body;
  void* context;
};

void ParallelFor(void*, size_t items, rankforge_body body, void* context) {
  Loop loop = {body, context};
  // 0: as many batches as the pool has threads.
  Ort::KernelContext(running).ParallelFor(
      [](void* data, size_t item) {
        const Loop& given = *static_cast<Loop*>(data);
        given.body(given.context, item);
      },
      items, 0, &loop);
}

// Threads are the session's. A plan has parts for as many as there are CPUs.
const rf::Context& SessionThreads() {
  static const rf::Context context = [] {
    rf::ContextOptions options;
    options.parallel_for = ParallelFor;
    return rf::Context::Create(options).value();
  }();
  return context;
}

// Scratch of this thread, which grows to what its plans need.
rf::Scratch& ScratchOf(size_t bytes) {
  thread_local std::optional<rf::Scratch> scratch;
  if (!scratch || scratch->bytes() < bytes) scratch.emplace(bytes);
  return *scratch;
}

class Initializers {
 public:
  explicit Initializers(const OrtKernelInfo* info) : info_(info) {}

  // `otherwise` where the node has no such attribute.
  std::string Text(const char* name, const char* otherwise) const {
    try {
      return info_.GetAttribute<std::string>(name);
    } catch (const Ort::Exception&) {
      if (!HasOtherThanText(name)) return otherwise;
    }
    throw std::runtime_error(std::string(name) + ": is no text");
  }
  int32_t WeightType() const {
    int32_t type = 0;
    const std::string name = Text("dtype", "bf16");
    rf::Result<void>::Of(rankforge_weight_type_from_name(name.c_str(), &type))
        .value();
    return type;
  }
  int32_t Activations() const {
    constexpr std::array kNames = {"default", "f32", "bf16", "i8"};
    const std::string name = Text("activations", kNames.front());
    const auto* found = std::find(kNames.begin(), kNames.end(), name);
    if (found != kNames.end()) {
      return static_cast<int32_t>(found - kNames.begin());
    }
    throw std::runtime_error("activations: '" + name +
                             "' is none of default, f32, bf16 and i8");
  }
  rf::Source Matrix(size_t input, const char* name) const {
    const Ort::ConstValue value = Constant(input, name);
    const auto info = value.GetTensorTypeAndShapeInfo();
    const std::vector<int64_t> shape = info.GetShape();
    if (shape.size() != 2) {
      throw std::runtime_error(std::string(name) + ": is no matrix");
    }
    return rf::Source(value.GetTensorRawData(), static_cast<size_t>(shape[0]),
                      static_cast<size_t>(shape[1]),
                      Format(info.GetElementType(), name));
  }
  // One threshold for each channel; `tau` of one value is for all.
  std::vector<float> Taus(size_t input, size_t channels) const {
    const Ort::ConstValue value = Constant(input, "tau");
    const auto info = value.GetTensorTypeAndShapeInfo();
    const size_t count = info.GetElementCount();
    if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ||
        (count != 1 && count != channels)) {
      throw std::runtime_error("tau: is not f32, or has " +
                               std::to_string(count) + " values for " +
                               std::to_string(channels) + " channels");
    }
    const auto* taus = static_cast<const float*>(value.GetTensorRawData());
    if (count == 1) return std::vector<float>(channels, taus[0]);
    return std::vector<float>(taus, taus + count);
  }
  bool Has(size_t input) const {
    if (input >= info_.GetInputCount()) return false;
    return !info_.GetInputName(input).empty();
  }

 private:
  template <class Read>
  static bool Reads(const Read& read) {
    try {
      read();
      return true;
    } catch (const Ort::Exception&) {
      return false;
    }
  }
  // ONNX Runtime has one error for an attribute that is missing and for one of
  // another type. So all other types are tried.
  bool HasOtherThanText(const char* name) const {
    Ort::AllocatorWithDefaultOptions allocator;
    return Reads([&] { info_.GetAttribute<int64_t>(name); }) ||
           Reads([&] { info_.GetAttribute<float>(name); }) ||
           Reads([&] { info_.GetAttributes<int64_t>(name); }) ||
           Reads([&] { info_.GetAttributes<float>(name); }) ||
           Reads([&] { info_.GetTensorAttribute(name, allocator); });
  }
  Ort::ConstValue Constant(size_t input, const char* name) const {
    int constant = 0;
    if (Has(input)) {
      const Ort::ConstValue value =
          info_.GetTensorConstantInput(input, &constant);
      if (constant != 0) return value;
    }
    throw std::runtime_error(std::string(name) +
                             ": is missing or no initializer");
  }
  static int32_t Format(ONNXTensorElementDataType type, const char* name) {
    switch (type) {
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
        return RANKFORGE_SOURCE_F32;
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
        return RANKFORGE_SOURCE_F16;
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
        return RANKFORGE_SOURCE_BF16;
      default:
        throw std::runtime_error(std::string(name) +
                                 ": is none of f32, f16 and bf16");
    }
  }

  Ort::ConstKernelInfo info_;
};

rf::Problem ProblemOf(const Initializers& given, const rf::Source& source,
                      int32_t operation) {
  rf::Problem problem(operation, source.rows, source.cols, given.WeightType());
  problem.tokens = RANKFORGE_MOST_TOKENS;
  problem.activations = given.Activations();
  return problem;
}

rf::Weights Pack(const Initializers& given, const rf::Source& source,
                 int32_t operation) {
  return rf::Weights::Pack(SessionThreads(),
                           ProblemOf(given, source, operation), source)
      .value();
}

// A plan over the last dimension of x.
class Layer {
 public:
  // Null, or a status that ONNX Runtime frees.
  OrtStatusPtr ComputeV2(OrtKernelContext* context) noexcept {
    try {
      Run(context);
      return nullptr;
    } catch (const std::exception& failed) {
      return Ort::GetApi().CreateStatus(ORT_FAIL, failed.what());
    }
  }

 protected:
  void Use(rf::Plan plan, bool masked, std::vector<float> taus,
           bool has_score) {
    plan_ = std::move(plan);
    masked_ = masked;
    taus_ = std::move(taus);
    has_score_ = has_score;
    rf::Result<void>::Of(
        rankforge_plan_shape(plan_.get(), &rows_, &cols_, nullptr))
        .value();
    rf::Result<void>::Of(rankforge_plan_scratch_size(plan_.get(), &scratch_))
        .value();
  }

 private:
  static constexpr size_t kScore = 3;

  const float* Input(Ort::KernelContext& context, size_t input, size_t width,
                     std::vector<int64_t>* shape) const {
    const Ort::ConstValue value = context.GetInput(input);
    *shape = value.GetTensorTypeAndShapeInfo().GetShape();
    if (shape->empty() || shape->back() != static_cast<int64_t>(width)) {
      throw std::runtime_error("input " + std::to_string(input) +
                               ": its last dimension is not " +
                               std::to_string(width));
    }
    return value.GetTensorData<float>();
  }

  void Run(OrtKernelContext* given) {
    Ort::KernelContext context(given);
    std::vector<int64_t> shape;
    const float* x = Input(context, 0, cols_, &shape);
    const float* score = nullptr;
    if (has_score_) {
      std::vector<int64_t> judged;
      score = Input(context, kScore, rows_, &judged);
      judged.back() = shape.back();
      if (judged != shape) {
        throw std::runtime_error("score: has other tokens than x");
      }
    }
    size_t tokens = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) {
      tokens *= static_cast<size_t>(shape[i]);
    }
    shape.back() = static_cast<int64_t>(rows_);
    float* y = context.GetOutput(0, shape).GetTensorMutableData<float>();
    running = given;
    for (size_t begin = 0; begin < tokens; begin += RANKFORGE_MOST_TOKENS) {
      const size_t count =
          std::min<size_t>(RANKFORGE_MOST_TOKENS, tokens - begin);
      Turn(x + begin * cols_,
           score == nullptr ? nullptr : score + begin * rows_,
           y + begin * rows_, count);
    }
  }

  void Turn(const float* x, const float* score, float* y, size_t tokens) {
    rf::RunArgs args;
    args.tokens = static_cast<uint32_t>(tokens);
    args.x = x;
    args.y = y;
    std::array<rankforge_mask, RANKFORGE_MOST_TOKENS> masks;
    if (masked_) {
      args.mask_count = score == nullptr ? 1 : args.tokens;
      for (size_t t = 0; t < args.mask_count; ++t) {
        rf::Mask mask = rf::Mask::Threshold(0);
        mask.taus = taus_.data();
        mask.score = score == nullptr ? nullptr : score + t * rows_;
        masks[t] = mask;
      }
      args.masks = masks.data();
    }
    plan_.Run(args, ScratchOf(scratch_)).value();
  }

  rf::Plan plan_;
  std::vector<float> taus_;
  bool masked_ = false, has_score_ = false;
  size_t rows_ = 0, cols_ = 0, scratch_ = 0;
};

class GemvLayer : public Layer {
 public:
  explicit GemvLayer(const Initializers& given) {
    const int32_t operation = Operation(given.Text("operation", "dense"));
    const rf::Source w = given.Matrix(1, "w");
    const rf::Problem problem = ProblemOf(given, w, operation);
    const rf::Weights weights = Pack(given, w, operation);
    const bool masked = operation != RANKFORGE_DENSE;
    const bool judged = operation == RANKFORGE_ROW_MASK;
    if (given.Has(2) != masked || given.Has(3) != judged) {
      throw std::runtime_error(
          "MaskedGemv: dense takes no tau, a column mask tau, a row mask tau "
          "and score");
    }
    std::vector<float> taus;
    if (masked) taus = given.Taus(2, judged ? w.rows : w.cols);
    Use(rf::Plan::Gemv(SessionThreads(), problem, weights).value(), masked,
        std::move(taus), judged);
  }

 private:
  static int32_t Operation(const std::string& name) {
    if (name == "dense") return RANKFORGE_DENSE;
    if (name == "column_mask") return RANKFORGE_COLUMN_MASK;
    if (name == "row_mask") return RANKFORGE_ROW_MASK;
    throw std::runtime_error("operation: '" + name +
                             "' is none of dense, column_mask and row_mask");
  }
};

class RankLayer : public Layer {
 public:
  explicit RankLayer(const Initializers& given) {
    const rf::Source source_b = given.Matrix(1, "b");
    const rf::Weights b = Pack(given, source_b, RANKFORGE_DENSE);
    const rf::Weights a =
        Pack(given, given.Matrix(2, "a"), RANKFORGE_COLUMN_MASK);
    const std::vector<float> taus = given.Taus(3, source_b.rows);
    rf::Mask rule = rf::Mask::Threshold(0);
    rule.taus = taus.data();
    rf::RankAdapter adapter;
    adapter.tokens = RANKFORGE_MOST_TOKENS;
    adapter.activations = given.Activations();
    adapter.a = a.get();
    adapter.b = b.get();
    adapter.rule = &rule;
    Use(rf::Plan::Of(SessionThreads(), adapter).value(), false, {}, false);
  }
};

// What an operator's definition says: its name and inputs.
template <class Kernel, int required, int inputs>
struct Operator
    : Ort::CustomOpBase<Operator<Kernel, required, inputs>, Kernel, true> {
  explicit Operator(const char* of_name) : name(of_name) {}
  const char* GetName() const { return name; }
  size_t GetInputTypeCount() const { return inputs; }
  ONNXTensorElementDataType GetInputType(size_t input) const {
    // Weights have any type; which, their kernel checks.
    const bool weights = input > 0 && input < (required == 4 ? 3 : 2);
    return weights ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED
                   : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
  OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(
      size_t input) const {
    return input < required ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  }
  size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetOutputType(size_t) const {
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
  OrtStatusPtr CreateKernelV2(const OrtApi& api, const OrtKernelInfo* info,
                              void** kernel) const noexcept {
    try {
      *kernel = new Kernel(Initializers(info));
      return nullptr;
    } catch (const std::exception& failed) {
      const std::string text = std::string(name) + ": " + failed.what();
      return api.CreateStatus(ORT_INVALID_ARGUMENT, text.c_str());
    }
  }

  const char* name;
};

}  // namespace

// What a session calls when it loads the library.
extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
    OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) {  // an older runtime than the headers
    return base->GetApi(1)->CreateStatus(
        ORT_NOT_IMPLEMENTED,
        "rankforge: this ONNX Runtime is older than the headers that its "
        "operators were built with");
  }
  Ort::InitApi(api);
  try {
    static const Operator<GemvLayer, 2, 4> gemv("MaskedGemv");
    static const Operator<RankLayer, 4, 4> rank("RankAdapter");
    static const Ort::CustomOpDomain domain = [] {
      Ort::CustomOpDomain made("rankforge");
      made.Add(&gemv);
      made.Add(&rank);
      return made;
    }();
    Ort::UnownedSessionOptions(options).Add(domain);
    return nullptr;
  } catch (const std::exception& failed) {
    return api->CreateStatus(ORT_FAIL, failed.what());
  }
}
