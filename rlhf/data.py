"""Reviews and prompts, from any folder in the layout of ``stanfordnlp/imdb``.

In: a folder with ``**/train-*.parquet`` and ``**/test-*.parquet``; columns ``text`` and ``label`` (0 neg,
1 pos).
Out: checked :class:`datasets.Dataset` objects; lesson 07 turns them into queries with :func:`build_prompts`.
Preference pairs, which lesson 05 trains on, are :mod:`rlhf.pairs`; its functions can be had from here too.

The parquet files are read directly, not through ``datasets.load_dataset``: its cache is keyed by the folder's
name, so that two folders called ``imdb`` can answer with each other's rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf.errors import BadData, MissingAssets
from rlhf.pairs import load_pairs, review_pairs, save_pairs, split_prompt

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "build_prompts",
    "collator",
    "load_pairs",
    "load_reviews",
    "plain_text",
    "review_pairs",
    "save_pairs",
    "split_prompt",
]

LABEL_NAMES = ("neg", "pos")


def load_reviews(folder: str | Path, split: str = "train") -> Dataset:
    """The reviews of one split, checked: ``text`` (never empty), ``label`` (0 neg, 1 pos; both occur).

    Raises:
        MissingAssets: no such folder or no parquet file of that split.
        BadData: unreadable file, wrong columns, no rows, empty or non-text reviews, labels other than 0
            and 1, or one class only.
    """
    from datasets import ClassLabel, Dataset, Features, Value

    table = _read_table(Path(folder), split)
    _check_table(table, Path(folder), split)
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(LABEL_NAMES))})
    # Without the file's own schema metadata, which may describe other features than those asked for here.
    plain = table.select(["text", "label"]).replace_schema_metadata(None)
    return Dataset(plain.cast(features.arrow_schema))


def plain_text(text: str) -> str:
    """A review without the ``<br />`` that IMDB's pages left in it."""
    return " ".join(text.replace("<br />", " ").split())


def build_prompts(
    reviews: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    length_sampler: Callable[[], int],
    min_chars: int = 200,
) -> Dataset:
    """Cut the opening of each review to a random number of tokens: the queries of PPO.

    Args:
        reviews: rows with ``text``. Reviews of ``min_chars`` characters or fewer are left out.
        length_sampler: called once per review; returns the number of tokens of its query.

    Returns:
        A dataset with ``review`` (str), ``input_ids`` (int64 tensor, ``(Q,)``, ragged) and ``query`` (str).
    """
    from datasets import Dataset

    texts = [text for text in reviews["text"][:] if len(text) > min_chars]
    if not texts:
        raise BadData(
            f"没有一条影评超过 {min_chars} 个字符，无法切出提示。",
            f"No review is longer than {min_chars} characters, so there is nothing to cut prompts from.",
        )
    lengths = [int(length_sampler()) for _ in texts]
    # 16 characters per token are plenty; tokenising whole reviews would take seconds for nothing.
    enough = 16 * max(lengths) + 16
    openings = [text[:enough] for text in texts]
    encoded = tokenizer(openings, add_special_tokens=False)["input_ids"]
    ids = [tokens[:length] for tokens, length in zip(encoded, lengths, strict=True)]
    rows = {"review": texts, "input_ids": ids, "query": tokenizer.batch_decode(ids)}
    return Dataset.from_dict(rows).with_format("torch", columns=["input_ids"], output_all_columns=True)


def collator(rows: list[dict]) -> dict[str, list]:
    """Rows to a batch of plain lists: queries differ in length and are padded only where needed."""
    return {key: [row[key] for row in rows] for key in rows[0]}


def _read_table(folder: Path, split: str) -> pa.Table:
    files = sorted(folder.rglob(f"{split}-*.parquet")) or sorted(folder.rglob(f"{split}.parquet"))
    if not files:
        raise MissingAssets(
            f"在 {folder} 里找不到 {split}-*.parquet。课程数据：./download.sh，或 python -m rlhf.build。",
            f"There is no {split}-*.parquet under {folder}. Get the course's data with ./download.sh "
            "or python -m rlhf.build.",
        )
    try:
        return pa.concat_tables([pq.read_table(file).replace_schema_metadata(None) for file in files])
    except (pa.ArrowException, OSError) as error:
        raise BadData(
            f"无法读取 {folder} 的 {split} 数据，文件可能损坏或不完整：{error}",
            f"The {split} data under {folder} cannot be read; the files may be damaged or cut short: {error}",
        ) from error


def _check_table(table: pa.Table, folder: Path, split: str) -> None:
    where = f"{folder.name}/{split}"
    if missing := [name for name in ("text", "label") if name not in table.column_names]:
        raise BadData(
            f"{where} 缺少列 {missing}；现有的列：{table.column_names}。需要 text 和 label。",
            f"{where} lacks the columns {missing}; it has {table.column_names}. Needed: text and label.",
        )
    if table.num_rows == 0:
        raise BadData(f"{where} 没有任何行。", f"{where} has no rows.")
    _check_texts(table.column("text"), where)
    _check_labels(table.column("label"), where)


def _check_texts(column: pa.ChunkedArray, where: str) -> None:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise BadData(
            f"{where} 的 text 列不是文本，而是 {column.type}。",
            f"The text column of {where} is not text but {column.type}.",
        )
    empty = [row for row, text in enumerate(column.to_pylist()) if text is None or not text.strip()]
    if empty:
        raise BadData(
            f"{where} 有 {len(empty)} 条空影评，第一条在第 {empty[0]} 行。请删除它们。",
            f"{where} has {len(empty)} empty reviews, the first in row {empty[0]}. Remove them.",
        )


def _check_labels(column: pa.ChunkedArray, where: str) -> None:
    counts = Counter(column.to_pylist())
    if not pa.types.is_integer(column.type) or set(counts) - {0, 1}:
        raise BadData(
            f"{where} 的 label 只能是 0(neg)或 1(pos)，现有：{sorted(map(str, counts))[:5]}。",
            f"The labels of {where} must be 0 (neg) or 1 (pos), but there are "
            f"{sorted(map(str, counts))[:5]}.",
        )
    if len(counts) < 2:
        only = LABEL_NAMES[next(iter(counts))]
        raise BadData(
            f"{where} 只有一个类别（{only})，分类器无从学起。",
            f"{where} has one class only ({only}); a classifier cannot learn from it.",
        )
