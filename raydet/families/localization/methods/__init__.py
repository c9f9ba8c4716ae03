"""The methods that put one box on each image: one paper, one file."""
