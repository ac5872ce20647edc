"""What a recipe needs before it runs: bytes per process, whether a GPU holds them, time per step.

    python -m rlhf.plan --recipe recipes/7b/ppo.yaml                    # beside every GPU of rlhf/gpus.yaml
    python -m rlhf.plan --recipe recipes/7b/ppo.yaml --gpu rtx-4090     # what to change if it does not fit
    python -m rlhf.plan --recipe recipes/7b/sft.yaml --gpu a100-80gb --processes 8 --zero 3 --lora_rank 0

In: a recipe of :mod:`rlhf.train`, and the configuration of its model (a folder, an exhibit of the museum, or
the result of a recipe beside this one); no weights. Out: a :class:`Needs`.

Nothing is estimated by a formula where it can be counted. The model of the recipe is built with one and with
two blocks out of fake tensors, which have shapes and formats but no storage, takes the stage's own kind of
training step, and the bytes are counted with the tools of :mod:`rlhf.memory`; what one block adds, every
further block adds too. On a CPU the same count on real tensors is equal to the byte (the tests compare), and
the peak is that of the allocator. On a GPU other kernels keep a little more or less.

Left out: fragmentation and what the driver takes (a reserve stands for them), padding within a batch (the
longest texts are assumed), the optimiser's temporaries, buckets of communication, and communication time.
Lesson 11 plans with it.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import json
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from rlhf import errors, memory, museum, profiles, recipes
from rlhf.errors import MissingAssets
from rlhf.memory import GIB, BadPlan

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TABLE = Path(__file__).with_name("gpus.yaml")
STAGES = ("sft", "reward", "ppo")
UTILISATION = 0.4  # share of the peak that training reaches; 0.3 to 0.5 is usual
READING = 0.6  # share of the bandwidth that sampling reaches
RESERVE = (GIB, 0.05)  # for driver and fragmentation: one GiB and 5 % of the card

# What the rows mean; --help prints it.
ROWS = {
    "weights": (
        "全部权重；LoRA 时底座加适配器。ZeRO-3 分摊到各进程",
        "all weights, with LoRA the base and the adapter; ZeRO-3 shares them out",
    ),
    "gradients": (
        "只有要训练的权重才有。ZeRO-2、3 分摊",
        "of the weights that learn; ZeRO-2 and 3 share them out",
    ),
    "optimizer": (
        "Adam 的两个矩；ZeRO 时还有 float32 主权重，并分摊",
        "Adam's two moments; under ZeRO a float32 copy of the weights too, and all shared out",
    ),
    "reference": (
        "PPO 的参考模型；LoRA 时是关掉适配器的策略，不占显存",
        "of PPO; with LoRA it is the policy with its adapter off and takes nothing",
    ),
    "reward_model": ("PPO 打分用的模型，只有权重", "what scores PPO's texts; weights only"),
    "value_head": (
        "PPO 的价值头：权重、梯度、两个矩，float32",
        "of PPO: weights, gradients and moments, float32",
    ),
    "activations": (
        "一次前向为反向留下的张量（训练阶段）",
        "what one forward pass keeps for the backward pass (while training)",
    ),
    "temporaries": (
        "峰值处另有的临时张量，如 logits 及其梯度（训练阶段）",
        "what comes and goes at the peak, logits and their gradient above all (while training)",
    ),
    "cache": ("采样时的键和值（采样阶段）", "keys and values while sampling"),
    "gathered": (
        "ZeRO-3：正在算的那一块的完整权重（两块，和词表）",
        "ZeRO-3: the whole weights of what is computed just now (two blocks and the vocabulary)",
    ),
}


# -------------------------------------------------------------------------------------------- the question


@dataclass(frozen=True)
class Ask:
    """What one process does, as the recipe says.

    Attributes:
        stage: sft, reward or ppo. sequences, tokens: of one forward and backward pass. passes: how many of
            them make a step. dtype: of the frozen weights and the arithmetic. lora_rank: 0 trains everything.
        checkpointing: recompute activations. rows: sequences that PPO samples per step. new_tokens: how long
            their responses are.
    """

    stage: str
    sequences: int
    tokens: int
    passes: int = 1
    dtype: str = "float32"
    lora_rank: int = 0
    checkpointing: bool = False
    rows: int = 0
    new_tokens: int = 0

    @classmethod
    def of(cls, stage: str, values: Mapping[str, Any], positions: int = 1 << 30) -> Ask:
        """From the fields of a recipe. Raises BadPlan for a stage that is not planned."""
        if stage not in STAGES:
            raise BadPlan(
                f"不估算 {stage} 阶段；可选：{', '.join(STAGES)}。拒绝采样的训练就是 SFT，采样看 PPO。",
                f"The stage {stage} is not planned; there are: {', '.join(STAGES)}. Rejection sampling "
                "trains like SFT and samples like PPO.",
            )
        common = {
            "stage": stage,
            "dtype": values.get("dtype", "float32"),
            "lora_rank": values.get("lora_rank", 0),
            "checkpointing": values.get("gradient_checkpointing", False),
        }
        memory.bytes_of(common["dtype"])
        accumulated = values.get("gradient_accumulation_steps", 1)
        if stage == "ppo":
            queries, responses = (values[name][1] - 1 for name in ("query_tokens", "response_tokens"))
            size = values["mini_batch_size"]
            return cls(
                sequences=size,
                tokens=min(queries + responses, positions),
                passes=values["ppo_epochs"] * max(1, values["batch_size"] // size),
                rows=values["batch_size"],
                new_tokens=responses,
                **common,
            )
        longest = values.get("max_length", positions)
        if stage == "reward" and values.get("data", "reviews") == "reviews":
            longest = min(longest, values["tokens"][1] + 1)  # and the end-of-sequence token
        both = 2 if stage == "reward" else 1  # chosen and rejected go through together
        return cls(
            sequences=both * values["batch_size"],
            tokens=min(longest, positions),
            passes=accumulated,
            **common,
        )


def read_recipe(path: str | Path, words: Sequence[str] = (), stage: str | None = None) -> tuple[str, dict]:
    """The stage and every field of a recipe; the name of the file tells the stage: ``sft.yaml``.

    Raises:
        BadPlan: the name tells no stage. BadRecipe: as :func:`rlhf.train.resolve`.
    """
    from rlhf import train

    stage = stage or next((name for name in train.STAGES if Path(path).stem.startswith(name)), None)
    if stage not in train.STAGES:
        raise BadPlan(
            f"从 {Path(path).name} 看不出是哪个阶段；用 --stage 说明：{', '.join(STAGES)}。",
            f"{Path(path).name} does not tell its stage; name it with --stage: {', '.join(STAGES)}.",
        )
    known = train.STAGES[stage].known()
    given = ["--config", str(path), *words]
    return stage, train.resolve(train.STAGES[stage], known, given, "python -m rlhf.plan")


def find_config(
    name: str, values: Mapping[str, Any], near: Path | None = None
) -> tuple[str, PreTrainedConfig]:
    """A title and the configuration of a model: a folder, a name under ``output/`` or ``model/``, an exhibit
    of the museum or the hub's name of one, or what a recipe in the folder ``near`` is going to make.

    Raises:
        BadPlan: nothing of that; the message lists the exhibits.
    """
    from transformers import AutoConfig

    from rlhf.stages import OWN

    name, root = str(name), profiles.root()
    if name == OWN:
        profile = profiles.read(values.get("profile"))
        folder = root / profile["policy"]
        if not (folder / "config.json").is_file():
            raise MissingAssets(
                f"还没有 {profile['policy']}。先运行：{profile['prepare']}，或用 --model 换一个模型。",
                f"There is no {profile['policy']} yet. Run: {profile['prepare']}; "
                "or name another with --model.",
            )
        return folder.name, AutoConfig.from_pretrained(folder)
    last = Path(name).name
    for folder in (root / "output" / name, root / name, Path(name).expanduser(), root / "model" / last):
        if (folder / "config.json").is_file():
            return last, AutoConfig.from_pretrained(folder)
    for card in museum.exhibits().values():
        if name in (card.name, card.repo) or last == card.repo.rpartition("/")[2]:
            if card.cls.startswith("rlhf.") or not card.cls.endswith(("ForCausalLM", "LMHeadModel")):
                continue
            import transformers

            return card.title, getattr(transformers, card.cls).config_class(**card.fields())
    for file in sorted(near.glob("*.yaml")) if near else ():
        found = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        if found.get("output") in (name, f"{name}_lora") and found.get("policy") not in (None, name):
            return find_config(found["policy"], found, near)
    known = ", ".join(museum.names())
    raise BadPlan(
        f"找不到 {name} 的配置。用 --model 指定一个文件夹，或这些之一：{known}。",
        f"There is no configuration of {name}. Name a folder with --model, or one of: {known}.",
    )


# ------------------------------------------------------------------------------------------------ counting


class Peak(TorchDispatchMode):
    """Counts the bytes that tensors take within ``with Peak(own) as peak``: ``peak.highest`` is their largest
    sum at one moment. Storage of the tensors ``own``, which were there before, does not count."""

    def __init__(self, own: Sequence[Tensor] = ()):
        super().__init__()
        self.own = {tensor.untyped_storage()._cdata for tensor in own}
        self.alive: dict[int, weakref.finalize] = {}
        self.now = self.highest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, result)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.own or key in self.alive:
            return
        self.alive[key] = weakref.finalize(storage, self._forget, key, size)
        self.now += size
        self.highest = max(self.highest, self.now)

    def _forget(self, key: int, size: int) -> None:
        del self.alive[key]
        self.now -= size


@dataclass(frozen=True)
class Count:
    """What was counted on a model. Bytes, but for ``parameters``, ``trained`` (numbers) and the FLOPs.

    Counts of two models can be subtracted and scaled: ``one + (two - one) * (layers - 1)``.
    """

    parameters: float = 0.0  # of the model, the adapter included
    trained: float = 0.0  # those that learn
    weights: float = 0.0
    trained_bytes: float = 0.0
    activations: float = 0.0
    peak: float = 0.0  # activations and temporaries, at the moment when they are most
    scoring: float = 0.0  # the same without gradients: PPO's pass over the rollouts
    cache: float = 0.0
    forward: float = 0.0  # FLOPs of one forward pass
    both: float = 0.0  # FLOPs of one forward and backward pass

    def __add__(self, other: Count) -> Count:
        return Count(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, factor: float) -> Count:
        return Count(*(getattr(self, f.name) * factor for f in fields(self)))

    def __sub__(self, other: Count) -> Count:
        return self + other * -1


def count(config: PreTrainedConfig, ask: Ask) -> tuple[Count, float, float]:
    """Everything about a model of this configuration; the bytes of one of its blocks, and of what is around.

    Raises:
        BadPlan: the model has fewer than two blocks, or more tokens are asked for than it has positions.
    """
    layers, positions = config.num_hidden_layers, getattr(config, "max_position_embeddings", None)
    if positions and ask.tokens > positions:
        raise BadPlan(
            f"一条序列有 {ask.tokens} 个词元，模型只有 {positions} 个位置。",
            f"A sequence has {ask.tokens} tokens, but the model has only {positions} positions.",
        )
    # how many passes a step has changes nothing in one of them
    one, two = (_measured(type(config), config.to_json_string(), replace(ask, passes=1), n) for n in (1, 2))
    block = two - one
    return one + block * (layers - 1), block.weights, one.weights - block.weights


@functools.lru_cache(maxsize=64)
def _measured(kind: type, text: str, ask: Ask, layers: int) -> Count:
    """:func:`measure` on a model of the configuration written in ``text``, once."""
    return measure(build(kind.from_dict(json.loads(text)), ask, layers), ask)


def build(config: PreTrainedConfig, ask: Ask, layers: int, device: str = "meta") -> nn.Module:
    """The recipe's model with so many blocks, in the recipe's format and with its adapter; without storage
    unless ``device`` is another than meta."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.utils import logging

    config = copy.deepcopy(config)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    config.num_hidden_layers = layers
    scorer = ask.stage == "reward"
    if scorer:
        config.num_labels, config.pad_token_id = 1, 0
    auto = AutoModelForSequenceClassification if scorer else AutoModelForCausalLM
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.device(device), _quietly():
            model = auto.from_config(config, dtype=getattr(torch, ask.dtype))
            if ask.checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            if ask.lora_rank:
                model = _adapted(model, ask)
    finally:
        logging.set_verbosity(level)
    return model.train(ask.stage != "ppo" or ask.checkpointing)


