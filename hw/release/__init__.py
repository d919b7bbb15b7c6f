"""All Verilog of a configuration, and what it costs."""
