"""A PPO step in slow motion: every number that ``PPOTrainer.step`` computes, by name, shape and mask.

In: a trainer, and one step of it. Out: a :class:`Tape` that lists what was computed and draws the tokens of a
sequence as a grid. Lesson 06 steps through one::

    with trace.recording(trainer) as tape:
        trainer.step(queries, responses, scores)
    tape                          # a table: stage, name, shape, live slots, mean
    tape.batch["advantages"]      # (B, T-1), what the whole batch was trained on
    tape.updates[3]["ratio"]      # (b, T-1), of the fourth minibatch
    tape.grid(0, tokenizer)       # the tokens of sequence 0, one row per quantity

Nothing is computed twice. While recording, the methods of this trainer and the functions of
:mod:`rlhf.ppo.losses` are wrapped: they do what they always do, and a copy of what they return goes on the
tape. Without a recording there is no wrapper, hence no cost; with one, no number and no random state changes.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pandas as pd
import torch

from .. import pictures
from ..errors import BadRollout
from . import losses
from .kl import FixedKLController
from .rollouts import Experience, RolloutBatch
from .trainer import PPOTrainer

KEEP = 2**20  # numbers; a larger tensor (logits, above all) is listed, but its numbers are not kept

# Functions of rlhf.ppo.losses, and what to call the things they return.
FUNCTIONS = {
    "td_errors": ("delta",),
    "probability_ratio": ("ratio",),
    "policy_terms": ("policy_plain", "policy_clipped"),
    "value_errors": ("value_plain", "value_clipped"),
    "policy_loss": ("policy_loss", "policy_clipfrac"),
    "value_loss": ("value_loss", "value_clipfrac"),
    "entropy_from_logits": ("entropy",),
    "approx_kl": ("approx_kl",),
    "policy_kl": ("policy_kl",),
}
# Rows of a token grid: the quantity's name in a Tape, and what the grid calls it.
GRID = {
    "mask": "mask",
    "logprobs": "log p",
    "ref_logprobs": "log p_ref",
    "kl": "KL",
    "rewards": "reward",
    "values": "value",
    "delta": "delta",
    "advantages_raw": "advantage",
    "advantages": "whitened",
    "returns": "return",
    "ratio": "ratio",
    "clipped": "clipped",
}


@dataclass(frozen=True)
class Record:
    """One tensor that a step computed."""

    stage: str  # "check", "forward", "rewards", "advantages", "optimise", "statistics"
    name: str
    source: str  # the method or function that returned it
    shape: tuple[int, ...]
    dtype: str
    rows: torch.Tensor | None  # which sequences of the batch it is about, (b,); None: not about sequences
    mask: torch.Tensor | None  # (b, T-1), where its first two dimensions are sequences and slots
    value: torch.Tensor | None  # a copy on the CPU; None if it has more numbers than the recording keeps

    @property
    def live(self) -> int | None:
        """Response slots among its slots, or None if it has no slots."""
        return None if self.mask is None else int(self.mask.sum())

    @property
    def mean(self) -> float | None:
        """The mean over its live slots, or over everything where it has no slots."""
        if self.value is None or not self.value.numel():
            return None
        value = self.value.double()
        if self.mask is None or value.dim() != 2:
            return float(value.mean())
        return float(losses.masked_mean(value, self.mask))


@dataclass
class Tape:
    """Everything that was computed while :func:`recording`, in order.

    Attributes:
        records: every tensor, as often as it was computed.
        batch: what was computed once for the whole batch, before the first update: the fields of
            :class:`~rlhf.ppo.RolloutBatch` and :class:`~rlhf.ppo.Experience`, and ``delta``.
        updates: one dict per minibatch pass, in order: ``rows`` (b,), ``epoch``, and the tensors of the pass.
        beta: the KL coefficient before and after the step.
    """

    trainer: PPOTrainer = field(repr=False)
    records: list[Record] = field(default_factory=list, repr=False)
    batch: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)
    updates: list[dict[str, torch.Tensor | int]] = field(default_factory=list, repr=False)
    beta: tuple[float, ...] = ()

    def __repr__(self) -> str:
        return f"a recording of {len(self.records)} tensors\n{self.table().to_string(index=False, na_rep='')}"

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False, na_rep="", border=0)

    def table(self) -> pd.DataFrame:
        """One line per kind of tensor. What repeats in minibatches and passes is counted (``times``); shape,
        live slots and mean are then those of the first time."""
        lines: dict[tuple, list[Record]] = {}
        for record in self.records:
            lines.setdefault((record.stage, record.name, record.source, len(record.shape)), []).append(record)
        rows = []
        for (stage, name, source, _), group in lines.items():
            first, times = group[0], len(group)
            about = {"stage": stage, "name": name, "shape": str(first.shape), "times": times}
            rows.append(about | {"live": first.live, "mean": first.mean, "computed by": source})
        return pd.DataFrame(rows).astype({"live": "Int64", "mean": float}).round(4)

    # ---------------------------------------------------------------------------- one sequence

    def slots(self, row: int, tokenizer=None) -> pd.DataFrame:
        """Sequence ``row`` slot by slot: ``T-1`` lines, one column per quantity of :data:`GRID`.

        Line t is about the token t+1 that slot t predicts: its ``token`` (text if there is a tokenizer, else
        its number), the ``part`` it belongs to (query, response, padding) and its numbers. ``ratio`` and
        ``clipped`` are those of the last minibatch that the sequence was in.

        Raises:
            BadRollout: there is no such sequence, or no whole step was recorded.
        """
        if "advantages" not in self.batch:
            raise BadRollout(
                "录像里没有完整的一步：请在 with trace.recording(trainer) 里调用 trainer.step(...)",
                "No whole step was recorded: call trainer.step(...) inside with trace.recording(trainer)",
            )
        count = len(self.batch["input_ids"])
        if not 0 <= row < count:
            raise BadRollout(
                f"没有第 {row} 条序列，共 {count} 条", f"no sequence {row}; there are {count} of them"
            )
        ids = self.batch["input_ids"][row, 1:].tolist()  # token t+1 stands over slot t
        frame = pd.DataFrame(
            {"token": [tokenizer.decode([i]) for i in ids] if tokenizer else ids, "part": self._parts(row)}
        )
        for name in (n for n in GRID if n in self.batch):
            frame[name] = self.batch[name][row].tolist()
        last = self.last_pass(row)
        if last is not None:
            frame["ratio"] = last["ratio"].tolist()
            frame["clipped"] = (last["policy_clipped"] > last["policy_plain"]).tolist()
        return frame

    def last_pass(self, row: int) -> dict[str, torch.Tensor] | None:
        """The tensors ``(T-1,)`` of the last minibatch that held sequence ``row``; None without an update."""
        for update in reversed(self.updates):
            place = (update["rows"] == row).nonzero().flatten().tolist()
            if place and "policy_plain" in update:
                return {n: v[place[0]] for n, v in update.items() if torch.is_tensor(v) and v.dim() == 2}
        return None

    def _parts(self, row: int) -> list[str]:
        query, response = (int(self.batch[f"{name}_lengths"][row]) for name in ("query", "response"))
        slots = self.batch["mask"].shape[1]
        parts = ["query"] * (query - 1) + ["response"] * response
        return parts + ["padding"] * (slots - len(parts))

    def grid(self, row: int, tokenizer=None, padding: int = 2, **options) -> pictures.Html:
        """The tokens of sequence ``row`` as columns, the quantities of :data:`GRID` as rows, as HTML.

        Of its padding, only the first ``padding`` slots are shown.
        """
        return pictures.token_grid(**self._grid(row, tokenizer, padding), **options)

    def picture(self, row: int, tokenizer=None, padding: int = 2, **options) -> pictures.Picture:
        """The same grid as a figure, for pages that show no HTML."""
        return pictures.token_grid_picture(**self._grid(row, tokenizer, padding), **options)

    def _grid(self, row: int, tokenizer, padding: int) -> dict:
        frame = self.slots(row, tokenizer)
        frame = frame[: int((frame["part"] != "padding").sum()) + padding]
        parts = frame["part"].tolist()
        tokens = ["pad" if p == "padding" else str(t) for t, p in zip(frame["token"], parts, strict=True)]
        shown = {label: frame[name].tolist() for name, label in GRID.items() if name in frame}
        return {"tokens": tokens, "parts": parts, "rows": shown, "centres": {"ratio": 1.0}}

    # ------------------------------------------------------------------------------- what if

    def what_if(
        self,
        beta: float | None = None,
        gamma: float | None = None,
        lam: float | None = None,
        cliprange: float | None = None,
    ) -> Tape:
        """The same rollouts under another KL coefficient, discount, GAE lambda or clip range.

        The trainer's own ``compute_rewards`` and ``compute_advantages`` run again on the recorded
        log-probabilities, values and scores, and ``losses.policy_terms`` on the recorded ratios. The ratios
        themselves stay as they were: they came from updates that this question does not repeat.

        Raises:
            BadConfig: a setting out of range.
        """
        asked = {"gamma": gamma, "lam": lam, "cliprange": cliprange}
        changes = {name: value for name, value in asked.items() if value is not None}
        trainer = copy.copy(self.trainer)  # shallow: it shares the models, which are not asked for anything
        trainer.config = dataclasses.replace(
            trainer.config, **changes, use_score_scaling=False, use_score_norm=False, score_clip=None
        )
        trainer.kl_ctl = FixedKLController(self.beta[0] if beta is None else beta)
        kept = {f.name for f in dataclasses.fields(Experience) if f.default is dataclasses.MISSING}
        experience = Experience(**{name: self.batch[name] for name in kept})
        with recording(trainer) as tape:
            trainer.compute_rewards(experience, self.batch["scores"])  # scaled and clipped already
            trainer.compute_advantages(experience)
        tape.batch = self.batch | tape.batch
        tape.beta = (trainer.kl_ctl.value,) * 2
        for update in (u for u in self.updates if "ratio" in u):
            advantages = tape.batch["advantages"][update["rows"]]
            plain, clipped = losses.policy_terms(update["ratio"], advantages, trainer.config.cliprange)
            tape.updates.append(dict(update) | {"policy_plain": plain, "policy_clipped": clipped})
        return tape


@contextlib.contextmanager
def recording(trainer: PPOTrainer, keep: int = KEEP) -> Iterator[Tape]:
    """Record what ``trainer`` computes inside the ``with`` block.

    Args:
        trainer: the trainer to watch. Others may work in the meantime, and are not recorded.
        keep: copies are made of tensors with at most this many numbers; of larger ones only name and shape
            are kept. The logits of a batch easily fill gigabytes.
    """
    tape = Tape(trainer)
    recorder = _Recorder(trainer, tape, keep)
    with contextlib.ExitStack() as stack:
        for owner, name, watch in recorder.points():
            stack.enter_context(_wrapped(owner, name, watch))
        yield tape


class _Recorder:
    """The wrappers. A method named like one of the trainer's stands around it: ``call`` is the original."""

    METHODS = (
        "validate",
        "forward_rollouts",
        "forward",
        "forward_reference",
        "compute_rewards",
        "compute_advantages",
        "optimise",
        "update",
        "minibatch_loss",
        "_apply_gradients",
        "statistics",
    )

    def __init__(self, trainer: PPOTrainer, tape: Tape, keep: int):
        self.trainer, self.tape, self.keep = trainer, tape, keep
        self.stage: str | None = None  # None: the trainer is not computing, so nothing is recorded
        self.rows: torch.Tensor | None = None  # the sequences that are being computed, (b,)
        self.mask: torch.Tensor | None = None  # their mask, (b, T-1)
        self.waiting: list[torch.Tensor] = []  # rows of the minibatches to come
        self.update_of: dict | None = None  # where the tensors of the present minibatch go

    def points(self) -> Iterator[tuple[object, str, Callable]]:
        """``(owner, attribute, wrapper)`` of everything that is watched."""
        for name in self.METHODS:
            yield self.trainer, name, getattr(self, name)
        yield self.trainer.kl_ctl, "update", self.kl_update
        yield self.trainer.policy.v_head, "forward", self.v_head
        for name, outputs in FUNCTIONS.items():
            yield losses, name, self._function(name, outputs)

    # ------------------------------------------------------------------- the trainer's methods

    def validate(self, call, *args, **kwargs):
        rollouts = call(*args, **kwargs)
        self.mask = rollouts.mask
        with self._during("check"):
            fields = {f.name: getattr(rollouts, f.name) for f in dataclasses.fields(RolloutBatch)}
            fields["scores_in"] = fields.pop("scores")
            self._note("validate", fields, batch=True)
        return rollouts

    def forward_rollouts(self, call, rollouts):
        step = self.trainer.config.mini_batch_size
        everything = torch.arange(len(rollouts.input_ids), device=rollouts.mask.device)
        own = self.trainer.own_rows(len(everything))
        self.waiting = list(everything[own].split(step))
        with self._during("forward"):
            experience = call(rollouts)
            self.rows, self.mask = None, rollouts.mask
            found = {n: v for n, v in _filled(experience).items() if n not in self.tape.batch}
            self._note("forward_rollouts", found, batch=True)
        return experience

    def forward(self, call, input_ids, attention_mask):
        if self.stage == "forward":  # in the updates, minibatch_loss knows the rows
            self.rows = self.waiting.pop(0)
            self.mask = self.tape.batch["mask"].to(input_ids.device)[self.rows]
        logprobs, values, logits = call(input_ids, attention_mask)
        self._note("forward", {"logits": logits, "logprobs": logprobs, "values": values})
        return logprobs, values, logits

    def forward_reference(self, call, *args):
        logits = call(*args)
        self._note("forward_reference", {"ref_logits": logits})
        return logits

    def compute_rewards(self, call, experience, scores):
        with self._during("rewards", experience):
            return self._fill("compute_rewards", call, experience, scores)

    def compute_advantages(self, call, experience):
        with self._during("advantages", experience):
            return self._fill("compute_advantages", call, experience)

    def optimise(self, call, experience):
        with self._during("optimise"):
            return call(experience)

    def update(self, call, experience, rows):
        everyone = self.trainer.accelerator.num_processes
        self.waiting = list(rows.split(self.trainer.config.mini_batch_size * everyone))
        done = len(self.tape.updates)
        with self._during(self.stage or "optimise"):
            passes = call(experience, rows)
        for update, record in zip(self.tape.updates[done:], passes, strict=True):
            update["grad_norm"] = _kept(record["policy/grad_norm"])
        return passes

    def minibatch_loss(self, call, batch):
        self.rows, self.mask = self.waiting.pop(0), batch.mask
        per_epoch = self.trainer.config.batch_size // self.trainer.config.mini_batch_size
        epoch = len(self.tape.updates) // per_epoch
        self.update_of = {"rows": self.rows.cpu(), "epoch": epoch, "mask": batch.mask.cpu()}
        self.tape.updates.append(self.update_of)
        loss, record, skip = call(batch)
        self._note("minibatch_loss", {"loss": loss})
        self.update_of = None
        return loss, record, skip

    def _apply_gradients(self, call):
        norm = call()
        self.rows = self.mask = None
        self._note("_apply_gradients", {"grad_norm": norm})
        return norm

    def statistics(self, call, *args):
        with self._during("statistics"):
            result = call(*args)
            numbers = {n: torch.tensor(v) for n, v in result.items() if isinstance(v, float)}
            self._note("statistics", numbers)
        return result

    # ---------------------------------------------------------------- what the trainer calls

    def kl_update(self, call, *args):
        before = self.trainer.kl_ctl.value
        call(*args)
        self.tape.beta = (before, self.trainer.kl_ctl.value)

    def v_head(self, call, hidden_states):
        values = call(hidden_states)
        self._note("v_head", {"hidden": hidden_states, "values_everywhere": values}, slots=False)
        return values

    def _function(self, name: str, outputs: tuple[str, ...]) -> Callable:
        def watch(call, *args, **kwargs):
            result = call(*args, **kwargs)
            found = dict(zip(outputs, result if isinstance(result, tuple) else (result,), strict=True))
            self._note(f"losses.{name}", found, batch=name == "td_errors")
            return result

        return watch

    # ------------------------------------------------------------------------------ the tape

    @contextlib.contextmanager
    def _during(self, stage: str, experience: Experience | None = None) -> Iterator[None]:
        """Everything inside belongs to ``stage``; with an experience, to the whole batch."""
        outer, self.stage = self.stage, stage
        if experience is not None:
            self.rows, self.mask = None, experience.mask
        try:
            yield
        finally:
            self.stage = outer

    def _fill(self, source: str, call, experience: Experience, *args) -> None:
        """Call a method that fills in fields of the experience, and note these."""
        before = set(_filled(experience))
        call(experience, *args)
        self._note(source, {n: v for n, v in _filled(experience).items() if n not in before}, batch=True)

    def _note(self, source: str, tensors: dict, *, batch: bool = False, slots: bool = True) -> None:
        """Copies of ``tensors`` go on the tape, unless the trainer is not computing or they are too large."""
        if self.stage is None:
            return
        for name, tensor in tensors.items():
            kept = _kept(tensor, self.keep)
            mask = self.mask if slots and self._has_slots(tensor) else None
            about = (self.rows, mask)
            self.tape.records.append(
                Record(
                    self.stage,
                    name,
                    source,
                    tuple(tensor.shape),
                    str(tensor.dtype).removeprefix("torch."),
                    *(None if t is None else t.cpu() for t in about),
                    kept,
                )
            )
            if batch:
                self.tape.batch[name] = _kept(tensor)
            if self.update_of is not None and kept is not None:
                self.update_of.setdefault(name, kept)

    def _has_slots(self, tensor: torch.Tensor) -> bool:
        return self.mask is not None and tensor.dim() > 1 and tensor.shape[:2] == self.mask.shape


@contextlib.contextmanager
def _wrapped(owner: object, name: str, watch: Callable) -> Iterator[None]:
    """While the block runs, ``owner.name(...)`` is ``watch(original, ...)``; afterwards all is as before."""
    original = getattr(owner, name)
    own = vars(owner).get(name)  # a method is its class's, and then there is nothing to put back

    @functools.wraps(original)
    def wrapper(*args, **kwargs):
        return watch(original, *args, **kwargs)

    setattr(owner, name, wrapper)
    try:
        yield
    finally:
        delattr(owner, name) if own is None else setattr(owner, name, own)


def _filled(experience: Experience) -> dict[str, torch.Tensor]:
    """The fields that hold something by now."""
    found = {f.name: getattr(experience, f.name) for f in dataclasses.fields(Experience)}
    return {name: value for name, value in found.items() if value is not None}


def _kept(tensor: torch.Tensor, limit: int | None = None) -> torch.Tensor | None:
    """A copy that no later step can change, on the CPU and without a gradient; None above the limit."""
    if limit is not None and tensor.numel() > limit:
        return None
    return tensor.detach().to("cpu", copy=True)
