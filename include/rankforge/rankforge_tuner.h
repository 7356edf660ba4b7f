// Tuning for programs that call C: librankforge-tuner. The rules of rankforge.h
// hold.
#ifndef RANKFORGE_INCLUDE_RANKFORGE_RANKFORGE_TUNER_H_
#define RANKFORGE_INCLUDE_RANKFORGE_RANKFORGE_TUNER_H_

#include "rankforge.h"

#ifdef __cplusplus
extern "C" {
#endif

// How much is measured.
enum {
  RANKFORGE_MEASURE = 0,   // what matters
  RANKFORGE_ESTIMATE = 1,  // less, in seconds
  RANKFORGE_PATIENT = 2,   // everything
};

// Is told what is measured, from the thread that called rankforge_tune. Must
// not throw. `message` is valid during the call.
typedef void (*rankforge_tune_progress)(void* user, size_t done, size_t total,
                                        double seconds_left,
                                        const char* message);

typedef struct rankforge_tune_options {
  uint32_t struct_size;
  int32_t rigor;           // RANKFORGE_MEASURE, ...
  double budget_seconds;   // a soft limit; 0: 90
  uint64_t seed;           // of masks and of the order of trials
  int32_t reserved_start;  // 0; problem.activations says what is rounded
  int32_t allow_noise;     // not 0: measures on a machine with other work, too
  const char* journal;     // file of all trials; null: none
  int32_t resume;          // not 0: goes on from that journal
  int32_t reserved;        // 0
  rankforge_tune_progress progress;  // or null
  void* user;                        // first argument of progress
} rankforge_tune_options;
#define RANKFORGE_TUNE_OPTIONS_INIT \
  { sizeof(rankforge_tune_options), 0, 0.0, 0, 0, 0, NULL, 0, 0, NULL, NULL }

// Measures the kernels of `count` problems on this machine, and writes what won
// to the table `path`, which appears whole or not at all. problem.density says
// how much masks keep; problem.threads of 0 counts as 1, tokens must be 0 or 1.
// What problem.activations says is measured, and nothing else.
// `problems` is an array of structs of equal struct_size. `options` may be
// null. Runs for budget_seconds and more; takes the memory of the largest
// problem several times. One call at a time.
//
// RANKFORGE_ERROR_ENVIRONMENT: this machine is too busy for timings to mean
// anything; allow_noise measures all the same.
RANKFORGE_API rankforge_status
rankforge_tune(const rankforge_problem* problems, size_t count,
               const rankforge_tune_options* options, const char* path);

// As rankforge_last_error, for the functions of this library.
RANKFORGE_API const char* rankforge_tuner_last_error(void);

#ifdef __cplusplus
}
#endif

#endif  // RANKFORGE_INCLUDE_RANKFORGE_RANKFORGE_TUNER_H_
