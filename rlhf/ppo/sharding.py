"""PPO on weights that are shared out: each process holds a part of every one (PyTorch's FSDP2).

In: an Accelerator that was launched so, a policy, its optimiser, a reference. Out: the same objects,
of which each process keeps a share of weights, gradients and optimiser state, and :func:`whole`, within
which the weights are all there. ``recipes/README.md`` says when this pays and when LoRA is better. With whole
models every function here that takes one does nothing.

Passes over rollouts and minibatches run in shards: FSDP gathers one block after the other, and all processes
take equally many passes. Sampling cannot: each process writes texts of its own lengths, and gathering waits
for all. So the weights are gathered once before it, and dropped after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from .config import BadConfig, PPOConfig

REFUSED = {DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM}


# ------------------------------------------------------------------------------------------- sharing out


def check(accelerator: Accelerator, config: PPOConfig) -> bool:
    """Whether this run was launched with the weights shared out. Raises BadConfig for a way of doing so that
    PPO does not know, and for an optimiser that does not know shards."""
    kind = accelerator.distributed_type
    if kind in REFUSED or (kind == DistributedType.FSDP and not accelerator.is_fsdp2):
        name = "FSDP 1" if kind == DistributedType.FSDP else kind.value
        raise BadConfig(
            f"PPOTrainer 可以用 FSDP2 分摊权重（fsdp_version: 2），不能用 {name}。"
            "也可以用 LoRA、bfloat16 和 gradient_checkpointing，每个进程一整份（MULTI_GPU）。",
            f"PPOTrainer can share its weights out with FSDP2 (fsdp_version: 2), but not with {name}. Or "
            "keep a whole model in each process (MULTI_GPU) with LoRA, bfloat16 and gradient_checkpointing.",
        )
    if kind == DistributedType.FSDP and config.optimizer == "adafactor":
        raise BadConfig(
            "adafactor 需要整个矩阵的行列均值，不能用于分摊的权重；请用 adam：它的状态也分摊。",
            "adafactor needs the rows and columns of whole matrices and cannot work on shards; use adam, "
            "whose state is shared out as well.",
        )
    if kind == DistributedType.FSDP and config.compile_sampling:
        raise BadConfig(
            "compile_sampling 不能用于分摊的权重：编译好的图里，权重的位置是固定的。",
            "compile_sampling cannot work on shards: a compiled graph has its weights in fixed places.",
        )
    return kind == DistributedType.FSDP


def prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, reference: nn.Module | None
) -> tuple[nn.Module, torch.optim.Optimizer, nn.Module | None]:
    """Policy, optimiser and reference ready to train: in shards if the run was launched so, else whole."""
    if accelerator.distributed_type == DistributedType.FSDP:
        model, optimizer = share_out(accelerator, model, optimizer)
        return model, optimizer, reference and share_out_frozen(accelerator, reference)
    model, optimizer = accelerator.prepare(model, optimizer)
    if reference is not None:
        reference = accelerator.prepare_model(reference, evaluation_mode=True).eval()
    return model, optimizer, reference


def share_out(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Policy, value head and optimiser in shards; the optimiser's parameters are the shards from then on.

    In mixed precision (``param_dtype``) what learns is kept in float32, gathered in 16 bits, and its
    gradients are added up in float32. Raises BadConfig if what learns is in several formats without it.
    """
    _check_formats(accelerator, model)
    plugin = accelerator.state.fsdp_plugin
    if (policy := plugin.mixed_precision_policy) is not None:  # Accelerate's returns log-probs of 3 digits
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=policy.param_dtype, reduce_dtype=torch.float32
        )
    _name_blocks(accelerator, model)
    model, optimizer = accelerator.prepare(model, optimizer)
    model.v_head.register_forward_hook(lambda head, inputs, values: values.clone())  # FSDP wants no views
    if accelerator.native_amp:
        model.forward = accelerator.autocast()(model.forward)  # as Accelerate does for whole models
    return _ready(accelerator, model), optimizer


