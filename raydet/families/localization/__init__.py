"""Localisation: one box per image, learned from class labels, measured by how often box and class are right."""