def _adapted(model: nn.Module, ask: Ask) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=ask.lora_rank,
        lora_alpha=2 * ask.lora_rank,
        target_modules="all-linear",
        task_type="SEQ_CLS" if ask.stage == "reward" else "CAUSAL_LM",
    )
    with _quietly():
        model = get_peft_model(model, config)
    if ask.checkpointing:
        model.enable_input_require_grads()
    return model


def measure(model: nn.Module, ask: Ask) -> Count:
    """Count on one model; what lies on the meta device becomes fake tensors on the CPU.

    Fake tensors know that they are on a CPU, so autocast casts them, which nothing on the meta device does.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    fake = any(weight.is_meta for weight in model.parameters())
    with FakeTensorMode(allow_non_fake_inputs=True) if fake else contextlib.nullcontext(), _quietly():
        if fake:
            tied = museum.anatomy.count(model)
            model.to_empty(device="cpu")
            getattr(model, "get_base_model", lambda: model)().tie_weights()
            assert museum.anatomy.count(model) == tied
        ids = torch.ones(ask.sequences, ask.tokens, dtype=torch.long)
        learning = [weight for weight in model.parameters() if weight.requires_grad]
        loss = functools.partial(_under_autocast, ask, LOSSES[ask.stage], model, ids, ask)
        with FlopCounterMode(display=False) as both:
            loss().backward()
        activations = memory.measured_activations(model, loss)
        own = [*model.parameters(), *model.buffers(), *(weight.grad for weight in learning), ids]
        with Peak(own) as peak:
            loss().backward()
        with Peak(own) as scoring, FlopCounterMode(display=False) as forward, torch.no_grad():
            if ask.stage == "ppo":
                _under_autocast(ask, _score, model, ids, ask)
        cache = _cache(model, ids) if ask.stage == "ppo" else 0
        return Count(
            parameters=museum.anatomy.count(model),
            trained=sum(weight.numel() for weight in learning),
            weights=memory.tensor_bytes(model.parameters()),
            trained_bytes=memory.tensor_bytes(learning),
            activations=activations,
            peak=peak.highest,
            scoring=scoring.highest,
            cache=cache,
            forward=forward.get_total_flops(),
            both=both.get_total_flops(),
        )


def _under_autocast(ask: Ask, function: Callable, *arguments) -> Tensor:
    """Mixed precision, as the trainers use it: where the weights are not float32."""
    number = getattr(torch, ask.dtype)
    with torch.autocast("cpu", number, enabled=ask.dtype != "float32"):
        return function(*arguments)


def _lm_loss(model: nn.Module, ids: Tensor, ask: Ask) -> Tensor:
    """Cross-entropy of every token, as SFT has it. (TRL computes it piece by piece and needs less.)"""
    return model(input_ids=ids, labels=ids, use_cache=not ask.checkpointing).loss


def _reward_loss(model: nn.Module, ids: Tensor, ask: Ask) -> Tensor:
    """Bradley–Terry: the first half of the rows is preferred."""
    scores = model(input_ids=ids, use_cache=not ask.checkpointing).logits[:, 0]
    chosen, rejected = scores.chunk(2)
    return -nn.functional.logsigmoid(chosen - rejected).mean()


def _ppo_loss(model: nn.Module, ids: Tensor, ask: Ask) -> Tensor:
    """One minibatch of the course's PPO: policy loss, value loss, and the entropy that is logged."""
    from rlhf.ppo import losses

    logprobs, values, logits = _policy(model, ids, ask)
    old = mask = torch.ones_like(logprobs)
    ratio = losses.probability_ratio(logprobs, old, mask)
    with torch.no_grad():
        losses.entropy_from_logits(logits[:, -ask.new_tokens :])  # of the response
    loss, _ = losses.policy_loss(ratio, old, mask, 0.2)
    return loss + 0.1 * losses.value_loss(values, old, old, mask, 0.2)[0]


