"""A few updates with the weights shared out by PyTorch FSDP2 in two processes, on a CPU; saved as SFT saves.

Accelerate shares weights out on accelerators only, and on a CPU takes plain data-parallelism without a word.
Its code for FSDP2 needs no GPU, though, so this file tells it that FSDP was asked for and takes the rest as
it is: ``prepare``, ``backward``, clipping, the optimiser, and :func:`rlhf.sft.save`.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from ppo_tools import TEXT, VOCABULARY, tiny_lm, tiny_tokenizer
from torch.distributed.tensor import DTensor

from rlhf import launched, sft


def share_out() -> None:
    """What ``distributed_type: FSDP`` does on GPUs."""
    state, kind = Accelerator(cpu=True).state, DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = state.distributed_type = kind
    state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        reshard_after_forward=True,
        state_dict_type="FULL_STATE_DICT",
        cpu_ram_efficient_loading=False,
    )


def main(folder: Path) -> None:
    """Train on eight texts, each process on its share of them; leave the model, and what each process had."""
    if launched.count() > 1:
        share_out()
    accelerator, model = Accelerator(cpu=True), tiny_lm("llama", tie_word_embeddings=True)
    own, share = launched.index(), 8 // launched.count()
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    g = torch.Generator().manual_seed(0)
    for _ in range(3):
        ids = torch.randint(0, VOCABULARY, (8, 10), generator=g)[own * share : (own + 1) * share]
        accelerator.backward(model(input_ids=ids, labels=ids, use_cache=False).loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    weights = dict(model.named_parameters())
    shares = {n: tuple(w.to_local().shape) if isinstance(w, DTensor) else None for n, w in weights.items()}
    torch.save(shares, folder / f"shares{own}.pt")
    record = SimpleNamespace(global_step=3, log_history=[])
    made = {"accelerator": accelerator, "model": model, "model_wrapped": model, "state": record}
    sft.save(SimpleNamespace(**made, processing_class=tiny_tokenizer([TEXT])), folder / "saved")
