# 32 rows of elements on 3 SLR of xcvu9p-fsgd2104-2L-e.
# Links between rows cross an SLR boundary without a register slice of their own unless row_slices names it.
# Slices: 11, 22; boundaries: 11, 22.
create_pblock sat_slr0
resize_pblock sat_slr0 -add SLR0
add_cells_to_pblock sat_slr0 [get_cells {machine/compute/stce/row_0 machine/compute/stce/row_1 machine/compute/stce/row_2 machine/compute/stce/row_3 machine/compute/stce/row_4 machine/compute/stce/row_5 machine/compute/stce/row_6 machine/compute/stce/row_7 machine/compute/stce/row_8 machine/compute/stce/row_9 machine/compute/stce/row_10 machine/compute/stce/act_link_0}]
create_pblock sat_slr1
resize_pblock sat_slr1 -add SLR1
add_cells_to_pblock sat_slr1 [get_cells {machine/compute/stce/row_11 machine/compute/stce/row_12 machine/compute/stce/row_13 machine/compute/stce/row_14 machine/compute/stce/row_15 machine/compute/stce/row_16 machine/compute/stce/row_17 machine/compute/stce/row_18 machine/compute/stce/row_19 machine/compute/stce/row_20 machine/compute/stce/row_21 machine/compute/stce/act_link_1}]
create_pblock sat_slr2
resize_pblock sat_slr2 -add SLR2
add_cells_to_pblock sat_slr2 [get_cells {machine/compute/stce/row_22 machine/compute/stce/row_23 machine/compute/stce/row_24 machine/compute/stce/row_25 machine/compute/stce/row_26 machine/compute/stce/row_27 machine/compute/stce/row_28 machine/compute/stce/row_29 machine/compute/stce/row_30 machine/compute/stce/row_31 machine/compute/stce/act_link_2}]
add_cells_to_pblock sat_slr1 [get_cells {machine/control machine/sequencer machine/loader machine/read_port machine/write_port machine/compute/stce/head machine/compute/stce/tail}]
