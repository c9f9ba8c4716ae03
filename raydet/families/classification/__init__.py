"""Classification: one class per image, measured by accuracy."""
