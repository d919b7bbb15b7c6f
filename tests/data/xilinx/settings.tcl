# Written by nmsat: configuration vcu1525, device vcu1525.
set sat_config vcu1525
set sat_device vcu1525
set sat_part xcvu9p-fsgd2104-2L-e
set sat_board xilinx.com:vcu1525:part0
set sat_board_kind card
set sat_clock_mhz 200.000
set sat_kernel sat_kernel
set sat_vendor nmsat
set sat_library kernel
set sat_version 1.0
set sat_control s_axi_control
set sat_register_bytes 4096
set sat_files {
    ../sat_leaf.v
    ../sat.v
    ../sat_kernel.v
}
# SLR, cells below the kernel that lie there; as in floorplan.xdc.
set sat_floorplan {
    0 {machine/compute/stce/row_0 machine/compute/stce/row_1 machine/compute/stce/row_2 machine/compute/stce/row_3 machine/compute/stce/row_4 machine/compute/stce/row_5 machine/compute/stce/row_6 machine/compute/stce/row_7 machine/compute/stce/row_8 machine/compute/stce/row_9 machine/compute/stce/row_10 machine/compute/stce/act_link_0}
    1 {machine/compute/stce/row_11 machine/compute/stce/row_12 machine/compute/stce/row_13 machine/compute/stce/row_14 machine/compute/stce/row_15 machine/compute/stce/row_16 machine/compute/stce/row_17 machine/compute/stce/row_18 machine/compute/stce/row_19 machine/compute/stce/row_20 machine/compute/stce/row_21 machine/compute/stce/act_link_1 machine/control machine/sequencer machine/loader machine/read_port machine/write_port machine/compute/stce/head machine/compute/stce/tail}
    2 {machine/compute/stce/row_22 machine/compute/stce/row_23 machine/compute/stce/row_24 machine/compute/stce/row_25 machine/compute/stce/row_26 machine/compute/stce/row_27 machine/compute/stce/row_28 machine/compute/stce/row_29 machine/compute/stce/row_30 machine/compute/stce/row_31 machine/compute/stce/act_link_2}
}
set sat_memories {m00_axi}
# Pointer, and the bus by which the machine follows it.
set sat_pointers {region0_base m00_axi region1_base m00_axi region2_base m00_axi region3_base m00_axi}
# Name, offset, bits, access, description, fields (name, bit, width, access).
set sat_registers {
    {command 0x000 32 read-write "1: start a run (if idle)\; 2: end the run and reset" {{start 0 1 read-write} {reset 1 1 read-write}}}
    {status 0x004 32 read-write "1 idle, 2 done, 4 error, 8 special, 16 overflow" {{idle 0 1 read-only} {done 1 1 read-write} {error 2 1 read-only} {special 3 1 read-only} {overflow 4 1 read-only}}}
    {interrupt 0x008 32 read-write "1: the interrupt line follows `done`" {}}
    {error_code 0x00c 32 read-only "why the last run ended, 0 without error" {}}
    {error_index 0x010 32 read-only "instruction the error belongs to, 0 the first of the program" {}}
    {version 0x014 32 read-only 0x4e4d0100 {}}
    {rows 0x018 32 read-only "elements of a column, R" {}}
    {columns 0x01c 32 read-only "elements of a row, C" {}}
    {act_lanes 0x020 32 read-only "activations a row link carries per cycle" {}}
    {act_depth 0x024 32 read-only "beats of one row's activation buffer" {}}
    {weight_depth 0x028 32 read-only "pairs of one column's weight buffer" {}}
    {sum_depth 0x02c 32 read-only "results of one column's capture buffer" {}}
    {clock_khz 0x030 32 read-only "clock of the machine, kHz" {}}
    {program_region 0x040 32 read-write "region that holds the program" {}}
    {program_at 0x044 32 read-write "offset of the first instruction, beats" {}}
    {program_at_high 0x048 32 read-write "its upper bits" {}}
    {program_count 0x04c 32 read-write "instructions of the program" {}}
    {watchdog 0x050 32 read-write "cycles memory may move nothing it owes\; 0: any number" {}}
    {region0_base 0x080 64 read-write "address of the first beat, a multiple of 4096" {}}
    {region0_size 0x088 32 read-write "size in beats" {}}
    {region0_size_high 0x08c 32 read-write "its upper bits" {}}
    {region0_flags 0x090 32 read-write "1: may be read\; 2: may be written too" {{open 0 1 read-write} {writable 1 1 read-write}}}
    {region1_base 0x0a0 64 read-write "address of the first beat, a multiple of 4096" {}}
    {region1_size 0x0a8 32 read-write "size in beats" {}}
    {region1_size_high 0x0ac 32 read-write "its upper bits" {}}
    {region1_flags 0x0b0 32 read-write "1: may be read\; 2: may be written too" {{open 0 1 read-write} {writable 1 1 read-write}}}
    {region2_base 0x0c0 64 read-write "address of the first beat, a multiple of 4096" {}}
    {region2_size 0x0c8 32 read-write "size in beats" {}}
    {region2_size_high 0x0cc 32 read-write "its upper bits" {}}
    {region2_flags 0x0d0 32 read-write "1: may be read\; 2: may be written too" {{open 0 1 read-write} {writable 1 1 read-write}}}
    {region3_base 0x0e0 64 read-write "address of the first beat, a multiple of 4096" {}}
    {region3_size 0x0e8 32 read-write "size in beats" {}}
    {region3_size_high 0x0ec 32 read-write "its upper bits" {}}
    {region3_flags 0x0f0 32 read-write "1: may be read\; 2: may be written too" {{open 0 1 read-write} {writable 1 1 read-write}}}
    {cycles 0x100 32 read-only "low half of the counter" {}}
    {cycles_high 0x104 32 read-only "high half, as it was when the low half was read" {}}
    {instructions 0x108 32 read-only "low half of the counter" {}}
    {instructions_high 0x10c 32 read-only "high half, as it was when the low half was read" {}}
    {load_busy 0x110 32 read-only "low half of the counter" {}}
    {load_busy_high 0x114 32 read-only "high half, as it was when the low half was read" {}}
    {compute_busy 0x118 32 read-only "low half of the counter" {}}
    {compute_busy_high 0x11c 32 read-only "high half, as it was when the low half was read" {}}
    {store_busy 0x120 32 read-only "low half of the counter" {}}
    {store_busy_high 0x124 32 read-only "high half, as it was when the low half was read" {}}
    {update_busy 0x128 32 read-only "low half of the counter" {}}
    {update_busy_high 0x12c 32 read-only "high half, as it was when the low half was read" {}}
    {load_blocked 0x130 32 read-only "low half of the counter" {}}
    {load_blocked_high 0x134 32 read-only "high half, as it was when the low half was read" {}}
    {compute_blocked 0x138 32 read-only "low half of the counter" {}}
    {compute_blocked_high 0x13c 32 read-only "high half, as it was when the low half was read" {}}
    {store_blocked 0x140 32 read-only "low half of the counter" {}}
    {store_blocked_high 0x144 32 read-only "high half, as it was when the low half was read" {}}
    {update_blocked 0x148 32 read-only "low half of the counter" {}}
    {update_blocked_high 0x14c 32 read-only "high half, as it was when the low half was read" {}}
    {read_bursts 0x150 32 read-only "low half of the counter" {}}
    {read_bursts_high 0x154 32 read-only "high half, as it was when the low half was read" {}}
    {read_beats 0x158 32 read-only "low half of the counter" {}}
    {read_beats_high 0x15c 32 read-only "high half, as it was when the low half was read" {}}
    {write_bursts 0x160 32 read-only "low half of the counter" {}}
    {write_bursts_high 0x164 32 read-only "high half, as it was when the low half was read" {}}
    {write_beats 0x168 32 read-only "low half of the counter" {}}
    {write_beats_high 0x16c 32 read-only "high half, as it was when the low half was read" {}}
    {wait_operand 0x170 32 read-only "low half of the counter" {}}
    {wait_operand_high 0x174 32 read-only "high half, as it was when the low half was read" {}}
    {wait_flush 0x178 32 read-only "low half of the counter" {}}
    {wait_flush_high 0x17c 32 read-only "high half, as it was when the low half was read" {}}
    {wait_drain 0x180 32 read-only "low half of the counter" {}}
    {wait_drain_high 0x184 32 read-only "high half, as it was when the low half was read" {}}
    {wait_weight 0x188 32 read-only "low half of the counter" {}}
    {wait_weight_high 0x18c 32 read-only "high half, as it was when the low half was read" {}}
    {wait_dependency 0x190 32 read-only "low half of the counter" {}}
    {wait_dependency_high 0x194 32 read-only "high half, as it was when the low half was read" {}}
    {wait_tail 0x198 32 read-only "low half of the counter" {}}
    {wait_tail_high 0x19c 32 read-only "high half, as it was when the low half was read" {}}
    {windows 0x1a0 32 read-only "low half of the counter" {}}
    {windows_high 0x1a4 32 read-only "high half, as it was when the low half was read" {}}
    {steps 0x1a8 32 read-only "low half of the counter" {}}
    {steps_high 0x1ac 32 read-only "high half, as it was when the low half was read" {}}
}
