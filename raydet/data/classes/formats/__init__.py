"""Readers of image classification data."""
