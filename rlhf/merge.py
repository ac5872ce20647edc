"""Merge a LoRA adapter into its base: one whole model folder, checked against the two it came from.

    python -m rlhf.merge output/sft_lora --output sft_1                  # the base that the adapter names
    python -m rlhf.merge output/rm_lora --base sft_1 --output rm_2       # another base; reward models too

In: a folder that PEFT saved (``adapter_config.json`` and ``adapter_model.safetensors``) and the base model.
Out: an ordinary model folder with the tokenizer, which loads without PEFT. PEFT does the arithmetic. What is
done around it here: the base is found by name, nothing is merged that would leave a layer random, and the
folder is loaded once more and has to give the logits of base and adapter before it takes its name. Lesson 03
explains adapters, lesson 11 merges one.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import shutil
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlhf import errors, profiles, text_form
from rlhf.errors import CannotWrite, MissingAssets
from rlhf.files import whole_folder
from rlhf.lora import BadAdapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
HEADS = ("score", "classifier")  # what transformers calls the layer on top of a reward model
DTYPES = ("auto", "float32", "float16", "bfloat16")
TOLERANCE = 1e-4  # how far apart logits may lie in float32, as a share of the largest one
# What a stage leaves beside the weights, and what belongs to the model rather than to the adapter.
CARRIED = (
    "v_head.safetensors",
    "recipe.yaml",
    "made_from.json",
    "sft.json",
    "reward_model.json",
    "history.csv",
)


@dataclass(frozen=True)
class Merged:
    """What :func:`merge` made.

    Attributes:
        folder, base: where the result and its base are. kind: class of the model. dtype: its number format.
        difference: largest distance between a logit of the merged model and of base with adapter, in float32.
        effect: how far the adapter moves the logits of its base, at most.
        largest: the largest of these logits, to compare the difference with.
        rounding: how far storing the merged weights in ``dtype`` moves the logits; 0 for float32.
    """

    folder: Path
    base: Path
    kind: str
    dtype: str
    difference: float
    effect: float
    largest: float
    rounding: float

    def __str__(self) -> str:
        text = (
            f"{self.kind}: the adapter moves logits by up to {self.effect:.3g}; merged and unmerged differ "
            f"by at most {self.difference:.2g} (the largest logit is {self.largest:.3g})"
        )
        stored = f"\nrounding the merged weights to {self.dtype} moves logits by up to {self.rounding:.2g}"
        return text + (stored if self.rounding else "")


def merge(
    adapter: str | Path,
    output: str | Path,
    base: str | None = None,
    *,
    dtype: str = "auto",
    again: bool = False,
) -> Merged:
    """Merge ``adapter`` into its base and write the result to ``output``, whole or not at all.

    Merging and comparing are done in float32, whatever the result is stored in: 4 bytes of memory per
    parameter, 27 GB at 7B. In bfloat16 the small changes of an adapter would be rounded layer by layer, and
    no comparison could tell a mistake from that.

    Args:
        adapter: a folder of PEFT, or its name under ``output/``. output: a folder, or a name there.
        base: the base model's folder or name; by default what the adapter says it was trained on.
        dtype: number format of the result: ``auto`` is the one the base was saved in.
        again: replace a model that is there already.

    Raises:
        BadAdapter: not a LoRA adapter, one of another model, one that leaves the score head random, or a
            result that does not give the same logits.
        MissingAssets: no adapter, no base (the message names the command that gets it), no tokenizer.
        CannotWrite: ``output`` is there already, or cannot be written.
    """
    place, target = find_adapter(adapter), _target(output)
    config = read_config(place)
    _refuse_to_overwrite(target, again, place)
    source = find_base(base or config.get("base_model_name_or_path"), place)
    tokenizer = _load_tokenizer(place, source)
    model, stored = _load_base(source, place, config, tokenizer)
    stored = stored if dtype == "auto" else getattr(torch, dtype)
    ids = _some_ids(model.config)
    before = _logits(model, ids)
    model = _put_on(model, place)
    wanted = _logits(model, ids)
    model = model.merge_and_unload()
    _untie_if_changed(model)
    difference = _apart(_logits(model, ids), wanted)
    _check(difference, wanted, "merged")
    _cast(model, stored)
    rounded = _logits(_cast(model, torch.float32), ids)
    with whole_folder(target) as partial:
        _cast(model, stored).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        for name in CARRIED:
            if (place / name).is_file():
                shutil.copy2(place / name, partial / name)
        kind = type(model)
        del model
        gc.collect()  # at 7B there is room for one model
        found = _logits(kind.from_pretrained(partial, dtype=torch.float32).eval(), ids)
        _check(_apart(found, rounded), rounded, "loaded")
    largest, rounding = float(wanted.abs().max()), _apart(rounded, wanted) if stored != torch.float32 else 0.0
    effect = _apart(wanted, before)
    return Merged(target, source, kind.__name__, _name(stored), difference, effect, largest, rounding)


# ------------------------------------------------------------------------------------------------- finding


def find_adapter(name: str | Path) -> Path:
    """The folder of an adapter: a folder, or a name under ``output/``.

    Raises:
        MissingAssets: there is nothing. BadAdapter: there is something else.
    """
    folders = [Path(name).expanduser(), profiles.root() / "output" / name, profiles.root() / name]
    for folder in folders:
        if (folder / CONFIG).is_file():
            return folder.resolve()
    there = next((folder for folder in folders if folder.is_dir()), None)
    if there is None:
        raise MissingAssets(
            f"找不到适配器 {name}：既不是文件夹，也不在 output/ 下。",
            f"There is no adapter {name}: neither a folder nor a name under output/.",
        )
    if (there / "config.json").is_file():
        _bad(
            f"{name} 不是适配器，而是一个完整的模型，不需要合并",
            f"{name} is no adapter but a whole model; there is nothing to merge",
        )
    _bad(
        f"{name} 不是适配器：里面没有 {CONFIG}（PEFT 保存的文件夹里有）",
        f"{name} is no adapter: it has no {CONFIG}, which PEFT writes",
    )


def read_config(folder: Path) -> dict[str, Any]:
    """What ``adapter_config.json`` says. Raises BadAdapter for another kind than LoRA, and for no weights."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = str(config["peft_type"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadAdapter(
            f"{folder.name}/{CONFIG} 读不懂：{error!r}。",
            f"{folder.name}/{CONFIG} cannot be read: {error!r}.",
        ) from error
    if kind != "LORA":
        _bad(
            f"{folder.name} 是 {kind} 适配器；这里只合并 LoRA（含 DoRA、rsLoRA）",
            f"{folder.name} is a {kind} adapter; only LoRA is merged here (DoRA and rsLoRA are kinds of it)",
        )
    if not (folder / WEIGHTS).is_file():
        _bad(
            f"{folder.name} 里没有 {WEIGHTS}，只有配置", f"{folder.name} has a configuration but no {WEIGHTS}"
        )
    return config


