"""Boxes that may hold an object, without a class, of any number of images: `raydet proposals`. See docs/proposals.md.

A `sources.Source` says boxes of an image; `filters` keeps those of a fit shape and size; `raydet.image_jobs` does that
for all images, and `raydet.data.proposals` is the file that comes of it.
"""
