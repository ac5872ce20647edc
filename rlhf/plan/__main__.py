"""``python -m rlhf.plan``: see :mod:`rlhf.plan`."""

import sys

from .command import main

sys.exit(main())
