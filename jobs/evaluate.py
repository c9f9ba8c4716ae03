"""Entry point for `ray job submit --working-dir . -- python jobs/evaluate.py RUN_OR_CHECKPOINT [...]`."""

import sys

from raydet.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
