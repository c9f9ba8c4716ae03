"""The teacher pool: a label broker and teacher actors on Ray. Thin shells around `raydet.labels`."""
