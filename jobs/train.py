"""Entry point for `ray job submit --working-dir . -- python jobs/train.py CONFIG [key=value ...] [--resume]`."""

import sys

from raydet.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
