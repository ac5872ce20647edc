"""A causal language model with a value head: policy and critic on one backbone.

In: a folder with a model that ``transformers`` can load. Out: ``(logits, loss, values)`` for every token, and
saved folders that plain ``transformers`` loads without this package. Lesson 06 looks inside; TRL 0.11.4 calls
the same class by the same name.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from ..errors import CannotWrite, CourseError, MissingAssets

HEAD_FILE = "v_head.safetensors"


class ValueHead(nn.Module):
    """``V_t = w . h_t + b``: one linear layer from the hidden state to one number, kept in float32.

    ``hidden`` is the width of the states that the language-model head reads (OPT-350m: 512, not 1024).
    Weight and bias are drawn from U(-1/sqrt(hidden), 1/sqrt(hidden)), torch's own default, with a generator
    of their own: building a head moves no global random state, and the same seed gives the same head.
    """

    def __init__(self, hidden: int, seed: int = 0, generator: torch.Generator | None = None):
        super().__init__()
        self.summary = nn.utils.skip_init(nn.Linear, hidden, 1)
        generator = generator or torch.Generator().manual_seed(seed)
        bound = hidden**-0.5
        with torch.no_grad():
            for parameter in self.summary.parameters():
                parameter.uniform_(-bound, bound, generator=generator)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """``(B, T, H)`` to ``(B, T)``, in float32 whatever the backbone computes in."""
        weight, bias = self.summary.weight, self.summary.bias
        with torch.autocast(weight.device.type, enabled=False):  # bfloat16 would leave values of 3 digits
            exact = torch.promote_types(weight.dtype, torch.float32)  # FSDP may gather it in bfloat16
            return F.linear(*(x.to(exact) for x in (hidden_states, weight, bias))).squeeze(-1)


class AutoModelForCausalLMWithValueHead(nn.Module):
    """``pretrained_model`` (any causal LM of transformers, or one wrapped by PEFT) plus ``v_head``."""

    def __init__(
        self, pretrained_model: PreTrainedModel, *, seed: int = 0, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.pretrained_model = pretrained_model
        hidden = pretrained_model.get_output_embeddings().weight.shape[1]
        self.v_head = ValueHead(hidden, seed, generator).to(pretrained_model.device)
        self.eval()  # dropout stays off: rollouts and updates must speak about the same policy

    # ------------------------------------------------------------------------------ load and save

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike | PreTrainedModel,
        *,
        seed: int = 0,
        generator: torch.Generator | None = None,
        peft_config=None,
        **kwargs,
    ) -> AutoModelForCausalLMWithValueHead:
        """Load a policy; ``path`` is a folder, a model id of the hub, or a model already in memory.

        A value head saved beside the model is loaded; otherwise a new one is drawn from ``seed`` (or from
        ``generator``). ``peft_config`` puts an adapter on the backbone. The other ``kwargs`` go to
        ``AutoModelForCausalLM.from_pretrained`` (``dtype=``, ``device_map=`` ...).

        Raises :class:`MissingAssets` if there is no such model.
        """
        backbone = path if isinstance(path, nn.Module) else _load_backbone(path, kwargs)
        if peft_config is not None:
            from peft import get_peft_model

            backbone = get_peft_model(backbone, peft_config)
        model = cls(backbone, seed=seed, generator=generator)
        if not isinstance(path, nn.Module):
            model._load_head(Path(path))
        return model

    def _load_head(self, folder: Path) -> None:
        """Take the head from ``v_head.safetensors``, or from a model.safetensors that TRL saved with one."""
        for name in (HEAD_FILE, "model.safetensors"):
            if not (folder / name).is_file():
                continue
            with safe_open(folder / name, framework="pt") as file:
                state = {key: file.get_tensor(key) for key in file.keys() if key.startswith("v_head.")}  # noqa: SIM118
            if state:
                try:
                    self.v_head.load_state_dict({k.removeprefix("v_head."): v for k, v in state.items()})
                except RuntimeError as error:
                    raise WrongHead(folder / name, error) from error
                return

    def save_pretrained(
        self,
        folder: str | os.PathLike,
        *also: Callable[[str], object],
        push_to_hub: bool = False,
        state_dict: Mapping[str, torch.Tensor] | None = None,
    ) -> Path:
        """Write the backbone as ``transformers`` does and the head beside it, safetensors only.

        Everything is written to a temporary folder first and then moved, so a full disk leaves no
        half-written model. ``also`` are further savers called with the folder, such as
        ``tokenizer.save_pretrained``. ``push_to_hub`` is accepted for old scripts and only warns.
        ``state_dict`` takes the place of the model's own, which may be in shards. Raises
        :class:`CannotWrite`.
        """
        if push_to_hub:
            warnings.warn("push_to_hub: nothing is uploaded, the model is saved here only", stacklevel=2)
        folder = Path(folder)
        given, head = {}, self.v_head.state_dict()
        if state_dict is not None:
            head, given["state_dict"] = _parts(state_dict, "v_head."), _parts(state_dict, "pretrained_model.")
        head = {f"v_head.{k}": v.detach().cpu().contiguous() for k, v in head.items()}
        scratch = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            scratch = tempfile.mkdtemp(prefix=".saving-", dir=folder)
            self.pretrained_model.save_pretrained(scratch, **given)
            save_file(head, os.path.join(scratch, HEAD_FILE), metadata={"format": "pt"})
            for save in also:
                save(scratch)
            for name in os.listdir(scratch):
                os.replace(os.path.join(scratch, name), folder / name)
        except (OSError, SafetensorError) as error:
            raise CannotWrite(f"无法写入 {folder}：{error}", f"Cannot write to {folder}: {error}") from error
        finally:
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if it is empty: ours, and nothing was saved
        return folder

    # ---------------------------------------------------------------------------------- compute

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values=None,
        return_past_key_values: bool = False,
        **kwargs,
    ) -> tuple:
        """``input_ids`` ``(B, T)`` to ``(logits (B, T, V), loss or None, values (B, T))``, as TRL returns it.

        One pass gives both: the value head reads the same last hidden state as the language-model head.
        Logits and values are float32 whatever the backbone computes in.
        """
        output = self.pretrained_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            output_hidden_states=True,
            **kwargs,
        )
        values = self.v_head(output.hidden_states[-1])
        result = (output.logits.float(), output.loss, values)
        return (*result, output.past_key_values) if return_past_key_values else result

    def forward_backbone(self, **kwargs):
        """The backbone alone, as ``transformers`` calls it: what the reference is asked."""
        return self.pretrained_model(**kwargs)

    def generate(self, *args, **kwargs) -> torch.Tensor:
        """The backbone's own ``generate``. Its defaults may cut the distribution (top-k 50): see
        :func:`rlhf.sampling.generate`, which samples from the full softmax."""
        return self.pretrained_model.generate(*args, **kwargs)

    # ------------------------------------------------------------------------------- convenience

    @property
    def config(self):
        return self.pretrained_model.config

    @property
    def generation_config(self):
        return self.pretrained_model.generation_config

    @property
    def device(self) -> torch.device:
        return self.v_head.summary.weight.device

    @property
    def is_peft_model(self) -> bool:
        """True when the backbone carries a PEFT adapter; the reference is then the backbone without it."""
        return hasattr(self.pretrained_model, "disable_adapter")

    def get_input_embeddings(self) -> nn.Module:
        return self.pretrained_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.pretrained_model.get_output_embeddings()

    def tie_weights(self) -> None:
        """One matrix for embedding and head again, where the backbone has it so: asked by Accelerate."""
        self.pretrained_model.tie_weights()

    @property
    def _no_split_modules(self) -> list[str]:
        """Names of the blocks' classes, each a unit of FSDP: asked by Accelerate."""
        there = {type(module).__name__ for module in self.pretrained_model.modules()}
        return [name for name in self.pretrained_model._no_split_modules or () if name in there]


