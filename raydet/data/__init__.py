"""Images and boxes: reading, splitting, augmenting, ordering, loading."""
