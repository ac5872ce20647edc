"""Texts to scores: the reward model of the course, and a second judge that takes no part in training.

In: full texts (query + response). Out: one float per text, a tensor ``(B,)`` on the CPU.
Lesson 05 explains reward models and trains one for :class:`PairwiseReward`; lesson 07 uses all classes here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rlhf.errors import BadData, MissingAssets
from rlhf.text_form import ATTRIBUTE, TextForm

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


LONGEST = 512  # tokens of a text that a reward model of ours reads, unless it was trained on more or fewer


class SentimentReward:
    """A sentiment classifier as a reward model: the **raw logit** of the label called ``POSITIVE``.

    Equal to ``pipeline("sentiment-analysis", top_k=None, function_to_apply="none")`` with the entry picked by
    its label *name*. Never pick it by position: ``top_k=None`` sorts the entries by score.

    Args:
        path: folder of a ``…ForSequenceClassification`` checkpoint with its tokenizer.
        device: where it runs. label: name in the checkpoint's ``id2label``.
        batch_size: texts per forward pass. max_length: tokens kept of a text (default: all the model reads).
    """

    def __init__(
        self,
        path: str | Path,
        device: str | torch.device = "cpu",
        label: str = "POSITIVE",
        batch_size: int = 128,
        max_length: int | None = None,
    ):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        _require(path)
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
        self.model.to(device).eval().requires_grad_(False)
        self.index = _label_index(self.model.config.label2id, label)
        self.batch_size = batch_size
        self.max_length = max_length or min(512, self.model.config.max_position_embeddings)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Scores of ``texts``, ``(B,)`` float32 on the CPU. Raises BadData for an empty list or non-text."""
        return _like_lengths_together(texts, self.batch_size, self._score)

    def _score(self, texts: list[str]) -> torch.Tensor:
        batch = self.tokenizer(
            texts, return_tensors="pt", padding=True, truncation=True, max_length=self.max_length
        )
        batch.pop("token_type_ids", None)  # DistilBERT has no segments
        logits = self.model(**batch.to(self.model.device)).logits  # (B, labels)
        return logits[:, self.index].float().cpu()


class PairwiseReward:
    """A reward model that learnt from preference pairs: one number per text, read at its last token.

    Called like :class:`SentimentReward`. Texts become tokens exactly as in training, by :func:`to_tokens`,
    and must have the form that training's had (``form``, :mod:`rlhf.text_form`; None for an older model).
    The zero of its scale is arbitrary, only differences mean something.

    Args:
        path: folder of a ``…ForSequenceClassification`` checkpoint with one label and its tokenizer, such as
            ``output/rm_2``. device: where it runs. batch_size: texts per forward pass.
        max_length: tokens kept of a text, its end (default: as many as in training). dtype: float32 unless
            given.

    Raises:
        MissingAssets: no such folder. BadData: the checkpoint has several labels, or no padding token; or its
            tokenizer or ``max_length`` is not that of training.
    """

    def __init__(
        self,
        path: str | Path,
        device: str | torch.device = "cpu",
        batch_size: int = 128,
        max_length: int | None = None,
        dtype: torch.dtype | None = None,
    ):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        _require(path)
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForSequenceClassification.from_pretrained(path, dtype=dtype or torch.float32)
        self.model.to(device).eval().requires_grad_(False)
        config = self.model.config
        if config.num_labels != 1 or config.pad_token_id is None:
            raise BadData(
                f"{Path(path).name} 不是成对训练的奖励模型：应有 1 个标签和 pad_token_id，"
                f"实有 {config.num_labels} 个标签、pad_token_id={config.pad_token_id}。",
                f"{Path(path).name} is no pairwise reward model: it should have 1 label and a pad_token_id, "
                f"but has {config.num_labels} and pad_token_id={config.pad_token_id}.",
            )
        self.begins_with = getattr(config, "texts_begin_with", "")
        self.form = TextForm.read(getattr(config, ATTRIBUTE, None), Path(path).name)
        self.batch_size = batch_size
        longest = max_length or getattr(config, "reads_tokens", LONGEST)
        self.max_length = min(longest, config.max_position_embeddings)
        if self.form is not None:
            tokens = to_tokens(self.tokenizer, [self.form.probe], self.max_length)[0]
            self.form.check_reader(Path(path).name, self.tokenizer.eos_token, self.max_length, tokens)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Scores of ``texts``, ``(B,)`` float32 on the CPU.

        Raises:
            BadData: an empty list, non-text, or texts without the template that training had.
        """
        self.check(texts)
        return _like_lengths_together(texts, self.batch_size, self._score)

    def check(self, texts: Sequence[str]) -> None:
        """Raise BadData unless all texts, or beginnings of them that end where the answer begins, have the
        template of training."""
        if self.form is not None:
            return self.form.check([text for text in texts if isinstance(text, str)])
        begins = str(self.begins_with)
        if wrong := [text for text in texts if not str(text).startswith(begins)]:
            raise BadData(
                f"这个奖励模型训练时的文本都以 {begins!r} 开头，"
                f"现在有 {len(wrong)} 条不是：模板不一致，分数没有意义。",
                f"All texts this reward model was trained on begin with {begins!r}; "
                f"{len(wrong)} of these do not. With another template its scores mean nothing.",
            )
        return None

    def _score(self, texts: list[str]) -> torch.Tensor:
        ids = to_tokens(self.tokenizer, texts, self.max_length)
        batch = self.tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt")
        logits = self.model(**batch.to(self.model.device)).logits  # (B, 1), at the last token
        return logits[:, 0].float().cpu()


def to_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Texts to token ids the way TRL's RewardTrainer does it: an end-of-sequence token behind every text.

    Training and scoring both call this, so they cannot drift apart. Where TRL leaves out pairs that are too
    long, the beginning is cut off here: the end of a text is what gets judged.
    """
    end = tokenizer.eos_token
    whole = [text if text.endswith(end) else text + end for text in texts]
    side, tokenizer.truncation_side = tokenizer.truncation_side, "left"
    try:
        return tokenizer(whole, truncation=True, max_length=max_length)["input_ids"]
    finally:
        tokenizer.truncation_side = side


