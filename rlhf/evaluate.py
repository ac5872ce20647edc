"""Is the policy better on prompts it never saw? Held-out prompts → responses → scores and KL → a table.

In: a :class:`rlhf.profiles.Setup`, two policies, a reward model, and a second judge if there is one.
Out: a :class:`rlhf.report.Report`. Lessons 00 and 07 measure with it; lesson 10 asks what it cannot tell::

    prompts = held_out_prompts(setup, tokenizer, 256)
    lengths = response_lengths(setup, len(prompts))
    before, after = (respond(model, tokenizer, prompts, lengths) for model in (reference, policy))
    kl = response_kl(policy, reference, after)
    compare(prompts, before, after, tokenizer, reward, judge=judge, kl=kl)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from rlhf import report, sampling
from rlhf.data import build_prompts, load_reviews, plain_text
from rlhf.errors import BadData
from rlhf.ppo import LengthSampler, losses
from rlhf.sampling import Rollout
from rlhf.undisturbed import evaluating, own_random_state

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from rlhf.profiles import Setup

Judge = Callable[[Sequence[str]], torch.Tensor]  # texts to scores, (B,)


def held_out_prompts(
    setup: Setup, tokenizer: PreTrainedTokenizerBase, n: int | None = None, seed: int = 0
) -> Dataset:
    """Openings of ``n`` reviews of the **test** split, drawn at random; nothing was ever trained on them.

    ``n`` defaults to the profile's ``evaluation.prompts``. Both classes occur, since the split is shuffled
    before it is cut. The same seed gives the same prompts.

    Returns:
        A dataset with ``review`` (str), ``input_ids`` (int64 tensor ``(Q,)``, ragged) and ``query`` (str).

    Raises:
        BadData: fewer than ``n`` reviews are long enough.
    """
    n = setup.evaluation["prompts"] if n is None else n
    sizes = setup.prompts
    reviews = load_reviews(setup.dataset, "test").shuffle(seed=seed)
    rows = [row for row, text in enumerate(reviews["text"][:]) if len(text) > sizes["min_chars"]][:n]
    if len(rows) < n:
        raise BadData(
            f"测试集里只有 {len(rows)} 条影评超过 {sizes['min_chars']} 个字符，凑不出 {n} 个提示。",
            f"Only {len(rows)} reviews of the test split exceed {sizes['min_chars']} characters; "
            f"{n} prompts were asked for.",
        )
    sampler = LengthSampler(sizes["min_tokens"], sizes["max_tokens"], seed=seed)
    return build_prompts(reviews.select(rows), tokenizer, sampler, sizes["min_chars"])


def judge_reviews(setup: Setup, prompts: Dataset, limit: int = 8_000, seed: int = 0) -> Dataset:
    """At most ``limit`` reviews of the test split that are not behind ``prompts``: what a second judge may
    learn from (``WordJudge.fit``). Neither the policy nor the reward model was trained on them.
    """
    from datasets import Dataset

    used, reviews = set(prompts["review"][:]), load_reviews(setup.dataset, "test").shuffle(seed=seed)
    rows = [row for row in reviews.to_list() if row["text"] not in used]
    return Dataset.from_list([{**row, "text": plain_text(row["text"])} for row in rows[:limit]])


def response_lengths(setup: Setup, n: int, seed: int = 0) -> list[int]:
    """How many tokens each of ``n`` responses may have, drawn from the profile's range."""
    sampler = LengthSampler(setup.response["min_tokens"], setup.response["max_tokens"], seed=seed)
    return [sampler() for _ in range(n)]


