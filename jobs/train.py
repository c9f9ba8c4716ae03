"""Entry point for `ray job submit --working-dir . -- python jobs/train.py --config FILE [key=value ...]`.

Add `--start-or-resume`, and the same command starts the run, or goes on with it after a stop.
"""

import argparse
import sys

from raydet.cli import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    job, words = parser.parse_known_args()
    sys.exit(main(["train", *([job.config] if job.config else []), *words]))