def find_base(name: str | None, adapter: Path) -> Path:
    """The folder of a base model: a folder, a name under ``output/`` or ``model/``, or the hub's name of one
    that ``download.sh`` knows.

    Raises:
        MissingAssets: it is not here; the message names the command that fetches or makes it.
    """
    if not name:
        raise MissingAssets(
            f"{adapter.name} 没有说明它的底座模型。用 --base 指定。",
            f"{adapter.name} does not say which base it belongs to. Name it with --base.",
        )
    root, last = profiles.root(), Path(name).name
    places = (Path(name).expanduser(), root / "output" / name, root / name, root / "model" / last)
    for folder in places:
        if (folder / "config.json").is_file() and not (folder / CONFIG).is_file():
            return folder.resolve()
    if any((folder / CONFIG).is_file() for folder in places):
        command = f"python -m rlhf.merge {name} --output {last}-merged"
        raise MissingAssets(
            f"底座 {name} 自己也是适配器。先合并它：{command}",
            f"The base {name} is an adapter itself. Merge it first: {command}",
        )
    raise _no_base(name, adapter)


def _no_base(name: str, adapter: Path) -> MissingAssets:
    from rlhf.assets import catalogue
    from rlhf.stages import STAGES

    last = Path(name).name
    for asset in catalogue():
        if asset.type == "model" and (name in (asset.name, asset.repo) or last == asset.name):
            token = " (gated: accept its licence and export HF_TOKEN first)" if asset.gated else ""
            return MissingAssets(
                f"{adapter.name} 的底座 {name} 不在本机。先运行：./download.sh --only {asset.name}",
                f"The base of {adapter.name}, {name}, is not here. "
                f"Run: ./download.sh --only {asset.name}{token}",
            )
    for key, stage in STAGES.items():
        if last == stage.makes:
            command = f"python -m rlhf.train {key} --config recipes/{key}.yaml"
            return MissingAssets(
                f"还没有 {name}。先运行：{command}", f"There is no {name} yet. Run: {command}"
            )
    return MissingAssets(
        f"{adapter.name} 的底座 {name} 不在本机。先取来：hf download {name} --local-dir model/{last}；"
        "若在别处，用 --base 指出它的文件夹。",
        f"The base of {adapter.name}, {name}, is not here. Fetch it: hf download {name} --local-dir "
        f"model/{last}; or name its folder with --base.",
    )


