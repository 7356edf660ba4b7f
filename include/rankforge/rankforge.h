// RankForge for programs in C and in everything that calls C: masked
// matrix-vector products, rank adapters and gated MLPs over packed weights.
//
//   rankforge_context* context;  rankforge_weights* weights;
//   rankforge_plan* plan;        size_t bytes;
//   rankforge_problem problem = RANKFORGE_PROBLEM_INIT;
//   problem.operation = RANKFORGE_COLUMN_MASK;
//   problem.rows = 4096, problem.cols = 11008;
//   problem.weight_type = RANKFORGE_BF16;
//   rankforge_source source = RANKFORGE_SOURCE_INIT;
//   source.data = w, source.rows = 4096, source.cols = 11008;  // f32
//   rankforge_context_create(NULL, &context);
//   rankforge_weights_pack(context, NULL, &problem, &source, 1, &weights);
//   rankforge_plan_gemv(context, NULL, &problem, weights, &plan);
//   rankforge_plan_scratch_size(plan, &bytes);
//   void* scratch = aligned_alloc(RANKFORGE_SCRATCH_ALIGNMENT, bytes);
//   rankforge_mask mask = RANKFORGE_MASK_INIT;
//   mask.kind = RANKFORGE_MASK_THRESHOLD, mask.tau = 0.8f;
//   rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
//   args.x = x, args.y = y, args.masks = &mask, args.mask_count = 1;
//   rankforge_run(plan, &args, scratch, bytes);  // y = w @ x, |x_j| >= 0.8
//
// examples/library/ has whole programs; docs/integrating.md says which plan
// replaces what.
//
// Rules that hold for every function:
//   - A function that can fail returns a rankforge_status. RANKFORGE_OK is 0.
//     rankforge_last_error has the message. A failed call changes nothing but
//     the message, and what it was to write (y of a run) is not defined.
//   - The library prints nothing, ends no process, throws nothing, and installs
//     no signal handler.
//   - A handle that is null, destroyed or of another kind gives
//     RANKFORGE_ERROR_HANDLE. Handles may be destroyed in any order: a plan
//     keeps what it needs. No handle may be destroyed while another thread
//     uses it.
//   - Functions may be called from any thread. Handles are not changed after
//     they are made, so that threads may share them.
//   - Structs that begin with struct_size are set from their _INIT macro. A
//     field of zero is the default. A struct of an older header is read as if
//     the fields that it lacks were zero. One of a newer header is refused if a
//     field that this library does not know is not zero.
//   - Matrices have rows (outputs) and cols (inputs):
//     y (rows,) = w @ x (cols,).
//     Inputs, outputs, sums and biases are f32, whatever the weights are.
//   - Sizes count elements, where they do not say bytes.
//
// After fork, the child may use everything that no thread was inside of at the
// fork; work of a context's own threads then runs on the calling thread. Before
// dlclose, destroy all contexts and plans: their threads run the library's
// code.
#ifndef RANKFORGE_INCLUDE_RANKFORGE_RANKFORGE_H_
#define RANKFORGE_INCLUDE_RANKFORGE_RANKFORGE_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define RANKFORGE_API __attribute__((visibility("default")))
#else
#define RANKFORGE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

// The version of this header.
#define RANKFORGE_VERSION_MAJOR 0
#define RANKFORGE_VERSION_MINOR 2
#define RANKFORGE_VERSION_PATCH 0
#define RANKFORGE_VERSION_NUMBER                \
  ((uint32_t)(RANKFORGE_VERSION_MAJOR * 65536 + \
              RANKFORGE_VERSION_MINOR * 256 + RANKFORGE_VERSION_PATCH))

// The version of the library that runs, as RANKFORGE_VERSION_NUMBER: major *
// 65536 + minor * 256 + patch. While major is 0, libraries of one minor version
// are compatible with each other.
RANKFORGE_API uint32_t rankforge_version(void);
// The same as text, "0.2.0". Lives as long as the library.
RANKFORGE_API const char* rankforge_version_text(void);

