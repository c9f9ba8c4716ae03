"""Entry point for `ray job submit --working-dir . -- python jobs/tune.py SPACE --config CONFIG [key=value ...]`."""

import sys

from raydet.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
