/* Every function of rankforge.h, from C11, against loops over the matrix.
   Weights and inputs are small multiples of 1/8, so that sums are exact in any
   order: outputs are compared for equality where weights are kept exactly. */
#include "c_calls.h"

#include <float.h>
#include <math.h>
#include <rankforge/rankforge.h>
#include <rankforge/rankforge_tuner.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;

#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      ++failures;                                                         \
      fprintf(stderr, "%s:%d: %s [%s]\n", __FILE__, __LINE__, #condition, \
              rankforge_last_error());                                    \
    }                                                                     \
  } while (0)
#define OK(call) CHECK((call) == RANKFORGE_OK)
/* The call fails with this status, and its message has this part. */
#define FAILS(status, part, call)                          \
  do {                                                     \
    CHECK((call) == (status));                             \
    CHECK(strstr(rankforge_last_error(), (part)) != NULL); \
  } while (0)

static int finish(void) {
  const int result = failures;
  failures = 0;
  return result;
}

enum { kMost = 256 }; /* rows, cols and ranks of all matrices here */

/* Every group of 15 neighbours has a 7 and a -7, so that 4-bit integers hold
   it. So do groups that are cut off, from row 64 and column 128 on. */
static float weight(size_t r, size_t c) {
  if (r >= 64 || c >= 128) return 7 * (float)((int)((r + c) % 3) - 1);
  return (float)((int)((r * 7 + c * 13) % 15) - 7);
}
static float input(size_t token, size_t c) {
  return (float)((int)((c * 11 + token * 5) % 17) - 8) / 8;
}

static float* weights_of(size_t rows, size_t cols) {
  float* w = malloc(rows * cols * sizeof(float));
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c) w[r * cols + c] = weight(r, c);
  }
  return w;
}

static rankforge_problem problem_of(int32_t operation, size_t rows, size_t cols,
                                    int32_t type) {
  rankforge_problem problem = RANKFORGE_PROBLEM_INIT;
  problem.operation = operation;
  problem.rows = rows;
  problem.cols = cols;
  problem.weight_type = type;
  return problem;
}

static rankforge_source source_of(const void* data, size_t rows, size_t cols) {
  rankforge_source source = RANKFORGE_SOURCE_INIT;
  source.data = data;
  source.rows = rows;
  source.cols = cols;
  return source;
}

static rankforge_mask threshold(float tau) {
  rankforge_mask mask = RANKFORGE_MASK_INIT;
  mask.kind = RANKFORGE_MASK_THRESHOLD;
  mask.tau = tau;
  return mask;
}

/* Packs weight(r, c). NULL on failure. */
static rankforge_weights* packed(const rankforge_context* context,
                                 const rankforge_problem* problem) {
  rankforge_weights* weights = NULL;
  float* w = weights_of(problem->rows, problem->cols);
  const rankforge_source source = source_of(w, problem->rows, problem->cols);
  OK(rankforge_weights_pack(context, NULL, problem, &source, 1, &weights));
  free(w);
  return weights;
}

static void* scratch_of(const rankforge_plan* plan, size_t* bytes) {
  OK(rankforge_plan_scratch_size(plan, bytes));
  /* As large as it must be, for the sanitizer to see more. */
  const size_t rounded = (*bytes + RANKFORGE_SCRATCH_ALIGNMENT - 1) /
                         RANKFORGE_SCRATCH_ALIGNMENT *
                         RANKFORGE_SCRATCH_ALIGNMENT;
  void* scratch = aligned_alloc(RANKFORGE_SCRATCH_ALIGNMENT, rounded);
  memset(scratch, 0xff, rounded);
  return scratch;
}

static rankforge_status run(const rankforge_plan* plan,
                            const rankforge_run_args* args) {
  size_t bytes;
  void* scratch = scratch_of(plan, &bytes);
  const rankforge_status status = rankforge_run(plan, args, scratch, bytes);
  free(scratch);
  return status;
}

/* A host without threads, which runs the last item first. */
static void backwards(void* host, size_t items, rankforge_body body,
                      void* context) {
  ++*(size_t*)host;
  while (items-- > 0) body(context, items);
}

static void skips_one(void* host, size_t items, rankforge_body body,
                      void* context) {
  (void)host;
  for (size_t item = 1; item < items; ++item) body(context, item);
}

static size_t host_calls;

/* Kind 0: one thread; 1: two of its own; 2: the loop of a host. */
static rankforge_context* context_of(int kind) {
  rankforge_context_options options = RANKFORGE_CONTEXT_OPTIONS_INIT;
  options.threads = kind == 0 ? 1 : 2;
  if (kind == 2) {
    options.parallel_for = backwards;
    options.host = &host_calls;
  }
  rankforge_context* context = NULL;
  OK(rankforge_context_create(&options, &context));
  return context;
}

int check_versions_and_contexts(void) {
  CHECK(rankforge_version() == RANKFORGE_VERSION_NUMBER);
  CHECK(strcmp(rankforge_version_text(), "0.2.0") == 0);
  CHECK(strcmp(rankforge_status_text(RANKFORGE_OK), "ok") == 0);
  CHECK(strcmp(rankforge_status_text(-5), "unknown status") == 0);
  CHECK(strcmp(rankforge_status_text(99), "unknown status") == 0);
  rankforge_context* context = NULL;
  uint32_t threads = 0;
  OK(rankforge_context_create(NULL, &context));
  OK(rankforge_context_threads(context, &threads));
  CHECK(threads >= 1);
  OK(rankforge_context_destroy(context));
  rankforge_context_options options = RANKFORGE_CONTEXT_OPTIONS_INIT;
  options.threads = 5000;
  FAILS(RANKFORGE_ERROR_ARGUMENT, "5000 is above 4096",
        rankforge_context_create(&options, &context));
  options.threads = 1;
  options.host = &options;
  FAILS(RANKFORGE_ERROR_ARGUMENT, "parallel_for is null",
        rankforge_context_create(&options, &context));
  int32_t type = -1;
  for (int32_t i = 0; rankforge_weight_type_name(i) != NULL; ++i) {
    OK(rankforge_weight_type_from_name(rankforge_weight_type_name(i), &type));
    CHECK(type == i);
  }
  CHECK(type >= RANKFORGE_I4_GROUP64);
  CHECK(strcmp(rankforge_weight_type_name(RANKFORGE_BF16), "bf16") == 0);
  CHECK(rankforge_weight_type_name(-1) == NULL);
  FAILS(RANKFORGE_ERROR_ARGUMENT, "i4_group64",
        rankforge_weight_type_from_name("f64", &type));
  return finish();
}

/* ---- Products ------------------------------------------------------------ */

/* Masks of each kind for token t; what they keep, by group. */
typedef struct {
  rankforge_mask mask;
  uint8_t kept[kMost]; /* by group */
  float score[kMost];
  uint64_t bits[kMost / 64];
  uint32_t index[kMost];
} test_mask;

static void make_mask(test_mask* m, int kind, size_t token, int by_rows,
                      size_t count, size_t granularity) {
  const size_t groups = (count + granularity - 1) / granularity;
  memset(m, 0, sizeof(*m));
  const rankforge_mask init = RANKFORGE_MASK_INIT;
  m->mask = init;
  m->mask.kind = kind;
  for (size_t g = 0; g < groups; ++g) {
    m->kept[g] = (g * 5 + token) % 3 != 0;
    m->bits[g / 64] |= (uint64_t)m->kept[g] << (g % 64);
    if (m->kept[g]) m->index[m->mask.index_count++] = (uint32_t)g;
    /* Distinct, alternating in sign. */
    m->score[g] = (g % 2 ? 1.0f : -1.0f) * (float)(1 + (g * 37 + token) % 251);
  }
  m->mask.bits = m->bits;
  m->mask.bytes = m->kept;
  m->mask.index = m->index;
  if (kind == RANKFORGE_MASK_THRESHOLD) {
    /* The input itself where it can be. */
    if (by_rows) {
      for (size_t i = 0; i < count; ++i) m->score[i] = input(token, i);
      m->mask.score = m->score;
    }
    m->mask.tau = 0.5f;
    memset(m->kept, 0, sizeof(m->kept));
    for (size_t i = 0; i < count; ++i) {
      m->kept[i / granularity] |= fabsf(input(token, i)) >= 0.5f;
    }
  } else if (kind == RANKFORGE_MASK_TOP_K) {
    m->mask.score = m->score;
    m->mask.k = groups / 2;
    for (size_t g = 0; g < groups; ++g) {
      size_t larger = 0;
      for (size_t other = 0; other < groups; ++other) {
        const float a = fabsf(m->score[other]), b = fabsf(m->score[g]);
        larger += a > b || (a == b && other < g);
      }
      m->kept[g] = larger < m->mask.k;
    }
  }
}

static int is_integer(int32_t type) { return type >= RANKFORGE_I8; }

/* The error that rounding of the weights, and of inputs beside integers unless
   activations say F32, allows in an output. */
static float tolerance(int32_t type, int32_t activations, size_t cols) {
  float step = 0; /* weights are -7 to 7, which 4 bits hold */
  if (type == RANKFORGE_I8 || type == RANKFORGE_I8_GROUP32) step = 7.0f / 127;
  /* Their whole range in 15 steps. */
  if (type == RANKFORGE_I4M_GROUP32) step = 14.0f / 15;
  float error = step / 2;
  /* Half of 1/127 of the largest input, which is 1, times 8 at most. */
  if (is_integer(type) && activations != RANKFORGE_ACTIVATIONS_F32) {
    error += 8.0f / 254;
  }
  return (float)cols * error * 1.01f;
}

typedef struct {
  int32_t operation, type;
  size_t rows, cols, tokens, granularity;
  int kind; /* of mask; 0: none */
  int32_t activations;
} product_case;

