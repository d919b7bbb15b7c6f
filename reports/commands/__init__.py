"""The sub-commands of `nmsat`, one module each: COMMAND says how it is called, its `run` does the work."""
