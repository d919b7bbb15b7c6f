# Before placement in a run of v++ -l (UG1393), which calls it where package_kernel.tcl says:
#   --vivado.prop run.impl_1.STEPS.PLACE_DESIGN.TCL.PRE=PATH/place_kernel.tcl
# A platform with a reconfigurable region has pblocks of its own for the SLRs of that region: the cells go into these.

source [file join [file dirname [file normalize [info script]]] settings.tcl]

foreach {slr names} $sat_floorplan {
    set block pblock_dynamic_SLR$slr
    if {[llength [get_pblocks -quiet $block]] == 0} {
        set block sat_slr$slr
        create_pblock $block
        resize_pblock $block -add SLR$slr
    }
    foreach name $names {
        set cells [get_cells -hierarchical -filter "NAME =~ *$name"]
        if {[llength $cells] != 1} {
            error "$name is [llength $cells] cells of the design, not one; leave out --vivado.prop to place freely"
        }
        add_cells_to_pblock $block $cells
    }
}