class WordJudge:
    """A second judge: logistic regression on word and word-pair weights (tf–idf), trained on other reviews.

    It shares neither architecture nor training data with the reward model. A policy that only learnt to
    please the reward model does not please this judge.
    """

    def __init__(self, pipeline):
        self.pipeline = pipeline

    @classmethod
    def fit(cls, reviews: Dataset, seed: int = 0) -> WordJudge:
        """Train on ``reviews`` (``text``, ``label``) that neither the policy nor the reward model saw."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        words = TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True, max_features=100_000)
        return cls(
            make_pipeline(words, LogisticRegression(C=10.0, max_iter=200, random_state=seed)).fit(
                list(reviews["text"]), list(reviews["label"])
            )
        )

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Log-odds of "positive", ``(B,)`` float32."""
        return torch.tensor(self.pipeline.decision_function(list(texts)), dtype=torch.float32)

    def accuracy(self, reviews: Dataset) -> float:
        """Share of ``reviews`` it judges as their label says."""
        return float(self.pipeline.score(list(reviews["text"]), list(reviews["label"])))


def _like_lengths_together(
    texts: Sequence[str], batch_size: int, score: Callable[[list[str]], torch.Tensor]
) -> torch.Tensor:
    """``score`` of every text, ``(B,)``; texts of similar length share a batch, so little is padding."""
    if not texts or not all(isinstance(text, str) for text in texts):
        raise BadData("奖励模型需要非空的文本列表。", "The reward model needs a non-empty list of texts.")
    scores = torch.empty(len(texts))
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        scores[rows] = score([texts[i] for i in rows])
    return scores


def _require(path: str | Path) -> None:
    if not Path(path).is_dir():
        raise MissingAssets(
            f"找不到奖励模型 {path}。运行 python -m rlhf.build 或 ./download.sh；"
            "output/rm_2 由第 05 课训练。",
            f"The reward model {path} is not here. Run python -m rlhf.build or ./download.sh; output/rm_2 is "
            "trained by lesson 05.",
        )


def _label_index(label2id: dict[str, int], label: str) -> int:
    found = [index for name, index in label2id.items() if name.upper() == label.upper()]
    if not found:
        raise BadData(
            f"奖励模型没有名为 {label} 的标签，它的标签是 {sorted(label2id)}。",
            f"The reward model has no label {label}; its labels are {sorted(label2id)}.",
        )
    return int(found[0])
