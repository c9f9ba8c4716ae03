"""The detector, the classifiers, and their parts."""
