"""What `raydet init` writes for a classifier."""
