"""Preference pairs: read them from the layouts that exist, or make them from reviews.

In: a file or folder in the HH-RLHF layout (``chosen``, ``rejected``: the whole text, prompt and answer), in
TRL's (``prompt``, ``chosen``, ``rejected``) or in the Orca layout (``system``, ``question``, ``chosen``,
``rejected``), as parquet, jsonl or jsonl.gz; or reviews with labels.
Out: a checked :class:`datasets.Dataset` with two columns of whole texts, ``chosen`` and ``rejected``: what
TRL's RewardTrainer takes and what a reward model reads. Lesson 05 explains them.

Files are read directly, not through ``datasets.load_dataset``, for the reason given in :mod:`rlhf.data`;
the slices (``train[:5000]``) are those of ``datasets``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

from rlhf.errors import BadData, MissingAssets
from rlhf.files import whole_folder

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

COLUMNS = ("chosen", "rejected")
HUMAN, ASSISTANT = "\n\nHuman: ", "\n\nAssistant:"  # how HH-RLHF marks who speaks
CLOSING = ("\n", ">", "]", "】", "：")  # what ends a tag or a label of who speaks; no word goes on behind it
SUFFIXES = (".parquet", ".jsonl", ".json", ".jsonl.gz", ".json.gz")
SENTENCE = re.compile(r"(?<=[.!?])\s+")
CONCEDING = re.compile(r"(Although|Even though|Though|While) ([^,.;:!?()\"]+), ([^,.;:!?()\"]+)([.!])")


# ------------------------------------------------------------------------------------------------- reading


def load_pairs(
    path: str | Path, split: str | Mapping[str, str] = "train", *, drop_bad: bool = False
) -> Dataset | dict[str, Dataset]:
    """The preference pairs of ``path``, checked: ``chosen`` and ``rejected``, both whole texts.

    Args:
        path: one file, or a folder (and its subfolders) with files named after their split, such as
            ``harmless-base/train.jsonl.gz`` or ``data/test-00000-of-00001.parquet``. A lone file whose name
            says nothing is the split ``train``.
        split: a slice as ``datasets`` writes it: ``"train"``, ``"train[:5000]"``, ``"test[50%:]"``; or a
            mapping such as ``{"train": "train[:5000]", "test": "test[:500]"}``, which gives a dict.
        drop_bad: leave out rows with an empty text or two equal ones, and say how many; otherwise they raise.

    Raises:
        MissingAssets: no such path, or no file of that split.
        BadData: a slice that cannot be read or is empty, a damaged file, wrong columns, no text, empty
            texts, equal pairs.
    """
    if isinstance(split, Mapping):
        return {name: load_pairs(path, part, drop_bad=drop_bad) for name, part in split.items()}
    from datasets import Dataset

    path = Path(path)
    names = [part.split("[")[0].strip() for part in split.split("+")]
    tables = {name: _whole_texts(_read(path, name), f"{path.name}/{name}") for name in names}
    table = pa.concat_tables(_cut(tables, split, path.name))
    return Dataset(_check_rows(table, f"{path.name}/{split}", drop_bad))


def load_splits(path: str | Path, train: int, test: int) -> dict[str, Dataset]:
    """``{"train": …, "test": …}`` with at most so many pairs, rows without a preference left out.

    Where there is no file of the split ``test``, its pairs are the last ones of ``train``, which then are not
    among those to learn from.

    Raises:
        MissingAssets, BadData: as :func:`load_pairs`; or there are not more than ``test`` pairs.
    """
    try:
        return load_pairs(path, {"train": f"train[:{train}]", "test": f"test[:{test}]"}, drop_bad=True)
    except MissingAssets:
        rows = load_pairs(path, "train", drop_bad=True)
    first = len(rows) - test
    if first < 1:
        raise BadData(
            f"{Path(path).name} 只有 {len(rows)} 对，留出 {test} 对检验后就没有可学的了。",
            f"{Path(path).name} has {len(rows)} pairs; with {test} of them held out none are left to learn "
            "from.",
        )
    return {"train": rows.select(range(min(train, first))), "test": rows.select(range(first, len(rows)))}


def to_text(question: str, answer: str, system: str | None = "") -> str:
    """One turn as HH-RLHF writes it; ``system`` goes in front. Scoring must use what training used."""
    return f"{system or ''}{HUMAN}{question}{ASSISTANT} {answer}"


def split_prompt(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Two whole texts → what they share at the beginning, and their two answers.

    In HH-RLHF's dialogues the prompt ends with the last ``Assistant:``; elsewhere it is the longest common
    beginning that ends before a space or behind a tag, so that no word is torn apart.
    """
    end = chosen.rfind(ASSISTANT) + len(ASSISTANT)
    if end < len(ASSISTANT) or chosen[:end] != rejected[:end]:
        same = _same(chosen, rejected)
        rest = chosen[same : same + 1] + rejected[same : same + 1]
        torn = rest.strip() and not chosen[:same].endswith((" ", *CLOSING))
        behind = max(chosen.rfind(mark, 0, same) + 1 for mark in CLOSING)
        end = max(chosen.rfind(" ", 0, same), behind) if torn else same
    return chosen[:end], chosen[end:], rejected[end:]