def respond(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Dataset | Sequence[torch.Tensor],
    lengths: int | Sequence[int],
    seed: int = 0,
    **settings,
) -> Rollout:
    """Let ``model`` answer every prompt: a batched sample from its full softmax.

    ``prompts`` are 1-D token tensors, or a dataset with a column ``input_ids``. The random state is set for
    this call only: the same seed gives the same responses, and what comes after it draws as if it had never
    happened. ``settings`` go to :func:`rlhf.sampling.generate` (``batch_size``, ``do_sample`` …).
    """
    queries = prompts["input_ids"] if hasattr(prompts, "column_names") else prompts
    queries = [torch.as_tensor(ids) for ids in queries]
    settings = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id} | settings
    with own_random_state(seed):
        return sampling.generate(model, queries, lengths, **settings)


@torch.no_grad()
def response_kl(
    policy: nn.Module, reference: nn.Module, rollout: Rollout, batch_size: int = 32
) -> torch.Tensor:
    """KL(policy ‖ reference) of each response in nats, ``(N,)`` on the CPU, summed over its tokens.

    ``sum_t sum_v p_t(v) (log p_t(v) - log q_t(v))`` along the response that ``policy`` sampled: at every
    token the whole vocabulary is summed, so no term is negative. In the mean it is what PPO's
    ``objective/kl`` estimates from the sampled tokens alone, with much less noise. Both models may carry a
    value head.
    """
    with evaluating(policy), evaluating(reference):
        parts = []
        for start in range(0, len(rollout), batch_size):
            rows = slice(start, start + batch_size)
            parts.append(_batch_kl(policy, reference, rollout.queries[rows], rollout.responses[rows]))
    return torch.cat(parts)


def compare(
    prompts: Dataset,
    before: Rollout,
    after: Rollout,
    tokenizer: PreTrainedTokenizerBase,
    reward: Judge,
    *,
    judge: Judge | None = None,
    judge_name: str = "word judge",
    kl: torch.Tensor | None = None,
    shown: int = 16,
    title: str = "",
    names: tuple[str, str] = ("before", "after"),
    meta: Mapping | None = None,
) -> report.Report:
    """The before/after table: statistics over all ``prompts``, the first ``shown`` of them as rows.

    ``reward`` and ``judge`` score ``query + response``, as they do during training. The rows shown are the
    first ones of a shuffled list, not a selection. ``meta``: see :func:`rlhf.report.run_meta`.
    """
    queries, texts = list(prompts["query"]), [rollout.texts(tokenizer) for rollout in (before, after)]
    whole = [[q + r for q, r in zip(queries, responses, strict=True)] for responses in texts]
    scores = [reward(text) for text in whole]
    judged = [judge(text) for text in whole] if judge is not None else [None, None]
    return report.before_after(
        queries,
        *texts,
        *scores,
        judge_before=judged[0],
        judge_after=judged[1],
        judge_name=judge_name,
        kl=kl,
        title=title,
        names=names,
        meta=meta,
        show=shown,
    )


def _batch_kl(
    policy: nn.Module, reference: nn.Module, queries: list[torch.Tensor], responses: list[torch.Tensor]
) -> torch.Tensor:
    """KL per response of one batch, ``(B,)``; only response positions enter the vocabulary-sized tensors."""
    device = _backbone(policy).get_input_embeddings().weight.device
    sequences = [torch.cat(pair).to(device) for pair in zip(queries, responses, strict=True)]
    input_ids = pad_sequence(sequences, batch_first=True)  # (B, T), padded on the right
    attention_mask = pad_sequence([torch.ones_like(s) for s in sequences], batch_first=True)
    sizes = [torch.tensor([len(t) for t in part], device=device) for part in (queries, responses)]
    live = losses.response_mask(*sizes, input_ids.shape[1]).bool()  # (B, T-1)
    logp, logq = (
        _backbone(model)(input_ids=input_ids, attention_mask=attention_mask)
        .logits[:, :-1][live]
        .float()
        .log_softmax(-1)  # (response tokens of the batch, V)
        for model in (policy, reference)
    )
    kl = torch.zeros(live.shape, device=device)
    kl[live] = losses.kl_full(logp, logq)
    return kl.sum(1).cpu()


def _backbone(model: nn.Module) -> nn.Module:
    return getattr(model, "pretrained_model", model)
