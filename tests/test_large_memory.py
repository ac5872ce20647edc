"""Peaks of memory of whole PPO steps, in a process of their own: what an adapter saves, and what was planned.

``benchmarks/large.py`` measures; on a GPU it does the same at 7B.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf import plan, profiles

BENCHMARKS = profiles.CHECKOUT / "benchmarks"
SHORT = [
    *("--batch_size", "4", "--mini_batch_size", "4", "--gradient_accumulation_steps", "1"),
    *("--query_tokens", "[2, 13]", "--response_tokens", "[4, 5]"),
]
CASES = {"adapter": False, "a second model": True}

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux lets a process forget its peak"
)


def main(place: Path) -> None:
    """Measure every case in a process of its own, which has loaded nothing but the libraries."""
    sys.path.insert(0, str(BENCHMARKS))
    import large

    question, values = large.ask(SHORT, miniature=True)
    large.warm_up(large.tiny(question), values, "cpu")
    (place / "plan.json").write_text(json.dumps(phases(question.needs())))
    for name, copied in CASES.items():
        if os.fork() == 0:  # one thread: nothing is lost
            found = large.measure(question, values, "cpu", copied, steps=1)
            (place / f"{name}.json").write_text(json.dumps(found))
            os._exit(0)
        os.wait()


def phases(needs: plan.Needs) -> dict[str, float]:
    """Every row, and the bytes of both phases."""
    return {**needs.rows, **{f"while {phase}": needs.during(phase) for phase in needs.PHASES}}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict]:
    place = tmp_path_factory.mktemp("memory")
    settings = {"PYTHONPATH": str(profiles.CHECKOUT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, str(place)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {file.stem for file in place.iterdir()} == {"plan", *CASES}, done.stderr[-3000:]
    return {file.stem: json.loads(file.read_text()) for file in place.iterdir()}


def test_with_an_adapter_there_is_no_second_model_at_any_moment(found):
    one, two = found["adapter"], found["a second model"]
    weights = two["bytes"]["reference"]
    assert one["bytes"]["reference"] == 0 and weights > 0.9 * one["bytes"]["weights"]
    for moment in ("held", "sampling", "scoring", "training"):
        assert two[moment] - one[moment] == pytest.approx(weights, rel=0.15), moment
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-5)  # and it is the same reference


def test_bytes_are_those_that_were_planned_and_peaks_are_near(found):
    planned, measured = found["plan"], found["adapter"]
    assert measured["bytes"] == {name: planned[name] for name in measured["bytes"]}
    assert min(planned["gradients"], planned["optimizer"], planned["reward_model"]) > 0
    for phase in ("sampling", "training"):  # kernels and the C library keep some buffers, whatever the model
        assert measured[phase] == pytest.approx(planned[f"while {phase}"], rel=0.15, abs=2**26), phase


if __name__ == "__main__":
    main(Path(sys.argv[1]))