def _policy(model: nn.Module, ids: Tensor, ask: Ask) -> tuple[Tensor, Tensor, Tensor]:
    """What PPOTrainer.forward does; a value head of its own is 1 row and is counted by :func:`needs`."""
    from rlhf.ppo import losses

    output = model(input_ids=ids, output_hidden_states=True, use_cache=not ask.checkpointing)
    values, logits = output.hidden_states[-1].float().mean(-1), output.logits.float()[:, :-1]
    return losses.logprobs_from_logits(logits, ids[:, 1:]), values[:, :-1], logits


def _score(model: nn.Module, ids: Tensor, ask: Ask) -> None:
    """PPO without gradients: policy and reference over the rollouts."""
    from rlhf.ppo import losses

    logprobs, _, logits = _policy(model, ids, ask)
    reference = model(input_ids=ids, use_cache=True).logits[:, :-1].float()
    del logprobs, logits
    losses.logprobs_from_logits(reference, ids[:, 1:])


LOSSES = {"sft": _lm_loss, "reward": _reward_loss, "ppo": _ppo_loss}


@torch.no_grad()
def _cache(model: nn.Module, ids: Tensor) -> int:
    was_training = model.training
    cache = model.eval()(input_ids=ids, use_cache=True).past_key_values
    model.train(was_training)
    return memory.measured_cache(cache)


