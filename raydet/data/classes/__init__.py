"""Images with one label each: readers, index, split, views. No methods, no labels, no Ray."""
