"""The methods that pre-train a detector without labels: one paper, one file."""
