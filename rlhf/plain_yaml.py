"""YAML as plain data, read by libyaml: the settings of this course, several times a command.

In: text. Out: dicts, lists, numbers, texts. PyYAML's own parser, which is Python, takes a tenth of a second
for a profile, ten times as long; it is used where PyYAML came without libyaml.
"""

from __future__ import annotations

from typing import Any

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse(text: str) -> Any:
    """What the text says. Raises yaml.YAMLError, with line and column, if it is no YAML."""
    return yaml.load(text, Loader=LOADER)
