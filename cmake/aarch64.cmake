# Toolchain: cross-compiles for 64-bit Arm and runs the tests under qemu-user.
# RANKFORGE_SYSROOT is a folder that scripts/aarch64_sysroot.sh filled.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES RANKFORGE_SYSROOT)

# Packages come from the sysroot alone, programs from this machine.
set(CMAKE_FIND_ROOT_PATH ${RANKFORGE_SYSROOT})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(libraries ${RANKFORGE_SYSROOT}/usr/lib/aarch64-linux-gnu)
set(ENV{PKG_CONFIG_LIBDIR}
    ${libraries}/pkgconfig:${libraries}/openblas-pthread/pkgconfig)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${RANKFORGE_SYSROOT})
# Headers that differ between architectures, which -isystem of a package's
# include folder does not reach.
set(CMAKE_CXX_FLAGS_INIT
    "-isystem ${RANKFORGE_SYSROOT}/usr/include/aarch64-linux-gnu")
set(CMAKE_EXE_LINKER_FLAGS_INIT
    "-Wl,-rpath-link,${libraries}")
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L ${RANKFORGE_SYSROOT})
