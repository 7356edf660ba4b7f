/* Tunes one small product, and opens the table that it made. */
#include <rankforge/rankforge_tuner.h>
#include <stdio.h>

static void report(void* user, size_t done, size_t total, double seconds_left,
                   const char* message) {
  (void)message;
  if (done <= total && seconds_left >= 0) ++*(int*)user;
}

int main(int argc, char** argv) {
  const char* path = argc > 1 ? argv[1] : "table.json";
  int reports = 0;
  rankforge_problem problem = RANKFORGE_PROBLEM_INIT;
  problem.operation = RANKFORGE_COLUMN_MASK;
  problem.rows = 64;
  problem.cols = 64;
  rankforge_tune_options options = RANKFORGE_TUNE_OPTIONS_INIT;
  options.rigor = RANKFORGE_ESTIMATE;
  options.budget_seconds = 1;
  options.allow_noise = 1;
  options.progress = report;
  options.user = &reports;
  rankforge_table* table = NULL;
  if (rankforge_tune(&problem, 1, &options, path) != RANKFORGE_OK) {
    fprintf(stderr, "%s\n", rankforge_tuner_last_error());
    return 1;
  }
  if (rankforge_table_open(path, &table) != RANKFORGE_OK) {
    fprintf(stderr, "%s\n", rankforge_last_error());
    return 1;
  }
  rankforge_table_close(table);
  problem.tokens = 2;
  return reports > 0 && rankforge_tune(&problem, 1, &options, path) ==
                            RANKFORGE_ERROR_UNSUPPORTED
             ? 0
             : 1;
}