def share_out_frozen(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """A model that does not learn, in shards: the reference."""
    _name_blocks(accelerator, model)
    return _ready(accelerator, fsdp2_prepare_model(accelerator, model.requires_grad_(False)).eval())


def _name_blocks(accelerator: Accelerator, model: nn.Module) -> None:
    """Tell the plugin which classes are blocks, the units of sharing out: those it was told, if the model has
    them. (Accelerate looks once, at the first model, and stops where the next one has others.)"""
    plugin, there = accelerator.state.fsdp_plugin, {type(module).__name__ for module in model.modules()}
    told = [name for name in plugin.transformer_cls_names_to_wrap or () if name in there]
    plugin.transformer_cls_names_to_wrap = told or list(getattr(model, "_no_split_modules", None) or ())


def _ready(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """Shards that are gathered for a pass and dropped after it, whichever way the model is entered."""
    if hasattr(model, "forward_backbone"):
        register_fsdp_forward_method(model, "forward_backbone")
    model.set_reshard_after_forward(accelerator.state.fsdp_plugin.reshard_after_forward)
    token = torch.zeros(1, 1, dtype=torch.long, device=accelerator.device)
    with torch.no_grad():  # the first module to run is taken for the root; sampling begins further in
        model(input_ids=token, attention_mask=torch.ones_like(token), use_cache=False)
    settle(model)
    return model


def _check_formats(accelerator: Accelerator, model: nn.Module) -> None:
    kinds = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad}
    if len(kinds) > 1 and accelerator.mixed_precision == "no":
        listed = ", ".join(sorted(kinds))
        raise BadConfig(
            f"FSDP 要求一起训练的权重格式相同，而这里有 {listed}。请用 mixed_precision: bf16 启动。",
            f"FSDP asks for one number format of all weights that learn, and these are {listed}. Launch it "
            "with mixed_precision: bf16.",
        )


# ---------------------------------------------------------------------------------------- while it runs


def is_shared(model: nn.Module) -> bool:
    """Whether :func:`share_out` or :func:`share_out_frozen` was called on it."""
    return isinstance(model, FSDPModule)


@contextlib.contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Within this, every process has all weights of ``model`` and may run it without the others, to sample.

    All processes have to enter it, since they gather together. The weights must not change inside.
    """
    if not is_shared(model):
        yield
        return
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    settle(model)
    model.set_reshard_after_forward(False)
    for unit in units:
        unit.unshard()
    try:
        yield
    finally:
        model.set_reshard_after_forward(AcceleratorState().fsdp_plugin.reshard_after_forward)
        settle(model)


def settle(model: nn.Module) -> None:
    """Drop what is still gathered: before an update, or those weights would stay what they were; and after a
    pass without a backward pass, which leaves marks in FSDP."""
    if is_shared(model):
        model.reset_iter_state()


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor that is in shards, gathered by all processes together; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


# ---------------------------------------------------------------------------------------- save and load


def collect(value: Any, keep: bool) -> Any:
    """``value``, nested dicts and lists, with whole tensors on the CPU in place of shards; None in place of
    them unless ``keep``: one process writes, all have to gather."""
    if isinstance(value, DTensor):
        found = value.detach().full_tensor()
        return found.cpu() if keep else None
    if isinstance(value, Mapping):
        return {name: collect(part, keep) for name, part in value.items()}
    return [collect(part, keep) for part in value] if isinstance(value, list) else value


def like(tensor: torch.Tensor, shard: torch.Tensor) -> torch.Tensor:
    """This process's share of a whole ``tensor`` that every process has, if ``shard`` is one."""
    if not isinstance(shard, DTensor):
        return tensor
    whole_tensor = tensor.to(shard.device)
    return distribute_tensor(whole_tensor, shard.device_mesh, shard.placements, src_data_rank=None)


def optimizer_state(optimizer: torch.optim.Optimizer, state: dict) -> dict:
    """A whole optimiser's ``state_dict`` in the shards of ``optimizer``: moments are shared out as their
    parameters are, step counters are not."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def own(index: int, value: Any) -> Any:
        parameter = parameters[index]
        shaped = isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.dim() > 0
        return like(value, parameter) if shaped else value

    entries = {
        index: {name: own(index, value) for name, value in entry.items()}
        for index, entry in state["state"].items()
    }
    return {**state, "state": entries}


def whole_weights(accelerator: Accelerator, model: nn.Module) -> dict[str, torch.Tensor] | None:
    """What ``save_pretrained`` has to be given for a model in shards: all weights, on the CPU of the main
    process. None for a whole model. Every process has to call it."""
    return accelerator.get_state_dict(model) if is_shared(model) else None
