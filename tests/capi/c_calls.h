/* Checks in C11, through rankforge.h alone. Each returns how many failed, after
   a line on stderr for each. */
#ifndef RANKFORGE_TESTS_CAPI_C_CALLS_H_
#define RANKFORGE_TESTS_CAPI_C_CALLS_H_

#ifdef __cplusplus
extern "C" {
#endif

int check_versions_and_contexts(void);
int check_products(void);
int check_activations(void);
int check_shares(void);
/* With RANKFORGE_FORCE naming a variant of f32 columns and @in_out_2. */
int check_sums(void);
int check_sources(void);
int check_adopted_rows(void);
int check_files(const char* folder);
int check_rank_adapters(void);
int check_gated_mlps(void);
int check_layer_activations(void);
int check_masks(void);
int check_tables(const char* folder);
int check_wrong_arguments(void);
int check_handles(void);
int check_struct_sizes(void);
int check_tuner_arguments(void);

/* A plan's life: a context with threads of its own, weights, a rank adapter,
   runs; and weights that are saved to `path` and mapped from there, unless it
   is null. Returns the first status that is not RANKFORGE_OK; everything is
   destroyed. *wrong counts outputs that differ from the reference. */
int whole_life(const char* path, int* wrong);

#ifdef __cplusplus
}
#endif

#endif /* RANKFORGE_TESTS_CAPI_C_CALLS_H_ */