// ---- Errors ----------------------------------------------------------------

typedef int32_t rankforge_status;
enum {
  RANKFORGE_OK = 0,
  // Bad data (a damaged file, weights that are not finite) or failed I/O.
  RANKFORGE_ERROR_FAILED = 1,
  // An argument is impossible: null, out of range, a shape that does not match.
  RANKFORGE_ERROR_ARGUMENT = 2,
  // This machine cannot do it.
  RANKFORGE_ERROR_ENVIRONMENT = 3,
  RANKFORGE_ERROR_MEMORY = 4,
  // A handle is null, destroyed or of another kind.
  RANKFORGE_ERROR_HANDLE = 5,
  // Possible, but not in this library: the message says what to do instead.
  RANKFORGE_ERROR_UNSUPPORTED = 6,
  // A fault of the library; please report it with the message.
  RANKFORGE_ERROR_INTERNAL = 7
};

// Two words for a status, "bad argument". Lives as long as the library; never
// null.
RANKFORGE_API const char* rankforge_status_text(rankforge_status status);
// What the last call of this thread that failed was told: which argument, its
// value, what to do. Empty if none failed. Valid until the next call that fails
// in this thread; at most 1023 bytes; never null.
RANKFORGE_API const char* rankforge_last_error(void);

// Functions that write text take a buffer `text` of `capacity` bytes. They
// write as much as fits and a final zero byte, and set *length (if not null) to
// the length of the whole text without that byte. With capacity 0, text may be
// null.

// ---- Contexts --------------------------------------------------------------

// Who runs the work: threads of the library's own, or of the host program.
typedef struct rankforge_context rankforge_context;

// Calls body(body_context, item) once for each item in [0, items), on any
// threads, and returns when all calls have returned. Must not throw or jump
// through the body. A run fails if not all items were called.
typedef void (*rankforge_body)(void* body_context, size_t item);
typedef void (*rankforge_parallel_for)(void* host, size_t items,
                                       rankforge_body body, void* body_context);

typedef struct rankforge_context_options {
  uint32_t struct_size;
  // Threads that a run may use, the caller's among them; at most 4096. 0: as
  // many as the CPUs and the CPU quota of this process keep busy.
  uint32_t threads;
  // Null: the context has threads - 1 threads of its own. They are pinned where
  // each has a CPU, wait busily for half a millisecond after a run, then sleep.
  // Not null: the context starts no thread and calls this instead, from the
  // thread that runs a plan.
  rankforge_parallel_for parallel_for;
  void* host;  // first argument of parallel_for
} rankforge_context_options;
#define RANKFORGE_CONTEXT_OPTIONS_INIT \
  { sizeof(rankforge_context_options), 0, NULL, NULL }

// `options` may be null: all defaults. Threads of their own serve one run at a
// time. A second run of the same context at the same time does all of its work
// on the thread that called it; results do not depend on it.
RANKFORGE_API rankforge_status rankforge_context_create(
    const rankforge_context_options* options, rankforge_context** context);
// Ends the threads, once no plan needs them. Null is allowed.
RANKFORGE_API rankforge_status
rankforge_context_destroy(rankforge_context* context);
// The threads that a run may use.
RANKFORGE_API rankforge_status
rankforge_context_threads(const rankforge_context* context, uint32_t* threads);

// ---- Problems --------------------------------------------------------------

enum {
  RANKFORGE_DENSE = 0,
  RANKFORGE_ROW_MASK = 1,     // dropped outputs are 0, without bias
  RANKFORGE_COLUMN_MASK = 2,  // dropped inputs count as 0
};

// How packed weights are stored. Integers are symmetric, with one scale per row
// or column (I8), or per group of neighbours; those of I4M also have a minimum
// per group.
enum {
  RANKFORGE_F32 = 0,
  RANKFORGE_BF16 = 1,
  RANKFORGE_F16 = 2,
  RANKFORGE_I8 = 3,
  RANKFORGE_I8_GROUP32 = 4,
  RANKFORGE_I4_GROUP32 = 5,
  RANKFORGE_I4_GROUP64 = 6,
  RANKFORGE_I4M_GROUP32 = 7,
};

