/* y = w @ x over the columns where |x_j| >= 0.5, from C11. Prints what was
   kept. */
#include <rankforge/rankforge.h>
#include <stdio.h>
#include <stdlib.h>

enum { kRows = 256, kCols = 512 };

static void check(rankforge_status status) {
  if (status == RANKFORGE_OK) return;
  fprintf(stderr, "%s: %s\n", rankforge_status_text(status),
          rankforge_last_error());
  exit(1);
}

int main(void) {
  static float w[kRows * kCols], x[kCols], y[kRows];
  for (size_t i = 0; i < kRows * kCols; ++i) w[i] = (float)(i % 7) - 3;
  for (size_t i = 0; i < kCols; ++i) x[i] = (float)(i % 4) / 4;

  rankforge_context* context = NULL;
  rankforge_weights* weights = NULL;
  rankforge_plan* plan = NULL;
  rankforge_problem problem = RANKFORGE_PROBLEM_INIT;
  problem.operation = RANKFORGE_COLUMN_MASK;
  problem.rows = kRows;
  problem.cols = kCols;
  problem.weight_type = RANKFORGE_BF16;
  rankforge_source source = RANKFORGE_SOURCE_INIT;
  source.data = w;
  source.rows = kRows;
  source.cols = kCols;
  check(rankforge_context_create(NULL, &context));
  check(rankforge_weights_pack(context, NULL, &problem, &source, 1, &weights));
  check(rankforge_plan_gemv(context, NULL, &problem, weights, &plan));

  size_t bytes = 0, kept = 0;
  check(rankforge_plan_scratch_size(plan, &bytes));
  void* scratch =
      aligned_alloc(RANKFORGE_SCRATCH_ALIGNMENT, (bytes + 63) / 64 * 64);
  rankforge_mask mask = RANKFORGE_MASK_INIT;
  mask.kind = RANKFORGE_MASK_THRESHOLD;
  mask.tau = 0.5f;
  rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
  args.x = x;
  args.y = y;
  args.masks = &mask;
  args.mask_count = 1;
  args.kept = &kept;
  check(rankforge_run(plan, &args, scratch, bytes));

  float expected = 0;
  for (size_t i = 0; i < kCols; ++i) {
    if (x[i] >= 0.5f) expected += w[kCols + i] * x[i];
  }
  printf("kept %zu of %d columns; y[1] is %g\n", kept, kCols, y[1]);
  free(scratch);
  check(rankforge_plan_destroy(plan));
  check(rankforge_weights_destroy(weights));
  check(rankforge_context_destroy(context));
  return kept == kCols / 2 && y[1] == expected ? 0 : 1;
}
