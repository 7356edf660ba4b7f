# rankforge_embed(OUTPUT FILES...) writes OUTPUT, which C++ includes between the
# braces of an array. Each file is one element:
# {"<name without extension>", R"(<contents>)"},
function(rankforge_embed output)
  set(elements "")
  foreach(file IN LISTS ARGN)
    get_filename_component(name ${file} NAME_WE)
    file(READ ${file} contents)
    string(APPEND elements
           "{\"${name}\", R\"rankforge(${contents})rankforge\"},\n")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  endforeach()
  file(CONFIGURE OUTPUT ${output} CONTENT "${elements}" @ONLY)
endfunction()