// What products round their inputs to before they multiply. Part of the
// problem: no table changes it, and each has results of its own.
enum {
  RANKFORGE_ACTIVATIONS_DEFAULT = 0,  // I8 for weights of integers, else F32
  RANKFORGE_ACTIVATIONS_F32 = 1,      // nothing: inputs are exact
  // Weights of BF16, DENSE and ROW_MASK (COLUMN_MASK keeps its inputs), on CPUs
  // that multiply bf16.
  RANKFORGE_ACTIVATIONS_BF16 = 2,
  // Weights of integers: 8 bits, one scale per 32 inputs (COLUMN_MASK: per 8
  // kept columns).
  RANKFORGE_ACTIVATIONS_I8 = 3,
};

// Most tokens of one run.
#define RANKFORGE_MOST_TOKENS 16

// What is to be computed. It decides how weights are packed and which kernels
// run.
typedef struct rankforge_problem {
  uint32_t struct_size;
  int32_t operation;    // RANKFORGE_DENSE, ...
  size_t rows;          // outputs
  size_t cols;          // inputs
  int32_t weight_type;  // RANKFORGE_F32, ...
  // Neighbouring channels that one mask bit covers: 1, 8 or 32. 0: 1.
  uint32_t granularity;
  // Most tokens of one run, 1 to RANKFORGE_MOST_TOKENS. 0: 1. Several tokens
  // read each weight once, if their activations are F32.
  uint32_t tokens;
  // Threads of a run, at most those of the context. 0: those.
  uint32_t threads;
  // Share of the channels that masks keep, in (0, 1]. 0: 0.5, or 1 for
  // RANKFORGE_DENSE. Only rankforge_tune reads it.
  double density;
  int32_t activations;  // RANKFORGE_ACTIVATIONS_DEFAULT, ...
  int32_t reserved;     // 0
} rankforge_problem;
#define RANKFORGE_PROBLEM_INIT \
  { sizeof(rankforge_problem), 0, 0, 0, 0, 0, 0, 0, 0.0, 0, 0 }

// "bf16", "i4_group32": the name of a weight type in tables and messages. Null
// if there is no such type. Lives as long as the library. Types are numbered
// from 0 without gaps.
RANKFORGE_API const char* rankforge_weight_type_name(int32_t weight_type);
// The inverse. RANKFORGE_ERROR_ARGUMENT names the types that there are.
RANKFORGE_API rankforge_status
rankforge_weight_type_from_name(const char* name, int32_t* weight_type);

// ---- Tables ----------------------------------------------------------------

// What tuning found: which layout and which kernels are fastest on this CPU.
typedef struct rankforge_table rankforge_table;

// Reads the file that `rankforge tune` or rankforge_tune wrote. A table of
// another CPU opens, and has no effect; rankforge_table_notes says so.
RANKFORGE_API rankforge_status rankforge_table_open(const char* path,
                                                    rankforge_table** table);
// Null is allowed. Plans and weights do not need the table that they were made
// with.
RANKFORGE_API rankforge_status rankforge_table_close(rankforge_table* table);
// What could not be honoured, one sentence per line: entries of the table, and
// the variables RANKFORGE_MODE and RANKFORGE_FORCE. `table` may be null: those
// variables alone.
RANKFORGE_API rankforge_status rankforge_table_notes(
    const rankforge_table* table, char* text, size_t capacity, size_t* length);
// Lines for people: which layout, threads and kernels `problem` gets, from
// where, and what was measured. `table` may be null: what runs without one.
// problem.threads of 0 counts as 1.
RANKFORGE_API rankforge_status rankforge_table_explain(
    const rankforge_table* table, const rankforge_problem* problem, char* text,
    size_t capacity, size_t* length);

