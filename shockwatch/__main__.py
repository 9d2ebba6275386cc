"""``python -m shockwatch``."""

import sys

from shockwatch.cli import main

if __name__ == "__main__":
    sys.exit(main())
