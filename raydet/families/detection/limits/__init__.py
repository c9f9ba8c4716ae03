"""What limits a detector's run, as the figures of its pseudo-boxes say."""
