"""``python -m ddpmlib``: the same as the command ``ddpmlib``."""

import sys

from ddpmlib import interruption

with interruption.ending_at_once():
    from ddpmlib.cli.command import main

sys.exit(main())
