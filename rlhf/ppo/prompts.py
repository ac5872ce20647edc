"""Shuffled batches of prompts that know where they are, so that a run can go on in the middle of an epoch.

In: a shuffled ``DataLoader`` and the generator it shuffles with. Out: the same batches in the same order,
and a small state from which another process continues with the next one. Lesson 07 interrupts a run there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from ..errors import BadData
from .config import PPOConfig

DATASET_COLUMNS = ("input_ids", "attention_mask", "label", "query", "response")


class PromptLoader:
    """A data loader with a place. Each pass (``for batch in loader``) is an epoch with an order of its own.

    The order follows from the generator's state at the start of the epoch; that state and the number of
    batches **used** so far are the place. To return to it the epoch is shuffled again and the used batches
    are thrown away, which costs reading them; the rows themselves must not be random. A batch counts as used
    when the step on it has ended (:meth:`used`), not when it was handed out.
    """

    def __init__(self, loader: DataLoader, generator: torch.Generator):
        self.loader, self.generator = loader, generator
        self.start, self.iteration = generator.get_state(), self._iteration()
        self.handed_out = self.done = 0  # batches of this epoch
        self._continues = False

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not there yet: a copy is being made
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        if self._continues:
            self.generator.set_state(self.start)
            self._set_iteration(self.iteration)
        else:
            self.start, self.iteration, self.done = self.generator.get_state(), self._iteration(), 0
        self._continues, self.handed_out, skipped = False, self.done, self.done
        for number, batch in enumerate(self.loader):
            if number >= skipped:
                self.handed_out = number + 1
                yield batch

    def used(self) -> None:
        """The batch handed out last has been trained on."""
        self.done = self.handed_out

    def resume(self) -> None:
        """The next pass is the rest of this epoch, not a new one."""
        self._continues = True

    def state_dict(self) -> dict[str, Any]:
        """The place: generator state at the start of the epoch, number of the epoch, batches used."""
        return {"start": self.start, "iteration": self.iteration, "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a place; the next pass is the rest of its epoch."""
        self.start, self.iteration, self.done = state["start"], state["iteration"], state["done"]
        self.resume()

    def _iteration(self) -> int:
        """Accelerate counts whole epochs; its seedable sampler shuffles by that number."""
        return getattr(self.loader, "iteration", 0)

    def _set_iteration(self, value: int) -> None:
        if hasattr(self.loader, "iteration"):
            self.loader.iteration = value


def shuffled_batches(
    dataset, data_collator: Callable | None, config: PPOConfig, accelerator: Accelerator
) -> PromptLoader:
    """Batches of ``config.batch_size`` prompts, in an order of ``config.seed``. ``data_collator`` makes
    columns of rows, by default without padding. Raises BadData if the data set does not fill one batch."""
    rows, needed = len(dataset), config.batch_size * accelerator.num_processes
    if rows < needed:
        raise BadData(
            f"数据集只有 {rows} 行，凑不满一个 batch（{needed}）",
            f"The data set has {rows} rows, which do not fill one batch of {needed}",
        )
    if config.remove_unused_columns and hasattr(dataset, "column_names"):
        dataset = dataset.remove_columns([c for c in dataset.column_names if c not in DATASET_COLUMNS])
    generator = torch.Generator().manual_seed(config.seed)
    loader = DataLoader(
        dataset,
        batch_size=config.batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=data_collator or columns,
        generator=generator,
    )
    return PromptLoader(accelerator.prepare(loader), generator)


def columns(rows: Sequence[dict]) -> dict[str, list]:
    """Rows to columns, without padding: queries are ragged."""
    batch = {key: [row[key] for row in rows] for key in rows[0]}
    batch["input_ids"] = [torch.as_tensor(ids) for ids in batch["input_ids"]]
    return batch
