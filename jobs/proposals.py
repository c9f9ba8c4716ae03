"""Entry point for `ray job submit --working-dir . -- python jobs/proposals.py IMAGES --out DIR [...]`."""

import sys

from raydet.cli import main

if __name__ == "__main__":
    sys.exit(main(["proposals", *sys.argv[1:]]))