// ---- Weights ---------------------------------------------------------------

// A matrix in the order that kernels read. Plans share it.
typedef struct rankforge_weights rankforge_weights;

// Formats of source weights, by the numbers of ggml.
enum {
  RANKFORGE_SOURCE_F32 = 0,
  RANKFORGE_SOURCE_F16 = 1,
  RANKFORGE_SOURCE_Q4_0 = 2,
  RANKFORGE_SOURCE_Q4_1 = 3,
  RANKFORGE_SOURCE_Q5_0 = 6,
  RANKFORGE_SOURCE_Q5_1 = 7,
  RANKFORGE_SOURCE_Q8_0 = 8,
  RANKFORGE_SOURCE_Q2_K = 10,
  RANKFORGE_SOURCE_Q3_K = 11,
  RANKFORGE_SOURCE_Q4_K = 12,
  RANKFORGE_SOURCE_Q5_K = 13,
  RANKFORGE_SOURCE_Q6_K = 14,
  RANKFORGE_SOURCE_IQ4_NL = 20,
  RANKFORGE_SOURCE_BF16 = 30,
};

// A matrix (rows, cols) of the caller's. A line is contiguous: a row, or a
// column where transposed is not 0 (data is (cols, rows), as an adapter file
// stores A). Lines are whole blocks of their format.
typedef struct rankforge_source {
  uint32_t struct_size;
  int32_t format;    // RANKFORGE_SOURCE_F32, ...
  const void* data;  // any alignment
  size_t rows;
  size_t cols;
  size_t line_stride;  // bytes between lines; 0: they follow each other
  int32_t transposed;
  int32_t reserved;  // 0
} rankforge_source;
#define RANKFORGE_SOURCE_INIT \
  { sizeof(rankforge_source), 0, NULL, 0, 0, 0, 0, 0 }

// Packs `count` sources of equal cols, stacked on top of each other (q, k and
// v; gate and up), as the weights of `problem`: rows is the sum of theirs.
// Values are rounded to nearest even. Q8_0, Q5_0, Q4_0, Q4_1, Q4_K and IQ4_NL
// keep their integers and scales (Q4_K: rounded to f16) where the groups of
// problem.weight_type hold them and lie along the lines of the source;
// otherwise they are rounded again. The sources are not needed afterwards.
//
// The layout is what `table` says for the problem, or the default (`table` is
// null): rows one after the other for DENSE and ROW_MASK, columns one after the
// other for COLUMN_MASK. Weights of a problem with several tokens also serve
// one token.
//
// Fails on weights that are NaN, infinite, or too large for the type.
RANKFORGE_API rankforge_status rankforge_weights_pack(
    const rankforge_context* context, const rankforge_table* table,
    const rankforge_problem* problem, const rankforge_source* sources,
    size_t count, rankforge_weights** weights);

// Weights that are read where they lie, with no copy: `source` must stay as it
// is until no plan uses them. The bytes must be what kernels read. This holds
// for DENSE and ROW_MASK, f32 as RANKFORGE_F32 or f16 as RANKFORGE_F16, not
// transposed, cols a multiple of 32; and for f32, data and line_stride
// multiples of 64 bytes. Everything else is RANKFORGE_ERROR_UNSUPPORTED with
// the reason; rankforge_weights_pack takes it. The weights are not searched for
// NaN.
RANKFORGE_API rankforge_status rankforge_weights_adopt(
    const rankforge_context* context, const rankforge_problem* problem,
    const rankforge_source* source, rankforge_weights** weights);

// Writes packed weights to a file, which appears whole or not at all. Weights
// that were adopted cannot be saved (RANKFORGE_ERROR_UNSUPPORTED).
RANKFORGE_API rankforge_status
rankforge_weights_save(const rankforge_weights* weights, const char* path);
// Maps such a file; weights are read from it in place. The file must stay as it
// is until no plan uses them. A file of a library that packs in another way is
// refused.
RANKFORGE_API rankforge_status
rankforge_weights_open(const char* path, rankforge_weights** weights);

