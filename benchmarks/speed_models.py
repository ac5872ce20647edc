"""What both sides of ``benchmarks/speed.py`` compute on: models of random weights, and a batch of queries.

In: a :class:`Case`, which names a size and the lengths of a batch. Out: a folder with policy, reference,
value head, classifier and tokenizers, written once and read by both sides, and the queries and response
lengths.

Weights are random, so what is written means nothing; how long it takes does not depend on that. Words are
numbered ("w17 w2304"), one token each for policy and classifier alike: both sides turn tokens into text
and text into tokens, as with real models, and the texts have the same length on both sides. The token that
would end a response is outside the policy's vocabulary, so every response has exactly the length it is meant
to have.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "tiny": {
        "policy": {"n_layer": 4, "n_embd": 128, "n_head": 4, "vocab_size": 6000, "n_positions": 256},
        "scorer": {"n_layers": 2, "dim": 128, "hidden_dim": 512, "n_heads": 4, "vocab_size": 6000},
    },
    "small": {
        "policy": {"n_layer": 6, "n_embd": 384, "n_head": 6, "vocab_size": 12000, "n_positions": 256},
        "scorer": {"n_layers": 4, "dim": 256, "hidden_dim": 1024, "n_heads": 8, "vocab_size": 12000},
    },
    "124m": {  # GPT-2 and DistilBERT as published
        "policy": {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 1024},
        "scorer": {"n_layers": 6, "dim": 768, "hidden_dim": 3072, "n_heads": 12, "vocab_size": 30522},
    },
}
PAD, UNKNOWN, END = "[PAD]", "[UNK]", "[END]"


@dataclass(frozen=True)
class Case:
    """One thing to measure. ``queries`` and ``responses`` are ranges of tokens, the upper end exclusive as in
    ``LengthSampler``; every query draws its own lengths, the same ones on both sides."""

    size: str = "tiny"
    batch: int = 128
    queries: tuple[int, int] = (2, 8)
    responses: tuple[int, int] = (4, 16)
    seed: int = 0

    @property
    def name(self) -> str:
        (q, qq), (r, rr) = self.queries, self.responses
        return f"{self.size}-b{self.batch}-q{q}to{qq - 1}-r{r}to{rr - 1}-s{self.seed}"

    def prompts(self) -> tuple[list[list[int]], list[int]]:
        """Token ids of the queries, and how many tokens each response has."""
        draw = random.Random(self.seed)
        words = SIZES[self.size]["policy"]["vocab_size"]
        queries = [
            [draw.randrange(2, words) for _ in range(draw.randrange(*self.queries))]
            for _ in range(self.batch)
        ]
        return queries, [draw.randrange(*self.responses) for _ in queries]


def write_models(size: str, folder: Path) -> Path:
    """Policy, reference (the policy with a little noise), value head and classifier; ``folder`` once
    whole."""
    if (folder / "size.json").is_file() and json.loads((folder / "size.json").read_text()) == SIZES[size]:
        return folder
    import torch
    from safetensors.torch import save_file
    from transformers import (
        DistilBertConfig,
        DistilBertForSequenceClassification,
        GPT2Config,
        GPT2LMHeadModel,
    )

    torch.manual_seed(0)
    policy = GPT2LMHeadModel(GPT2Config(**SIZES[size]["policy"], bos_token_id=1, eos_token_id=1))
    policy.save_pretrained(folder / "policy")
    width, words = policy.config.n_embd, policy.config.vocab_size
    head = {"weight": torch.randn(1, width) * 0.02, "bias": torch.zeros(1)}
    save_file(head, folder / "head.safetensors", metadata={"format": "pt"})
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=1e-3)
    policy.save_pretrained(folder / "reference")
    names = {"id2label": {0: "NEGATIVE", 1: "POSITIVE"}, "label2id": {"NEGATIVE": 0, "POSITIVE": 1}}
    config = DistilBertConfig(**SIZES[size]["scorer"], max_position_embeddings=512, pad_token_id=0, **names)
    DistilBertForSequenceClassification(config).save_pretrained(folder / "scorer")
    # the policy's END is one past its vocabulary: a token that it cannot write
    word_tokenizer(words, words).save_pretrained(folder / "policy")
    word_tokenizer(config.vocab_size, words).save_pretrained(folder / "scorer")
    (folder / "size.json").write_text(json.dumps(SIZES[size]))
    return folder


def word_tokenizer(vocabulary: int, words: int):
    """One token per numbered word, of ``words`` words; those from ``vocabulary`` on are unknown. END, if it
    fits, is one past the last word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    first = 2  # after PAD and UNKNOWN
    known = {PAD: 0, UNKNOWN: 1} | {f"w{i}": i for i in range(first, min(words, vocabulary))}
    if vocabulary >= words:
        known[END] = words
    tokenizer = Tokenizer(models.WordLevel(known, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    end = END if vocabulary >= words else PAD
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, eos_token=end, bos_token=end
    )
