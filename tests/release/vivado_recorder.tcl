# Stands in for Vivado: knows the commands that the scripts use and their arguments (UG835, UG1118, UG1393), keeps the
# objects that they make, and prints every call as one line. What it does not know is an error, as is an object that
# nobody made, a pin that is driven twice, a place in memory that is asked for after the others have been dealt and, at
# the end, an input of the machine or of a module that nothing drives. A run to a bitstream leaves it and the handoff
# where Vivado does.
#   tclsh vivado_recorder.tcl KERNEL_PINS SCRIPT [ARGUMENTS]
# KERNEL_PINS: a list of {name in|out}, the pins of the kernel; interfaces are {name bus}.

namespace eval vivado {
    # Command -> {options with a value} {options without} least and most further words.
    array set known {
        create_project {{-part} {-force -in_memory} 0 2}
        close_project {{} {-delete} 0 0}
        current_project {{} {} 0 0}
        current_fileset {{} {} 0 0}
        add_files {{-fileset} {-norecurse} 1 1}
        read_verilog {{} {-sv} 1 1}
        read_xdc {{-mode} {} 1 1}
        update_compile_order {{-fileset} {} 0 0}
        set_property {{-dict} {} 1 3}
        get_ipdefs {{} {-all} 0 1}
        get_board_parts {{} {-quiet} 0 1}
        update_ip_catalog {{} {-rebuild} 0 0}
        synth_design {{-top -part -mode -flatten_hierarchy} {} 0 0}
        opt_design {{} {} 0 0}
        place_design {{-directive} {} 0 0}
        phys_opt_design {{-directive} {} 0 0}
        route_design {{-directive} {} 0 0}
        report_utilization {{-file -hierarchical_depth} {-hierarchical} 0 0}
        report_timing_summary {{-file -max_paths} {} 0 0}
        report_high_fanout_nets {{-file -max_nets} {} 0 0}
        report_power {{-file} {} 0 0}
        write_checkpoint {{} {-force} 1 1}
        create_bd_design {{} {} 1 1}
        create_bd_cell {{-type -vlnv -reference} {} 1 1}
        create_bd_port {{-dir -type -from -to} {} 1 1}
        create_bd_intf_port {{-mode -vlnv} {} 1 1}
        apply_bd_automation {{-rule -config} {} 1 1}
        get_bd_cells {{} {-quiet} 1 1}
        get_bd_ports {{} {-quiet} 1 1}
        get_bd_intf_ports {{} {-quiet} 1 1}
        get_bd_pins {{} {-quiet} 1 1}
        get_bd_intf_pins {{} {-quiet} 1 1}
        get_bd_addr_spaces {{} {-quiet} 1 1}
        get_bd_addr_segs {{} {-quiet} 1 1}
        connect_bd_net {{-net} {} 2 2}
        connect_bd_intf_net {{-intf_net} {} 2 2}
        assign_bd_address {{-offset -range -target_address_space} {-force} 0 1}
        validate_bd_design {{} {-force} 0 0}
        save_bd_design {{} {} 0 0}
        get_files {{} {} 1 1}
        make_wrapper {{-files} {-top} 0 0}
        launch_runs {{-to_step -jobs} {} 1 1}
        wait_on_run {{} {} 1 1}
        write_hw_platform {{-file} {-fixed -include_bit -force} 0 0}
        package_xo {{-xo_path -kernel_name -ip_directory -kernel_xml -ctrl_protocol} {-force} 0 0}
        ipx::package_project {{-root_dir -vendor -library -taxonomy -set_current} {-import_files -force} 0 0}
        ipx::unload_core {{} {} 1 1}
        ipx::edit_ip_in_project {{-upgrade -name -directory} {} 1 1}
        ipx::current_core {{} {} 0 0}
        ipx::associate_bus_interfaces {{-busif -clock} {} 1 1}
        ipx::get_memory_maps {{-of_objects} {-quiet} 0 1}
        ipx::add_memory_map {{} {} 2 2}
        ipx::get_address_blocks {{-of_objects} {-quiet} 0 1}
        ipx::add_address_block {{} {} 2 2}
        ipx::get_bus_interfaces {{-of_objects} {} 1 1}
        ipx::add_register {{} {} 2 2}
        ipx::add_field {{} {} 2 2}
        ipx::add_register_parameter {{} {} 2 2}
        ipx::create_xgui_files {{} {} 1 1}
        ipx::update_checksums {{} {} 1 1}
        ipx::check_integrity {{} {-kernel -xrt} 1 1}
        ipx::save_core {{} {} 1 1}
        create_clock {{-name -period} {} 1 1}
        set_false_path {{-to -from} {} 0 0}
        get_ports {{} {} 1 1}
        get_cells {{-filter} {-quiet -hierarchical} 0 1}
        get_pblocks {{} {-quiet} 1 1}
        create_pblock {{} {} 1 1}
        resize_pblock {{-add} {} 1 1}
        add_cells_to_pblock {{} {} 2 2}
    }
    # get_pins is left for XDC alone.
    array set known {get_pins {{} {} 1 1}}
    variable made
    array set made {}
    variable driven
    array set driven {}
    variable projects 0
    variable modules
    array set modules {}
    variable dealt 0
    variable project ""
    variable top ""
    variable designs {}
}

