"""Step 4, rejection sampling: K responses to every prompt, the best one is imitated, and again.

In: a policy, prompts, and something that scores whole texts. Out: by default ``output/rs_4``, an ordinary
causal language model with its tokenizer, the record ``rounds.json`` and TensorBoard's files. Sampling is
:mod:`rlhf.sampling`'s, imitation is TRL's SFTTrainer; here is what lies between them: choosing, what the
maximum of K can be expected to gain, and the rounds. Lesson 08 explains all of it::

    train_rounds(setup, RejectionConfig.of(setup.sizes))                       # → output/rs_4
    train_rounds(setup, RejectionConfig.of(setup.sizes, pick="random"), folder=...)  # the control

It follows Llama 2 (Touvron et al. 2023, section 3.2.3): score K samples of the most recent model, fine-tune
on the best of every prompt, repeat. It departs from it in three points. Each round trains on its own samples
only, while Llama 2 later kept the best ones of all rounds; the temperature is 1, while Llama 2 looked for a
new one in every round; all K responses to a prompt have the same number of tokens, so that a score cannot be
won by length.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from rlhf import profiles, sampling, sft
from rlhf.data import build_prompts, load_reviews
from rlhf.errors import BadData, BadRollout
from rlhf.files import folder_mark, whole_folder
from rlhf.ppo import LengthSampler
from rlhf.ppo.config import BadConfig
from rlhf.undisturbed import own_random_state as _own_random_state
from rlhf.undisturbed import untangle

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from rlhf.profiles import Setup

RECORD, LOGS = "rounds.json", "runs"
PICKS = ("best", "random")
Score = Callable[[Sequence[str]], Tensor]  # whole texts to one number each, (B,)


@dataclass(frozen=True)
class RejectionConfig:
    """The sizes of a run, and which of its two ideas are switched off for a control.

    Raises:
        BadConfig: a value that cannot work; the message names the field.
    """

    rounds: int = 3  # how often: sample, choose, imitate
    prompts: int = 512  # prompts per round; every round takes new ones
    k: int = 8  # responses per prompt, of which one is kept
    epochs: int = 2  # passes of SFT over the responses that were kept
    batch_size: int = 32  # responses per update of SFT
    learning_rate: float = 5e-4  # of SFT; the optimiser begins anew in every round
    pick: str = "best"  # "best" by score, or "random": the control without a reward model
    refresh: bool = True  # sample from the newest policy; False: always from the one at the start
    sampling_batch: int = 256  # responses written at once

    def __post_init__(self) -> None:
        for name in ("rounds", "prompts", "k", "epochs", "batch_size", "sampling_batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise BadConfig(
                    f"{name} 应当是正整数，而不是 {value!r}", f"{name} must be 1, 2, …, not {value!r}"
                )
        if not isinstance(self.learning_rate, (int, float)) or not 0 < self.learning_rate < math.inf:
            raise BadConfig(
                f"learning_rate 应当是正数，而不是 {self.learning_rate!r}",
                f"learning_rate must be a positive number, not {self.learning_rate!r}",
            )
        if self.pick not in PICKS:
            known = ", ".join(PICKS)
            raise BadConfig(
                f"pick 只能是 {known}，而不是 {self.pick!r}", f"pick is one of {known}, not {self.pick!r}"
            )

    @classmethod
    def of(cls, sizes: Mapping[str, Any], **changes) -> RejectionConfig:
        """What a profile's block for lesson 08 says; entries that are no fields here are left out."""
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in sizes.items() if key in known} | changes)


# ------------------------------------------------------------------------------------------------- choosing


def pick_best(scores: Tensor) -> Tensor:
    """Which of the K responses to each prompt scores highest: ``(P, K)`` → ``(P,)``; the first of equals."""
    return scores.argmax(1)


def pick_random(scores: Tensor, seed: int) -> Tensor:
    """One of the K responses to each prompt, whatever it scores: ``(P, K)`` → ``(P,)``."""
    return torch.randint(scores.shape[1], scores.shape[:1], generator=torch.Generator().manual_seed(seed))


