"""The loop that tutorials of 2023 to 2025 teach, with TRL 0.11.4: one side of ``benchmarks/speed.py``.

Runs in the environment of ``requirements.txt`` beside it and imports nothing of this course. In: a JSON file
(models, queries, lengths, settings) and one line per turn on standard input. Out: one JSON line per turn, the
seconds of every part. In a turn it writes the batch twice, one query at a time and all at once, and then
scores it and learns from it once: those two parts are the same for both ways of writing.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: idle threads sleep instead of spinning

import json
import time
import warnings
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast
from trl import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer
from turns import take_turns

SENTIMENT = {"top_k": None, "function_to_apply": "none", "batch_size": 16}  # as the tutorial has it


def build(spec):
    folder = Path(spec["models"])
    tokenizer = load_tokenizer(folder / "policy")
    model = AutoModelForCausalLMWithValueHead.from_pretrained(str(folder / "policy"))
    head = load_file(folder / "head.safetensors")
    model.v_head.summary.load_state_dict(head)
    reference = AutoModelForCausalLMWithValueHead.from_pretrained(str(folder / "reference"))
    settings = {"log_with": None, "batch_size": len(spec["queries"])} | spec["ppo"]
    trainer = PPOTrainer(PPOConfig(**settings), model, reference, tokenizer)
    scorer = transformers.pipeline(
        "sentiment-analysis",
        model=transformers.AutoModelForSequenceClassification.from_pretrained(folder / "scorer"),
        tokenizer=load_tokenizer(folder / "scorer"),
        device="cpu",
    )
    return trainer, scorer


def load_tokenizer(folder):
    """The file is readable for both generations of transformers; the settings beside it are not."""
    end = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["eos_token"]
    file = str(folder / "tokenizer.json")
    names = ["input_ids", "attention_mask"]  # DistilBERT has no segments
    return PreTrainedTokenizerFast(
        tokenizer_file=file,
        model_input_names=names,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token=end,
        bos_token=end,
    )


def one_by_one(trainer, queries, lengths, settings):
    responses = []
    for query, length in zip(queries, lengths, strict=True):
        settings["max_new_tokens"] = length
        response = trainer.generate(query, **settings)
        responses.append(response.squeeze()[-length:])
    return responses


def all_at_once(trainer, queries, lengths, settings):
    """TRL draws one length per chunk; here the longest, and every response is cut to its own."""
    settings["max_new_tokens"] = max(lengths)
    responses = trainer.generate(queries, batch_size=len(queries), return_prompt=False, **settings)
    return [response[:length] for response, length in zip(responses, lengths, strict=True)]


def turn(trainer, scorer, spec, ways):
    """One batch; seconds per part, ``generate`` per way of writing."""
    queries = [torch.tensor(ids) for ids in spec["queries"]]
    tokenizer, seconds = trainer.tokenizer, {"generate": {}}
    settings = {"do_sample": True, "top_k": 0, "top_p": 1.0, "min_length": -1}
    settings |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    for name in ways:
        write = {"one_by_one": one_by_one, "all_at_once": all_at_once}[name]
        start = time.perf_counter()
        responses = write(trainer, queries, spec["lengths"], dict(settings))
        seconds["generate"][name] = time.perf_counter() - start
    start = time.perf_counter()
    texts = [tokenizer.decode(torch.cat(both)) for both in zip(queries, responses, strict=True)]
    outputs = scorer(texts, **SENTIMENT)
    scores = [torch.tensor(next(o["score"] for o in row if o["label"] == "POSITIVE")) for row in outputs]
    seconds["score"] = time.perf_counter() - start
    start = time.perf_counter()
    trainer.step(queries, responses, scores)
    seconds["step"] = time.perf_counter() - start
    return seconds | {"tokens": sum(map(len, responses))}


def prepare(spec):
    """What answers a turn: ``{"ways": [...]}`` names the ways of writing."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(spec["threads"])
    trainer, scorer = build(spec)
    return lambda asked: turn(trainer, scorer, spec, asked["ways"])


if __name__ == "__main__":
    take_turns(prepare, __doc__)