proc vivado::split {name words} {
    variable known
    lassign $known($name) valued plain least most
    set options {}
    set rest {}
    for {set i 0} {$i < [llength $words]} {incr i} {
        set word [lindex $words $i]
        if {$word in $valued} {
            incr i
            if {$i >= [llength $words]} {error "$name: $word has no value"}
            dict set options $word [lindex $words $i]
        } elseif {$word in $plain} {
            dict set options $word 1
        } elseif {[regexp {^-[a-z_]+$} $word]} {
            error "$name: unknown option $word"
        } else {
            lappend rest $word
        }
    }
    if {[llength $rest] < $least || [llength $rest] > $most} {
        error "$name: [llength $rest] further words, not $least to $most: $rest"
    }
    return [list $options $rest]
}

proc vivado::call {name args} {
    lassign [vivado::split $name $args] options rest
    puts [list $name {*}$args]
    set special ::vivado::do_[string map {:: _} $name]
    if {[info procs $special] ne ""} {
        return [$special $options $rest]
    }
    return ""
}

proc vivado::make {kind name} {
    variable made
    if {[info exists made($kind,$name)]} {error "$kind $name is made twice"}
    set made($kind,$name) 1
    return $name
}

proc vivado::make_once {kind name} {
    variable made
    set made($kind,$name) 1
}

proc vivado::find {kind options rest} {
    variable made
    set name [lindex $rest 0]
    if {![info exists made($kind,$name)]} {
        if {[dict exists $options -quiet]} {return ""}
        error "there is no $kind $name"
    }
    return $name
}

proc vivado::pin {kind options rest} {
    variable made
    set path [lindex $rest 0]
    lassign [::split $path /] cell pin
    if {![info exists made(cell,$cell)]} {error "there is no cell $cell of pin $path"}
    set pins [vivado::pins $cell]
    if {[llength $pins]} {
        set found [lsearch -inline -index 0 $pins $pin]
        if {$found eq ""} {error "[expr {$cell eq "sat" ? "the kernel" : $cell}] has no pin $pin"}
        if {([lindex $found 1] eq "bus") != ($kind eq "intf_pin")} {error "$path is no $kind"}
    }
    return $path
}

# The pins of a cell that is ours, {name in|out|bus} each; none of one of Xilinx's.
proc vivado::pins {cell} {
    variable modules
    if {$cell eq "sat"} {return $::kernel_pins}
    if {[info exists modules($cell)]} {return $modules($cell)}
    return {}
}

# The pins of a module in the project's files, whose ports stand one to a line.
proc vivado::module_pins {module} {
    variable sources
    foreach path $sources {
        set file [open $path]
        set text [read $file]
        close $file
        if {![regexp "module $module \\((\[^)\]*)\\)" $text all ports]} continue
        set pins {}
        foreach {all way name} [regexp -all -inline {(input|output) +wire +(\w+)} $ports] {
            lappend pins [list $name [string map {input in output out} $way]]
        }
        return $pins
    }
    error "no file of the project has module $module"
}

