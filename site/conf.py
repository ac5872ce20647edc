"""Settings of Sphinx for one language of the course's site; ``python -m tools.site`` runs it twice.

In: the pages that ``tools.site_pages`` wrote, and the tag ``zh`` or ``en``. Out: HTML that asks nothing of
the network: formulas are MathML with a font of their own, notebooks are shown as they are and never run.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

chinese_pages = tags.has("zh")  # noqa: F821  (Sphinx puts `tags` here)


def either(zh: str, en: str) -> str:
    return zh if chinese_pages else en


project = html_title = either("动手学 RLHF", "RLHF, hands on")
language = either("zh_CN", "en")
copyright = "Apache-2.0"
html_show_copyright = html_show_sphinx = False

extensions = ["myst_nb", "mathml", "chinese", "words"]
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # would come from a CDN; committed notebooks hold no widgets
nb_code_prompt_show = either("显示答案", "Show the solution")
nb_code_prompt_hide = either("收起答案", "Hide the solution")
myst_enable_extensions = ["dollarmath", "amsmath", "html_image"]
myst_heading_anchors = 4  # [links](#such-as-this) within a page
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]  # a cell may begin below the level before it
highlight_language = "none"

html_theme = "pydata_sphinx_theme"
html_baseurl = ""
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
templates_path = ["_templates"]
html_css_files = ["course.css"]
html_js_files = [("switch.js", {"defer": "defer"}), ("code.js", {"defer": "defer"})]
html_show_search_summary = False  # found.js has better ones
html_copy_source = html_use_index = False
html_show_sourcelink = False
html_search_language = either("zh", "en")
html_search_scorer = str(Path(__file__).parent / "scorer.js")
html_sidebars = {page: [] for page in ("index", "guide", "results", "downloads", "glossary", "files/**")}
html_sidebars["lessons/**"] = ["sidebar-nav-bs"]
html_context = {"default_mode": "auto"}
html_theme_options = {
    "logo": {"text": project},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button-field", "language-switch"],  # within sight on a phone, too
    "header_links_before_dropdown": 6,
    "show_nav_level": 1,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
    "search_bar_text": either("搜索", "Search"),
    "back_to_top_button": True,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