static void check_run(const rankforge_plan* plan, const product_case* c,
                      size_t tokens, int adds) {
  const int by_rows = c->operation == RANKFORGE_ROW_MASK;
  const size_t x_stride = c->cols + 3, y_stride = c->rows + 5;
  float* x = malloc(tokens * x_stride * sizeof(float));
  float* y = malloc(tokens * y_stride * sizeof(float));
  float* bias = malloc(c->rows * sizeof(float));
  test_mask* made = calloc(tokens, sizeof(test_mask));
  rankforge_mask* masks = calloc(tokens, sizeof(rankforge_mask));
  size_t kept[RANKFORGE_MOST_TOKENS] = {0};
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t i = 0; i < c->cols; ++i) x[t * x_stride + i] = input(t, i);
    for (size_t i = 0; i < y_stride; ++i) y[t * y_stride + i] = 2;
    make_mask(&made[t], c->kind, t, by_rows, by_rows ? c->rows : c->cols,
              c->granularity);
    masks[t] = made[t].mask;
  }
  for (size_t r = 0; r < c->rows; ++r) bias[r] = (float)(r % 4);
  rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
  args.tokens = (uint32_t)tokens;
  args.x = x;
  args.x_stride = x_stride;
  args.y = y;
  args.y_stride = y_stride;
  args.bias = adds ? NULL : bias;
  args.accumulate = adds;
  args.masks = c->kind ? masks : NULL;
  args.mask_count = c->kind ? (uint32_t)tokens : 0;
  args.kept = kept;
  OK(run(plan, &args));
  size_t wrong = 0;
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t r = 0; r < y_stride; ++r) {
      double sum = adds ? 2 : bias[r < c->rows ? r : 0];
      for (size_t i = 0; r < c->rows && i < c->cols; ++i) {
        const int on =
            c->kind == 0 || by_rows || made[t].kept[i / c->granularity] != 0;
        if (on) sum += (double)weight(r, i) * input(t, i);
      }
      if (r >= c->rows) {
        sum = 2;
      } else if (by_rows && !made[t].kept[r / c->granularity]) {
        sum = adds ? 2 : 0;
      }
      const double error = fabs(sum - y[t * y_stride + r]);
      wrong += !(error <= tolerance(c->type, c->activations, c->cols));
    }
    size_t groups = 0;
    for (size_t g = 0; g < kMost; ++g) groups += made[t].kept[g] != 0;
    CHECK(kept[t] == (c->kind ? groups : c->rows));
  }
  if (wrong > 0) {
    fprintf(stderr, "operation %d type %d kind %d g%zu %zu tokens %zux%zu: ",
            c->operation, c->type, c->kind, c->granularity, tokens, c->rows,
            c->cols);
  }
  CHECK(wrong == 0);
  free(x), free(y), free(bias), free(made), free(masks);
}

static void check_product(const rankforge_context* context,
                          const product_case* c) {
  rankforge_problem problem =
      problem_of(c->operation, c->rows, c->cols, c->type);
  problem.tokens = (uint32_t)c->tokens;
  problem.granularity = (uint32_t)c->granularity;
  problem.activations = c->activations;
  rankforge_weights* weights = packed(context, &problem);
  rankforge_plan* plan = NULL;
  OK(rankforge_plan_gemv(context, NULL, &problem, weights, &plan));
  /* The plan keeps them. */
  OK(rankforge_weights_destroy(weights));
  size_t rows = 0, cols = 0;
  uint32_t tokens = 0;
  OK(rankforge_plan_shape(plan, &rows, &cols, &tokens));
  CHECK(rows == c->rows && cols == c->cols && tokens == c->tokens);
  check_run(plan, c, 1, 0);
  check_run(plan, c, c->tokens, 0);
  check_run(plan, c, c->tokens, 1);
  OK(rankforge_plan_destroy(plan));
}

int check_products(void) {
  static const size_t granularities[] = {1, 8, 32};
  for (int kind_of_context = 0; kind_of_context < 3; ++kind_of_context) {
    rankforge_context* context = context_of(kind_of_context);
    for (int32_t type = 0; rankforge_weight_type_name(type) != NULL; ++type) {
      product_case c = {RANKFORGE_DENSE, type, 67, 131, 3, 1, 0, 0};
      check_product(context, &c);
      if (is_integer(type)) {
        c.activations = RANKFORGE_ACTIVATIONS_F32;
        check_product(context, &c);
        /* The rest has each in turn. */
        c.activations = kind_of_context == 1 ? RANKFORGE_ACTIVATIONS_F32
                                             : RANKFORGE_ACTIVATIONS_I8;
      }
      for (int operation = RANKFORGE_ROW_MASK;
           operation <= RANKFORGE_COLUMN_MASK; ++operation) {
        c.operation = operation;
        for (int kind = RANKFORGE_MASK_THRESHOLD; kind <= RANKFORGE_MASK_INDEX;
             ++kind) {
          c.kind = kind;
          /* Every pair of a kind and a granularity, over the types. */
          c.granularity = granularities[(kind + type) % 3];
          c.tokens = type == RANKFORGE_BF16 && kind == RANKFORGE_MASK_BITS
                         ? RANKFORGE_MOST_TOKENS
                         : 3;
          check_product(context, &c);
        }
      }
    }
    OK(rankforge_context_destroy(context));
  }
  CHECK(host_calls > 0);
  return finish();
}

/* Activations are part of the problem: what cannot be is refused, and of those
   that round, several tokens have the bits of one at a time. */
int check_activations(void) {
  rankforge_context* context = context_of(1);
  for (int operation = RANKFORGE_DENSE; operation <= RANKFORGE_COLUMN_MASK;
       ++operation) {
    rankforge_problem problem =
        problem_of(operation, 67, 131, RANKFORGE_I4_GROUP32);
    problem.tokens = 5;
    rankforge_weights* weights = packed(context, &problem);
    float y[2][5][67], x[5][131];
    for (size_t t = 0; t < 5; ++t) {
      for (size_t i = 0; i < 131; ++i) x[t][i] = input(t, i);
    }
    rankforge_mask mask = threshold(0.5f);
    if (operation == RANKFORGE_ROW_MASK) mask.score = x[0];
    for (int exact = 0; exact < 2; ++exact) {
      problem.activations =
          exact ? RANKFORGE_ACTIVATIONS_F32 : RANKFORGE_ACTIVATIONS_DEFAULT;
      rankforge_plan* plan = NULL;
      OK(rankforge_plan_gemv(context, NULL, &problem, weights, &plan));
      char text[4096];
      OK(rankforge_plan_explain(plan, text, sizeof(text), NULL));
      CHECK((strstr(text, "i8 activations") != NULL) == !exact);
      rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
      args.masks = &mask;
      args.mask_count = operation != RANKFORGE_DENSE;
      args.x = x[0];
      args.y = y[exact][0];
      args.tokens = 5;
      OK(run(plan, &args));
      args.tokens = 1;
      float one[67];
      args.y = one;
      for (size_t t = 0; t < 5; ++t) {
        args.x = x[t];
        OK(run(plan, &args));
        CHECK(memcmp(one, y[exact][t], sizeof(one)) == 0);
      }
      OK(rankforge_plan_destroy(plan));
    }
    CHECK(memcmp(y[0], y[1], sizeof(y[0])) != 0);
    rankforge_plan* plan = NULL;
    problem.activations = RANKFORGE_ACTIVATIONS_BF16;
    FAILS(RANKFORGE_ERROR_ARGUMENT, "bf16 is not for weights of i4_group32",
          rankforge_plan_gemv(context, NULL, &problem, weights, &plan));
    problem.activations = 4;
    FAILS(RANKFORGE_ERROR_ARGUMENT, "activations: 4 is not in [0, 3]",
          rankforge_plan_gemv(context, NULL, &problem, weights, &plan));
    problem.activations = -1;
    FAILS(RANKFORGE_ERROR_ARGUMENT, "activations: -1",
          rankforge_plan_gemv(context, NULL, &problem, weights, &plan));
    OK(rankforge_weights_destroy(weights));
  }
  rankforge_problem problem =
      problem_of(RANKFORGE_DENSE, 32, 32, RANKFORGE_F32);
  problem.activations = RANKFORGE_ACTIVATIONS_I8;
  rankforge_weights* weights = NULL;
  float* w = weights_of(32, 32);
  const rankforge_source source = source_of(w, 32, 32);
  FAILS(RANKFORGE_ERROR_ARGUMENT, "i8 is not for weights of f32",
        rankforge_weights_pack(context, NULL, &problem, &source, 1, &weights));
  problem.activations = 0;
  problem.reserved = 1;
  FAILS(RANKFORGE_ERROR_ARGUMENT, "reserved",
        rankforge_weights_pack(context, NULL, &problem, &source, 1, &weights));
  free(w);
  OK(rankforge_context_destroy(context));
  return finish();
}

int check_shares(void) {
  rankforge_context* context = context_of(0);
  for (int operation = RANKFORGE_DENSE; operation <= RANKFORGE_COLUMN_MASK;
       ++operation) {
    const int32_t type =
        operation == RANKFORGE_DENSE ? RANKFORGE_I8_GROUP32 : RANKFORGE_BF16;
    rankforge_problem problem = problem_of(operation, 200, 96, type);
    rankforge_weights* weights = packed(context, &problem);
    rankforge_plan* plan = NULL;
    OK(rankforge_plan_gemv(context, NULL, &problem, weights, &plan));
    float x[200], whole[200], shared[200];
    for (size_t i = 0; i < 200; ++i) x[i] = input(0, i);
    rankforge_mask mask = threshold(0.5f);
    mask.score = x;
    rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
    args.x = x;
    args.y = whole;
    args.masks = &mask;
    args.mask_count = operation != RANKFORGE_DENSE;
    OK(run(plan, &args));
    size_t bytes, kept = 0;
    void* scratch = scratch_of(plan, &bytes);
    for (size_t shares = 1; shares < 12; ++shares) {
      memset(shared, 0, sizeof(shared));
      args.y = shared;
      args.kept = &kept;
      for (size_t share = shares; share-- > 0;) {
        OK(rankforge_run_share(plan, &args, share, shares, scratch, bytes));
      }
      CHECK(memcmp(whole, shared, sizeof(whole)) == 0);
      CHECK(kept > 0);
    }
    FAILS(RANKFORGE_ERROR_ARGUMENT, "share: 2 is not below 2",
          rankforge_run_share(plan, &args, 2, 2, scratch, bytes));
    free(scratch);
    OK(rankforge_plan_destroy(plan));
    OK(rankforge_weights_destroy(weights));
  }
  OK(rankforge_context_destroy(context));
  return finish();
}

/* Weights in the layout of two sums: the same bits with any threads and as
   shares, and several tokens as one at a time. */
