"""The methods that train a detector: one paper, one file."""