@contextlib.contextmanager
def _quietly():
    """Without the libraries' advice on adapters and checkpoints."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# -------------------------------------------------------------------------------------------------- adding


@dataclass(frozen=True)
class Needs:
    """What one process needs: bytes by purpose (the rows of :data:`ROWS`), FLOPs and bytes read per step."""

    rows: Mapping[str, float]
    parameters: int
    trained: int
    flops: float
    read: float
    tokens: int

    PHASES = {  # noqa: RUF012
        "training": ("activations", "temporaries", "gathered"),
        "sampling": ("cache", "gathered"),
    }

    @property
    def always(self) -> float:
        """What is there all the time."""
        passing = {name for names in self.PHASES.values() for name in names}
        return sum(value for name, value in self.rows.items() if name not in passing)

    def during(self, phase: str) -> float:
        """Bytes while ``training`` or ``sampling``."""
        return self.always + sum(self.rows.get(name, 0.0) for name in self.PHASES[phase])

    @property
    def total(self) -> float:
        """The larger of the two phases: what the GPU must hold."""
        return max(self.during(phase) for phase in self.PHASES)

    def seconds(self, gpu: Gpu, utilisation: float = UTILISATION) -> float:
        """Time of one step: products at a share of the GPU's peak, sampling at a share of its bandwidth."""
        return self.flops / (utilisation * gpu.tflops * 1e12) + self.read / (READING * gpu.bandwidth * 1e9)