int check_sums(void) {
  enum { kRows = 200, kCols = 131, kTokens = 3 };
  float first[kTokens * kRows];
  for (int kind = 0; kind < 3; ++kind) {
    rankforge_context* context = context_of(kind);
    rankforge_problem problem =
        problem_of(RANKFORGE_COLUMN_MASK, kRows, kCols, RANKFORGE_F32);
    rankforge_weights* weights = packed(context, &problem);
    rankforge_weights_info info = RANKFORGE_WEIGHTS_INFO_INIT;
    OK(rankforge_weights_describe(weights, &info));
    CHECK(strcmp(info.layout, "in_out_2") == 0);
    problem.tokens = kTokens;
    rankforge_plan* plan = NULL;
    OK(rankforge_plan_gemv(context, NULL, &problem, weights, &plan));
    float x[kTokens * kCols], y[kTokens * kRows], shared[kRows];
    for (size_t i = 0; i < kTokens * kCols; ++i) {
      x[i] = input(i / kCols, i % kCols);
    }
    rankforge_mask mask = threshold(0.5f);
    rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
    args.tokens = kTokens;
    args.x = x;
    args.y = y;
    args.masks = &mask;
    args.mask_count = 1;
    OK(run(plan, &args));
    if (kind == 0) memcpy(first, y, sizeof(y));
    CHECK(memcmp(first, y, sizeof(y)) == 0);
    args.tokens = 1;
    args.y = shared;
    size_t bytes;
    void* scratch = scratch_of(plan, &bytes);
    for (size_t token = 0; token < kTokens; ++token) {
      args.x = x + token * kCols;
      OK(rankforge_run(plan, &args, scratch, bytes));
      CHECK(memcmp(first + token * kRows, shared, sizeof(shared)) == 0);
      for (size_t shares = 1; shares < 5; ++shares) {
        memset(shared, 0, sizeof(shared));
        for (size_t share = shares; share-- > 0;) {
          OK(rankforge_run_share(plan, &args, share, shares, scratch, bytes));
        }
        CHECK(memcmp(first + token * kRows, shared, sizeof(shared)) == 0);
      }
    }
    free(scratch);
    OK(rankforge_plan_destroy(plan));
    OK(rankforge_weights_destroy(weights));
    OK(rankforge_context_destroy(context));
  }
  return finish();
}

/* ---- Weights ------------------------------------------------------------- */

static uint16_t bf16_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return (uint16_t)(bits >> 16);
}

/* Of an integer in [-7, 7]. */
static uint16_t f16_of(float value) {
  if (value == 0) return 0;
  int exponent;
  const float fraction = frexpf(fabsf(value), &exponent);
  const uint16_t sign = value < 0 ? 0x8000 : 0;
  return (uint16_t)(sign | (exponent + 14) << 10 |
                    (int)((fraction * 2 - 1) * 1024));
}

/* y of a dense product with these sources, packed as `type`. */
static void dense_of(const rankforge_context* context,
                     const rankforge_source* sources, size_t count, size_t rows,
                     size_t cols, int32_t type, float* y) {
  rankforge_problem problem = problem_of(RANKFORGE_DENSE, rows, cols, type);
  problem.activations = RANKFORGE_ACTIVATIONS_F32;
  rankforge_weights* weights = NULL;
  rankforge_plan* plan = NULL;
  OK(rankforge_weights_pack(context, NULL, &problem, sources, count, &weights));
  OK(rankforge_plan_gemv(context, NULL, &problem, weights, &plan));
  float x[kMost];
  for (size_t c = 0; c < cols; ++c) x[c] = input(0, c);
  rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
  args.x = x;
  args.y = y;
  OK(run(plan, &args));
  OK(rankforge_plan_destroy(plan));
  OK(rankforge_weights_destroy(weights));
}

enum { kRows = 48, kCols = 64 };

static void check_source(const rankforge_context* context,
                         const rankforge_source* sources, size_t count,
                         int32_t type) {
  float y[kRows];
  dense_of(context, sources, count, kRows, kCols, type, y);
  for (size_t r = 0; r < kRows; ++r) {
    float sum = 0;
    for (size_t c = 0; c < kCols; ++c) sum += weight(r, c) * input(0, c);
    CHECK(y[r] == sum);
  }
}

/* Blocks of 32: an f16 scale of 1, then integers. */
static void fill_q4_0(uint8_t* block, size_t r, size_t c) {
  block[0] = 0x00, block[1] = 0x3c;
  for (size_t i = 0; i < 16; ++i) {
    const int low = (int)weight(r, c + i) + 8;
    const int high = (int)weight(r, c + 16 + i) + 8;
    block[2 + i] = (uint8_t)(low | high << 4);
  }
}
static void fill_q8_0(uint8_t* block, size_t r, size_t c) {
  block[0] = 0x00, block[1] = 0x3c;
  for (size_t i = 0; i < 32; ++i) {
    block[2 + i] = (uint8_t)(int8_t)weight(r, c + i);
  }
}

int check_sources(void) {
  rankforge_context* context = context_of(0);
  static float f32[kRows][kCols + 8], columns[kCols][kRows];
  static uint16_t f16[kRows][kCols], bf16[kRows][kCols];
  static uint8_t q4[kRows][kCols / 32 * 18], q8[kRows][kCols / 32 * 34];
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t c = 0; c < kCols; ++c) {
      f32[r][c] = columns[c][r] = weight(r, c);
      f16[r][c] = f16_of(weight(r, c));
      bf16[r][c] = bf16_of(weight(r, c));
    }
    for (size_t block = 0; block < kCols / 32; ++block) {
      fill_q4_0(&q4[r][block * 18], r, block * 32);
      fill_q8_0(&q8[r][block * 34], r, block * 32);
    }
  }
  rankforge_source source = source_of(f32, kRows, kCols);
  source.line_stride = sizeof(f32[0]);
  check_source(context, &source, 1, RANKFORGE_F32);
  check_source(context, &source, 1, RANKFORGE_BF16);
  /* Two on top of each other. */
  rankforge_source stacked[2] = {source, source};
  stacked[0].rows = 16;
  stacked[1].rows = kRows - 16;
  stacked[1].data = f32[16];
  check_source(context, stacked, 2, RANKFORGE_F16);
  source = source_of(columns, kRows, kCols);
  source.transposed = 1;
  check_source(context, &source, 1, RANKFORGE_F32);
  source = source_of(f16, kRows, kCols);
  source.format = RANKFORGE_SOURCE_F16;
  check_source(context, &source, 1, RANKFORGE_F32);
  source = source_of(bf16, kRows, kCols);
  source.format = RANKFORGE_SOURCE_BF16;
  check_source(context, &source, 1, RANKFORGE_BF16);
  source = source_of(q4, kRows, kCols);
  source.format = RANKFORGE_SOURCE_Q4_0;
  check_source(context, &source, 1, RANKFORGE_I4_GROUP32);
  check_source(context, &source, 1, RANKFORGE_F32);
  source = source_of(q8, kRows, kCols);
  source.format = RANKFORGE_SOURCE_Q8_0;
  check_source(context, &source, 1, RANKFORGE_I8_GROUP32);

  rankforge_problem problem =
      problem_of(RANKFORGE_DENSE, kRows, kCols, RANKFORGE_F16);
  rankforge_weights* weights = NULL;
  source = source_of(f32, kRows, kCols);
  f32[3][5] = NAN;
  FAILS(RANKFORGE_ERROR_FAILED, "NaN or infinite",
        rankforge_weights_pack(context, NULL, &problem, &source, 1, &weights));
  f32[3][5] = 1e6f;
  FAILS(RANKFORGE_ERROR_FAILED, "largest that f16 holds",
        rankforge_weights_pack(context, NULL, &problem, &source, 1, &weights));
  f32[3][5] = 0;
  source.cols = 40;
  source.format = RANKFORGE_SOURCE_Q4_0;
  FAILS(RANKFORGE_ERROR_ARGUMENT, "no whole blocks of",
        rankforge_weights_pack(context, NULL, &problem, &source, 1, &weights));
  source.format = 9999;
  FAILS(RANKFORGE_ERROR_ARGUMENT, "format 9999",
        rankforge_weights_pack(context, NULL, &problem, &source, 1, &weights));
  source = source_of(f32, kRows - 1, kCols);
  FAILS(RANKFORGE_ERROR_ARGUMENT, "47 rows, but the problem has 48",
        rankforge_weights_pack(context, NULL, &problem, &source, 1, &weights));
  source = source_of(f32, kRows, kCols - 1);
  FAILS(RANKFORGE_ERROR_ARGUMENT, "63 cols, but the problem has 64",
        rankforge_weights_pack(context, NULL, &problem, &source, 1, &weights));
  source = source_of(f32, kRows, kCols);
  source.line_stride = 8;
  FAILS(RANKFORGE_ERROR_ARGUMENT, "line_stride is 8",
        rankforge_weights_pack(context, NULL, &problem, &source, 1, &weights));
  CHECK(weights == NULL);
  OK(rankforge_context_destroy(context));
  return finish();
}

/* Rows of exactly the memory that they need. */
int check_adopted_rows(void) {
  rankforge_context* context = context_of(1);
  float* rows = aligned_alloc(64, kRows * kCols * sizeof(float));
  uint16_t* halves = aligned_alloc(64, kRows * kCols * sizeof(uint16_t));
  for (size_t i = 0; i < kRows * kCols; ++i) {
    rows[i] = weight(i / kCols, i % kCols);
    halves[i] = f16_of(rows[i]);
  }
  for (int half = 0; half < 2; ++half) {
    for (int operation = RANKFORGE_DENSE; operation <= RANKFORGE_ROW_MASK;
         ++operation) {
      product_case c = {operation,
                        half ? RANKFORGE_F16 : RANKFORGE_F32,
                        kRows,
                        kCols,
                        3,
                        operation == RANKFORGE_DENSE ? 1 : 8,
                        operation == RANKFORGE_DENSE ? 0 : RANKFORGE_MASK_BITS,
                        RANKFORGE_ACTIVATIONS_DEFAULT};
      rankforge_problem problem = problem_of(operation, kRows, kCols, c.type);
      problem.tokens = 3;
      problem.granularity = (uint32_t)c.granularity;
      rankforge_source source =
          source_of(half ? (const void*)halves : rows, kRows, kCols);
      source.format = half ? RANKFORGE_SOURCE_F16 : RANKFORGE_SOURCE_F32;
      rankforge_weights* weights = NULL;
      rankforge_plan* plan = NULL;
      OK(rankforge_weights_adopt(context, &problem, &source, &weights));
      rankforge_weights_info info = RANKFORGE_WEIGHTS_INFO_INIT;
      OK(rankforge_weights_describe(weights, &info));
      CHECK(info.adopted == 1 && info.rows == kRows && info.cols == kCols);
      CHECK(info.bytes == kRows * kCols * (half ? 2u : 4u));
      FAILS(RANKFORGE_ERROR_UNSUPPORTED, "the caller's rows",
            rankforge_weights_save(weights, "/dev/null"));
      OK(rankforge_plan_gemv(context, NULL, &problem, weights, &plan));
      check_run(plan, &c, 1, 0);
      check_run(plan, &c, 3, 1);
      OK(rankforge_plan_destroy(plan));
      /* 48 rows are no whole groups of 32. */
      problem.granularity = operation == RANKFORGE_ROW_MASK ? 32 : 1;
      if (operation == RANKFORGE_ROW_MASK) {
        FAILS(RANKFORGE_ERROR_UNSUPPORTED, "no whole groups of 32",
              rankforge_plan_gemv(context, NULL, &problem, weights, &plan));
      }
      OK(rankforge_weights_destroy(weights));
    }
  }
  rankforge_weights* weights = NULL;
  rankforge_problem problem =
      problem_of(RANKFORGE_DENSE, kRows, kCols, RANKFORGE_BF16);
  rankforge_source source = source_of(rows, kRows, kCols);
  FAILS(RANKFORGE_ERROR_UNSUPPORTED, "in place as bf16",
        rankforge_weights_adopt(context, &problem, &source, &weights));
  problem.weight_type = RANKFORGE_F32;
  source.transposed = 1;
  FAILS(RANKFORGE_ERROR_UNSUPPORTED, "not columns",
        rankforge_weights_adopt(context, &problem, &source, &weights));
  source.transposed = 0;
  source.data = rows + 1;
  problem.rows = source.rows = kRows - 1;
  FAILS(RANKFORGE_ERROR_UNSUPPORTED, "multiples of 64 bytes",
        rankforge_weights_adopt(context, &problem, &source, &weights));
  source.data = rows;
  problem.cols = source.cols = kCols - 1;
  FAILS(RANKFORGE_ERROR_UNSUPPORTED, "rows of 63 weights",
        rankforge_weights_adopt(context, &problem, &source, &weights));
  problem = problem_of(RANKFORGE_COLUMN_MASK, kRows, kCols, RANKFORGE_F32);
  source = source_of(rows, kRows, kCols);
  FAILS(RANKFORGE_ERROR_UNSUPPORTED, "columns of a column mask",
        rankforge_weights_adopt(context, &problem, &source, &weights));
  free(rows), free(halves);
  OK(rankforge_context_destroy(context));
  return finish();
}