def expected_max(scores: Tensor, k: int) -> Tensor:
    """What the best of ``k`` draws scores on average, estimated from N draws: ``(..., N)`` → ``(...)``.

    The mean of the maximum over all ways to take ``k`` of the N draws, which is an unbiased estimate of
    ``E[max] = k ∫ x F(x)^(k-1) dF(x)``. Sorted, the i-th smallest draw is the maximum of
    ``C(i-1, k-1)`` of the ``C(N, k)`` ways. (The estimator that Chen et al. 2021 use for pass@k.)

    Raises:
        BadRollout: ``k`` is not between 1 and N.
    """
    n = scores.shape[-1]
    if not 1 <= k <= n:
        raise BadRollout(
            f"从 {n} 个分数里取不出 {k} 个：k 应当在 1 到 {n} 之间。",
            f"{k} of {n} scores cannot be taken: k must be between 1 and {n}.",
        )
    ways = [math.comb(i - 1, k - 1) / math.comb(n, k) for i in range(1, n + 1)]
    ordered = scores.double().sort(-1).values  # (..., N), ascending
    return ordered @ torch.tensor(ways, dtype=torch.float64, device=scores.device)


def best_of_kl(k: int) -> float:
    """How far the best of ``k`` is from the policy that drew them: at most ``log k − (k − 1)/k`` nats of KL.

    Stiennon et al. 2020 use it as an equation; Beirami et al. 2024 prove that it is an upper bound, and close
    as long as no single response is likely.
    """
    return math.log(k) - (k - 1) / k


# ------------------------------------------------------------------------------------------------- sampling


@dataclass(frozen=True)
class Pool:
    """K responses to each of P prompts, prompt by prompt: response ``j`` of prompt ``i`` is ``i * K + j``.

    Attributes:
        prompts: the P openings. queries: their tokens, P tensors ``(Q,)``.
        texts: the P · K responses. responses: their tokens, P · K tensors ``(R,)``.
        scores: ``(P, K)``, of ``prompt + response``.
    """

    prompts: list[str]
    queries: list[Tensor]
    texts: list[str]
    responses: list[Tensor]
    scores: Tensor

    def flat(self, picks: Tensor) -> list[int]:
        """Where the picked responses stand in ``texts`` and ``responses``: ``(P,)`` in 0 … K−1 → P places."""
        k = self.scores.shape[1]
        return (torch.arange(len(picks)) * k + picks.cpu()).tolist()


