"""How one product meets the array: tiles, mapping, cover of a mask, places of its operands."""
