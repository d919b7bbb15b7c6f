"""Published sparse methods as workloads: one program each, run with values or with shapes alone (docs/workloads.md)."""