def _target(output: str | Path) -> Path:
    path = Path(output).expanduser()
    return path.resolve() if len(path.parts) > 1 else profiles.root() / "output" / path


def _refuse_to_overwrite(target: Path, again: bool, adapter: Path) -> None:
    if target == adapter or adapter.is_relative_to(target):
        raise CannotWrite(
            f"{target} 就是（或包含）适配器所在的文件夹。请换一个 --output。",
            f"{target} is where the adapter is. Choose another --output.",
        )
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not again:
        raise CannotWrite(
            f"{target} 已经存在。用 --again 替换它，或换一个 --output。",
            f"{target} is there already. Replace it with --again, or choose another --output.",
        )
    if not (target / "config.json").is_file():
        raise CannotWrite(
            f"{target} 里是别的文件，不是模型，不会替换。",
            f"{target} holds other files, not a model, and is left alone.",
        )


# ------------------------------------------------------------------------------------------------- loading


def _load_tokenizer(*folders: Path) -> PreTrainedTokenizerBase:
    """The adapter's tokenizer, which may have more tokens, else the base's."""
    from transformers import AutoTokenizer

    for folder in folders:
        if any(folder.glob("tokenizer*")) or (folder / "vocab.json").is_file():
            with _readable(folder, "分词器", "tokenizer"):
                return AutoTokenizer.from_pretrained(folder)
    raise MissingAssets(
        f"{folders[0].name} 和 {folders[-1].name} 里都没有分词器。",
        f"Neither {folders[0].name} nor {folders[-1].name} has a tokenizer.",
    )


def _load_base(
    source: Path, adapter: Path, config: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, torch.dtype]:
    """The base in float32 with the head that the adapter's task asks for, and the format it was stored in.

    Raises:
        BadAdapter: another task, or that head would be random.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.utils import logging

    task, keys = config.get("task_type"), _shapes(adapter)
    if task not in ("CAUSAL_LM", "SEQ_CLS"):
        _bad(
            f"{adapter.name} 的 task_type 是 {task}；这里合并 CAUSAL_LM（语言模型）和 SEQ_CLS（奖励模型）",
            f"The task_type of {adapter.name} is {task}; CAUSAL_LM (language models) and SEQ_CLS (reward "
            "models) are merged here",
        )
    scorer = task == "SEQ_CLS"
    with _readable(source, "config.json", "config.json"):
        own = AutoConfig.from_pretrained(source)
    stored = own.dtype if isinstance(own.dtype, torch.dtype) else torch.float32
    head = next((shape for key, shape in keys.items() if _is_head(key)), None)
    if scorer:
        own.num_labels = head[0] if head else own.num_labels
        if own.pad_token_id is None:  # without it no last token is found
            own.pad_token_id = (
                tokenizer.pad_token_id if tokenizer.pad_token_id is not None else own.eos_token_id
            )
        for name, value in _record(adapter).items():
            setattr(own, name, value)
    auto = AutoModelForSequenceClassification if scorer else AutoModelForCausalLM
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # a score head that is new is looked at here
    try:
        with _readable(source, "权重", "weights"):
            model, info = auto.from_pretrained(
                source, config=own, dtype=torch.float32, output_loading_info=True
            )
    finally:
        logging.set_verbosity(level)
    fresh = [key for key in info["missing_keys"] if key.split(".")[0] in HEADS]
    if fresh and head is None:
        _bad(
            f"{adapter.name} 没有保存打分层，底座也没有：合并后 {fresh[0]} 是随机数。训练时把它放进 "
            "modules_to_save，或用 --base 指定带打分层的底座",
            f"{adapter.name} has no score head and neither has the base: merged, {fresh[0]} would be random. "
            "Put it into modules_to_save when training, or name a base that has one with --base",
        )
    _resize(model, keys)
    return model.eval(), stored


def _resize(model: PreTrainedModel, keys: Mapping[str, tuple[int, ...]]) -> None:
    """As many rows in the embedding as the adapter's own has: it learnt with tokens that were added."""
    table = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is table)
    rows = keys.get(f"base_model.model.{name}.weight", (0,))[0]
    if rows and rows != table.weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)


def _readable(folder: Path, zh: str, en: str) -> contextlib.AbstractContextManager[None]:
    """Damaged or unknown files are a BadAdapter that names the folder."""
    return errors.reading(
        BadAdapter,
        f"{folder.name} 的{zh}读不懂：{{reason}}。重新取来或训练它，或用 --base 换一个底座。",
        f"The {en} of {folder.name} cannot be read: {{reason}}. Fetch or train it again, or name another "
        "base with --base.",
    )