proc vivado::connect {kind rest} {
    variable driven
    lassign $rest from to
    if {[info exists driven($kind,$to)]} {error "$to is connected twice"}
    set driven($kind,$to) $from
    set driven(any,$to) 1
    set driven(any,$from) 1
}

proc vivado::do_create_project {options rest} {
    variable projects
    variable project
    variable sources {}
    incr projects
    set project $rest
    if {![dict exists $options -part]} {error "create_project without -part"}
}
proc vivado::do_ipx_edit_ip_in_project {options rest} {variable projects; incr projects}
proc vivado::do_close_project {options rest} {
    variable projects
    if {[incr projects -1] < 0} {error "no project is open"}
}
proc vivado::do_current_project {options rest} {return project}
proc vivado::do_current_fileset {options rest} {return sources_1}
proc vivado::do_add_files {options rest} {
    variable sources
    vivado::exist [lindex $rest 0]
    if {![dict exists $options -fileset]} {
        foreach path [lindex $rest 0] {if {[file exists $path]} {lappend sources $path}}
    } else {
        foreach path [lindex $rest 0] {vivado::constraints $path}
    }
}
# Constraints of a project are read when it is implemented; their commands are checked here, pblocks by their own test.
proc vivado::constraints {path} {
    if {[file tail $path] ne "floorplan.xdc"} {uplevel #0 [list source $path]}
}
proc vivado::do_read_verilog {options rest} {vivado::exist [lindex $rest 0]}
proc vivado::exist {paths} {
    foreach path $paths {
        if {![string match *_wrapper.v $path] && ![file exists $path]} {error "file $path does not exist"}
    }
}
proc vivado::do_read_xdc {options rest} {uplevel #0 [list source [lindex $rest 0]]}
proc vivado::do_set_property {options rest} {
    if {[dict exists $options -dict]} {
        if {[llength [dict get $options -dict]] % 2} {error "-dict is no list of pairs"}
        if {[lindex $rest end] eq ""} {error "set_property on nothing"}
    } elseif {[llength $rest] != 3 || [lindex $rest 2] eq ""} {
        error "set_property NAME VALUE OBJECT, not: $rest"
    } elseif {[lindex $rest 0] eq "top"} {
        variable top [lindex $rest 1]
    }
}
proc vivado::do_get_ipdefs {options rest} {
    regexp {^xilinx.com:ip:(\w+):\*$} [lindex $rest 0] all name
    return [list xilinx.com:ip:$name:2.1 xilinx.com:ip:$name:2.10]
}
proc vivado::do_get_board_parts {options rest} {return [list [string map {* 1.3} [lindex $rest 0]]]}
proc vivado::do_create_bd_cell {options rest} {
    variable modules
    if {[dict exists $options -reference] != ([dict get $options -type] eq "module")} {error "-reference is of a module"}
    if {[dict exists $options -reference]} {
        set modules([lindex $rest 0]) [vivado::module_pins [dict get $options -reference]]
    }
    vivado::make cell [lindex $rest 0]
}
proc vivado::do_create_bd_design {options rest} {variable designs; lappend designs [lindex $rest 0]}
proc vivado::do_assign_bd_address {options rest} {
    variable dealt
    if {![dict exists $options -offset]} {
        set dealt 1
    } elseif {$dealt} {
        error "$rest is given a place after assign_bd_address may have put something there"
    }
}
# The bitstream is below the folder of the project, the handoff of each design too (UG895).
proc vivado::do_launch_runs {options rest} {
    variable project
    variable top
    variable designs
    lassign $project name folder
    set paths [list $folder/$name.runs/[lindex $rest 0]/$top.bit]
    foreach design $designs {lappend paths $folder/$name.gen/sources_1/bd/$design/hw_handoff/$design.hwh}
    foreach path $paths {
        file mkdir [file dirname $path]
        set file [open $path w]
        puts $file [file tail $path]
        close $file
    }
}
proc vivado::do_create_bd_port {options rest} {vivado::make port [lindex $rest 0]}
proc vivado::do_create_bd_intf_port {options rest} {vivado::make intf_port [lindex $rest 0]}
proc vivado::do_get_bd_cells {options rest} {vivado::find cell $options $rest}
proc vivado::do_get_bd_ports {options rest} {vivado::find port $options $rest}
proc vivado::do_get_bd_intf_ports {options rest} {vivado::find intf_port $options $rest}
proc vivado::do_get_bd_pins {options rest} {vivado::pin pin $options $rest}
proc vivado::do_get_bd_intf_pins {options rest} {vivado::pin intf_pin $options $rest}
proc vivado::do_get_bd_addr_spaces {options rest} {vivado::pin intf_pin $options $rest}
proc vivado::do_get_bd_addr_segs {options rest} {
    lassign [::split [lindex $rest 0] /] cell bus
    vivado::find cell {} [list $cell]
    return [lindex $rest 0]
}
proc vivado::do_connect_bd_net {options rest} {vivado::connect pin $rest}
proc vivado::do_connect_bd_intf_net {options rest} {vivado::connect intf_pin $rest}
proc vivado::do_get_files {options rest} {return [lindex $rest 0]}
proc vivado::do_make_wrapper {options rest} {return [file rootname [dict get $options -files]]_wrapper.v}
proc vivado::do_validate_bd_design {options rest} {
    variable driven
    variable modules
    foreach cell [concat sat [array names modules]] {
        foreach entry [vivado::pins $cell] {
            lassign $entry pin way
            if {$way ne "out" && ![info exists driven(any,$cell/$pin)]} {error "$cell/$pin is not connected"}
        }
    }
}
proc vivado::do_ipx_current_core {options rest} {return core}
proc vivado::do_ipx_get_memory_maps {options rest} {return ""}
proc vivado::do_ipx_add_memory_map {options rest} {vivado::make map [lindex $rest 0]}
proc vivado::do_ipx_get_address_blocks {options rest} {return ""}
proc vivado::do_ipx_add_address_block {options rest} {vivado::make block [lindex $rest 0]}
proc vivado::do_ipx_get_bus_interfaces {options rest} {
    if {[lsearch -index 0 $::kernel_pins [lindex $rest 0]] < 0} {error "the kernel has no bus $rest"}
    return [lindex $rest 0]
}
proc vivado::do_ipx_add_register {options rest} {vivado::make register [lindex $rest 0]}
proc vivado::do_ipx_add_field {options rest} {vivado::make field [join [lreverse $rest] .]}
proc vivado::do_ipx_add_register_parameter {options rest} {vivado::make parameter [join [lreverse $rest] .]}
proc vivado::do_get_ports {options rest} {return [lindex $rest 0]}
# A filter of one cell; whether it exists is checked against names.json (test_release.py).
proc vivado::do_get_cells {options rest} {
    if {![dict exists $options -filter]} {return [lindex $rest 0]}
    if {![dict exists $options -hierarchical] || $rest ne ""} {error "get_cells -filter without -hierarchical: $rest"}
    if {![regexp {^NAME =~ \*([\w/]+)$} [dict get $options -filter] all cell]} {
        error "the filter is no cell below any hierarchy: [dict get $options -filter]"
    }
    return $cell
}
proc vivado::do_get_pblocks {options rest} {
    if {[info exists ::env(RECORDER_PLATFORM)] && [string match pblock_dynamic_SLR* [lindex $rest 0]]} {
        vivado::make_once pblock [lindex $rest 0]
    }
    return [vivado::find pblock $options $rest]
}
proc vivado::do_get_pins {options rest} {return [lindex $rest 0]}
proc vivado::do_create_pblock {options rest} {vivado::make pblock [lindex $rest 0]}
proc vivado::do_resize_pblock {options rest} {vivado::find pblock {} $rest}
proc vivado::do_add_cells_to_pblock {options rest} {
    vivado::find pblock {} $rest
    if {[llength [lindex $rest 1]] == 0} {error "no cell for pblock [lindex $rest 0]"}
    foreach cell [lindex $rest 1] {vivado::make placed $cell}
}

namespace eval ipx {}
foreach name [array names vivado::known] {
    proc ::$name {args} "vivado::call $name {*}\$args"
}

lassign $argv pins script
set kernel_pins $pins
set argv [lrange $argv 2 end]
# Vivado's own `source` and `puts` are Tcl's.
if {[catch {source $script} message]} {
    puts stderr "$message"
    exit 1
}
if {$vivado::projects != 0} {
    puts stderr "$vivado::projects projects are left open"
    exit 1
}
