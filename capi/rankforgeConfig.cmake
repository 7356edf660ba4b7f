# find_package(rankforge) offers rankforge::rankforge and
# rankforge::rankforge-tuner, which need nothing else. With COMPONENTS static
# also rankforge::rankforge_static, which links what the library is made from.
include(${CMAKE_CURRENT_LIST_DIR}/rankforgeTargets.cmake)

foreach(component IN LISTS rankforge_FIND_COMPONENTS)
  if(component STREQUAL "static")
    include(CMakeFindDependencyMacro)
    find_dependency(Threads)
    find_dependency(hwy)
    find_dependency(fmt)
    find_dependency(PkgConfig)
    if(NOT TARGET PkgConfig::hwloc)
      pkg_check_modules(hwloc REQUIRED QUIET IMPORTED_TARGET hwloc)
    endif()
    include(${CMAKE_CURRENT_LIST_DIR}/rankforgeStaticTargets.cmake)
    set(rankforge_static_FOUND TRUE)
  elseif(rankforge_FIND_REQUIRED_${component})
    set(rankforge_FOUND FALSE)
    set(rankforge_NOT_FOUND_MESSAGE
        "rankforge has no component ${component}, only static")
  endif()
endforeach()
