# What the scripts beside it share. Vivado 2022.2 or later, batch mode; nothing here opens a window.

namespace eval sat {
    variable here [file dirname [file normalize [info script]]]
}

source [file join $sat::here settings.tcl]

# Word `index` after -tclargs, or a default.
proc sat::argument {index default} {
    if {[info exists ::argv] && [llength $::argv] > $index} {
        return [lindex $::argv $index]
    }
    return $default
}

# Paths of the Verilog files.
proc sat::sources {} {
    variable here
    set paths {}
    foreach file $::sat_files {
        lappend paths [file normalize [file join $here $file]]
    }
    return $paths
}

# The newest version of an IP of Xilinx that this Vivado has; an error names one that is missing.
proc sat::newest {name} {
    set found [lsort -dictionary [get_ipdefs -all "xilinx.com:ip:$name:*"]]
    if {[llength $found] == 0} {
        error "IP xilinx.com:ip:$name is not in the catalogue of this Vivado"
    }
    return [lindex $found end]
}

# Set the board of the project to the newest version of its files, if they are installed; an error says what is missing.
proc sat::use_board {} {
    set found [lsort -dictionary [get_board_parts -quiet "$::sat_board:*"]]
    if {[llength $found] == 0} {
        error "board files of $::sat_board are not installed; get them from the board store of Vivado"
    }
    set_property board_part [lindex $found end] [current_project]
}

# The block designs have one channel of memory: an error names the other way for a machine with several masters.
proc sat::need_one_memory {} {
    if {[llength $::sat_memories] > 1} {
        error "the machine has [llength $::sat_memories] masters and the block design one channel of memory;\
            link the Vitis kernel (package_kernel.tcl, link.cfg)"
    }
}

# Give the floorplan to the implementation of the project.
proc sat::add_floorplan {} {
    if {[llength $::sat_floorplan] > 0} {
        sat::add_constraints floorplan.xdc
    }
}

# Give constraints to the implementation of the project; synthesis does not have their cells yet.
proc sat::add_constraints {name} {
    variable here
    set path [file join $here $name]
    add_files -fileset constrs_1 -norecurse $path
    set_property used_in_synthesis false [get_files $path]
}

# One register of the memory map: name, offset, bits, access, description, fields {name, bit, width, access}.
proc sat::add_register {block register} {
    lassign $register name offset size access description fields
    set entry [ipx::add_register $name $block]
    set_property address_offset $offset $entry
    set_property size $size $entry
    set_property access $access $entry
    set_property description $description $entry
    foreach field $fields {
        lassign $field field_name bit width field_access
        set part [ipx::add_field $field_name $entry]
        set_property bit_offset $bit $part
        set_property bit_width $width $part
        set_property access $field_access $part
    }
    if {[dict exists $::sat_pointers $name]} {
        set link [ipx::add_register_parameter ASSOCIATED_BUSIF $entry]
        set_property value [dict get $::sat_pointers $name] $link
    }
}

# The register map in the memory map that packaging has inferred for the slave, or a new one.
proc sat::add_registers {core} {
    set map [ipx::get_memory_maps -quiet $::sat_control -of_objects $core]
    if {$map eq ""} {
        set map [ipx::add_memory_map $::sat_control $core]
    }
    set block [lindex [ipx::get_address_blocks -quiet -of_objects $map] 0]
    if {$block eq ""} {
        set block [ipx::add_address_block reg0 $map]
    }
    set_property range $::sat_register_bytes $block
    set_property width 32 $block
    foreach register $::sat_registers {
        sat::add_register $block $register
    }
    set_property slave_memory_map_ref $::sat_control [ipx::get_bus_interfaces $::sat_control -of_objects $core]
}

# Package the kernel as IP-XACT in folder/ip. Returns the folder of the IP.
proc sat::package_ip {folder} {
    set ip [file normalize [file join $folder ip]]
    file mkdir $folder
    create_project -force -part $::sat_part sat_package [file join $folder project]
    add_files -norecurse [sat::sources]
    set_property top $::sat_kernel [current_fileset]
    update_compile_order -fileset sources_1
    ipx::package_project -root_dir $ip -vendor $::sat_vendor -library $::sat_library -taxonomy /KernelIP \
        -import_files -set_current false -force
    ipx::unload_core [file join $ip component.xml]
    ipx::edit_ip_in_project -upgrade true -name sat_edit -directory [file join $folder edit] \
        [file join $ip component.xml]
    set core [ipx::current_core]
    set_property name $::sat_kernel $core
    set_property version $::sat_version $core
    set_property display_name "SAT, N:M sparse training ($::sat_config)" $core
    set_property description "N:M sparse training accelerator, configuration $::sat_config" $core
    foreach bus [list $::sat_control {*}$::sat_memories] {
        ipx::associate_bus_interfaces -busif $bus -clock ap_clk $core
    }
    sat::add_registers $core
    set_property sdx_kernel true $core
    set_property sdx_kernel_type rtl $core
    set_property vitis_drc {ctrl_protocol user_managed} $core
    set_property ipi_drc {ignore_freq_hz true} $core
    set_property supported_families {} $core
    set_property auto_family_support_level level_2 $core
    ipx::create_xgui_files $core
    ipx::update_checksums $core
    ipx::check_integrity -kernel $core
    ipx::save_core $core
    close_project -delete
    close_project -delete
    return $ip
}
