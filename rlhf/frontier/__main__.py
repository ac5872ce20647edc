"""``python -m rlhf.frontier``: see :func:`rlhf.frontier.running.main`."""

import sys

from rlhf.frontier.running import main

if __name__ == "__main__":
    sys.exit(main())
