"""PPO with the weights in shards of two CPU processes, and for comparison with whole weights in the same two.

Started by :mod:`pair`; each process leaves what it saw in a file. Sizes are those of all
processes together, as in :mod:`ppo_workers`. How a CPU is brought to share weights out: :mod:`fsdp_worker`.
"""

from __future__ import annotations

from pathlib import Path

import ppo_workers
import torch
from accelerate import Accelerator
from fsdp_worker import share_out
from torch.distributed.tensor import DTensor

from rlhf import memory
from rlhf.ppo import sharding

# name: (case of ppo_workers, what is different). The first one takes ten steps.
CASES = {
    "plain": ("minibatches", {"ppo_epochs": 1}),
    "left out": ("left out", {"number": 1}),
    "LoRA, response_only": ("LoRA, checkpointed", {"number": 2, "ppo_epochs": 1, "response_only": True}),
}
LEAN = {"response_only": True, "fused": True, "reuse_sampling": True, "ppo_epochs": 1}


def run(name: str) -> dict:
    case, changes = CASES[name]
    return ppo_workers.run(case, **changes)


def held(folder: Path | None = None) -> dict:
    """Bytes that this process holds, at the moment when there are gradients; the policy goes to a folder."""
    trainer, seen = ppo_workers.build("minibatches", ppo_epochs=1), {}
    clip, policy, reference = trainer.accelerator.clip_grad_norm_, trainer.policy, trainer.ref_model

    def note(parameters, limit):
        seen["gradients"] = size(p.grad for p in parameters)
        seen["weights"], seen["reference"] = size(policy.parameters()), size(reference.parameters())
        return clip(parameters, limit)

    trainer.accelerator.clip_grad_norm_ = note
    ppo_workers.steps(trainer, 1)
    states = trainer.optimizer.state.values()
    seen["moments"] = size(entry[name] for entry in states for name in ("exp_avg", "exp_avg_sq"))
    with sharding.whole(policy):
        seen["sampling"] = size(policy.parameters())
    if folder is not None:
        trainer.save_pretrained(folder)
    return {"bytes": seen, "parameters": ppo_workers.learnt(trainer)}


def size(tensors) -> int:
    return memory.tensor_bytes(t.to_local() if isinstance(t, DTensor) else t for t in tensors)


def main(folder: Path) -> None:
    Accelerator(cpu=True)  # the processes find each other
    torch.set_num_threads(1)
    found = {"whole": ppo_workers.loop(total=2, **LEAN)}
    share_out()  # from here on
    found |= {name: run(name) for name in CASES}
    found["unbroken"] = ppo_workers.loop(total=2, **LEAN)
    found["resumed"] = ppo_workers.loop(folder / "state", stop=1, total=2, **LEAN)
    found["held"] = held(folder / "saved")
    torch.save(found, folder / f"process{ppo_workers.index()}.pt")