// Null is allowed.
RANKFORGE_API rankforge_status
rankforge_weights_destroy(rankforge_weights* weights);

typedef struct rankforge_weights_info {
  uint32_t struct_size;
  int32_t weight_type;
  size_t rows;
  size_t cols;
  size_t bytes;        // read by kernels, with padding
  const char* layout;  // "out_in", "in_out", ...; lives as the library
  int32_t adopted;     // 1: read where the caller has them
  int32_t reserved;
  // Of rounding to integers: the root of the sum of squared errors, relative to
  // that of the weights. 0 for other types.
  double quantization_error;
} rankforge_weights_info;
#define RANKFORGE_WEIGHTS_INFO_INIT \
  { sizeof(rankforge_weights_info), 0, 0, 0, 0, NULL, 0, 0, 0.0 }

// Fills those fields of *info that its struct_size covers.
RANKFORGE_API rankforge_status rankforge_weights_describe(
    const rankforge_weights* weights, rankforge_weights_info* info);

// ---- Masks -----------------------------------------------------------------

enum {
  // Keeps channel j if |s_j - mu_j| >= tau_j. A group is kept if any of its
  // channels is. NaN in s, mu or tau drops a channel, tau of infinity too.
  RANKFORGE_MASK_THRESHOLD = 1,
  // Keeps the k largest |s_j - mu_j|, and of equal ones the first; NaN never.
  RANKFORGE_MASK_TOP_K = 2,
  // What the caller says, one entry per group:
  RANKFORGE_MASK_BITS = 3,   // bit g % 64 of word g / 64
  RANKFORGE_MASK_BYTES = 4,  // not 0: kept
  RANKFORGE_MASK_INDEX = 5,  // ascending numbers of the groups that are kept
};

// Which channels take part: inputs (COLUMN_MASK) or outputs (ROW_MASK). There
// are `count` channels (cols or rows), and as many groups as it takes to cover
// them with `granularity` channels each. Arrays of a mask are the caller's and
// are read during the call that gets it.
typedef struct rankforge_mask {
  uint32_t struct_size;
  int32_t kind;  // RANKFORGE_MASK_THRESHOLD, ...
  // THRESHOLD and TOP_K: s. Null: the input itself (column masks; z of a rank
  // adapter, act(gate) or h of an MLP). Row masks need it. (count,), but
  // (groups,) for TOP_K of granularity 8 and 32, which needs it.
  const float* score;
  const float* mu;        // as score, or null: 0
  const float* taus;      // THRESHOLD: (count,), or null: tau for all
  float tau;              // THRESHOLD
  int32_t strict;         // THRESHOLD, not 0: > instead of >=
  int32_t signed_score;   // not 0: s_j - mu_j without the absolute value
  int32_t reserved;       // 0
  size_t k;               // TOP_K: groups to keep
  const uint64_t* bits;   // BITS: ceil(groups / 64) words
  const uint8_t* bytes;   // BYTES: (groups,)
  const uint32_t* index;  // INDEX: (index_count,)
  size_t index_count;
} rankforge_mask;
#define RANKFORGE_MASK_INIT                                                    \
  {                                                                            \
    sizeof(rankforge_mask), 0, NULL, NULL, NULL, 0.0f, 0, 0, 0, 0, NULL, NULL, \
        NULL, 0                                                                \
  }

// The mask as bits, for several runs that share it: rows of `up` and columns of
// `down`. values (count,) stand in for a null score; they may be null
// otherwise. Writes ceil(groups / 64) words to `bits`, those beyond the last
// group 0, and the number of kept groups to *kept (may be null). `scratch` has
// rankforge_mask_scratch_size(count) bytes, at RANKFORGE_SCRATCH_ALIGNMENT.
RANKFORGE_API rankforge_status
rankforge_mask_make(const rankforge_mask* mask, const float* values,
                    size_t count, uint32_t granularity, uint64_t* bits,
                    size_t* kept, void* scratch, size_t scratch_size);
