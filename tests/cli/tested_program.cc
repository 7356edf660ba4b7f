// Compiled once for each test of a program.
#include "program.h"

const char* const rankforge::kTestedProgram = RANKFORGE_PROGRAM;
