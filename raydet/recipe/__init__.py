"""What `raydet init` writes: a commented configuration. Each family chooses its values; what they share is here."""
