/* Loads the library, uses it, and unloads it: nothing of it is left. */
#include <dlfcn.h>
#include <rankforge/rankforge.h>
#include <stdio.h>

int main(int argc, char** argv) {
  for (int round = 0; argc == 2 && round < 3; ++round) {
    void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
      fprintf(stderr, "%s\n", dlerror());
      return 1;
    }
    rankforge_status (*create)(const rankforge_context_options*,
                               rankforge_context**);
    rankforge_status (*destroy)(rankforge_context*);
    *(void**)&create = dlsym(library, "rankforge_context_create");
    *(void**)&destroy = dlsym(library, "rankforge_context_destroy");
    rankforge_context_options options = RANKFORGE_CONTEXT_OPTIONS_INIT;
    options.threads = 3;
    rankforge_context* context;
    if (create(&options, &context) != RANKFORGE_OK ||
        destroy(context) != RANKFORGE_OK ||
        destroy(context) != RANKFORGE_ERROR_HANDLE) {
      fprintf(stderr, "the library does not work\n");
      return 1;
    }
    dlclose(library);
    if (dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD) != NULL) {
      fprintf(stderr, "the library is still there\n");
      return 1;
    }
  }
  return argc == 2 ? 0 : 2;
}