static void path_in(const char* folder, const char* name, char (*path)[512]) {
  snprintf(*path, sizeof(*path), "%s/%s", folder, name);
}

/* Copies `from` with byte `at` changed, or cut there. */
static void damage(const char* from, const char* to, size_t at, int cut) {
  FILE* in = fopen(from, "rb");
  FILE* out = fopen(to, "wb");
  int byte;
  for (size_t i = 0; (byte = fgetc(in)) != EOF && !(cut && i == at); ++i) {
    fputc(i == at ? byte ^ 1 : byte, out);
  }
  fclose(in), fclose(out);
}

int check_files(const char* folder) {
  char path[512], damaged[512];
  path_in(folder, "weights.bin", &path);
  path_in(folder, "damaged.bin", &damaged);
  rankforge_context* context = context_of(0);
  product_case c = {RANKFORGE_COLUMN_MASK,
                    RANKFORGE_I4_GROUP32,
                    67,
                    131,
                    1,
                    1,
                    RANKFORGE_MASK_BYTES,
                    0};
  rankforge_problem problem = problem_of(c.operation, c.rows, c.cols, c.type);
  rankforge_weights* weights = packed(context, &problem);
  OK(rankforge_weights_save(weights, path));
  OK(rankforge_weights_destroy(weights));
  OK(rankforge_weights_open(path, &weights));
  rankforge_plan* plan = NULL;
  OK(rankforge_plan_gemv(context, NULL, &problem, weights, &plan));
  check_run(plan, &c, 1, 0);
  OK(rankforge_plan_destroy(plan));
  rankforge_weights_info info = RANKFORGE_WEIGHTS_INFO_INIT;
  OK(rankforge_weights_describe(weights, &info));
  CHECK(info.weight_type == RANKFORGE_I4_GROUP32 && info.adopted == 0);
  CHECK(strcmp(info.layout, "in_out") == 0);
  OK(rankforge_weights_destroy(weights));
  /* magic, revision, rows, type, layout; then cut off. */
  static const size_t bytes[] = {0, 16, 24, 40, 72};
  for (size_t i = 0; i < sizeof(bytes) / sizeof(bytes[0]); ++i) {
    damage(path, damaged, bytes[i], 0);
    CHECK(rankforge_weights_open(damaged, &weights) == RANKFORGE_ERROR_FAILED);
    CHECK(strstr(rankforge_last_error(), damaged) != NULL);
  }
  static const size_t lengths[] = {0, 100, 4096, 5000};
  for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); ++i) {
    damage(path, damaged, lengths[i], 1);
    CHECK(rankforge_weights_open(damaged, &weights) == RANKFORGE_ERROR_FAILED);
  }
  path_in(folder, "none", &damaged);
  FAILS(RANKFORGE_ERROR_FAILED, "none",
        rankforge_weights_open(damaged, &weights));
  OK(rankforge_context_destroy(context));
  return finish();
}

/* ---- Layers -------------------------------------------------------------- */

enum { kRanks = 40, kHidden = 96, kIn = 64, kOut = 67, kTau = 5 };

static double silu(double x) { return x / (1 + exp(-x)); }

/* z = B x, y = A (m(z) * z) of weight(r, c). */
static size_t adapter_reference(size_t rows, size_t ranks, size_t cols,
                                size_t token, double tau, double* y) {
  size_t kept = 0;
  memset(y, 0, rows * sizeof(double));
  for (size_t k = 0; k < ranks; ++k) {
    double z = 0;
    for (size_t c = 0; c < cols; ++c) z += weight(k, c) * input(token, c);
    if (fabs(z) < tau) continue;
    ++kept;
    for (size_t r = 0; r < rows; ++r) y[r] += weight(r, k) * z;
  }
  return kept;
}

static rankforge_weights* part(const rankforge_context* context,
                               int32_t operation, size_t rows, size_t cols,
                               int32_t type, uint32_t tokens) {
  rankforge_problem problem = problem_of(operation, rows, cols, type);
  problem.tokens = tokens;
  return packed(context, &problem);
}

/* Runs `tokens` tokens; outputs y (tokens, kOut), kept (tokens,). */
static void run_layer(const rankforge_plan* plan, size_t tokens, float* y,
                      size_t* kept) {
  float x[RANKFORGE_MOST_TOKENS * kIn];
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t c = 0; c < kIn; ++c) x[t * kIn + c] = input(t, c);
  }
  rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
  args.tokens = (uint32_t)tokens;
  args.x = x;
  args.y = y;
  args.kept = kept;
  OK(run(plan, &args));
}

int check_rank_adapters(void) {
  for (int kind = 0; kind < 3; ++kind) {
    rankforge_context* context = context_of(kind);
    rankforge_rank_adapter adapter = RANKFORGE_RANK_ADAPTER_INIT;
    const rankforge_mask rule = threshold(kTau);
    rankforge_weights* b =
        part(context, RANKFORGE_DENSE, kRanks, kIn, RANKFORGE_BF16, 3);
    rankforge_weights* a =
        part(context, RANKFORGE_COLUMN_MASK, kOut, kRanks, RANKFORGE_F32, 3);
    adapter.tokens = 3;
    adapter.b = b;
    adapter.a = a;
    adapter.rule = &rule;
    rankforge_plan* plan = NULL;
    OK(rankforge_plan_rank_adapter(context, NULL, &adapter, &plan));
    for (size_t tokens = 1; tokens <= 3; ++tokens) {
      float y[3 * kOut];
      double expected[kOut];
      size_t kept[3];
      run_layer(plan, tokens, y, kept);
      for (size_t t = 0; t < tokens; ++t) {
        const size_t all =
            adapter_reference(kOut, kRanks, kIn, t, kTau, expected);
        CHECK(kept[t] == all && all > 0 && all < kRanks);
        for (size_t r = 0; r < kOut; ++r) CHECK(y[t * kOut + r] == expected[r]);
      }
    }
    char text[4096];
    size_t length = 0;
    OK(rankforge_plan_explain(plan, text, sizeof(text), &length));
    CHECK(length == strlen(text) && strstr(text, "adapter: a") != NULL);
    OK(rankforge_plan_explain(plan, text, 5, &length));
    CHECK(strlen(text) == 4 && length > 4);
    OK(rankforge_plan_explain(plan, NULL, 0, &length));
    size_t bytes;
    void* scratch = scratch_of(plan, &bytes);
    float x[kIn] = {0}, y[kOut];
    rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
    args.x = x;
    args.y = y;
    FAILS(RANKFORGE_ERROR_UNSUPPORTED, "shares are of one product",
          rankforge_run_share(plan, &args, 0, 1, scratch, bytes));
    free(scratch);
    OK(rankforge_plan_destroy(plan));

    plan = NULL;
    adapter.a = b; /* rows where columns are to be skipped */
    FAILS(RANKFORGE_ERROR_UNSUPPORTED, "have no kernels for column_mask 40x64",
          rankforge_plan_rank_adapter(context, NULL, &adapter, &plan));
    adapter.a = part(context, RANKFORGE_COLUMN_MASK, kOut, kIn, 0, 1);
    FAILS(RANKFORGE_ERROR_ARGUMENT, "has 64 cols, but adapter: b has 40 rows",
          rankforge_plan_rank_adapter(context, NULL, &adapter, &plan));
    OK(rankforge_weights_destroy((rankforge_weights*)adapter.a));
    adapter.a = NULL;
    FAILS(RANKFORGE_ERROR_HANDLE, "a: is null",
          rankforge_plan_rank_adapter(context, NULL, &adapter, &plan));
    adapter.a = a;
    adapter.rule = NULL;
    FAILS(RANKFORGE_ERROR_ARGUMENT, "rule: is null",
          rankforge_plan_rank_adapter(context, NULL, &adapter, &plan));
    rankforge_mask other = rule;
    adapter.rule = &other;
    other.kind = RANKFORGE_MASK_BITS;
    FAILS(RANKFORGE_ERROR_UNSUPPORTED, "thresholds alone",
          rankforge_plan_rank_adapter(context, NULL, &adapter, &plan));
    other = rule;
    other.score = x;
    FAILS(RANKFORGE_ERROR_UNSUPPORTED, "has a score",
          rankforge_plan_rank_adapter(context, NULL, &adapter, &plan));
    CHECK(plan == NULL);
    OK(rankforge_weights_destroy(a));
    OK(rankforge_weights_destroy(b));
    OK(rankforge_context_destroy(context));
  }
  return finish();
}

/* decides: 0 hidden, 1 gate, 2 gate and hidden. adapters: gate and up are.
   size: the sum of the magnitudes of what was added. */
