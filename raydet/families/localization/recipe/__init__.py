"""What `raydet init` writes for a localizer."""
