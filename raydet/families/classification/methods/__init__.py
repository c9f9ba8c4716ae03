"""The methods that train a classifier: one paper, one file."""
