"""What circuit and simulator share: configuration, instructions, registers, limits; the only part that `hw` sees."""