def sample_pool(
    policy: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Mapping[str, Sequence] | Dataset,
    lengths: Sequence[int],
    k: int,
    score: Score,
    *,
    batch_size: int = 256,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Pool:
    """Let ``policy`` answer every prompt ``k`` times and score what comes out.

    Rows that end at the same length share a batch, so that none waits for a longer one: that alone saves
    about a third of the work. The random state outside is left alone; the same seed gives the same pool.

    Args:
        prompts: ``query`` (texts) and ``input_ids`` (1-D tensors), as :func:`rlhf.data.build_prompts` has
            them. lengths: tokens that a response may have, one number per prompt.
        score: called once, with the P · k whole texts.
        progress: called with the number of responses written, after every batch.

    Raises:
        BadRollout: no prompts, or not one length per prompt; a score that is no number.
    """
    texts, queries = list(prompts["query"]), [torch.as_tensor(ids) for ids in prompts["input_ids"]]
    if not queries or len(lengths) != len(queries) or k < 1:
        raise BadRollout(
            f"{len(queries)} 个提示、{len(lengths)} 个长度、K = {k}：每个提示要有一个长度，K 至少为 1。",
            f"{len(queries)} prompts, {len(lengths)} lengths, K = {k}: one length per prompt, K at least 1.",
        )
    order = sorted(range(len(queries)), key=lambda i: (lengths[i], len(queries[i])))
    rows = [i for i in order for _ in range(k)]  # prompt i, k times in a row
    responses: list[list[Tensor]] = [[] for _ in queries]
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    with _own_random_state(seed):
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            limits = [lengths[i] for i in part]
            rollout = sampling.generate(
                policy, [queries[i] for i in part], limits, batch_size=batch_size, **ends
            )
            for i, response in zip(part, rollout.responses, strict=True):
                responses[i].append(response.cpu())
            if progress is not None:
                progress(len(part))
    flat = [response for group in responses for response in group]
    written = tokenizer.batch_decode(flat, skip_special_tokens=True)
    whole = [texts[place // k] + text for place, text in enumerate(written)]
    return Pool(texts, queries, written, flat, _checked_scores(score(whole), len(queries), k))


def _checked_scores(scores: Tensor, p: int, k: int) -> Tensor:
    """Flat scores ``(P · K,)``, prompt by prompt, as ``(P, K)``."""
    scores = torch.as_tensor(scores, dtype=torch.float32)
    if scores.shape != (p * k,) or not torch.isfinite(scores).all():
        raise BadRollout(
            f"需要 {p * k} 个有限的分数，得到的形状是 {tuple(scores.shape)}，或其中有 NaN、inf。",
            f"{p * k} finite scores are needed, not the shape {tuple(scores.shape)}, nor NaN or inf.",
        )
    return scores.reshape(p, k)


# ------------------------------------------------------------------------------------------------ imitation


def demonstrations(pool: Pool, picks: Tensor) -> Dataset:
    """What SFT reads: the picked response of every prompt, P rows.

    ``input_ids`` are the very tokens that were sampled and ``completion_mask`` is 0 on the prompt's. TRL
    takes such rows as they are. From the texts alone (``prompt``, ``completion``) it would make its own
    tokens, which need not be the sampled ones, and add an EOS to responses that merely ran out of room.
    """
    from datasets import Dataset

    rows = []
    for i, place in enumerate(pool.flat(picks)):
        query, response = pool.queries[i].tolist(), pool.responses[place].tolist()
        mask = [0] * len(query) + [1] * len(response)
        texts = {"prompt": pool.prompts[i], "completion": pool.texts[place]}
        rows.append({**texts, "input_ids": query + response, "completion_mask": mask})
    return Dataset.from_list(rows)


def imitate(
    policy: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    config: RejectionConfig,
    *,
    seed: int = 0,
    logs: Path,
) -> list[dict[str, float]]:
    """Fine-tune ``policy`` in place on ``rows`` with TRL's SFTTrainer; its log goes to ``logs``.

    Returns what the trainer logged, one dict per entry.
    """
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback
    from transformers.trainer_callback import PrinterCallback

    sizes = {"max_length": None, "batch_size": config.batch_size, "learning_rate": config.learning_rate}
    device = str(next(policy.parameters()).device)
    changes = {"num_train_epochs": config.epochs, "report_to": "none", "disable_tqdm": True}
    changes |= {"logging_first_step": True}
    with _own_random_state(seed):  # the trainer seeds Python, NumPy and torch
        arguments = sft.make_config(logs, sizes, seed=seed, device=device, **changes)
        board = TensorBoardCallback(SummaryWriter(str(logs)))
        trainer = sft.make_trainer(policy, tokenizer, rows, arguments, callbacks=[board])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    untangle(policy)  # from the forward that TRL gave this very object: a copy made later would share it
    policy.eval()
    return trainer.state.log_history


# --------------------------------------------------------------------------------------------------- rounds


@dataclass
class Rounds:
    """What :func:`train_rounds` leaves: the policy after the last round, and one dict of numbers per round.

    ``history`` holds, per round: ``score/mean`` (of all responses), ``score/best`` (the best of K, averaged
    over prompts), ``score/std`` (within a prompt), ``score/picked``, ``sft/loss_first`` and
    ``sft/loss_last`` (nats per token), ``samples`` and ``seconds``. ``first_pool`` is what the policy at the
    start wrote in round 1.
    """

    policy: nn.Module
    tokenizer: PreTrainedTokenizerBase
    config: RejectionConfig
    history: list[dict[str, float]] = field(default_factory=list)
    first_pool: Pool | None = None

    def save(self, folder: str | Path, logs: Path | None = None, **facts) -> Path:
        """Policy, tokenizer and ``rounds.json`` into ``folder``, whole or not at all; plain ``transformers``
        loads it. ``logs`` is copied to ``runs/`` beside them.

        Raises:
            CannotWrite: no space or no permission.
        """
        record = {"config": asdict(self.config), "history": self.history, **facts}
        with whole_folder(Path(folder)) as partial:
            self.policy.save_pretrained(partial)
            self.tokenizer.save_pretrained(partial)
            (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            if logs is not None and logs.is_dir():
                shutil.copytree(logs, partial / LOGS)
        return Path(folder)


def train_rounds(
    setup: Setup,
    config: RejectionConfig | None = None,
    *,
    start: str | Path | None = None,
    score: Score | None = None,
    folder: str | Path | None = None,
    logs: str | Path | None = None,
    state: str | Path | None = None,
    first_pool: Pool | None = None,
    on_round: Callable[[int, nn.Module], object] | None = None,
) -> Rounds:
    """Step 4 as one call: rounds of sampling, choosing and imitating; the policy goes to ``folder``.

    Every round has its own random state, made of the setup's seed and its number, so a run that was stopped
    and taken up again ends with the same parameters as one that never stopped.

    Args:
        config: by default what the profile says for lesson 08.
        start: the policy to begin with; by default the profile's.
        score: whole texts to numbers; by default the profile's reward model.
        folder: by default ``output/rs_4``. logs: by default ``runs/rs_4`` in the lesson's folder.
        state: where the last complete round is kept. A state of the same run found there is taken up.
        first_pool: :attr:`Rounds.first_pool` of a run with the same start, prompts and seed. What its policy
            wrote in round 1 is what this one would write, so it need not be written again.
        on_round: called as ``on_round(number, policy)`` with the policy at the start (0) and after every
            round. The policy trains on, so take from it what is needed there and then.

    Raises:
        BadConfig, BadData: settings that cannot work, too few prompts. CannotWrite: no space.
    """
    config = config or RejectionConfig.of(lesson_sizes(setup.profile))
    folder = Path(folder or profiles.root() / "output" / "rs_4")
    logs = Path(logs or setup.output / LOGS / folder.name)
    start = Path(start or setup.policy)
    policy, tokenizer = sft.load_policy(start, setup.device)
    policy.eval()
    sampler = policy if config.refresh else copy.deepcopy(policy)
    prompts, lengths = training_prompts(setup, tokenizer, config)
    run, mark = Rounds(policy, tokenizer, config, first_pool=first_pool), _fingerprint(setup, config, start)
    if state is None or not _take_up(run, Path(state), mark):
        shutil.rmtree(logs, ignore_errors=True)  # the curves of an earlier run
    score, on_round = score or _reward_model(setup), on_round or (lambda number, policy: None)
    on_round(len(run.history), policy)
    for number in range(len(run.history) + 1, config.rounds + 1):
        rows = slice((number - 1) * config.prompts, number * config.prompts)
        task = Task(prompts[rows], lengths[rows], score, 1000 * (setup.seed + 1) + number, logs)
        run.history.append(one_round(run, sampler, task, number))
        if state is not None:
            run.save(state, fingerprint=mark)
        on_round(number, policy)
    run.save(folder, logs, profile=setup.profile, seed=setup.seed)
    return run


def training_prompts(
    setup: Setup, tokenizer: PreTrainedTokenizerBase, config: RejectionConfig
) -> tuple[Dataset, list[int]]:
    """Openings of training reviews for all rounds, and the number of tokens that responses to each may have.

    Raises:
        BadData: fewer reviews than ``rounds * prompts``.
    """
    sizes, count = setup.prompts, config.rounds * config.prompts
    reviews = load_reviews(setup.dataset, "train").shuffle(seed=setup.seed)
    rows = [row for row, text in enumerate(reviews["text"][:]) if len(text) > sizes["min_chars"]][:count]
    if len(rows) < count:
        raise BadData(
            f"{config.rounds} 轮各 {config.prompts} 个提示，需要 {count} 条影评，只有 {len(rows)} 条。",
            f"{config.rounds} rounds of {config.prompts} prompts take {count} reviews, not {len(rows)}.",
        )
    opening = LengthSampler(sizes["min_tokens"], sizes["max_tokens"], seed=setup.seed)
    prompts = build_prompts(reviews.select(rows), tokenizer, opening, sizes["min_chars"])
    # another seed, or long openings would go with long responses
    ending = LengthSampler(setup.response["min_tokens"], setup.response["max_tokens"], seed=setup.seed + 1)
    return prompts, [ending() for _ in rows]


def lesson_sizes(profile: str | None = None) -> Mapping[str, Any]:
    """The sizes that ``profiles/<profile>.yaml`` gives lesson 08, for whoever trains Step 4 elsewhere."""
    return profiles.read(profile).get("lessons", {}).get("08_rejection_sampling", {})


# -------------------------------------------------------------------------------------------------- details


@dataclass(frozen=True)
class Task:
    """What one round works on."""

    prompts: Mapping[str, Sequence]
    lengths: Sequence[int]
    score: Score
    seed: int
    logs: Path


def one_round(run: Rounds, sampler: nn.Module, task: Task, number: int) -> dict[str, float]:
    """Sample, choose, imitate; the numbers of this round, which go to TensorBoard too."""
    config, started = run.config, time.perf_counter()
    with tqdm(total=len(task.lengths) * config.k, desc=f"round {number} of {config.rounds}") as bar:
        pool = _pool(run, sampler, task, number, bar)
        scores = pool.scores  # (P, K)
        picks = pick_best(scores) if config.pick == "best" else pick_random(scores, task.seed)  # (P,)
        bar.set_postfix_str("fine-tuning")
        rows, logs = demonstrations(pool, picks), task.logs / f"round_{number}"
        shutil.rmtree(logs, ignore_errors=True)  # a run that was stopped in this round
        log = imitate(run.policy, run.tokenizer, rows, config, seed=task.seed, logs=logs)
        losses = [entry["loss"] for entry in log if "loss" in entry]
        row = {
            "score/mean": scores.mean().item(),
            "score/best": scores.max(1).values.mean().item(),
            "score/std": scores.std(1).mean().item() if config.k > 1 else 0.0,
            "score/picked": scores.gather(1, picks[:, None]).mean().item(),
            "sft/loss_first": losses[0],
            "sft/loss_last": losses[-1],
            "samples": scores.numel(),
            "seconds": round(time.perf_counter() - started, 1),
        }
        bar.set_postfix_str(f"score {row['score/mean']:+.2f}, picked {row['score/picked']:+.2f}")
    _to_tensorboard(row, number, task.logs)
    return row


def _pool(run: Rounds, sampler: nn.Module, task: Task, number: int, bar: tqdm) -> Pool:
    """The responses of this round; those of round 1 may be known."""
    if number > 1 or run.first_pool is None:
        pool = sample_pool(
            sampler,
            run.tokenizer,
            task.prompts,
            task.lengths,
            run.config.k,
            task.score,
            batch_size=run.config.sampling_batch,
            seed=task.seed,
            progress=bar.update,
        )
        run.first_pool = run.first_pool or pool
        return pool
    bar.update(bar.total)
    k = run.first_pool.scores.shape[1]
    if run.first_pool.prompts != list(task.prompts["query"]) or k != run.config.k:
        raise BadRollout(
            "first_pool 属于另一次训练：提示或 K 不同。",
            "first_pool is of another run: its prompts or its K differ.",
        )
    return run.first_pool


def _to_tensorboard(row: Mapping[str, float], number: int, logs: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(logs)) as board:
        for key, value in row.items():
            board.add_scalar(f"rejection/{key}", value, number)


def _take_up(run: Rounds, state: Path, mark: str) -> bool:
    """Load the last complete round of the same run into ``run``, if ``state`` holds one."""
    try:
        record = json.loads((state / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if record.get("fingerprint") != mark:
        return False
    saved, _ = sft.load_policy(state)
    run.policy.load_state_dict(saved.state_dict())
    run.history[:] = record["history"]
    return True


def _fingerprint(setup: Setup, config: RejectionConfig, start: Path) -> str:
    """What a run depends on: its settings, its seed, both models and the data."""
    sizes = [asdict(config), dict(setup.prompts), dict(setup.response)]
    folders = [folder_mark(path) for path in (start, setup.reward_model, setup.dataset)]
    facts = [sizes, folders, setup.seed, setup.profile, setup.device]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _reward_model(setup: Setup) -> Score:
    from rlhf.rewards import SentimentReward

    return SentimentReward(setup.reward_model, setup.device)