def _record(adapter: Path) -> dict[str, Any]:
    """What the texts of a reward model look like and how long they may be, where its stage recorded that."""
    try:
        return text_form.recorded(json.loads((adapter / "reward_model.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _put_on(model: PreTrainedModel, adapter: Path) -> Any:
    """The base with its adapter. Raises BadAdapter unless the adapter's tensors are exactly the model's."""
    from peft import PeftModel, get_peft_model_state_dict

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about missing tensors: they are compared below
            wrapped = PeftModel.from_pretrained(model, adapter).eval()
            expected = {key: tuple(value.shape) for key, value in get_peft_model_state_dict(wrapped).items()}
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise BadAdapter(
            f"{adapter.name} 与底座不符：{reason}", f"{adapter.name} does not fit the base: {reason}"
        ) from error
    odd = sorted(set(expected.items()) ^ set(_shapes(adapter).items()))
    if odd:
        _bad(
            f"{adapter.name} 与底座不符，例如 {odd[0][0]}（共 {len(odd)} 处）",
            f"{adapter.name} does not fit the base: {odd[0][0]}, for instance ({len(odd)} in all)",
        )
    return wrapped


def _shapes(adapter: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the adapter's tensors; nothing is read but the head of the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(adapter / WEIGHTS, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise BadAdapter(
            f"{adapter.name}/{WEIGHTS} 已损坏：{error}", f"{adapter.name}/{WEIGHTS} is damaged: {error}"
        ) from error


def _is_head(key: str) -> bool:
    parts = key.split(".")
    return parts[-1] == "weight" and parts[-2] in HEADS


def _untie_if_changed(model: PreTrainedModel) -> None:
    """A head that learnt beside a tied embedding is a tensor of its own now, and the configuration must say
    so; otherwise loading would put the embedding back in its place."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is not table.weight and not torch.equal(head.weight, table.weight):
        model.config.tie_word_embeddings = False


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The weights in another number format; the rotary frequencies, which are no weights, stay exact."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return model


# ------------------------------------------------------------------------------------------------ checking


def _some_ids(config: Any) -> torch.Tensor:
    """Random token ids, ``(2, 16)`` or what fits, the same at every call."""
    vocabulary = config.get_text_config().vocab_size
    length = min(16, getattr(config, "max_position_embeddings", 16))
    return torch.randint(vocabulary, (2, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def _check(difference: float, logits: torch.Tensor, which: str) -> None:
    """Raise BadAdapter where ``difference`` is more than rounding explains."""
    allowed = TOLERANCE * max(1.0, float(logits.abs().max()))
    if not difference <= allowed:  # nan too
        zh = {"merged": "合并后的模型与“底座加适配器”", "loaded": "重新读入的模型与合并后的模型"}[which]
        en = {
            "merged": "the merged model and of base with adapter",
            "loaded": "the stored and of the merged model",
        }
        _bad(
            f"{zh}的 logits 相差 {difference:.3g}，超过允许的 {allowed:.3g}；没有写出任何东西",
            f"The logits of {en[which]} are {difference:.3g} apart, more than the {allowed:.3g} that "
            "rounding explains; nothing was written",
        )


def _bad(zh: str, en: str) -> None:
    raise BadAdapter(f"{zh}。", f"{en}.")


# ----------------------------------------------------------------------------------------------- command


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise BadAdapter(f"命令行有误：{message}（见 --help）", f"{message} (see --help)")


def parser() -> argparse.ArgumentParser:
    """The command line of ``python -m rlhf.merge``."""
    result = _Parser(
        prog="python -m rlhf.merge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("adapter", help="folder that PEFT saved, or its name under output/")
    result.add_argument(
        "--base", help="base model: folder, name under output/ or model/ [what the adapter says]"
    )
    result.add_argument("--output", required=True, help="the result: a folder, or a name under output/")
    result.add_argument(
        "--dtype", default="auto", choices=DTYPES, help="number format of the result [the base's]"
    )
    result.add_argument("--again", action="store_true", help="replace a model that is there already")
    return result


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@errors.command
def main(words: Sequence[str] | None = None) -> int:
    """The command ``python -m rlhf.merge``."""
    given = parser().parse_args(words)
    made = merge(given.adapter, given.output, given.base, dtype=given.dtype, again=given.again)
    print(made)
    print(f"{_short(made.base)} + {Path(given.adapter).name} → {_short(made.folder)}")
    return 0


def _short(path: Path) -> str:
    roots: Iterable[Path] = (profiles.root(),)
    return next((path.relative_to(r).as_posix() for r in roots if path.is_relative_to(r)), str(path))


if __name__ == "__main__":
    sys.exit(main())
