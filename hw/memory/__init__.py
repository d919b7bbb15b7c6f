"""The AXI4 master: channels, read and write port."""
