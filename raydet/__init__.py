"""raydet: label-efficient object detection on Ray."""

__version__ = "0.1.0"
