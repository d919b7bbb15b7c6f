"""The store engine: captured results through the epilogue into memory."""
