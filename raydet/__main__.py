"""`python -m raydet` is the `raydet` command."""

import sys

from raydet.cli import main

if __name__ == "__main__":
    sys.exit(main())