def needs(
    config: PreTrainedConfig,
    ask: Ask,
    reward: PreTrainedConfig | None = None,
    *,
    processes: int = 1,
    zero: int = 0,
) -> Needs:
    """What one of ``processes`` needs.

    Args:
        reward: configuration of PPO's reward model. zero: stage of DeepSpeed's ZeRO; FSDP is like 3.

    Raises:
        BadPlan: no such ZeRO stage, no process, or see :func:`count`.
    """
    if zero not in (0, 2, 3) or processes < 1:
        raise BadPlan(
            f"--zero 是 0、2 或 3，--processes 至少 1；现在是 {zero} 和 {processes}。",
            f"--zero is 0, 2 or 3 and --processes at least 1, not {zero} and {processes}.",
        )
    counted, *parts = count(config, ask)
    rows = _shard(counted, parts, processes, zero)
    flops, read = ask.passes * counted.both, 0.0
    parameters, trained = int(counted.parameters), int(counted.trained)
    if ask.stage == "ppo":
        scorer = _frozen(reward or config, ask)
        full = 0.0 if ask.lora_rank else counted.weights
        rows |= {"reference": full, "reward_model": scorer.weights}
        rows["value_head"] = 16.0 * (config.hidden_size + 1)
        rows["cache"] = counted.cache
        trained += config.hidden_size + 1
        parameters += config.hidden_size + 1
        chunks = ask.rows / ask.sequences
        # `forward` holds the passes of policy and reference; one token of a response reads all weights and,
        # on the average, half of the cache
        flops += chunks * (counted.forward + scorer.forward)
        flops += ask.rows * ask.new_tokens * 2 * counted.parameters
        read = chunks * ask.new_tokens * (counted.weights + counted.cache / 2)
    rows["temporaries"] = max(rows["temporaries"], counted.scoring - counted.activations)
    tokens = ask.rows * ask.tokens or ask.passes * ask.sequences * ask.tokens
    return Needs({name: rows.get(name, 0.0) for name in ROWS}, parameters, trained, flops, read, tokens)


