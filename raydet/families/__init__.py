"""The families of methods, one folder each, with the same file names in every one; see `raydet/registry.py`."""
