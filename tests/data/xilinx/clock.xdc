# Out of context: the clock of the machine, 200 MHz; ap_rst_n is synchronised inside.
create_clock -name ap_clk -period 5.000 [get_ports ap_clk]
set_false_path -to [get_pins {reset_sync_reg[0]/D}]
