"""The pages of the site in one language, as sources for Sphinx.

In: the committed notebooks, both READMEs, GLOSSARY.md and benchmarks/RESULTS*.md. Out: a folder with
``index.md``, ``guide.md``, ``results.md``, ``glossary.md``, ``downloads.md``, ``lessons/*.ipynb``, and a page
for every other file of the checkout that one of them links to. Nothing is executed.
"""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from rlhf.errors import BadData
from rlhf.files import whole_text
from tools import alts
from tools.notebooks import Course, one_language, read, tags
from tools.site_links import Links, label
from tools.site_sections import COMMENT, Readme, halves, numbered, outside_code, page_name, results

PICTURES = {".svg", ".png", ".jpg", ".gif", ".webp"}
LEXERS = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml"}
WORDS = {
    "zh": {
        "guide": "开始使用",
        "lessons": "课程",
        "results": "结果",
        "glossary": "术语表",
        "downloads": "下载",
        "measured": "测量记录（英文）",
        "notebook": "下载这一课：<a href='{address}'>{name}</a>，放进课程的 `notebooks/` 里打开。",
        "file": "课程文件 `{path}`。",
        "alone": "notebook 需要课程的代码，请放进课程文件夹的 `notebooks/` 里打开；中英对照的在课程包里。",
        "whole": "整个课程：<a href='{address}'>rlhf-course.zip</a>",
        "no decks": "这次没有附上幻灯片：先运行 `make slides`，再运行 `make site`。",
        "table": "课 | notebook | 幻灯片",
    },
    "en": {
        "guide": "Getting started",
        "lessons": "Lessons",
        "results": "Results",
        "glossary": "Glossary",
        "downloads": "Downloads",
        "measured": "Measurements",
        "notebook": "Download this lesson: <a href='{address}'>{name}</a>, to be opened in `notebooks/`.",
        "file": "The course's file `{path}`.",
        "alone": "A notebook needs the course's code: put it into `notebooks/` of the course's folder. "
        "Notebooks with both languages are in the whole course.",
        "whole": "The whole course: <a href='{address}'>rlhf-course.zip</a>",
        "no decks": "No slides came with this build: run `make slides`, then `make site`.",
        "table": "lesson | notebook | slides",
    },
}


