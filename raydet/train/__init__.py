"""The training loop and what launches it."""
