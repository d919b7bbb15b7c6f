"""The loader: STAGE, LOAD_ACT and LOAD_WGT, from memory to the buffers of the array."""
