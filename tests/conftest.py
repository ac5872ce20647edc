"""The browser tests need a Chromium and minutes: they run when asked for by name (``make test-browser``)."""

import os

collect_ignore = [] if os.environ.get("RLHF_BROWSER") else ["browser"]
