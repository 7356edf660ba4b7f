# Debian packages by `cpack`: librankforge0.2, librankforge-dev, rankforge-tools.
# They are those of this system: dpkg-shlibdeps finds what they depend on.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_VENDOR RankForge)
set(CPACK_PACKAGE_CONTACT "RankForge <rankforge@localhost>")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_PACKAGE_DIRECTORY ${PROJECT_BINARY_DIR}/packages)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_ALL library dev tools tools_debian)
set(CPACK_COMPONENTS_GROUPING ONE_PER_GROUP)
set(CPACK_COMPONENT_TOOLS_GROUP tools)
set(CPACK_COMPONENT_TOOLS_DEBIAN_GROUP tools)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${PROJECT_BINARY_DIR})
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)

set(soversion ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME librankforge${soversion})
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_COMPONENT_LIBRARY_DESCRIPTION
    "${PROJECT_DESCRIPTION}\n Shared libraries.")
set(CPACK_DEBIAN_DEV_PACKAGE_NAME librankforge-dev)
set(CPACK_DEBIAN_DEV_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEV_PACKAGE_DEPENDS
    "librankforge${soversion} (= ${PROJECT_VERSION}-1)")
# What the static library is linked with.
set(CPACK_DEBIAN_DEV_PACKAGE_SUGGESTS
    "libhwy-dev, libfmt-dev, libhwloc-dev, pkg-config")
set(CPACK_COMPONENT_DEV_DESCRIPTION
    "${PROJECT_DESCRIPTION}\n Headers, the static library, CMake package.")
set(CPACK_DEBIAN_TOOLS_PACKAGE_NAME rankforge-tools)
set(CPACK_DEBIAN_TOOLS_PACKAGE_SECTION science)
set(CPACK_DEBIAN_TOOLS_PACKAGE_SUGGESTS
    "python3-matplotlib, python3-jinja2, g++, libhwy-dev, man-db")
set(CPACK_COMPONENT_TOOLS_DESCRIPTION
    "${PROJECT_DESCRIPTION}\n The program rankforge, its manual pages, and completions of bash and zsh.")
include(CPack)