def _frozen(config: PreTrainedConfig, ask: Ask) -> Count:
    """The reward model: its weights, and the FLOPs of one pass over the rollouts."""
    plain = Ask("reward", ask.sequences, ask.tokens, dtype=ask.dtype)
    one, two = (build(config, plain, depth) for depth in (1, 2))
    sizes = [memory.tensor_bytes(model.parameters()) for model in (one, two)]
    numbers = [museum.anatomy.count(model) for model in (one, two)]
    further = config.num_hidden_layers - 1
    total, number = (pair[0] + (pair[1] - pair[0]) * further for pair in (sizes, numbers))
    return Count(weights=total, forward=2.0 * number * ask.sequences * ask.tokens)


def _shard(counted: Count, parts: Sequence[float], processes: int, zero: int) -> dict[str, float]:
    """Weights, gradients and optimiser of one process.

    Without ZeRO all is as plain PyTorch has it: gradients and Adam's two moments in the format of the weights
    that learn (PEFT keeps adapters in float32). DeepSpeed keeps these in 2 bytes with gradients in 2 bytes,
    and in its share of the optimiser a float32 copy and two moments, 12 bytes per number (Rajbhandari et al.
    2020, section 3.1).
    """
    moving = {
        "activations": counted.activations,
        "temporaries": max(0.0, counted.peak - counted.activations),
    }
    if zero == 0:
        moments = 2.0 * counted.trained_bytes
        return {
            "weights": counted.weights,
            "gradients": counted.trained_bytes,
            "optimizer": moments,
            **moving,
        }
    frozen = counted.weights - counted.trained_bytes
    rows = {
        "weights": frozen + 2.0 * counted.trained,
        "gradients": 2.0 * counted.trained / processes,
        "optimizer": 12.0 * counted.trained / processes,
        **moving,
    }
    if zero == 3:
        rows["weights"] /= processes
        rows["gathered"] = min(2 * parts[0] + parts[1], counted.weights)
    return rows


# ---------------------------------------------------------------------------------------------------- GPUs


@dataclass(frozen=True)
class Gpu:
    """One line of ``gpus.yaml``."""

    name: str
    memory: float
    tflops: float
    bandwidth: float
    source: str

    @property
    def usable(self) -> float:
        """Bytes that are left for us."""
        size = self.memory * (GIB if self.memory in (16, 24, 48) else 1e9)
        return size - RESERVE[0] - RESERVE[1] * size


@functools.cache
def gpus() -> Mapping[str, Gpu]:
    """The table, by name, from small to large."""
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {name: Gpu(name=name, **row) for name, row in rows.items()}


def gpu(name: str) -> Gpu:
    """One GPU. Raises BadPlan, with the names there are, for one that is not in the table."""
    if name.lower() not in gpus():
        known = ", ".join(gpus())
        raise BadPlan(f"表里没有 {name}；有：{known}。", f"The table has no {name}; there are: {known}.")
    return gpus()[name.lower()]