// Bytes; 0 for a count that is 0 or above 2^31.
RANKFORGE_API size_t rankforge_mask_scratch_size(size_t count);

// ---- Plans -----------------------------------------------------------------

// One layer, bound to its weights and to the kernels for every density. Any
// number of threads may run one plan at the same time, each with scratch of its
// own.
typedef struct rankforge_plan rankforge_plan;

// y = w @ x, with the mask that a run brings (not for RANKFORGE_DENSE).
// `weights` have the shape and the type of the problem. Where they lie in
// another layout than `table` says, the default kernels of that layout run;
// where it has none, RANKFORGE_ERROR_UNSUPPORTED.
RANKFORGE_API rankforge_status rankforge_plan_gemv(
    const rankforge_context* context, const rankforge_table* table,
    const rankforge_problem* problem, const rankforge_weights* weights,
    rankforge_plan** plan);

// y = A (m(z) * z), z = B x.
typedef struct rankforge_rank_adapter {
  uint32_t struct_size;
  uint32_t tokens;   // most tokens of one run; 0: 1
  uint32_t threads;  // 0: those of the context
  uint32_t reserved;
  const rankforge_weights* b;  // (ranks, cols), packed for DENSE
  const rankforge_weights* a;  // (rows, ranks), packed for COLUMN_MASK
  // m: a THRESHOLD over z, with a null score. Its arrays are copied.
  const rankforge_mask* rule;
  // Of the products that can have them, whatever weights were packed for.
  int32_t activations;   // RANKFORGE_ACTIVATIONS_DEFAULT, ...
  int32_t reserved_end;  // 0
} rankforge_rank_adapter;
#define RANKFORGE_RANK_ADAPTER_INIT \
  { sizeof(rankforge_rank_adapter), 0, 0, 0, NULL, NULL, NULL, 0, 0 }

RANKFORGE_API rankforge_status rankforge_plan_rank_adapter(
    const rankforge_context* context, const rankforge_table* table,
    const rankforge_rank_adapter* adapter, rankforge_plan** plan);

enum {
  RANKFORGE_SILU = 0,       // x / (1 + exp(-x))
  RANKFORGE_GELU = 1,       // x Phi(x)
  RANKFORGE_GELU_TANH = 2,  // with tanh, as Gemma
};

// y = D (m(h) * h), h = act(G x) * (U x). G and U may be rank adapters.
typedef struct rankforge_gated_mlp {
  uint32_t struct_size;
  uint32_t tokens;     // most tokens of one run; 0: 1
  uint32_t threads;    // 0: those of the context
  int32_t activation;  // RANKFORGE_SILU, ...
  // G (hidden, cols), packed for DENSE. Or B of a rank adapter, with its A
  // (hidden, ranks) packed for COLUMN_MASK, and its rule over z.
  const rankforge_weights* gate;
  const rankforge_weights* gate_a;    // null: none
  const rankforge_mask* gate_a_rule;  // a THRESHOLD
  // U, in the same ways. Null: h = act(G x). With gate_rule, U is packed for
  // ROW_MASK, and is no adapter.
  const rankforge_weights* up;
  const rankforge_weights* up_a;
  const rankforge_mask* up_a_rule;
  const rankforge_weights* down;  // D (rows, hidden), for COLUMN_MASK
  // A THRESHOLD over act(G x), which decides alone which rows of U and columns
  // of D are read. Null: all of U is computed. Needs U, and a gate that is no
  // adapter.
  const rankforge_mask* gate_rule;
  // m, a THRESHOLD over h. Null: with gate_rule, nothing more is dropped;
  // without it, every h but NaN is kept.
  const rankforge_mask* hidden_rule;
  // Of the products that can have them, whatever weights were packed for.
  int32_t activations;  // RANKFORGE_ACTIVATIONS_DEFAULT, ...
  int32_t reserved;     // 0
} rankforge_gated_mlp;
#define RANKFORGE_GATED_MLP_INIT                                              \
  {                                                                           \
    sizeof(rankforge_gated_mlp), 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, \
        NULL, NULL, NULL, 0, 0                                                \
  }

