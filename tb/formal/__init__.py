"""Proofs of the circuit: properties in Amaranth, checked by sby with smtbmc and z3 (docs/verification.md)."""
