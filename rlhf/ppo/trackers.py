"""Where a run's curves go: TensorBoard, W&B or nowhere, through Accelerate's trackers.

In: the statistics that ``PPOTrainer.step`` returns. Out: scalars, histograms and (W&B) a table of texts.
Lesson 00 shows how to open TensorBoard, lesson 07 what the curves mean.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from accelerate.utils import ProjectConfiguration

from ..errors import CannotWrite
from ..profiles import root
from .config import PPOConfig


def build_accelerator(config: PPOConfig) -> Accelerator:
    """An Accelerator that always has a logging directory, so that TensorBoard never asks for one.

    Gradient accumulation is the trainer's own (see its first docstring), hence one step here.
    """
    project = dict(config.project_kwargs)
    project["logging_dir"] = str(logging_dir(config))
    project.setdefault("project_dir", project["logging_dir"])
    return Accelerator(
        log_with=config.trackers or None,
        project_config=ProjectConfiguration(**project),
        **config.accelerator_kwargs,
    )


def logging_dir(config: PPOConfig) -> Path:
    """``config.logging_dir``, else the classic ``project_kwargs``, else ``output/ppo/runs/<time>``; not
    created."""
    named = (
        config.logging_dir
        or config.project_kwargs.get("logging_dir")
        or config.project_kwargs.get("project_dir")
    )
    return Path(named) if named else root() / "output" / "ppo" / "runs" / time.strftime("%Y%m%d-%H%M%S")


def start_trackers(accelerator: Accelerator, config: PPOConfig, resumed_at: int | None = None) -> None:
    """Open the trackers. The trainer waits for the first ``log_stats``, so a trainer that logs nothing writes
    nothing. W&B is offline unless ``WANDB_MODE`` says otherwise, and writes into the logging directory.

    A run that was killed may have logged steps that the resumed one takes again; TensorBoard drops what the
    earlier process logged from step ``resumed_at`` on.
    """
    init_kwargs = {name: dict(kwargs) for name, kwargs in config.tracker_kwargs.items()}
    folder = Path(accelerator.logging_dir)
    try:
        if accelerator.is_main_process:  # the only one that writes
            folder.mkdir(parents=True, exist_ok=True)
        if "wandb" in config.trackers:
            wandb_kwargs = {"mode": os.environ.get("WANDB_MODE", "offline"), "dir": str(folder)}
            init_kwargs["wandb"] = wandb_kwargs | init_kwargs.get("wandb", {})
        if "tensorboard" in config.trackers and resumed_at is not None:
            init_kwargs["tensorboard"] = {"purge_step": resumed_at, **init_kwargs.get("tensorboard", {})}
        plain = {k: v for k, v in config.to_dict().items() if isinstance(v, (bool, int, float, str))}
        accelerator.init_trackers(config.tracker_project_name, init_kwargs=init_kwargs)
        for tracker in accelerator.trackers:
            store_configuration(tracker, plain)
    except OSError as error:
        raise CannotWrite(
            f"无法写入日志目录 {folder}：{error}", f"Cannot write logs to {folder}: {error}"
        ) from error


def store_configuration(tracker: GeneralTracker, values: dict[str, bool | int | float | str]) -> None:
    """The configuration, once per training. For TensorBoard it goes into the run's own event file and into
    ``hparams.yml`` beside it: Accelerate's way (``add_hparams``) opens a second run named by the time."""
    if tracker.name != "tensorboard":
        tracker.store_init_configuration(values)
    elif accelerator_main(tracker):
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(values, {}):
            tracker.writer.file_writer.add_summary(summary)
        tracker.writer.flush()
        text = yaml.safe_dump(values, allow_unicode=True)
        (Path(tracker.logging_dir) / "hparams.yml").write_text(text, encoding="utf-8")


def write(
    accelerator: Accelerator,
    scalars: dict[str, float],
    distributions: dict[str, np.ndarray],
    step: int,
    columns: Sequence[str] = (),
    rows: Sequence[Sequence] = (),
) -> None:
    """Send one step to every tracker: scalars to all, histograms where there are histograms, texts to W&B."""
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            _tensorboard(tracker, scalars, distributions, step)
        elif tracker.name == "wandb":
            _wandb(tracker, scalars, distributions, columns, rows)
        else:
            tracker.log(scalars, step=step)


def _tensorboard(tracker, scalars: dict, distributions: dict, step: int) -> None:
    if not accelerator_main(tracker):
        return
    for name, values in distributions.items():
        tracker.writer.add_histogram(name, values, global_step=step)
    tracker.log(scalars, step=step)  # flushes


def _wandb(
    tracker, scalars: dict, distributions: dict, columns: Sequence[str], rows: Sequence[Sequence]
) -> None:
    import wandb

    logs = dict(scalars) | {name: wandb.Histogram(values) for name, values in distributions.items()}
    if rows:
        logs["game_log"] = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
    tracker.log(logs)  # no step: the caller may log to the same run


def accelerator_main(tracker) -> bool:
    """Only the main process has opened a writer."""
    return hasattr(tracker, "writer")