static size_t mlp_reference(size_t token, int decides, int adapters,
                            int with_up, double* y, double* size) {
  double gate[kHidden], up[kHidden];
  size_t kept = 0;
  memset(y, 0, kOut * sizeof(double));
  memset(size, 0, kOut * sizeof(double));
  if (adapters) {
    adapter_reference(kHidden, kRanks, kIn, token, kTau, gate);
    adapter_reference(kHidden, kRanks, kIn, token, kTau, up);
  } else {
    for (size_t i = 0; i < kHidden; ++i) {
      gate[i] = up[i] = 0;
      for (size_t c = 0; c < kIn; ++c) {
        gate[i] += weight(i, c) * input(token, c);
      }
      up[i] = gate[i];
    }
  }
  for (size_t i = 0; i < kHidden; ++i) {
    const double g = silu(gate[i]);
    const double h = with_up ? g * up[i] : g;
    if (decides > 0 && fabs(g) < 3.03) continue;
    if (decides != 1 && fabs(h) < 10.03) continue;
    ++kept;
    for (size_t r = 0; r < kOut; ++r) {
      y[r] += weight(r, i) * h;
      size[r] += fabs(weight(r, i) * h);
    }
  }
  return kept;
}

static void check_mlp(const rankforge_context* context, int decides,
                      int adapters, int with_up) {
  const rankforge_mask ranks = threshold(kTau), gates = threshold(3.03f),
                       hidden = threshold(10.03f);
  const size_t gate_rows = adapters ? kRanks : kHidden;
  rankforge_weights* gate =
      part(context, RANKFORGE_DENSE, gate_rows, kIn, RANKFORGE_F32, 3);
  rankforge_weights* up =
      part(context, decides > 0 ? RANKFORGE_ROW_MASK : RANKFORGE_DENSE,
           gate_rows, kIn, RANKFORGE_F16, 3);
  rankforge_weights* a =
      part(context, RANKFORGE_COLUMN_MASK, kHidden, kRanks, RANKFORGE_F32, 3);
  rankforge_weights* down =
      part(context, RANKFORGE_COLUMN_MASK, kOut, kHidden, RANKFORGE_BF16, 3);
  rankforge_gated_mlp mlp = RANKFORGE_GATED_MLP_INIT;
  mlp.tokens = 3;
  mlp.gate = gate;
  mlp.gate_a = adapters ? a : NULL;
  mlp.gate_a_rule = adapters ? &ranks : NULL;
  mlp.up = with_up ? up : NULL;
  mlp.up_a = adapters && with_up ? a : NULL;
  mlp.up_a_rule = adapters && with_up ? &ranks : NULL;
  mlp.down = down;
  mlp.gate_rule = decides > 0 ? &gates : NULL;
  mlp.hidden_rule = decides != 1 ? &hidden : NULL;
  rankforge_plan* plan = NULL;
  OK(rankforge_plan_gated_mlp(context, NULL, &mlp, &plan));
  OK(rankforge_weights_destroy(gate));
  OK(rankforge_weights_destroy(up));
  OK(rankforge_weights_destroy(a));
  OK(rankforge_weights_destroy(down));
  float first[kOut];
  for (size_t tokens = 1; tokens <= 3; tokens += 2) {
    float y[3 * kOut];
    double expected[kOut], size[kOut];
    size_t kept[3];
    run_layer(plan, tokens, y, kept);
    for (size_t t = 0; t < tokens; ++t) {
      const size_t all =
          mlp_reference(t, decides, adapters, with_up, expected, size);
      CHECK(kept[t] == all);
      CHECK(all > 0 && all < kHidden);
      for (size_t r = 0; r < kOut; ++r) {
        CHECK(fabs(y[t * kOut + r] - expected[r]) <= 1e-5 * size[r]);
      }
    }
    /* One token has the same bits alone and beside others. */
    if (tokens == 1) memcpy(first, y, sizeof(first));
    for (size_t r = 0; r < kOut; ++r) CHECK(first[r] == y[r]);
  }
  OK(rankforge_plan_destroy(plan));
}

int check_gated_mlps(void) {
  for (int kind = 0; kind < 3; ++kind) {
    rankforge_context* context = context_of(kind);
    for (int decides = 0; decides < 3; ++decides) {
      check_mlp(context, decides, 0, 1);
    }
    check_mlp(context, 0, 0, 0);
    check_mlp(context, 0, 1, 1);
    check_mlp(context, 0, 1, 0);
    rankforge_weights* gate =
        part(context, RANKFORGE_DENSE, kHidden, kIn, RANKFORGE_F32, 1);
    rankforge_weights* down =
        part(context, RANKFORGE_COLUMN_MASK, kOut, kHidden, RANKFORGE_F32, 1);
    rankforge_weights* few =
        part(context, RANKFORGE_DENSE, kOut, kHidden, RANKFORGE_F32, 1);
    const rankforge_mask rule = threshold(1);
    rankforge_gated_mlp mlp = RANKFORGE_GATED_MLP_INIT;
    rankforge_plan* plan = NULL;
    FAILS(RANKFORGE_ERROR_HANDLE, "down: is null",
          rankforge_plan_gated_mlp(context, NULL, &mlp, &plan));
    mlp.gate = gate;
    mlp.down = down;
    mlp.activation = 3;
    FAILS(RANKFORGE_ERROR_ARGUMENT, "activation 3",
          rankforge_plan_gated_mlp(context, NULL, &mlp, &plan));
    mlp.activation = RANKFORGE_GELU;
    mlp.gate_rule = &rule;
    FAILS(RANKFORGE_ERROR_UNSUPPORTED, "gate_rule needs up",
          rankforge_plan_gated_mlp(context, NULL, &mlp, &plan));
    mlp.gate_rule = NULL;
    mlp.up_a = down;
    FAILS(RANKFORGE_ERROR_ARGUMENT, "up is null",
          rankforge_plan_gated_mlp(context, NULL, &mlp, &plan));
    mlp.up_a = NULL;
    mlp.gate_a_rule = &rule;
    FAILS(RANKFORGE_ERROR_ARGUMENT, "has a rule, but no A",
          rankforge_plan_gated_mlp(context, NULL, &mlp, &plan));
    mlp.gate_a_rule = NULL;
    mlp.up = few;
    FAILS(RANKFORGE_ERROR_ARGUMENT, "up gives 67 values",
          rankforge_plan_gated_mlp(context, NULL, &mlp, &plan));
    mlp.up = NULL;
    mlp.threads = 9;
    FAILS(RANKFORGE_ERROR_ARGUMENT, "threads: 9 is above",
          rankforge_plan_gated_mlp(context, NULL, &mlp, &plan));
    mlp.threads = 0;
    mlp.tokens = 17;
    FAILS(RANKFORGE_ERROR_ARGUMENT, "17 is above 16",
          rankforge_plan_gated_mlp(context, NULL, &mlp, &plan));
    CHECK(plan == NULL);
    OK(rankforge_weights_destroy(gate));
    OK(rankforge_weights_destroy(down));
    OK(rankforge_weights_destroy(few));
    OK(rankforge_context_destroy(context));
  }
  return finish();
}

/* ---- Masks and tables ---------------------------------------------------- */

/* ---- Activations of layers ----------------------------------------------- */

/* y (rows,) of one product as a plan of its own. The activations of a layer are
   of those of its products that can have them; those of a problem must be. */
static void run_step(const rankforge_context* context,
                     const rankforge_weights* w, int32_t operation,
                     int32_t activations, float tau, const float* x, float* y) {
  rankforge_weights_info info = RANKFORGE_WEIGHTS_INFO_INIT;
  OK(rankforge_weights_describe(w, &info));
  rankforge_problem problem =
      problem_of(operation, info.rows, info.cols, info.weight_type);
  problem.activations =
      is_integer(info.weight_type) ? activations : RANKFORGE_ACTIVATIONS_F32;
  rankforge_plan* plan = NULL;
  OK(rankforge_plan_gemv(context, NULL, &problem, w, &plan));
  const rankforge_mask mask = threshold(tau);
  rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
  args.x = x;
  args.y = y;
  args.masks = &mask;
  args.mask_count = operation != RANKFORGE_DENSE;
  OK(run(plan, &args));
  OK(rankforge_plan_destroy(plan));
}

/* W x, or A (m(z) * z), z = B x, of token t. */
static void run_branch(const rankforge_context* context,
                       const rankforge_weights* first,
                       const rankforge_weights* a, int32_t activations,
                       size_t t, float* y) {
  float x[kIn], z[kRanks];
  for (size_t c = 0; c < kIn; ++c) x[c] = input(t, c);
  run_step(context, first, RANKFORGE_DENSE, activations, 0, x,
           a == NULL ? y : z);
  if (a == NULL) return;
  run_step(context, a, RANKFORGE_COLUMN_MASK, activations, kTau, z, y);
}

static int says_i8(const rankforge_plan* plan) {
  char text[8192];
  OK(rankforge_plan_explain(plan, text, sizeof(text), NULL));
  return strstr(text, "i8 activations") != NULL;
}

/* A layer and its products one by one have the same bits, exact (1) or not. */
static void check_adapter_activations(const rankforge_context* context,
                                      int32_t b_type, int32_t a_type) {
  rankforge_weights* b = part(context, RANKFORGE_DENSE, kRanks, kIn, b_type, 3);
  rankforge_weights* a =
      part(context, RANKFORGE_COLUMN_MASK, kOut, kRanks, a_type, 3);
  const rankforge_mask rule = threshold(kTau);
  rankforge_rank_adapter adapter = RANKFORGE_RANK_ADAPTER_INIT;
  adapter.tokens = 3;
  adapter.b = b;
  adapter.a = a;
  adapter.rule = &rule;
  rankforge_plan* plan = NULL;
  float y[2][3 * kOut], untold[3 * kOut], expected[kOut];
  size_t kept[3];
  for (int exact = 0; exact < 2; ++exact) {
    adapter.activations =
        exact ? RANKFORGE_ACTIVATIONS_F32 : RANKFORGE_ACTIVATIONS_I8;
    OK(rankforge_plan_rank_adapter(context, NULL, &adapter, &plan));
    CHECK(says_i8(plan) == !exact);
    run_layer(plan, 3, y[exact], kept);
    for (size_t t = 0; t < 3; ++t) {
      CHECK(kept[t] > 0 && kept[t] < kRanks);
      run_branch(context, b, a, adapter.activations, t, expected);
      CHECK(memcmp(expected, y[exact] + t * kOut, sizeof(expected)) == 0);
    }
    OK(rankforge_plan_destroy(plan));
  }
  CHECK(memcmp(y[0], y[1], sizeof(y[0])) != 0);
  adapter.activations = RANKFORGE_ACTIVATIONS_DEFAULT;
  OK(rankforge_plan_rank_adapter(context, NULL, &adapter, &plan));
  run_layer(plan, 3, untold, kept);
  CHECK(memcmp(y[0], untold, sizeof(untold)) == 0);
  OK(rankforge_plan_destroy(plan));
  OK(rankforge_weights_destroy(a));
  OK(rankforge_weights_destroy(b));
}

/* The products of an MLP, and the types of their weights. */
enum { kGate, kUp, kA, kDown, kProducts };