def save_pairs(folder: str | Path, splits: Mapping[str, Dataset]) -> Path:
    """Write ``{split}.jsonl.gz`` files in the layout of HH-RLHF; the folder appears whole or not at all."""
    folder = Path(folder)
    with whole_folder(folder) as partial:
        partial.mkdir()
        for name, pairs in splits.items():
            pairs.select_columns(list(COLUMNS)).to_json(partial / f"{name}.jsonl.gz", compression="gzip")
    return folder


def _read(path: Path, split: str) -> pa.Table:
    """All rows of one split, with whatever columns the files have."""
    files = _files(path, split)
    try:
        tables = [_read_file(file) for file in files]
        return pa.concat_tables(tables, promote_options="default")
    except (pa.ArrowException, OSError, EOFError) as error:
        raise BadData(
            f"无法读取 {path.name} 的 {split}：文件损坏、不完整，或不是一行一个 JSON 对象：{error}",
            f"The {split} pairs of {path.name} cannot be read; a file is damaged, cut short, or not one JSON "
            f"object per line: {error}",
        ) from error


def _files(path: Path, split: str) -> list[Path]:
    if not path.exists():
        raise MissingAssets(f"找不到偏好数据 {path}。", f"There are no preference pairs at {path}.")
    everything = [path] if path.is_file() else sorted(path.rglob("*"))
    data = [file for file in everything if file.is_file() and file.name.endswith(SUFFIXES)]
    named = re.compile(rf"{re.escape(split)}(?![a-zA-Z0-9])")
    files = [file for file in data if named.match(file.name) or file.parent.name == split]
    says_nothing = len(data) == 1 and not re.match(r"(train|test|valid)", data[0].name)
    if files or (split == "train" and says_nothing):
        return files or data
    there = ", ".join(file.name for file in data[:6]) or "-"
    raise MissingAssets(
        f"{path} 里没有 {split} 的数据文件；现有：{there}。可读的格式：{' '.join(SUFFIXES)}。",
        f"There is no file of the split {split} in {path}; there are: {there}. "
        f"Readable: {' '.join(SUFFIXES)}.",
    )


def _read_file(file: Path) -> pa.Table:
    if file.suffix == ".parquet":
        return pq.read_table(file).replace_schema_metadata(None)
    with pa.input_stream(file) as stream:  # unzips by the file's name
        content = stream.read()
    if not content.strip():
        return pa.table({})
    # One block, so that no row is too long for it.
    options = pj.ReadOptions(block_size=len(content) + 1)
    return pj.read_json(pa.BufferReader(content), read_options=options)


def _whole_texts(table: pa.Table, where: str) -> pa.Table:
    """Any of the three layouts → ``chosen`` and ``rejected`` with the prompt in front."""
    names = set(table.column_names)
    if table.num_rows == 0:
        raise BadData(f"{where} 没有任何行。", f"{where} has no rows.")
    if missing := [name for name in COLUMNS if name not in names]:
        raise BadData(
            f"{where} 缺少列 {missing}；现有的列：{table.column_names}。需要 chosen 和 rejected，"
            "问题可以另放在 prompt 列，或 system 与 question 列。",
            f"{where} lacks the columns {missing}; it has {table.column_names}. Needed: chosen and rejected; "
            "the question may stand in a column prompt, or in system and question.",
        )
    used = [name for name in ("system", "question", "prompt", *COLUMNS) if name in names]
    for name in used:
        _check_text_column(table.column(name), f"{where}: {name}")
    rows = table.select(used).to_pydict()
    if "question" in names:
        empty = [""] * table.num_rows
        for name in COLUMNS:
            parts = zip(rows["question"], rows[name], rows.get("system", empty), strict=True)
            rows[name] = [to_text(q, a, s) if _words(q) and _words(a) else "" for q, a, s in parts]
    elif "prompt" in names:
        for name in COLUMNS:
            parts = zip(rows["prompt"], rows[name], strict=True)
            rows[name] = [p + a if _words(p) and _words(a) else "" for p, a in parts]
    return pa.table({name: pa.array(rows[name], pa.string()) for name in COLUMNS})


