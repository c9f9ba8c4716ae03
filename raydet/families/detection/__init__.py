"""Detection: boxes, found, gated, carried from view to view, measured by COCO's AP."""
