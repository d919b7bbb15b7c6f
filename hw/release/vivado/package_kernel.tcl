# The Vitis kernel: vivado -mode batch -source package_kernel.tcl [-tclargs FOLDER]
# Writes FOLDER/sat_kernel.xo (default: packaged/ here). Then, with the platform of the card:
#   v++ -l -t hw --platform PLATFORM --config link.cfg FOLDER/sat_kernel.xo -o sat.xclbin
# On a part with several SLRs it names the option of v++ by which place_kernel.tcl deals the machine to them.

source [file join [file dirname [file normalize [info script]]] lib.tcl]

set folder [sat::argument 0 packaged]
set ip [sat::package_ip $folder]
set xo [file normalize [file join $folder $sat_kernel.xo]]
package_xo -force -xo_path $xo -kernel_name $sat_kernel -ip_directory $ip \
    -kernel_xml [file join $sat::here kernel.xml]
puts "packaged: $xo"
if {[llength $sat_floorplan] > 0} {
    puts "to place it: --vivado.prop run.impl_1.STEPS.PLACE_DESIGN.TCL.PRE=[file join $sat::here place_kernel.tcl]"
}
