"""The arithmetic contract, N:M patterns, the tape: what all of the project computes with."""
