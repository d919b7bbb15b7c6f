# A block design for a PCIe card (VCU1525, U200, U250): PCIe DMA, one DDR4 channel, the machine.
#   vivado -mode batch -source card.tcl [-tclargs FOLDER STEP]
# FOLDER: of the project (default: card). STEP: design (default: made and validated) or bitstream.
# The host reaches the memory by DMA at 0 and the registers at 0 of the first BAR (the XDMA driver's `user` device).

source [file join [file dirname [file normalize [info script]]] lib.tcl]

set folder [sat::argument 0 card]
set last [sat::argument 1 design]
if {$last ni {design bitstream}} {
    error "STEP is '$last'; it must be design or bitstream"
}
if {$sat_board_kind ne "card"} {
    error "the package is for $sat_device, which is no PCIe card; use zynq.tcl"
}
sat::need_one_memory
set ip [sat::package_ip [file join $folder packaged]]
create_project -force -part $sat_part sat_card [file join $folder project]
sat::use_board
set_property ip_repo_paths $ip [current_project]
update_ip_catalog
create_bd_design sat_card

# PCIe: 16 lanes, memory-mapped DMA, a BAR for registers, one interrupt.
create_bd_intf_port -mode Master -vlnv xilinx.com:interface:pcie_7x_mgt_rtl:1.0 pci_express_x16
create_bd_intf_port -mode Slave -vlnv xilinx.com:interface:diff_clock_rtl:1.0 pcie_refclk
set_property CONFIG.FREQ_HZ 100000000 [get_bd_intf_ports pcie_refclk]
create_bd_port -dir I -type rst pcie_perstn
set_property CONFIG.POLARITY ACTIVE_LOW [get_bd_ports pcie_perstn]
create_bd_cell -type ip -vlnv [sat::newest util_ds_buf] pcie_clock
set_property -dict [list CONFIG.C_BUF_TYPE IBUFDSGTE CONFIG.DIFF_CLK_IN_BOARD_INTERFACE pcie_refclk \
    CONFIG.USE_BOARD_FLOW true] [get_bd_cells pcie_clock]
create_bd_cell -type ip -vlnv [sat::newest xdma] pcie
set_property -dict [list CONFIG.PCIE_BOARD_INTERFACE pci_express_x16 CONFIG.SYS_RST_N_BOARD_INTERFACE pcie_perstn \
    CONFIG.xdma_axi_intf_mm AXI_Memory_Mapped CONFIG.axilite_master_en true CONFIG.axilite_master_size 1 \
    CONFIG.axilite_master_scale Megabytes CONFIG.xdma_num_usr_irq 1] [get_bd_cells pcie]
connect_bd_intf_net [get_bd_intf_ports pcie_refclk] [get_bd_intf_pins pcie_clock/CLK_IN_D]
connect_bd_intf_net [get_bd_intf_ports pci_express_x16] [get_bd_intf_pins pcie/pcie_mgt]
connect_bd_net [get_bd_pins pcie_clock/IBUF_OUT] [get_bd_pins pcie/sys_clk_gt]
connect_bd_net [get_bd_pins pcie_clock/IBUF_DS_ODIV2] [get_bd_pins pcie/sys_clk]
connect_bd_net [get_bd_ports pcie_perstn] [get_bd_pins pcie/sys_rst_n]

# Memory: the card's first DDR4 channel.
create_bd_intf_port -mode Master -vlnv xilinx.com:interface:ddr4_rtl:1.0 ddr4_sdram_c0
create_bd_intf_port -mode Slave -vlnv xilinx.com:interface:diff_clock_rtl:1.0 default_300mhz_clk0
set_property CONFIG.FREQ_HZ 300000000 [get_bd_intf_ports default_300mhz_clk0]
create_bd_cell -type ip -vlnv [sat::newest ddr4] memory
set_property -dict [list CONFIG.C0_CLOCK_BOARD_INTERFACE default_300mhz_clk0 \
    CONFIG.C0_DDR4_BOARD_INTERFACE ddr4_sdram_c0] [get_bd_cells memory]
connect_bd_intf_net [get_bd_intf_ports default_300mhz_clk0] [get_bd_intf_pins memory/C0_SYS_CLK]
connect_bd_intf_net [get_bd_intf_ports ddr4_sdram_c0] [get_bd_intf_pins memory/C0_DDR4]
create_bd_cell -type ip -vlnv [sat::newest proc_sys_reset] pcie_reset
connect_bd_net [get_bd_pins pcie/axi_aclk] [get_bd_pins pcie_reset/slowest_sync_clk]
connect_bd_net [get_bd_pins pcie/axi_aresetn] [get_bd_pins pcie_reset/ext_reset_in]
connect_bd_net [get_bd_pins pcie_reset/peripheral_reset] [get_bd_pins memory/sys_rst]
create_bd_cell -type ip -vlnv [sat::newest proc_sys_reset] memory_reset
connect_bd_net [get_bd_pins memory/c0_ddr4_ui_clk] [get_bd_pins memory_reset/slowest_sync_clk]
connect_bd_net [get_bd_pins pcie/axi_aresetn] [get_bd_pins memory_reset/ext_reset_in]
connect_bd_net [get_bd_pins memory_reset/peripheral_aresetn] [get_bd_pins memory/c0_ddr4_aresetn]