def changes(ask: Ask) -> list[tuple[str, Ask, int | None]]:
    """What makes a run smaller, the cheapest first: ``(what to write, the new Ask, ZeRO)``. Every
    line includes those before it."""
    found: list[tuple[str, Ask, int | None]] = []

    def add(text: str, zero: int | None = None, **new: Any) -> None:
        found.append((text, replace(found[-1][1] if found else ask, **new), zero))

    if ask.dtype == "float32":
        add("dtype: bfloat16", dtype="bfloat16")
    if not ask.checkpointing:
        add("gradient_checkpointing: true", checkpointing=True)
    size = "mini_batch_size" if ask.stage == "ppo" else "batch_size"
    least = 2 if ask.stage == "reward" else 1
    if ask.sequences > least:
        factor = ask.sequences // least
        add(
            f"{size}: 1 and {factor} times the gradient_accumulation_steps",
            sequences=least,
            passes=ask.passes * factor,
        )
    if not ask.lora_rank:
        add("lora_rank: 16", lora_rank=16)
    if ask.stage != "ppo":  # which samples from whole weights
        add("--zero 3 on 8 GPUs", zero=3)
    return found


# ------------------------------------------------------------------------------------------------- command


@dataclass(frozen=True)
class Question:
    """A recipe, its models, and how it is launched."""

    title: str
    config: PreTrainedConfig
    ask: Ask
    reward: PreTrainedConfig | None = None
    processes: int = 1
    zero: int = 0

    @classmethod
    def of(
        cls, path: str | Path, words: Sequence[str] = (), model: str | None = None, stage: str | None = None
    ) -> Question:
        """From a recipe file and what replaces its fields. Raises as :func:`read_recipe` does."""
        stage, values = read_recipe(path, words, stage)
        near = Path(path).parent
        title, config = find_config(model or values["policy"], values, near)
        reward = None
        if stage == "ppo" and not model:
            reward = _reward_config(values, near, config)
        positions = getattr(config, "max_position_embeddings", None) or 1 << 30
        return cls(title, config, Ask.of(stage, values, positions), reward)

    def needs(self, **other: Any) -> Needs:
        """What it needs; ``other`` replaces ``ask``, ``processes`` or ``zero``."""
        asked = {"ask": self.ask, "processes": self.processes, "zero": self.zero} | other
        return needs(self.config, asked.pop("ask"), self.reward, **asked)


def _reward_config(values: Mapping[str, Any], near: Path, policy: PreTrainedConfig) -> PreTrainedConfig:
    from transformers import AutoConfig

    from rlhf.stages import OWN

    if values["reward_model"] != OWN:
        return find_config(values["reward_model"], values, near)[1]
    folder = profiles.root() / profiles.read(values.get("profile"))["reward_model"]
    return AutoConfig.from_pretrained(folder) if (folder / "config.json").is_file() else policy


def report(question: Question, chosen: Gpu | None = None, utilisation: float = UTILISATION) -> str:
    """What is printed: the table, and what it means for one GPU or for all in the table."""
    found, ask = question.needs(), question.ask
    lines = [
        f"{ask.stage} · {question.title}: {found.parameters:,} parameters, {found.trained:,} of them learn",
        f"one process: {ask.sequences} × {ask.tokens} tokens in a pass, {ask.passes} passes a step, "
        f"{ask.dtype}, {f'LoRA of rank {ask.lora_rank}' if ask.lora_rank else 'all weights'}"
        f"{', activations recomputed' if ask.checkpointing else ''} · {question.processes} "
        f"process{'es' if question.processes > 1 else ''}, ZeRO {question.zero}",
        "",
        f"{'per process':14}{'GiB':>9}",
    ]
    lines += [f"{name:14}{value / GIB:9.2f}" for name, value in found.rows.items() if value]
    phases = [
        f"{phase} {found.during(phase) / GIB:.2f}" for phase in ("training", "sampling")[: 1 + bool(ask.rows)]
    ]
    lines += [f"{'at the peak':14}{found.total / GIB:9.2f}   ({', '.join(phases)})", ""]
    if chosen is None:
        return "\n".join(lines + [_verdict(found, g, utilisation) for g in gpus().values()])
    lines += [_verdict(found, chosen, utilisation)]
    if ask.dtype == "float32":
        lines += ["float32: products take at least twice this time (TF32) · float32 的矩阵乘至少慢一倍"]
    if found.total > chosen.usable:
        lines += ["", "smaller · 缩小（逐条累加，each line with those before it）:"]
        lines += _smaller(question, chosen)
    return "\n".join(lines)


