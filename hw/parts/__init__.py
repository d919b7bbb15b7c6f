"""What every room uses: link layouts, ports of engines, fields, walks, queues, the Verilog writer."""
