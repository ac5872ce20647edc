"""Search in Chinese pages: text is cut into single characters and pairs of neighbours.

In: the text of a page (Python, while building) or a query (JavaScript, in the reader's browser). Out: the
same terms from both. Sphinx's own splitter for Chinese needs jieba for the pages and does not cut the query,
so that 奖励模型 finds nothing where the index holds 奖励 and 模型. Pairs need no dictionary and miss no word.
"""

from __future__ import annotations

import re

from sphinx.search import languages
from sphinx.search.zh import SearchChinese

HAN = "\\u3400-\\u4dbf\\u4e00-\\u9fff"
RUN = re.compile(f"[{HAN}]+")
WORD = re.compile(r"[A-Za-z0-9_\u00c0-\u024f\u0370-\u03ff]+")

SPLIT_QUERY = f"""
var splitQuery = (query) => {{
  const terms = query.match(/[A-Za-z0-9_\\u00c0-\\u024f\\u0370-\\u03ff]+/g) || [];
  for (const run of query.match(/[{HAN}]+/g) || [])
    if (run.length == 1) terms.push(run);
    else for (let i = 0; i + 1 < run.length; i++) terms.push(run.slice(i, i + 2));
  return terms;
}};
"""


class ByPairs(SearchChinese):
    """Chinese by characters and pairs, other words as Sphinx does it (English stems)."""

    js_splitter_code = SPLIT_QUERY
    language_name = (
        "English"  # of the stemmer in JavaScript: Sphinx looks for ChineseStemmer, and there is none
    )

    def split(self, input: str) -> list[str]:
        """``"看奖励"`` → 看, 奖, 励, 看奖, 奖励; a query of several characters asks for the pairs alone."""
        latin = WORD.findall(input)
        self.latin_terms.update(latin)
        for run in RUN.findall(input):
            latin += [*run, *(run[i : i + 2] for i in range(len(run) - 1))]
        return latin

    def word_filter(self, stemmed_word: str) -> bool:
        return not stemmed_word.isdigit() and stemmed_word not in self.stopwords


def setup(app) -> dict:
    languages["zh"] = ByPairs
    return {"parallel_read_safe": True, "parallel_write_safe": True}
