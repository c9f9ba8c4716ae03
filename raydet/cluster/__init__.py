"""Where Ray is joined, what a run needs of it, and whether every node sees the results' folder."""
