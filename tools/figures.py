"""Drawings (``figs/*.svg``): whole, without anything from elsewhere, English, and shown somewhere.

In: the folder of the drawings. Out: problems, one line each. That each is what its script draws is for
``git diff`` after running the script; colours and contrast are for ``tools.colours``.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from tools import addresses, alts, twins

SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
FROM = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")
TEXTS = (".md", ".py", ".ipynb", ".toml")


def problems(root: Path) -> list[str]:
    """What is wrong with the drawings of the checkout ``root``; empty when nothing is."""
    paths = sorted((root / "figs").glob("*.svg"))
    found = [f"figs/{path.name}: {what}" for path in paths for what in faults(path)]
    used = "\n".join(_texts(root)) if paths else ""
    return found + [f"figs/{path.name}: nothing shows it" for path in paths if path.name not in used]


def faults(path: Path) -> Iterator[str]:
    """What is wrong with one drawing."""
    try:
        tree = ElementTree.parse(path)
    except ElementTree.ParseError as error:
        yield f"not readable: {error}"
        return
    ids = {element.get("id") for element in tree.iter()}
    for element in tree.iter():
        tag = element.tag.removeprefix(SVG)
        style = f"{element.get('style', '')} {(element.text or '') if tag == 'style' else ''}"
        loads = [a or b for a, b in FROM.findall(style)]
        if tag in ("image", "use", "script", "foreignObject", "feImage"):
            loads += [address for key in ("href", LINK, "src") if (address := element.get(key))]
        yield from (
            f"<{tag}> loads {address[:60]}: a drawing holds all it needs"
            for address in loads
            if not address.startswith(("#", "data:"))
        )
        if tag == "a":
            yield f"a link to {element.get('href') or element.get(LINK)}: from a page it leads elsewhere"
        if tag == "use" and (element.get("href") or element.get(LINK) or "#")[1:] not in ids:
            yield f"<use> draws {element.get('href') or element.get(LINK)}, which is not there"
        if tag == "image":
            said = element.get("aria-label") or element.findtext(f"{SVG}title")
            what = alts.fault(said, "<image>")
            yield from [f"{what} (aria-label or <title>)"] if what else []
        if tag in ("text", "tspan", "title", "desc") and twins.CJK.search(element.text or ""):
            yield f"the words in figures are English: {(element.text or '').strip()[:30]!r}"


def _texts(root: Path) -> Iterator[str]:
    """Everything that may show a drawing, this project's own scripts of drawings apart."""
    for name in addresses.listed(root) or (path.relative_to(root).as_posix() for path in root.rglob("*")):
        if name.endswith(TEXTS) and not name.startswith(("figs/", "tests/", "notebooks/")):
            path = root / name
            if path.is_file():
                yield path.read_text(encoding="utf-8", errors="replace")
