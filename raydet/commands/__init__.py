"""One module per command: `add` declares its arguments, `run` does it. Heavy imports stay inside `run`."""