class Pages:
    """Writes the sources of one language to ``folder``; ``downloads`` is where files for readers lie."""

    def __init__(self, course: Course, language: str, folder: Path, downloads: Path):
        self.course, self.language, self.folder, self.downloads = course, language, folder, downloads
        self.words = WORDS[language]
        self.links = Links(course.root, language)
        self.titles: dict[str, str] = {}
        self.problems: list[str] = []  # filled by write()

    def write(self) -> None:
        """All of it. Raises BadData for a link that leads nowhere or a README without its lesson table."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in self.course.names():
            if self.course.notebook(name).is_file():
                self._lesson(name)
        readme = Readme(self.course.root / ("README.zh.md" if self.language == "zh" else "README.md"))
        below = "\n".join(self.titles)
        tops = "\n".join(["guide", "lessons/index", "results", "glossary", "downloads"])
        self._page("index", f"{readme.intro}\n{readme.lessons}\n\n{_tree(tops)}")
        self._page("guide", f"# {self.words['guide']}\n\n{readme.rest}")
        lessons = f"# {self.words['lessons']}\n\n{_body(readme.lessons)}\n\n{_tree(below)}"
        self._page("lessons/index", lessons)
        self._results(readme)
        self._page("glossary", glossary(self.course.root / "GLOSSARY.md", self.language), "GLOSSARY.md")
        self._downloads()
        self._files()
        for path in self.links.figures:
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.course.root / path, target)

    def _page(self, name: str, text: str, file: str = "README.md") -> None:
        text = self.links.rewrite(COMMENT.sub("", text), file)
        whole_text(self.folder / f"{name}.md", numbered(text, name.replace("/", "-"))[0])

    def _lesson(self, name: str) -> None:
        notebook = one_language(read(self.course.notebook(name)), self.language)
        told = alts.describe(notebook, alts.load(self.course.root, name), self.language)
        self.problems += [f"{name}: {what}" for what in told]
        lesson_file = self.downloads / self.language / f"{name}.{self.language}.ipynb"
        whole_text(lesson_file, nbformat.writes(notebook))
        self.titles[name] = re.sub(r"^# ", "", notebook.cells[0].source.splitlines()[0])
        address = f"../../downloads/{self.language}/{lesson_file.name}"
        words = self.words["notebook"].format(name=lesson_file.name, address=address)
        whole_text(
            self.folder / "lessons" / f"{name}.ipynb", nbformat.writes(self._shown(notebook, name, words))
        )

    def _shown(self, notebook: NotebookNode, name: str, download: str) -> NotebookNode:
        """The lesson as the site shows it: links moved, headings marked, answers folded."""
        count, cells = 1, []
        for cell in notebook.cells:
            cells.append(cell)
            if cell.cell_type == "markdown":
                cell.source, count = numbered(
                    self.links.rewrite(cell.source, f"notebooks/{name}.ipynb"), name, count
                )
            elif "solution" in tags(cell):
                cell.metadata["tags"] = ["hide-cell"]
            cell.metadata.pop("seconds", None)
            if alts.text(cell):  # where myst-nb, Sphinx's reader of notebooks, looks for it
                cell.metadata["mystnb"] = {"image": {"alt": alts.text(cell)}}
        cells.append(_note(download))
        notebook.cells = cells
        return notebook

    def _results(self, readme: Readme) -> None:
        page = [f"# {self.words['results']}", _body(readme.results), f"## {self.words['measured']}"]
        text = self.links.rewrite(COMMENT.sub("", "\n\n".join(page)), "README.md")
        for file in results(self.course.root):
            own = file.read_text(encoding="utf-8")
            own = self.links.rewrite(COMMENT.sub("", own), f"benchmarks/{file.name}")
            own = outside_code(own, lambda part: re.sub(r"^(#+) ", r"\1## ", part, flags=re.M))
            text += f"\n\n({label(file.name)})=\n{own}"
        whole_text(self.folder / "results.md", numbered(text, "results")[0])

    def _downloads(self) -> None:
        here, rows = self.downloads, []
        for name, title in self.titles.items():
            own = [(f"{self.language}/{name}.{self.language}.ipynb", "ipynb")]
            decks = [(f"slides/{name}.{self.language}.{kind.lower()}", kind) for kind in ("HTML", "PDF")]
            shown = [
                " ".join(
                    f'<a href="../downloads/{file}" aria-label="{html.escape(title)}: {kind}">{kind}</a>'
                    for file, kind in files
                    if (here / file).is_file()
                )
                for files in (own, decks)
            ]
            rows.append(f"| [{title}](/lessons/{name}.ipynb) | {shown[0]} | {shown[1]} |")
        lines = [f"# {self.words['downloads']}", ""]
        if (here / "rlhf-course.zip").is_file():
            lines += [self.words["whole"].format(address="../downloads/rlhf-course.zip"), ""]
        lines += [self.words["alone"], "", f"| {self.words['table']} |", "|---|---|---|", *rows, ""]
        if not any("slides/" in row for row in rows):
            lines.append(self.words["no decks"])
        whole_text(self.folder / "downloads.md", numbered("\n".join(lines), "downloads")[0])

    def _files(self) -> None:
        """A page for every file that some page links to; pages of Markdown may bring in more."""
        done: set[str] = set()
        while waiting := [path for path in self.links.files if path not in done]:
            for path in waiting:
                done.add(path)
                new = self.links.place(path, "")[1]
                if new.startswith("/files/"):
                    self._file(path, self.folder / new[1:])

    def _file(self, path: str, page: Path) -> None:
        text = numbered(self._as_markdown(path), page_name(path))[0]
        whole_text(page, f"---\norphan: true\n---\n{text}")

    def _as_markdown(self, path: str) -> str:
        """A folder as a list, Markdown in this language, a picture as a picture, anything else as code."""
        source, words = self.course.root / path, self.words["file"].format(path=path)
        if source.is_dir():
            names = sorted(each.name for each in source.iterdir() if not each.name.startswith((".", "_")))
            listed = "\n".join([f"# {path}\n", *(f"- [{n}](<{n}>)" for n in names)])
            return self.links.rewrite(listed, f"{path}/-")
        if source.suffix in PICTURES:
            self.links.figures.setdefault(path)
            return f"# {source.name}\n\n![{words}](/{path})\n"
        text = source.read_text(encoding="utf-8", errors="replace")
        if source.suffix == ".md":
            text = COMMENT.sub("", text)
            return self.links.rewrite((halves(text) or {self.language: text})[self.language], path)
        fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
        return f"# {source.name}\n\n{words}\n\n{fence}{LEXERS.get(source.suffix, 'text')}\n{text}\n{fence}\n"


def glossary(path: Path, language: str) -> str:
    """GLOSSARY.md in one language, as a list of terms that Sphinx can search for and link to."""
    own, other = (0, 1) if language == "zh" else (1, 0)
    lines = [f"# {WORDS[language]['glossary']}"]
    listed = False
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("## ") and "·" in line:
            lines += ["```", ""] if listed else [""]
            lines += [line[:3] + line[3:].split("·")[own].strip(), "", "```{glossary}"]
            listed = True
        elif listed and line.startswith("| ") and len(cells) == 4 and cells[:2] != ["中文", "English"]:
            tag = "zh" if other == 0 else "en"
            lines += [
                cells[own],
                f'  <span class="other" lang="{tag}">{cells[other]}</span> {cells[2 + own]}',
                "",
            ]
    if not listed:
        raise BadData("术语表里没有一节词条。", f"{path.name} holds no section of terms.")
    return "\n".join([*lines, "```", ""])


def _body(section: str) -> str:
    """A section without its heading."""
    return section.partition("\n")[2].strip()


def _tree(pages: str) -> str:
    """The navigation below a page; the page itself shows links of its own."""
    return f"```{{toctree}}\n:hidden:\n\n{pages}\n```\n"


def _note(text: str) -> NotebookNode:
    return nbformat.v4.new_markdown_cell(f"```{{note}}\n{text}\n```")
