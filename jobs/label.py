"""Entry point for `ray job submit --working-dir . -- python jobs/label.py CHECKPOINT IMAGES --out DIR [...]`."""

import sys

from raydet.cli import main

if __name__ == "__main__":
    sys.exit(main(["label", *sys.argv[1:]]))