class WrongHead(CourseError, ValueError):
    """A saved value head that does not fit the model beside it."""

    def __init__(self, file: Path, error: Exception):
        super().__init__(
            f"{file} 中的价值头与模型不匹配：{error}", f"The head in {file} does not fit: {error}"
        )


def create_reference_model(model: nn.Module) -> nn.Module:
    """A frozen copy of ``model`` in eval mode: the policy as it is now, to measure the KL against."""
    reference = copy.deepcopy(model)
    return reference.requires_grad_(False).eval()


def _parts(state_dict: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The entries of one child, by the names that it gives them."""
    return {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}


def _load_backbone(path: str | os.PathLike, kwargs: dict) -> PreTrainedModel:
    """``AutoModelForCausalLM.from_pretrained`` on safetensors, with an error a reader can act on."""
    if "torch_dtype" in kwargs:  # the name that tutorials of 2023 to 2025 use
        kwargs["dtype"] = kwargs.pop("torch_dtype")
    if not _may_be_hub_id(path) and not (Path(path) / "config.json").is_file():
        raise _missing(path, "config.json")
    try:
        return AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, **kwargs)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise _missing(path, str(error).splitlines()[0]) from error


def _may_be_hub_id(path: str | os.PathLike) -> bool:
    """``gpt2`` or ``owner/name``; anything else, and every folder that exists, is a path."""
    text = str(path)
    looks = isinstance(path, str) and text.count("/") <= 1 and not text.startswith((".", "/", "~", "model/"))
    return looks and not Path(text).exists()


def _missing(path: str | os.PathLike, reason: str) -> MissingAssets:
    return MissingAssets(
        f"没有可用的模型：{path}（{reason}）。离线模型用 `python -m rlhf.build --profile offline` 生成，"
        "公开权重用 `./download.sh --profile full` 下载。",
        f"No usable model at {path} ({reason}). `python -m rlhf.build --profile offline` builds the offline "
        "models, `./download.sh --profile full` fetches the published ones.",
    )