def _verdict(found: Needs, one: Gpu, utilisation: float) -> str:
    left = (one.usable - found.total) / GIB
    verdict = (
        f"fits · 放得下, {left:.1f} GiB left" if left >= 0 else f"too small · 放不下, by {-left:.1f} GiB"
    )
    seconds = found.seconds(one, utilisation)
    speed = f"{_time(seconds)} a step, {found.tokens / seconds:,.0f} tokens/s" if left >= 0 else ""
    return f"{one.name:10} {one.usable / GIB:6.1f} usable   {verdict:32} {speed}".rstrip()


def _time(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _smaller(question: Question, chosen: Gpu) -> list[str]:
    lines = []
    for text, ask, zero in changes(question.ask):
        launch = {"processes": max(8, question.processes), "zero": zero} if zero else {}
        total = question.needs(ask=ask, **launch).total
        lines.append(f"  {text:64} → {total / GIB:6.1f} GiB{', fits' if total <= chosen.usable else ''}")
        if total <= chosen.usable:
            return lines
    total = question.needs().total
    large = next((g.name for g in gpus().values() if g.usable >= total), None)
    return [*lines, f"  another GPU: {large or 'none in the table'}"]


def parser() -> argparse.ArgumentParser:
    """The command line of ``python -m rlhf.plan``."""
    meaning = "\n".join(f"  {name:13} {zh}\n  {'':13} {en}" for name, (zh, en) in ROWS.items())
    epilog = (
        f"rows:\n{meaning}\n\nGPUs: {', '.join(gpus())}\n\n"
        f"time: training at {UTILISATION:.0%} of the GPU's bf16 peak (--utilisation), "
        f"sampling at {READING:.0%} of its\nbandwidth, communication left out. usable: the card less "
        f"{RESERVE[0] / GIB:.0f} GiB and {RESERVE[1]:.0%}. Every field of the recipe\ncan be replaced: "
        "--batch_size 1 --lora_rank 8 …"
    )
    result = recipes_parser()(
        prog="python -m rlhf.plan",
        usage="python -m rlhf.plan --recipe FILE [--gpu NAME] [--processes N] [--zero N] [--FIELD VALUE ...]",
        description="What a recipe needs: bytes per process, whether a GPU holds them, time per step.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = result.add_argument
    add("--recipe", metavar="FILE", required=True, help="recipe of rlhf.train: recipes/7b/ppo.yaml")
    add("--stage", metavar="NAME", help="sft, reward or ppo [what the file's name begins with]")
    add(
        "--model",
        metavar="NAME",
        help="instead of the recipe's policy: a folder, or an exhibit of the museum",
    )
    add("--gpu", metavar="NAME", help="a line of rlhf/gpus.yaml [all of them]")
    add("--processes", metavar="N", type=int, default=1, help="data-parallel processes, one GPU each [1]")
    add("--zero", metavar="0|2|3", type=int, default=0, help="stage of ZeRO; FSDP needs what 3 needs [0]")
    add("--utilisation", metavar="SHARE", type=float, default=UTILISATION, help="share of the peak reached")
    return result


def recipes_parser() -> type[argparse.ArgumentParser]:
    """The parser of :mod:`rlhf.recipes`, which says in both languages what is wrong."""
    return getattr(recipes, "Parser", None) or recipes._Parser


@errors.command
def main(words: Sequence[str] | None = None) -> int:
    """The command ``python -m rlhf.plan``."""
    given, rest = parser().parse_known_args(words)
    if not 0 < given.utilisation <= 1:
        raise BadPlan(
            f"--utilisation 是 0 到 1 之间的数，不是 {given.utilisation}。",
            f"--utilisation is a share between 0 and 1, not {given.utilisation}.",
        )
    chosen = gpu(given.gpu) if given.gpu else None
    question = Question.of(given.recipe, rest, given.model, given.stage)
    question = replace(question, processes=given.processes, zero=given.zero)
    print(report(question, chosen, given.utilisation))
    return 0


if __name__ == "__main__":
    sys.exit(main())
