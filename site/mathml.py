"""Formulas as MathML, made while building: no scripts, no network, and a screen reader can read them.

In: the LaTeX of a formula. Out: MathML from docutils' converter or latex2mathml's, and the font STIX Two Math
cut down to what formulas can need. A formula that neither converts is a warning, and a warning makes
``make site`` fail.
"""

from __future__ import annotations

import re
from pathlib import Path

import latex2mathml.converter
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)
BARE = re.compile(r"\\([td]?frac|[td]?binom)\s*(\d|[A-Za-z](?![A-Za-z]))\s*(\d|[A-Za-z](?![A-Za-z]))")
FUNCTION = re.compile(r"(\\(?:log|ln|exp|tanh|sin|cos))\s+(?!\\(?:left|[bB]igg?l?)\b)(?=[A-Za-z\\])")
UNTOUCHED = re.compile(r"<m[a-z]+>(?:\\|&</)")  # a command or a column mark that went through as it was
FONT = "STIXTwoMath-Regular.ttf"
# Latin, Greek, punctuation, letter-like signs, arrows, operators, large brackets, mathematical alphabets
CHARACTERS = [(0x20, 0x17F), (0x370, 0x3FF), (0x2000, 0x206F), (0x20D0, 0x20EF), (0x2100, 0x22FF)]
CHARACTERS += [(0x2308, 0x230B), (0x239B, 0x23B7), (0x23DC, 0x23E1), (0x27E6, 0x27EF), (0x1D400, 0x1D7FF)]


def convert(latex: str, block: bool = False) -> str:
    """MathML of a formula without its dollars. Raises ValueError where LaTeX is not understood."""
    bare = re.sub(r"\\.", "", latex, flags=re.S)  # without commands' first letters and \{ and \}
    if bare.count("{") != bare.count("}"):  # docutils would guess where the other one belongs
        raise ValueError(f"unbalanced braces: {latex}")
    latex = BARE.sub(r"\\\1{\2}{\3}", latex)  # \tfrac23: docutils wants braces
    latex = FUNCTION.sub(r"\1\\,", latex)  # the thin space that TeX puts behind a function's name
    try:
        return tex2mathml(latex, as_block=block)
    except MathError as error:  # \dots, \Big …: latex2mathml knows more commands, and fewer environments
        try:
            mathml = latex2mathml.converter.convert(latex, display="block" if block else "inline")
        except Exception as other:
            raise ValueError(f"{other}: {latex}") from error
        if UNTOUCHED.search(mathml):
            raise ValueError(f"{error}: {latex}") from error
        return mathml


def _visit(block: bool):
    def visit(translator, node) -> None:
        from docutils import nodes

        try:
            mathml = convert(node.astext(), block)
        except ValueError as error:
            logger.warning("formula: %s", error, location=node)
            mathml = f"<code>{translator.encode(node.astext())}</code>"
        # a wide formula scrolls by itself, so it must be within reach of the keyboard
        wrap = '<div class="formula" tabindex="0">{}</div>' if block else "{}"
        translator.body.append(wrap.format(mathml))
        raise nodes.SkipNode

    return visit


def write_font(folder: Path) -> Path:
    """``math.woff`` in ``folder``: the characters of :data:`CHARACTERS` with their sizes and pieces."""
    import ziamath
    from fontTools import subset

    options = subset.Options(flavor="woff", layout_features=["ssty"], name_IDs=["*"], notdef_outline=True)
    source = Path(ziamath.__file__).parent / "fonts" / FONT
    font = subset.load_font(str(source), options)
    cut = subset.Subsetter(options)
    cut.populate(unicodes=[code for first, last in CHARACTERS for code in range(first, last + 1)])
    cut.subset(font)
    folder.mkdir(parents=True, exist_ok=True)
    subset.save_font(font, str(folder / "math.woff"), options)
    return folder / "math.woff"


def _on_finish(app, exception) -> None:
    if exception is None and app.builder.format == "html":
        write_font(Path(app.outdir) / "_static")


def setup(app) -> dict:
    app.add_html_math_renderer(
        "mathml", inline_renderers=(_visit(False), None), block_renderers=(_visit(True), None)
    )
    app.config.html_math_renderer = "mathml"
    app.connect("build-finished", _on_finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