# The machine, its clock and its reset.
create_bd_cell -type ip -vlnv [sat::newest clk_wiz] machine_clock
set_property -dict [list CONFIG.PRIM_IN_FREQ 250.000 CONFIG.PRIM_SOURCE No_buffer \
    CONFIG.CLKOUT1_REQUESTED_OUT_FREQ $sat_clock_mhz CONFIG.RESET_TYPE ACTIVE_LOW] [get_bd_cells machine_clock]
connect_bd_net [get_bd_pins pcie/axi_aclk] [get_bd_pins machine_clock/clk_in1]
connect_bd_net [get_bd_pins pcie/axi_aresetn] [get_bd_pins machine_clock/resetn]
create_bd_cell -type ip -vlnv [sat::newest proc_sys_reset] machine_reset
connect_bd_net [get_bd_pins machine_clock/clk_out1] [get_bd_pins machine_reset/slowest_sync_clk]
connect_bd_net [get_bd_pins machine_clock/locked] [get_bd_pins machine_reset/dcm_locked]
connect_bd_net [get_bd_pins pcie/axi_aresetn] [get_bd_pins machine_reset/ext_reset_in]
create_bd_cell -type ip -vlnv $sat_vendor:$sat_library:$sat_kernel:$sat_version sat
connect_bd_net [get_bd_pins machine_clock/clk_out1] [get_bd_pins sat/ap_clk]
connect_bd_net [get_bd_pins machine_reset/peripheral_aresetn] [get_bd_pins sat/ap_rst_n]

# The interrupt crosses from the clock of the machine to that of PCIe.
add_files -norecurse [file join $sat::here sat_interrupt_sync.v]
sat::add_constraints interrupt.xdc
update_compile_order -fileset sources_1
create_bd_cell -type module -reference sat_interrupt_sync interrupt_sync
connect_bd_net [get_bd_pins pcie/axi_aclk] [get_bd_pins interrupt_sync/clk]
connect_bd_net [get_bd_pins sat/interrupt] [get_bd_pins interrupt_sync/interrupt]
connect_bd_net [get_bd_pins interrupt_sync/request] [get_bd_pins pcie/usr_irq_req]

# DMA and machine to the memory; the BAR to the registers and, where the channel has ECC, to its own registers.
set ecc [llength [get_bd_intf_pins -quiet memory/C0_DDR4_S_AXI_CTRL]]
create_bd_cell -type ip -vlnv [sat::newest smartconnect] to_memory
set_property -dict [list CONFIG.NUM_SI 2 CONFIG.NUM_MI 1 CONFIG.NUM_CLKS 3] [get_bd_cells to_memory]
create_bd_cell -type ip -vlnv [sat::newest smartconnect] to_registers
set_property -dict [list CONFIG.NUM_SI 1 CONFIG.NUM_MI [expr {1 + $ecc}] CONFIG.NUM_CLKS [expr {2 + $ecc}]] \
    [get_bd_cells to_registers]
connect_bd_intf_net [get_bd_intf_pins pcie/M_AXI] [get_bd_intf_pins to_memory/S00_AXI]
connect_bd_intf_net [get_bd_intf_pins sat/m00_axi] [get_bd_intf_pins to_memory/S01_AXI]
connect_bd_intf_net [get_bd_intf_pins to_memory/M00_AXI] [get_bd_intf_pins memory/C0_DDR4_S_AXI]
connect_bd_intf_net [get_bd_intf_pins pcie/M_AXI_LITE] [get_bd_intf_pins to_registers/S00_AXI]
connect_bd_intf_net [get_bd_intf_pins to_registers/M00_AXI] [get_bd_intf_pins sat/s_axi_control]
foreach switch {to_memory to_registers} {
    connect_bd_net [get_bd_pins pcie/axi_aclk] [get_bd_pins $switch/aclk]
    connect_bd_net [get_bd_pins machine_clock/clk_out1] [get_bd_pins $switch/aclk1]
    connect_bd_net [get_bd_pins pcie/axi_aresetn] [get_bd_pins $switch/aresetn]
}
connect_bd_net [get_bd_pins memory/c0_ddr4_ui_clk] [get_bd_pins to_memory/aclk2]
if {$ecc} {
    connect_bd_intf_net [get_bd_intf_pins to_registers/M01_AXI] [get_bd_intf_pins memory/C0_DDR4_S_AXI_CTRL]
    connect_bd_net [get_bd_pins memory/c0_ddr4_ui_clk] [get_bd_pins to_registers/aclk2]
}

# What has a place of its own first; the rest, as the registers of ECC, lies where there is room then.
assign_bd_address -offset 0x0 -range 4K -target_address_space [get_bd_addr_spaces pcie/M_AXI_LITE] \
    [get_bd_addr_segs sat/s_axi_control/reg0] -force
foreach space {pcie/M_AXI sat/m00_axi} {
    assign_bd_address -offset 0x0 -target_address_space [get_bd_addr_spaces $space] \
        [get_bd_addr_segs memory/C0_DDR4_MEMORY_MAP/C0_DDR4_ADDRESS_BLOCK] -force
}
assign_bd_address
validate_bd_design
save_bd_design
add_files -norecurse [make_wrapper -files [get_files sat_card.bd] -top]
set_property top sat_card_wrapper [current_fileset]
update_compile_order -fileset sources_1
sat::add_floorplan
if {$last eq "bitstream"} {
    launch_runs impl_1 -to_step write_bitstream -jobs 4
    wait_on_run impl_1
    write_hw_platform -fixed -include_bit -force -file [file join $folder sat_card.xsa]
}
close_project
