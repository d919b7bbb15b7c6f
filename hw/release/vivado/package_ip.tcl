# The IP for a block design: vivado -mode batch -source package_ip.tcl [-tclargs FOLDER]
# Writes FOLDER/ip (default: packaged/ip here), to be named in ip_repo_paths.

source [file join [file dirname [file normalize [info script]]] lib.tcl]

puts "packaged: [sat::package_ip [sat::argument 0 packaged]]"