/* A down that gives h as it is, since f32 is never rounded. */
static rankforge_weights* identity_of(const rankforge_context* context) {
  static float w[kHidden * kHidden];
  for (size_t i = 0; i < kHidden; ++i) w[i * kHidden + i] = 1;
  const rankforge_problem problem =
      problem_of(RANKFORGE_COLUMN_MASK, kHidden, kHidden, RANKFORGE_F32);
  const rankforge_source source = source_of(w, kHidden, kHidden);
  rankforge_weights* weights = NULL;
  OK(rankforge_weights_pack(context, NULL, &problem, &source, 1, &weights));
  return weights;
}

/* h is act(g) * u of products one by one, and 0 where a rule drops it. */
static void check_hidden(const rankforge_context* context,
                         const rankforge_gated_mlp* mlp, int32_t activations,
                         size_t t, const float* h) {
  float g[kHidden], u[kHidden];
  run_branch(context, mlp->gate, mlp->gate_a, activations, t, g);
  run_branch(context, mlp->up, mlp->up_a, activations, t, u);
  size_t wrong = 0, kept = 0;
  for (size_t i = 0; i < kHidden; ++i) {
    const double act = silu(g[i]);
    double expected = act * u[i];
    if ((mlp->gate_rule != NULL && fabs(act) < mlp->gate_rule->tau) ||
        (mlp->hidden_rule != NULL && fabs(expected) < mlp->hidden_rule->tau)) {
      expected = 0;
    }
    kept += expected != 0;
    wrong += !(fabs(h[i] - expected) <= 1e-5 * fabs(expected));
  }
  CHECK(wrong == 0);
  CHECK(kept > 0 && kept < kHidden);
}

static void check_mlp_activations(const rankforge_context* context,
                                  const int32_t* types, int decides,
                                  int adapters) {
  const rankforge_mask ranks = threshold(kTau), gates = threshold(3.03f),
                       hidden = threshold(10.03f);
  const size_t gate_rows = adapters ? kRanks : kHidden;
  rankforge_weights* gate =
      part(context, RANKFORGE_DENSE, gate_rows, kIn, types[kGate], 3);
  rankforge_weights* up =
      part(context, decides > 0 ? RANKFORGE_ROW_MASK : RANKFORGE_DENSE,
           gate_rows, kIn, types[kUp], 3);
  rankforge_weights* a =
      part(context, RANKFORGE_COLUMN_MASK, kHidden, kRanks, types[kA], 3);
  rankforge_weights* down =
      part(context, RANKFORGE_COLUMN_MASK, kOut, kHidden, types[kDown], 3);
  rankforge_weights* identity = identity_of(context);
  rankforge_gated_mlp mlp = RANKFORGE_GATED_MLP_INIT;
  mlp.tokens = 3;
  mlp.gate = gate;
  mlp.up = up;
  mlp.gate_a = mlp.up_a = adapters ? a : NULL;
  mlp.gate_a_rule = mlp.up_a_rule = adapters ? &ranks : NULL;
  mlp.gate_rule = decides > 0 ? &gates : NULL;
  mlp.hidden_rule = decides != 1 ? &hidden : NULL;
  rankforge_plan* plan = NULL;
  static float y[2][3 * kOut], untold[3 * kOut], h[3 * kHidden];
  float expected[kOut];
  size_t kept[3];
  for (int exact = 0; exact < 2; ++exact) {
    const int32_t activations =
        exact ? RANKFORGE_ACTIVATIONS_F32 : RANKFORGE_ACTIVATIONS_I8;
    mlp.down = down;
    mlp.activations = activations;
    OK(rankforge_plan_gated_mlp(context, NULL, &mlp, &plan));
    CHECK(says_i8(plan) == !exact);
    run_layer(plan, 3, y[exact], kept);
    OK(rankforge_plan_destroy(plan));
    /* Down may be the only product that takes I8; the default is for all. */
    if (!exact) mlp.activations = RANKFORGE_ACTIVATIONS_DEFAULT;
    mlp.down = identity;
    OK(rankforge_plan_gated_mlp(context, NULL, &mlp, &plan));
    run_layer(plan, 3, h, kept);
    OK(rankforge_plan_destroy(plan));
    for (size_t t = 0; t < 3; ++t) {
      const float* own = h + t * kHidden;
      check_hidden(context, &mlp, activations, t, own);
      run_step(context, down, RANKFORGE_COLUMN_MASK, activations, FLT_MIN, own,
               expected);
      CHECK(memcmp(expected, y[exact] + t * kOut, sizeof(expected)) == 0);
    }
  }
  CHECK(memcmp(y[0], y[1], sizeof(y[0])) != 0);
  mlp.down = down;
  mlp.activations = RANKFORGE_ACTIVATIONS_DEFAULT;
  OK(rankforge_plan_gated_mlp(context, NULL, &mlp, &plan));
  run_layer(plan, 3, untold, kept);
  CHECK(memcmp(y[0], untold, sizeof(untold)) == 0);
  OK(rankforge_plan_destroy(plan));
  OK(rankforge_weights_destroy(identity));
  OK(rankforge_weights_destroy(down));
  OK(rankforge_weights_destroy(a));
  OK(rankforge_weights_destroy(up));
  OK(rankforge_weights_destroy(gate));
}

static void check_refused_activations(const rankforge_context* context) {
  rankforge_weights* b =
      part(context, RANKFORGE_DENSE, kRanks, kIn, RANKFORGE_F32, 1);
  rankforge_weights* a =
      part(context, RANKFORGE_COLUMN_MASK, kOut, kRanks, RANKFORGE_F16, 1);
  const rankforge_mask rule = threshold(kTau);
  rankforge_rank_adapter adapter = RANKFORGE_RANK_ADAPTER_INIT;
  adapter.b = b;
  adapter.a = a;
  adapter.rule = &rule;
  rankforge_gated_mlp mlp = RANKFORGE_GATED_MLP_INIT;
  mlp.gate = b;
  mlp.down = a;
  rankforge_plan* plan = NULL;
#define LAYERS_FAIL(part)                                             \
  FAILS(RANKFORGE_ERROR_ARGUMENT, (part),                             \
        rankforge_plan_rank_adapter(context, NULL, &adapter, &plan)); \
  FAILS(RANKFORGE_ERROR_ARGUMENT, (part),                             \
        rankforge_plan_gated_mlp(context, NULL, &mlp, &plan))
  adapter.activations = mlp.activations = RANKFORGE_ACTIVATIONS_I8;
  LAYERS_FAIL("activations: i8 is not for weights of f");
  adapter.activations = mlp.activations = 4;
  LAYERS_FAIL("activations: 4 is not in [0, 3]");
  adapter.activations = mlp.activations = RANKFORGE_ACTIVATIONS_F32;
  adapter.reserved_end = mlp.reserved = 1;
  LAYERS_FAIL(" is 1; it must be 0");
  FAILS(RANKFORGE_ERROR_ARGUMENT, "adapter: reserved_end is 1",
        rankforge_plan_rank_adapter(context, NULL, &adapter, &plan));
  CHECK(plan == NULL);
  OK(rankforge_weights_destroy(a));
  OK(rankforge_weights_destroy(b));
}

int check_layer_activations(void) {
  static const int32_t exact[kProducts] = {RANKFORGE_BF16, RANKFORGE_F16,
                                           RANKFORGE_F32, RANKFORGE_BF16};
  static const int32_t integers[kProducts] = {
      RANKFORGE_I4_GROUP32, RANKFORGE_I8_GROUP32, RANKFORGE_I8,
      RANKFORGE_I4M_GROUP32};
  for (int kind = 0; kind < 3; ++kind) {
    rankforge_context* context = context_of(kind);
    check_adapter_activations(context, RANKFORGE_I4_GROUP32, RANKFORGE_I8);
    check_adapter_activations(context, RANKFORGE_I8_GROUP32, RANKFORGE_BF16);
    check_adapter_activations(context, RANKFORGE_BF16, RANKFORGE_I4_GROUP32);
    for (int decides = 0; decides < 3; ++decides) {
      for (int adapters = 0; adapters < (decides == 0 ? 2 : 1); ++adapters) {
        check_mlp_activations(context, integers, decides, adapters);
        /* Each alone changes what comes out. */
        for (int i = 0; i < kProducts; ++i) {
          if (i == kA && !adapters) continue;
          int32_t types[kProducts];
          memcpy(types, exact, sizeof(types));
          types[i] = integers[i];
          check_mlp_activations(context, types, decides, adapters);
        }
      }
    }
    check_refused_activations(context);
    OK(rankforge_context_destroy(context));
  }
  return finish();
}

int check_masks(void) {
  static const size_t granularities[] = {1, 8, 32};
  const size_t count = 131;
  float values[131];
  for (size_t i = 0; i < count; ++i) values[i] = input(0, i);
  const size_t bytes = rankforge_mask_scratch_size(count);
  CHECK(bytes > 0 && rankforge_mask_scratch_size(0) == 0);
  void* scratch = aligned_alloc(64, (bytes + 63) / 64 * 64);
  for (int kind = RANKFORGE_MASK_THRESHOLD; kind <= RANKFORGE_MASK_INDEX;
       ++kind) {
    for (size_t i = 0; i < 3; ++i) {
      const size_t granularity = granularities[i];
      test_mask made;
      make_mask(&made, kind, 0, 0, count, granularity);
      uint64_t bits[3] = {~0ull, ~0ull, ~0ull};
      size_t kept = 0, expected = 0;
      OK(rankforge_mask_make(&made.mask, values, count, (uint32_t)granularity,
                             bits, &kept, scratch, bytes));
      const size_t groups = (count + granularity - 1) / granularity;
      for (size_t g = 0; g < (groups + 63) / 64 * 64; ++g) {
        const int bit = (bits[g / 64] >> (g % 64) & 1) != 0;
        CHECK(bit == (g < groups && made.kept[g] != 0));
        expected += (size_t)bit;
      }
      CHECK(kept == expected);
    }
  }
  uint64_t bits[3];
  rankforge_mask mask = threshold(0);
  FAILS(RANKFORGE_ERROR_ARGUMENT, "score is null",
        rankforge_mask_make(&mask, NULL, count, 1, bits, NULL, scratch, bytes));
  FAILS(
      RANKFORGE_ERROR_ARGUMENT, "granularity: 4",
      rankforge_mask_make(&mask, values, count, 4, bits, NULL, scratch, bytes));
  FAILS(RANKFORGE_ERROR_ARGUMENT, "are needed",
        rankforge_mask_make(&mask, values, count, 1, bits, NULL, scratch,
                            bytes - 1));
  mask.kind = RANKFORGE_MASK_TOP_K;
  FAILS(
      RANKFORGE_ERROR_ARGUMENT, "score is null",
      rankforge_mask_make(&mask, values, count, 8, bits, NULL, scratch, bytes));
  static const uint32_t descending[] = {3, 2}, large[] = {131};
  mask.kind = RANKFORGE_MASK_INDEX;
  mask.index = descending;
  mask.index_count = 2;
  FAILS(
      RANKFORGE_ERROR_ARGUMENT, "sort the list",
      rankforge_mask_make(&mask, values, count, 1, bits, NULL, scratch, bytes));
  mask.index = large;
  mask.index_count = 1;
  FAILS(
      RANKFORGE_ERROR_ARGUMENT, "there are 131 groups",
      rankforge_mask_make(&mask, values, count, 1, bits, NULL, scratch, bytes));
  mask.kind = 0;
  FAILS(
      RANKFORGE_ERROR_ARGUMENT, "kind 0",
      rankforge_mask_make(&mask, values, count, 1, bits, NULL, scratch, bytes));
  free(scratch);
  return finish();
}

