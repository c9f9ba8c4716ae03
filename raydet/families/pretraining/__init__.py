"""Pre-training: a detector's backbone, box head and region proposals from images without labels."""
