# Synthesis, placement and routing of the kernel alone, without a board:
#   vivado -mode batch -source out_of_context.tcl [-tclargs FOLDER STEP PLACE]
# FOLDER (default: out_of_context) takes checkpoints and reports, which `nmsat vivado read FOLDER` turns into JSON.
# STEP: synth or route (default). PLACE: floorplan (default, on parts with several SLRs) or free.

source [file join [file dirname [file normalize [info script]]] lib.tcl]

proc sat::report {folder step} {
    report_utilization -file [file join $folder ${step}_utilization.rpt]
    report_utilization -hierarchical -hierarchical_depth 4 -file [file join $folder ${step}_hierarchy.rpt]
    report_timing_summary -max_paths 10 -file [file join $folder ${step}_timing.rpt]
    report_high_fanout_nets -max_nets 50 -file [file join $folder ${step}_fanout.rpt]
    report_power -file [file join $folder ${step}_power.rpt]
    write_checkpoint -force [file join $folder ${step}.dcp]
}

set folder [sat::argument 0 out_of_context]
set last [sat::argument 1 route]
set place [sat::argument 2 floorplan]
if {$last ni {synth route}} {
    error "STEP is '$last'; it must be synth or route"
}
if {$place ni {floorplan free}} {
    error "PLACE is '$place'; it must be floorplan or free"
}
file mkdir $folder
create_project -in_memory -part $sat_part
read_verilog [sat::sources]
read_xdc -mode out_of_context [file join $sat::here clock.xdc]
synth_design -top $sat_kernel -part $sat_part -mode out_of_context -flatten_hierarchy rebuilt
sat::report $folder synth
if {$last eq "route"} {
    if {$place eq "floorplan"} {
        read_xdc [file join $sat::here floorplan.xdc]
    }
    opt_design
    place_design
    phys_opt_design
    route_design
    sat::report $folder route
}
close_project
