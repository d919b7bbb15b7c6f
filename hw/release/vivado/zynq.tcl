# A block design for a Zynq board (UltraScale+: ZCU102, KV260; 7000: PYNQ-Z2): the processors, one memory port, the
# machine.
#   vivado -mode batch -source zynq.tcl [-tclargs FOLDER STEP]
# FOLDER: of the project (default: zynq). STEP: design (default: made and validated) or bitstream.
# PYNQ loads FOLDER/sat_zynq.bit with FOLDER/sat_zynq.hwh beside it; the machine is called sat.

source [file join [file dirname [file normalize [info script]]] lib.tcl]

set folder [sat::argument 0 zynq]
set last [sat::argument 1 design]
if {$last ni {design bitstream}} {
    error "STEP is '$last'; it must be design or bitstream"
}
if {$sat_board_kind ni {zynq zynq7}} {
    error "the package is for $sat_device, which is no Zynq board; use card.tcl"
}
sat::need_one_memory
set ip [sat::package_ip [file join $folder packaged]]
set project [file join $folder project]
create_project -force -part $sat_part sat_zynq $project
sat::use_board
set_property ip_repo_paths $ip [current_project]
update_ip_catalog
create_bd_design sat_zynq

# Pins of the processors: clock, reset, interrupt; clock and bus of the port to memory, of the port to registers.
if {$sat_board_kind eq "zynq"} {
    create_bd_cell -type ip -vlnv [sat::newest zynq_ultra_ps_e] processors
    apply_bd_automation -rule xilinx.com:bd_rule:zynq_ultra_ps_e -config {apply_board_preset "1"} \
        [get_bd_cells processors]
    set_property -dict [list CONFIG.PSU__USE__M_AXI_GP0 1 CONFIG.PSU__USE__M_AXI_GP1 0 CONFIG.PSU__USE__M_AXI_GP2 0 \
        CONFIG.PSU__MAXIGP0__DATA_WIDTH 32 CONFIG.PSU__USE__S_AXI_GP2 1 CONFIG.PSU__SAXIGP2__DATA_WIDTH 128 \
        CONFIG.PSU__USE__IRQ0 1 CONFIG.PSU__FPGA_PL0_ENABLE 1 \
        CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ $sat_clock_mhz] [get_bd_cells processors]
    lassign {pl_clk0 pl_resetn0 pl_ps_irq0} clock reset interrupt
    lassign {saxihp0_fpd_aclk S_AXI_HP0_FPD maxihpm0_fpd_aclk M_AXI_HPM0_FPD} memory_clock memory host_clock host
} else {
    create_bd_cell -type ip -vlnv [sat::newest processing_system7] processors
    apply_bd_automation -rule xilinx.com:bd_rule:processing_system7 \
        -config {make_external "FIXED_IO, DDR" apply_board_preset "1"} [get_bd_cells processors]
    set_property -dict [list CONFIG.PCW_USE_M_AXI_GP0 1 CONFIG.PCW_USE_S_AXI_HP0 1 CONFIG.PCW_S_AXI_HP0_DATA_WIDTH 64 \
        CONFIG.PCW_USE_FABRIC_INTERRUPT 1 CONFIG.PCW_IRQ_F2P_INTR 1 CONFIG.PCW_EN_CLK0_PORT 1 \
        CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ $sat_clock_mhz] [get_bd_cells processors]
    lassign {FCLK_CLK0 FCLK_RESET0_N IRQ_F2P} clock reset interrupt
    lassign {S_AXI_HP0_ACLK S_AXI_HP0 M_AXI_GP0_ACLK M_AXI_GP0} memory_clock memory host_clock host
}
create_bd_cell -type ip -vlnv [sat::newest proc_sys_reset] machine_reset
connect_bd_net [get_bd_pins processors/$clock] [get_bd_pins machine_reset/slowest_sync_clk]
connect_bd_net [get_bd_pins processors/$reset] [get_bd_pins machine_reset/ext_reset_in]
create_bd_cell -type ip -vlnv $sat_vendor:$sat_library:$sat_kernel:$sat_version sat
connect_bd_net [get_bd_pins machine_reset/peripheral_aresetn] [get_bd_pins sat/ap_rst_n]
connect_bd_net [get_bd_pins sat/interrupt] [get_bd_pins processors/$interrupt]

# The machine's bits become those of the port to memory, 128 or 64, and AXI4 the AXI3 of a Zynq-7000; the processors
# reach its registers.
create_bd_cell -type ip -vlnv [sat::newest smartconnect] to_memory
create_bd_cell -type ip -vlnv [sat::newest smartconnect] to_registers
foreach switch {to_memory to_registers} {
    set_property -dict [list CONFIG.NUM_SI 1 CONFIG.NUM_MI 1 CONFIG.NUM_CLKS 1] [get_bd_cells $switch]
    connect_bd_net [get_bd_pins machine_reset/interconnect_aresetn] [get_bd_pins $switch/aresetn]
}
foreach pin [list {*}{sat/ap_clk to_memory/aclk to_registers/aclk} processors/$memory_clock processors/$host_clock] {
    connect_bd_net [get_bd_pins processors/$clock] [get_bd_pins $pin]
}
connect_bd_intf_net [get_bd_intf_pins sat/m00_axi] [get_bd_intf_pins to_memory/S00_AXI]
connect_bd_intf_net [get_bd_intf_pins to_memory/M00_AXI] [get_bd_intf_pins processors/$memory]
connect_bd_intf_net [get_bd_intf_pins processors/$host] [get_bd_intf_pins to_registers/S00_AXI]
connect_bd_intf_net [get_bd_intf_pins to_registers/M00_AXI] [get_bd_intf_pins sat/s_axi_control]

assign_bd_address
validate_bd_design
save_bd_design
add_files -norecurse [make_wrapper -files [get_files sat_zynq.bd] -top]
set_property top sat_zynq_wrapper [current_fileset]
update_compile_order -fileset sources_1
sat::add_floorplan
if {$last eq "bitstream"} {
    launch_runs impl_1 -to_step write_bitstream -jobs 4
    wait_on_run impl_1
    write_hw_platform -fixed -include_bit -force -file [file join $folder sat_zynq.xsa]
    set made [file join $project sat_zynq.runs impl_1 sat_zynq_wrapper.bit]
    file copy -force $made [file join $folder sat_zynq.bit]
    set handoff [glob [file join $project sat_zynq.gen sources_1 bd sat_zynq hw_handoff sat_zynq.hwh]]
    file copy -force $handoff [file join $folder sat_zynq.hwh]
}
close_project
