"""The machine on a card: a driver with the interface of the simulator, and what it reaches a card through."""