RANKFORGE_API rankforge_status rankforge_plan_gated_mlp(
    const rankforge_context* context, const rankforge_table* table,
    const rankforge_gated_mlp* mlp, rankforge_plan** plan);

// Null is allowed.
RANKFORGE_API rankforge_status rankforge_plan_destroy(rankforge_plan* plan);

// Lines for people: the products of the plan and their kernels.
RANKFORGE_API rankforge_status rankforge_plan_explain(
    const rankforge_plan* plan, char* text, size_t capacity, size_t* length);
// The lengths of y and x of one token, and the most tokens of a run. Each may
// be null.
RANKFORGE_API rankforge_status rankforge_plan_shape(const rankforge_plan* plan,
                                                    size_t* rows, size_t* cols,
                                                    uint32_t* tokens);

// ---- Runs ------------------------------------------------------------------

// Where scratch memory begins: a multiple of this many bytes.
#define RANKFORGE_SCRATCH_ALIGNMENT 64

// Bytes of scratch that a run of the plan needs, a multiple of
// RANKFORGE_SCRATCH_ALIGNMENT. The memory is the caller's. It
// need not be set, keeps nothing between runs, and serves one run at a time.
RANKFORGE_API rankforge_status
rankforge_plan_scratch_size(const rankforge_plan* plan, size_t* bytes);

// All arrays of floats begin at multiples of 4 bytes. y overlaps no input.
typedef struct rankforge_run_args {
  uint32_t struct_size;
  uint32_t tokens;     // 1 to the plan's; 0: 1
  const float* x;      // (tokens, cols)
  size_t x_stride;     // floats between tokens; 0: cols
  float* y;            // (tokens, rows)
  size_t y_stride;     // floats between tokens; 0: rows
  const float* bias;   // (rows,), added to y of each token; null: none
  int32_t accumulate;  // not 0: adds to what y has, and bias must be null
  // Masks of rankforge_plan_gemv: one for all tokens, or one per token, as an
  // array of structs of equal struct_size. A THRESHOLD or TOP_K for all tokens
  // with a null score judges each token's own x. 0 for DENSE and other plans.
  uint32_t mask_count;
  const rankforge_mask* masks;
  // (tokens,) or null: what each token kept. Groups of the mask, ranks of an
  // adapter, columns of down of an MLP; rows or ranks for a dense product.
  size_t* kept;
} rankforge_run_args;
#define RANKFORGE_RUN_ARGS_INIT \
  { sizeof(rankforge_run_args), 0, NULL, 0, NULL, 0, NULL, 0, 0, NULL, NULL }

// Runs the plan with scratch of at least rankforge_plan_scratch_size bytes. The
// outputs of a token do not depend on threads, nor (but for the sign of zeros,
// and weights that are not finite) on the other tokens. Allocates nothing.
//
// In a debug build, two runs with overlapping scratch at the same time give
// RANKFORGE_ERROR_ARGUMENT; otherwise their outputs are not defined.
RANKFORGE_API rankforge_status rankforge_run(const rankforge_plan* plan,
                                             const rankforge_run_args* args,
                                             void* scratch,
                                             size_t scratch_size);

// Runs share `share` of `shares` of a rankforge_plan_gemv on the calling
// thread: for hosts that call an operation on each of their threads (ggml).
// Together, the shares compute what rankforge_run does, in any order or at the
// same time. Each needs scratch of its own. Share 0 writes args->kept.
RANKFORGE_API rankforge_status rankforge_run_share(
    const rankforge_plan* plan, const rankforge_run_args* args, size_t share,
    size_t shares, void* scratch, size_t scratch_size);

#ifdef __cplusplus
}
#endif

#endif  // RANKFORGE_INCLUDE_RANKFORGE_RANKFORGE_H_
