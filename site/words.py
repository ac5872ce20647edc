"""What the search shows of a page: its sections with their words, in a script that works without a server.

In: the pages as Sphinx writes them. Out: ``_static/sections.js``, for every page a list of its sections (an
entry of the glossary is one): anchor, title, text. Sphinx's own summaries fetch the page, which a browser
refuses where a site is opened as a file, and they do not lead to the section. On the way, two things that
readers of the screen or users of the keyboard would miss are added to the pages.
"""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

SILENT = {"script", "style", "button"}
BREAKS = {"p", "div", "li", "td", "th", "tr", "dd", "dt", "br", "pre", "summary", "figcaption"}
HEADS = {"h1", "h2", "h3", "h4", "h5", "h6"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
LABELLED = '<summary aria-label="Toggle hidden content">'  # hides the words that it shows, in English
WIDE = '<div class="rlhf-grid">'  # scrolls sideways, so the keyboard must reach it


class Sections(HTMLParser):
    """The sections of a page: ``found`` holds ``[anchor, title, text]`` of each, in the page's order."""

    def __init__(self, body: str):
        super().__init__(convert_charrefs=True)
        self.found: list[list[str]] = [["", "", ""]]
        self.open: list[tuple[str, bool, int]] = []  # element, whether its text is silent, section around it
        self.feed(body)
        self.close()
        tidy = [[anchor, *(" ".join(text.split()) for text in rest)] for anchor, *rest in self.found]
        self.found = [each for each in tidy if any(each[1:])]

    @property
    def here(self) -> int:
        return self.open[-1][2] if self.open else 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attributes}
        place, own = self.here, given.get("id", "")
        if tag in BREAKS:
            self.found[place][2] += " "
        if tag in VOID:
            return
        silent = tag in SILENT or "headerlink" in given.get("class", "").split()
        silent = silent or bool(self.open and self.open[-1][1])
        if own and (tag == "section" or (tag == "dt" and own.startswith("term-"))):
            self.found.append([own, "", ""])
            place = len(self.found) - 1
        if tag == "dd" and self.found[-1][0].startswith("term-"):
            place = len(self.found) - 1
        self.open.append((tag, silent, place))

    def handle_endtag(self, tag: str) -> None:
        for place in range(len(self.open) - 1, -1, -1):
            if self.open[place][0] == tag:
                del self.open[place:]
                return

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][1]:
            return
        title = any(tag in HEADS or tag == "dt" for tag, _, place in self.open if place == self.here)
        self.found[self.here][1 if title else 2] += data


def _on_page(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    if pagename == "index":
        context["docstitle"] = ""  # the first page is called like the site
    if pagename == "search":
        app.add_js_file("sections.js")
        app.add_js_file("found.js")
    if context.get("body") and doctree is not None:
        body = context["body"].replace(LABELLED, "<summary>")
        context["body"] = body.replace(WIDE, WIDE.replace(">", ' tabindex="0">'))
        app.course_sections[pagename] = Sections(body).found


def _on_finish(app, exception) -> None:
    if exception is None and app.builder.format == "html":
        text = json.dumps(app.course_sections, ensure_ascii=False, separators=(",", ":"))
        path = Path(app.outdir) / "_static" / "sections.js"
        path.write_text(f"const SECTIONS = {text};\n", encoding="utf-8")


def setup(app) -> dict:
    app.course_sections = {}
    app.connect("html-page-context", _on_page)
    app.connect("build-finished", _on_finish)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
