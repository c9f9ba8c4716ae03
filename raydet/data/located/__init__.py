"""Images with one class each, and the boxes that they are measured by: built on `classes/` and `boxes/`."""