def _words(text: str | None) -> bool:
    return bool(text and text.strip())


def _check_text_column(column: pa.ChunkedArray, where: str) -> None:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return
    turns = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_struct(kind)
    raise BadData(
        f"{where} 列不是文本，而是 {'对话（消息列表）' if turns else kind}。请先把它写成文本。",
        f"The column {where} is not text but {'a conversation (a list of messages)' if turns else kind}. "
        "Turn it into text first.",
    )


def _cut(tables: Mapping[str, pa.Table], split: str, where: str) -> Iterator[pa.Table]:
    """The slices that ``split`` asks for, by the rules of ``datasets``."""
    from datasets import ReadInstruction

    rows = {name: table.num_rows for name, table in tables.items()}
    try:
        parts = ReadInstruction.from_spec(split).to_absolute(rows)
    except (ValueError, AssertionError) as error:
        raise BadData(
            f"看不懂切片 {split!r}。例子：train、train[:5000]、train[10%:20%]。",
            f"The slice {split!r} cannot be read. Examples: train, train[:5000], train[10%:20%].",
        ) from error
    for part in parts:
        if part.to <= part.from_:
            raise BadData(
                f"切片 {split!r} 里一行也没有：{where} 的 {part.splitname} 有 {rows[part.splitname]} 行。",
                f"The slice {split!r} holds no row: {part.splitname} of {where} "
                f"has {rows[part.splitname]} rows.",
            )
        yield tables[part.splitname].slice(part.from_, part.to - part.from_)


def _check_rows(table: pa.Table, where: str, drop_bad: bool) -> pa.Table:
    """Every row has two texts, and they differ."""
    rows = list(zip(*(table.column(name).to_pylist() for name in COLUMNS), strict=True))
    empty = [i for i, pair in enumerate(rows) if not all(map(_words, pair))]
    equal = [i for i, (chosen, rejected) in enumerate(rows) if chosen and chosen == rejected]
    bad = {*empty, *equal}
    if drop_bad and len(bad) < len(rows):
        if bad:
            print(f"{where}: left out {len(empty)} rows with an empty text, {len(equal)} with two equal ones")
        return table.take([i for i in range(len(rows)) if i not in bad])
    if empty:
        raise BadData(
            f"{where} 有 {len(empty)} 行缺少文本（chosen、rejected 或问题是空的），第一处是第 {empty[0]} 行。"
            "删掉它们，或用 drop_bad=True 跳过。",
            f"{where} has {len(empty)} rows with an empty text (chosen, rejected or the question), the first "
            f"is row {empty[0]}. Remove them, or leave them out with drop_bad=True.",
        )
    if equal:
        raise BadData(
            f"{where} 有 {len(equal)} 行的 chosen 和 rejected 完全相同，第一处是第 {equal[0]} 行："
            "这样的一对说不出偏好。删掉它们，或用 drop_bad=True 跳过。",
            f"{where} has {len(equal)} rows whose chosen and rejected are equal, first row {equal[0]}; "
            "such a pair prefers nothing. Remove them, or leave them out with drop_bad=True.",
        )
    return table


# -------------------------------------------------------------------------------------- pairs from reviews