int check_tables(const char* folder) {
  char path[512], text[8192];
  size_t length = 0;
  path_in(folder, "table.json", &path);
  rankforge_table* table = NULL;
  FAILS(RANKFORGE_ERROR_FAILED, "table.json",
        rankforge_table_open(path, &table));
  FILE* file = fopen(path, "w");
  fputs("{}", file);
  fclose(file);
  FAILS(RANKFORGE_ERROR_FAILED, "table.json",
        rankforge_table_open(path, &table));
  /* What the example of version 1 was measured on is not this machine. */
  OK(rankforge_table_open(
      RANKFORGE_SOURCE_DIR "/tests/runtime/data/table_v1.json", &table));
  OK(rankforge_table_notes(table, text, sizeof(text), &length));
  CHECK(length == strlen(text));
  rankforge_problem problem =
      problem_of(RANKFORGE_COLUMN_MASK, 256, 512, RANKFORGE_BF16);
  OK(rankforge_table_explain(table, &problem, text, sizeof(text), &length));
  CHECK(strstr(text, "column_mask 256x512 bf16") != NULL);
  rankforge_context* context = context_of(0);
  rankforge_weights* weights = packed(context, &problem);
  rankforge_plan* plan = NULL;
  OK(rankforge_plan_gemv(context, table, &problem, weights, &plan));
  OK(rankforge_table_close(table));
  OK(rankforge_plan_destroy(plan));
  OK(rankforge_weights_destroy(weights));
  OK(rankforge_context_destroy(context));
  OK(rankforge_table_notes(NULL, text, sizeof(text), &length));
  OK(rankforge_table_explain(NULL, &problem, text, sizeof(text), &length));
  CHECK(strstr(text, "there is no table") != NULL);
  return finish();
}

/* ---- Errors -------------------------------------------------------------- */

static void check_wrong_runs(rankforge_plan* plan, size_t rows, size_t cols) {
  float x[3 * kMost], y[3 * kMost];
  memset(x, 0, sizeof(x));
  size_t bytes;
  char* scratch = scratch_of(plan, &bytes);
  const rankforge_mask mask = threshold(0);
  rankforge_mask masks[3] = {mask, mask, mask};
  rankforge_run_args good = RANKFORGE_RUN_ARGS_INIT;
  good.x = x;
  good.y = y;
  good.masks = masks;
  good.mask_count = 1;
  OK(rankforge_run(plan, &good, scratch, bytes));
#define WRONG(part, change)                            \
  do {                                                 \
    rankforge_run_args args = good;                    \
    change;                                            \
    FAILS(RANKFORGE_ERROR_ARGUMENT, part,              \
          rankforge_run(plan, &args, scratch, bytes)); \
  } while (0)
  WRONG("x: is null", args.x = NULL);
  WRONG("y: is null", args.y = NULL);
  WRONG("x: is at", args.x = (const float*)((const char*)x + 1));
  WRONG("y: is at", args.y = (float*)((char*)y + 2));
  WRONG("bias: is at", args.bias = (const float*)((const char*)x + 3));
  WRONG("overlaps", args.y = x + cols - 1);
  WRONG("overlaps", args.bias = y + rows - 1);
  WRONG("bias: is set", (args.bias = x, args.accumulate = 1));
  WRONG("tokens: 4", args.tokens = 4);
  WRONG("strides", (args.tokens = 2, args.x_stride = cols - 1));
  WRONG("strides", (args.tokens = 2, args.y_stride = rows - 1));
  WRONG("mask_count: 0", args.mask_count = 0);
  WRONG("mask_count: 2", (args.tokens = 3, args.mask_count = 2));
  WRONG("masks: is null", args.masks = NULL);
  WRONG("struct_size is 0", args.struct_size = 0);
  WRONG("kept: is at", args.kept = (size_t*)((char*)y + 1));
  masks[0].kind = 77;
  WRONG("kind 77", (void)args);
  masks[0] = mask;
  masks[0].reserved = 1;
  WRONG("reserved", (void)args);
  masks[0] = mask;
  masks[0].taus = (const float*)((const char*)x + 1);
  WRONG("taus", (void)args);
  masks[0].kind = RANKFORGE_MASK_BITS;
  WRONG("bits: is null", (void)args);
  masks[0].kind = RANKFORGE_MASK_BYTES;
  WRONG("bytes: is null", (void)args);
  masks[0] = mask;
  FAILS(RANKFORGE_ERROR_ARGUMENT, "args: is null",
        rankforge_run(plan, NULL, scratch, bytes));
  FAILS(RANKFORGE_ERROR_ARGUMENT, "scratch: is null",
        rankforge_run(plan, &good, NULL, bytes));
  FAILS(RANKFORGE_ERROR_ARGUMENT, "multiple of 64",
        rankforge_run(plan, &good, scratch + 8, bytes));
  FAILS(RANKFORGE_ERROR_ARGUMENT, "are needed",
        rankforge_run(plan, &good, scratch, bytes - 1));
  OK(rankforge_run(plan, &good, scratch, bytes));
  free(scratch);
}

int check_wrong_arguments(void) {
  rankforge_context* context = context_of(1);
  rankforge_problem problem =
      problem_of(RANKFORGE_COLUMN_MASK, 48, 64, RANKFORGE_F32);
  problem.tokens = 3;
  rankforge_weights* weights = packed(context, &problem);
  rankforge_plan* plan = NULL;
  OK(rankforge_plan_gemv(context, NULL, &problem, weights, &plan));
  check_wrong_runs(plan, 48, 64);
  OK(rankforge_plan_destroy(plan));
  plan = NULL;
#define WRONG_PROBLEM(part, change)                                    \
  do {                                                                 \
    rankforge_problem wrong = problem;                                 \
    change;                                                            \
    FAILS(RANKFORGE_ERROR_ARGUMENT, part,                              \
          rankforge_plan_gemv(context, NULL, &wrong, weights, &plan)); \
  } while (0)
  WRONG_PROBLEM("operation: 3", wrong.operation = 3);
  WRONG_PROBLEM("operation: -1", wrong.operation = -1);
  WRONG_PROBLEM("weight_type: 99", wrong.weight_type = 99);
  WRONG_PROBLEM("rows: 0", wrong.rows = 0);
  WRONG_PROBLEM("cols: 18446744073709551615", wrong.cols = SIZE_MAX);
  WRONG_PROBLEM("granularity: 4", wrong.granularity = 4);
  WRONG_PROBLEM("has no mask", (wrong.granularity = 8, wrong.operation = 0));
  WRONG_PROBLEM("tokens: 17", wrong.tokens = 17);
  WRONG_PROBLEM("threads: 3", wrong.threads = 3);
  WRONG_PROBLEM("density: 1.5", wrong.density = 1.5);
  WRONG_PROBLEM("density: nan", wrong.density = NAN);
  WRONG_PROBLEM("the problem is 49x64", wrong.rows = 49);
  WRONG_PROBLEM("the problem is 48x64 bf16", wrong.weight_type = 1);
  FAILS(RANKFORGE_ERROR_ARGUMENT, "problem: is null",
        rankforge_plan_gemv(context, NULL, NULL, weights, &plan));
  FAILS(RANKFORGE_ERROR_ARGUMENT, "plan: is null",
        rankforge_plan_gemv(context, NULL, &problem, weights, NULL));
  FAILS(RANKFORGE_ERROR_ARGUMENT, "sources: is null",
        rankforge_weights_pack(context, NULL, &problem, NULL, 1, &weights));
  rankforge_source source = source_of(NULL, 48, 64);
  FAILS(RANKFORGE_ERROR_ARGUMENT, "data is null",
        rankforge_weights_pack(context, NULL, &problem, &source, 1, &weights));
  FAILS(RANKFORGE_ERROR_ARGUMENT, "count: 0",
        rankforge_weights_pack(context, NULL, &problem, &source, 0, &weights));
  FAILS(RANKFORGE_ERROR_ARGUMENT, "weights: is null",
        rankforge_weights_pack(context, NULL, &problem, &source, 1, NULL));
  FAILS(RANKFORGE_ERROR_ARGUMENT, "context: is null",
        rankforge_context_create(NULL, NULL));
  FAILS(RANKFORGE_ERROR_ARGUMENT, "path: is null",
        rankforge_weights_open(NULL, &weights));
  FAILS(RANKFORGE_ERROR_ARGUMENT, "path: is null",
        rankforge_table_open(NULL, (rankforge_table**)&plan));
  CHECK(plan == NULL);
  OK(rankforge_weights_destroy(weights));
  OK(rankforge_context_destroy(context));

  /* A host that leaves items out. */
  rankforge_context_options options = RANKFORGE_CONTEXT_OPTIONS_INIT;
  options.threads = 2;
  options.parallel_for = skips_one;
  OK(rankforge_context_create(&options, &context));
  problem = problem_of(RANKFORGE_DENSE, 256, 256, RANKFORGE_F32);
  weights = packed(context, &problem);
  OK(rankforge_plan_gemv(context, NULL, &problem, weights, &plan));
  float x[256] = {0}, y[256];
  rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
  args.x = x;
  args.y = y;
  FAILS(RANKFORGE_ERROR_INTERNAL, "1 of 2 items", run(plan, &args));
  OK(rankforge_plan_destroy(plan));
  OK(rankforge_weights_destroy(weights));
  OK(rankforge_context_destroy(context));
  return finish();
}

/* Null, destroyed, and of another kind, for every kind; any order of
   destruction. */
