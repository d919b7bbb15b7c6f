// Two registers that take the interrupt of the machine into the clock of PCIe; card.tcl puts it between the two, and
// interrupt.xdc leaves the path into the first one untimed. The line is a level that stays until the host clears it.
module sat_interrupt_sync (
    input  wire clk,
    input  wire interrupt,
    output wire request
);
    (* ASYNC_REG = "TRUE" *) reg first = 1'b0;
    (* ASYNC_REG = "TRUE" *) reg second = 1'b0;

    always @(posedge clk) begin
        first <= interrupt;
        second <= first;
    end

    assign request = second;
endmodule
