# The interrupt leaves the clock of the machine; the first register of sat_interrupt_sync.v takes it at any time.
set_false_path -to [get_cells -hierarchical -filter {NAME =~ *interrupt_sync/inst/first_reg}]
