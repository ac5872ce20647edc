"""Weights shared out by FSDP2 in two processes: trained like those of one, and saved as one whole model."""

from __future__ import annotations

from pathlib import Path

import fsdp_worker
import pair
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM


def launch(folder: Path) -> None:
    """Train in two processes."""
    pair.run("fsdp_worker", folder)


def test_two_processes_that_share_a_model_save_the_model_of_one(tmp_path):
    places = tmp_path / "one", tmp_path / "two"
    for place, train in zip(places, (fsdp_worker.main, launch), strict=True):
        place.mkdir()
        train(place)
    one, two = (AutoModelForCausalLM.from_pretrained(place / "saved").state_dict() for place in places)
    assert one.keys() == two.keys()
    for name, weight in one.items():
        assert_close(two[name], weight, atol=1e-5, rtol=0, msg=name)
    shares = [torch.load(tmp_path / "two" / f"shares{k}.pt") for k in (0, 1)]
    assert set(shares[0]) == set(shares[1]) and None not in shares[0].values()  # every weight was in shares
    for name, first in shares[0].items():
        assert first[0] + shares[1][name][0] == one[name].shape[0], name
    assert set(torch.load(tmp_path / "one" / "shares0.pt").values()) == {None}
    left = {path.name for path in (tmp_path / "two" / "saved").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "sft.json"} <= left
