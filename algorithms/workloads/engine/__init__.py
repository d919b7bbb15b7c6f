"""How a published method is written as a program, and what such programs share."""