int check_handles(void) {
  rankforge_context* context = context_of(1);
  rankforge_problem problem =
      problem_of(RANKFORGE_DENSE, 48, 64, RANKFORGE_F32);
  rankforge_weights* weights = packed(context, &problem);
  rankforge_plan* plan = NULL;
  OK(rankforge_plan_gemv(context, NULL, &problem, weights, &plan));
  size_t bytes;
  uint32_t threads;
  FAILS(RANKFORGE_ERROR_HANDLE, "context: is null",
        rankforge_context_threads(NULL, &threads));
  FAILS(RANKFORGE_ERROR_HANDLE, "of another kind",
        rankforge_context_threads((rankforge_context*)plan, &threads));
  FAILS(RANKFORGE_ERROR_HANDLE, "of another kind",
        rankforge_plan_destroy((rankforge_plan*)context));
  FAILS(RANKFORGE_ERROR_HANDLE, "of another kind",
        rankforge_plan_gemv(context, (rankforge_table*)plan, &problem, weights,
                            &plan));
  OK(rankforge_context_destroy(context));
  OK(rankforge_weights_destroy(weights));
  FAILS(RANKFORGE_ERROR_HANDLE, "weights: was destroyed",
        rankforge_weights_destroy(weights));
  FAILS(RANKFORGE_ERROR_HANDLE, "context: was destroyed",
        rankforge_plan_gemv(context, NULL, &problem, weights, &plan));
  /* The plan has kept both. */
  float x[64] = {1}, y[48];
  rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
  args.x = x;
  args.y = y;
  OK(run(plan, &args));
  CHECK(y[1] == weight(1, 0));
  OK(rankforge_plan_destroy(plan));
  FAILS(RANKFORGE_ERROR_HANDLE, "plan: was destroyed",
        rankforge_plan_scratch_size(plan, &bytes));
  FAILS(RANKFORGE_ERROR_HANDLE, "plan: was destroyed",
        rankforge_run(plan, &args, x, 0));
  FAILS(RANKFORGE_ERROR_HANDLE, "weights: was destroyed",
        rankforge_weights_save(weights, "/dev/null"));
  OK(rankforge_context_destroy(NULL));
  OK(rankforge_weights_destroy(NULL));
  OK(rankforge_plan_destroy(NULL));
  OK(rankforge_table_close(NULL));
  return finish();
}

/* Structs of an older header, and of a newer one. */
int check_struct_sizes(void) {
  rankforge_context* context = context_of(0);
  rankforge_problem problem =
      problem_of(RANKFORGE_DENSE, 48, 64, RANKFORGE_F32);
  rankforge_weights* weights = packed(context, &problem);
  rankforge_plan* plan = NULL;
  problem.struct_size = offsetof(rankforge_problem, granularity);
  problem.granularity = 77; /* beyond the old struct */
  OK(rankforge_plan_gemv(context, NULL, &problem, weights, &plan));
  struct {
    rankforge_run_args args;
    uint64_t later;
  } newer = {RANKFORGE_RUN_ARGS_INIT, 0};
  float x[64] = {1}, y[48];
  newer.args.struct_size = sizeof(newer);
  newer.args.x = x;
  newer.args.y = y;
  OK(run(plan, &newer.args));
  CHECK(y[1] == weight(1, 0));
  newer.later = 1;
  FAILS(RANKFORGE_ERROR_ARGUMENT, "later library", run(plan, &newer.args));
  newer.args.struct_size = offsetof(rankforge_run_args, bias);
  newer.args.bias = (const float*)1;
  OK(run(plan, &newer.args));
  newer.args.struct_size = 100000;
  FAILS(RANKFORGE_ERROR_ARGUMENT, "struct_size is 100000",
        run(plan, &newer.args));
  OK(rankforge_plan_destroy(plan));
  OK(rankforge_weights_destroy(weights));

  /* Arrays step by their struct_size. */
  struct {
    rankforge_mask mask;
    uint64_t later;
  } masks[2] = {{RANKFORGE_MASK_INIT, 0}, {RANKFORGE_MASK_INIT, 0}};
  problem = problem_of(RANKFORGE_COLUMN_MASK, 48, 64, RANKFORGE_F32);
  problem.tokens = 2;
  weights = packed(context, &problem);
  OK(rankforge_plan_gemv(context, NULL, &problem, weights, &plan));
  float inputs[2 * 64], outputs[2 * 48];
  for (size_t i = 0; i < 128; ++i) inputs[i] = 1;
  for (size_t t = 0; t < 2; ++t) {
    masks[t].mask = threshold(t == 0 ? 0.5f : 2.0f);
    masks[t].mask.struct_size = sizeof(masks[0]);
  }
  size_t kept[2];
  rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
  args.tokens = 2;
  args.x = inputs;
  args.y = outputs;
  args.masks = &masks[0].mask;
  args.mask_count = 2;
  args.kept = kept;
  OK(run(plan, &args));
  CHECK(kept[0] == 64 && kept[1] == 0);
  OK(rankforge_plan_destroy(plan));

  /* Only the fields of an old struct are written. */
  rankforge_weights_info info = RANKFORGE_WEIGHTS_INFO_INIT;
  info.struct_size = offsetof(rankforge_weights_info, bytes);
  info.bytes = 123;
  OK(rankforge_weights_describe(weights, &info));
  CHECK(info.rows == 48 && info.bytes == 123);
  OK(rankforge_weights_destroy(weights));
  OK(rankforge_context_destroy(context));
  return finish();
}

/* What rankforge_tune refuses before it measures; tests/capi/consumer/tune.c
   tunes. */
#define TUNE_FAILS(status, part)                                        \
  do {                                                                  \
    CHECK(rankforge_tune(&problem, count, &options, path) == (status)); \
    CHECK(strstr(rankforge_tuner_last_error(), (part)) != NULL);        \
  } while (0)
int check_tuner_arguments(void) {
  rankforge_problem problem = problem_of(RANKFORGE_DENSE, 64, 64, 0);
  rankforge_tune_options options = RANKFORGE_TUNE_OPTIONS_INIT;
  const char* path = NULL;
  size_t count = 1;
  TUNE_FAILS(RANKFORGE_ERROR_ARGUMENT, "path: is null");
  path = "/nowhere/table.json";
  options.rigor = 3;
  TUNE_FAILS(RANKFORGE_ERROR_ARGUMENT, "rigor: 3");
  options.rigor = 0;
  options.budget_seconds = NAN;
  TUNE_FAILS(RANKFORGE_ERROR_ARGUMENT, "budget_seconds: nan");
  options.budget_seconds = 1;
  options.resume = 1;
  TUNE_FAILS(RANKFORGE_ERROR_ARGUMENT, "journal is null");
  options.resume = 0;
  options.reserved = 1;
  TUNE_FAILS(RANKFORGE_ERROR_ARGUMENT, "reserved");
  options.reserved = 0;
  options.reserved_start = 1;
  TUNE_FAILS(RANKFORGE_ERROR_ARGUMENT,
             "reserved_start is 1; it must be 0: activations of each problem");
  options.reserved_start = 0;
  count = 0;
  TUNE_FAILS(RANKFORGE_ERROR_ARGUMENT, "nothing to tune");
  count = 1;
  problem.operation = 9;
  TUNE_FAILS(RANKFORGE_ERROR_ARGUMENT, "operation: 9");
  problem.operation = 0;
  problem.tokens = 2;
  TUNE_FAILS(RANKFORGE_ERROR_UNSUPPORTED, "tokens: 2");
  /* Its messages are its own. */
  CHECK(strstr(rankforge_last_error(), "tokens: 2") == NULL);
  return finish();
}

/* ---- A plan's life ------------------------------------------------------- */

#define STEP(call)                               \
  do {                                           \
    if (status == RANKFORGE_OK) status = (call); \
  } while (0)

int whole_life(const char* path, int* wrong) {
  static float b[kRanks * kIn], a[kOut * kRanks];
  for (size_t i = 0; i < kRanks * kIn; ++i) b[i] = weight(i / kIn, i % kIn);
  for (size_t i = 0; i < kOut * kRanks; ++i) {
    a[i] = weight(i / kRanks, i % kRanks);
  }
  rankforge_status status = RANKFORGE_OK;
  rankforge_context* context = NULL;
  rankforge_weights *first = NULL, *second = NULL, *mapped = NULL;
  rankforge_plan *adapter_plan = NULL, *gemv = NULL;
  rankforge_context_options options = RANKFORGE_CONTEXT_OPTIONS_INIT;
  options.threads = 3;
  rankforge_problem problem =
      problem_of(RANKFORGE_DENSE, kRanks, kIn, RANKFORGE_F32);
  problem.tokens = 2;
  rankforge_source source = source_of(b, kRanks, kIn);
  STEP(rankforge_context_create(&options, &context));
  STEP(rankforge_weights_pack(context, NULL, &problem, &source, 1, &first));
  STEP(rankforge_plan_gemv(context, NULL, &problem, first, &gemv));
  problem = problem_of(RANKFORGE_COLUMN_MASK, kOut, kRanks, RANKFORGE_F32);
  problem.tokens = 2;
  source = source_of(a, kOut, kRanks);
  STEP(rankforge_weights_pack(context, NULL, &problem, &source, 1, &second));
  const float taus[kRanks] = {0};
  rankforge_mask rule = threshold(20);
  rule.taus = taus;
  rankforge_rank_adapter adapter = RANKFORGE_RANK_ADAPTER_INIT;
  adapter.tokens = 2;
  adapter.b = first;
  if (path != NULL) {
    STEP(rankforge_weights_save(first, path));
    STEP(rankforge_weights_open(path, &mapped));
    adapter.b = mapped;
  }
  adapter.a = second;
  adapter.rule = &rule;
  STEP(rankforge_plan_rank_adapter(context, NULL, &adapter, &adapter_plan));
  size_t bytes = 0;
  STEP(rankforge_plan_scratch_size(adapter_plan, &bytes));
  float x[2 * kIn], y[2 * kOut] = {0};
  for (size_t i = 0; i < 2 * kIn; ++i) x[i] = input(i / kIn, i % kIn);
  rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
  args.tokens = 2;
  args.x = x;
  args.y = y;
  /* The test's own memory does not run out. */
  static _Alignas(RANKFORGE_SCRATCH_ALIGNMENT) unsigned char scratch[1 << 16];
  if (bytes > sizeof(scratch)) abort();
  STEP(rankforge_run(adapter_plan, &args, scratch, bytes));
  args.tokens = 1;
  STEP(rankforge_run(adapter_plan, &args, scratch, bytes));
  *wrong = 0;
  double expected[kOut];
  for (size_t t = 0; t < 2 && status == RANKFORGE_OK; ++t) {
    adapter_reference(kOut, kRanks, kIn, t, 0, expected);
    for (size_t r = 0; r < kOut; ++r) *wrong += y[t * kOut + r] != expected[r];
  }
  rankforge_plan_destroy(adapter_plan);
  rankforge_plan_destroy(gemv);
  rankforge_weights_destroy(mapped);
  rankforge_weights_destroy(second);
  rankforge_weights_destroy(first);
  rankforge_context_destroy(context);
  return status;
}
