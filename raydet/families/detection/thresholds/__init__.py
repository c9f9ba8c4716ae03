"""`raydet thresholds`: what pseudo-boxes would be at every threshold."""
