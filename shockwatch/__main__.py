"""``python -m shockwatch``."""

import sys

from shockwatch.cli import main

sys.exit(main())