def review_pairs(
    reviews: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    tokens: tuple[int, int] = (12, 48),
    turned: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """Pairs from labelled reviews: the same opening, the text of a positive review preferred.

    Most pairs are two pieces, one from a positive and one from a negative review. A piece starts at a
    sentence and is cut off after some tokens, in the middle of a sentence if it so happens: like a query
    with the policy's continuation. Both begin with the same two words and their lengths are drawn alike, so
    neither the opening nor the length tells which is better.

    A share of ``turned`` pairs is one sentence and the same sentence with its halves exchanged: "Although
    the music was dull, the story was wonderful." against "Although the story was wonderful, the music was
    dull." The words are the same, and only their order tells. (Where reviews hold fewer such sentences,
    there are fewer.)

    No review gives more than one pair, so the pairs are independent of each other. The preference is the
    review's label, not the piece's: some pieces have not said yet what they think, and some say the
    opposite. Such pairs are the label noise of this data set.

    Args:
        reviews: rows with ``text`` and ``label`` (0 negative, 1 positive).
        tokens: the shortest and the longest piece.

    Raises:
        BadData: the reviews do not give ``count`` pairs.
    """
    from datasets import Dataset

    from rlhf.data import plain_text

    rng = random.Random(seed)
    texts, labels = [plain_text(text) for text in reviews["text"]], list(reviews["label"])
    used: set[int] = set()
    rows = list(islice(_turned(texts, labels, used), round(turned * count)))
    matched = _match(texts, labels, used, rng)
    while len(rows) < count and (some := list(islice(matched, count - len(rows) + 16))):
        rows += _cut_pieces(some, tokenizer, tokens, rng)
    if len(rows) < count:
        raise BadData(
            f"{len(texts)} 条影评只凑出 {len(rows)} 对，不够 {count} 对。",
            f"{len(texts)} reviews give {len(rows)} pairs, not {count}.",
        )
    rows = rows[:count]
    rng.shuffle(rows)
    return Dataset.from_list([dict(zip(COLUMNS, pair, strict=True)) for pair in rows])


def is_turned(chosen: str, rejected: str) -> bool:
    """Whether a pair is one sentence and the same with its halves exchanged."""
    found = CONCEDING.fullmatch(chosen)
    return bool(found) and rejected == _turn(found)


def _turn(sentence: re.Match) -> str:
    """``Although A, B.`` → ``Although B, A.``: the weight moves to the other half."""
    return "{0} {2}, {1}{3}".format(*sentence.groups())


def _turned(texts: Sequence[str], labels: Sequence[int], used: set[int]) -> Iterator[tuple[str, str]]:
    """The conceding sentences of the reviews, at most one each; what a review ends on is what it means."""
    for row, text in enumerate(texts):
        found = next(filter(None, map(CONCEDING.fullmatch, SENTENCE.split(text))), None)
        if found:
            used.add(row)
            yield (found[0], _turn(found)) if labels[row] else (_turn(found), found[0])


def _match(
    texts: Sequence[str], labels: Sequence[int], used: set[int], rng: random.Random
) -> Iterator[tuple[str, str]]:
    """Pieces that begin with the same two words, the one of a positive review first; each review once."""
    starts = [
        (row, start)
        for row, text in enumerate(texts)
        if row not in used
        for start in [0, *(match.end() for match in SENTENCE.finditer(text))]
    ]
    rng.shuffle(starts)
    waiting: dict[tuple, list[tuple[int, int]]] = {}  # (opening, label) -> pieces without a partner yet
    for row, start in starts:
        if row in used:
            continue
        text, label = texts[row], labels[row]
        opening = tuple(text[start : start + 60].split(maxsplit=2)[:2])
        others = waiting.get((opening, 1 - label), [])
        while others and others[-1][0] in used:
            others.pop()
        if not others:
            waiting.setdefault((opening, label), []).append((row, start))
            continue
        other, other_start = others.pop()
        used |= {row, other}
        mine, theirs = text[start:], texts[other][other_start:]
        yield (mine, theirs) if label else (theirs, mine)


def _cut_pieces(matched, tokenizer, tokens: tuple[int, int], rng: random.Random) -> list[tuple[str, str]]:
    """Cut both sides to lengths drawn alike; leave out pairs that are too short or too much alike."""
    letters = 7 * tokens[1]  # more than so many tokens have, and less than most reviews
    flat = [text[:letters] for pair in matched for text in pair]
    encoded = tokenizer(flat, add_special_tokens=False, verbose=False)["input_ids"]
    rows = []
    for chosen, rejected in zip(encoded[::2], encoded[1::2], strict=True):
        middle = rng.randint(*tokens)
        limits = [min(max(middle + rng.randint(-3, 3), tokens[0]), tokens[1]) for _ in range(2)]
        long_enough = min(len(chosen), len(rejected)) >= max(limits)
        if long_enough and 2 * _same(chosen, rejected) <= min(limits):
            rows.append((chosen[: limits[0]], rejected[: limits[1]]))
    if not rows:  # batch_decode would take the empty list for one empty text
        return []
    texts = tokenizer.batch_decode([ids for pair in rows for ids in pair])
    return list(zip(texts[::2], texts[1::2], strict=True))


def _same(a: Sequence, b: Sequence) -> int:
    """How many elements two sequences share at the beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
