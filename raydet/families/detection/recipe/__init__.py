"""What `raydet init` writes for a detector."""
