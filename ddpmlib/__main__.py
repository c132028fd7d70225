"""``python -m ddpmlib``: the same as the command ``ddpmlib``."""

import sys

from ddpmlib.cli.command import main

sys.exit(main())
