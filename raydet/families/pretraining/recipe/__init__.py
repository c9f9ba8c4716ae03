"""What `raydet init` writes for pre-training."""
