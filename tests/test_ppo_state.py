"""Stop and go on: a resumed run ends like an unbroken one, and what cannot be resumed is named."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from ppo_tools import EOS, tiny_lm, tiny_policy
from safetensors import safe_open

from rlhf.errors import BadState, CannotWrite, CourseError, MissingAssets
from rlhf.ppo import BadConfig, LengthSampler, PPOConfig, PPOTrainer, latest_state, state
from rlhf.ppo.packing import pack, unpack

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import kills

EPOCH = 3  # batches
SETTINGS = {"batch_size": 4, "mini_batch_size": 2, "learning_rate": 1e-3, "log_with": "none", "ppo_epochs": 2}
SETTINGS |= {"accelerator_kwargs": {"cpu": True}}


def prompts(rows: int = 14, seed: int = 0) -> Dataset:
    """Ragged random queries; 14 of them are 3 batches of 4, and 2 left over."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 6, (rows,), generator=g).tolist()
    ids = [torch.randint(0, EOS, (n,), generator=g).tolist() for n in lengths]
    return Dataset.from_dict({"input_ids": ids, "query": [str(row) for row in ids]}).with_format("torch")


def lora_policy():
    from peft import LoraConfig

    from rlhf.ppo import AutoModelForCausalLMWithValueHead

    torch.manual_seed(5)  # of the adapter
    adapter = LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False)
    return AutoModelForCausalLMWithValueHead.from_pretrained(tiny_lm(), peft_config=adapter)


def build(
    model=None, dataset=None, schedule=False, seed_of_lengths: int | None = 3, **settings
) -> tuple[PPOTrainer, LengthSampler]:
    """A trainer as a new process would build it, after random numbers that no other process has drawn."""
    for draw in (random.random, np.random.rand, lambda: torch.rand(1)):
        draw()
    model = model or tiny_policy()
    optimizer = scheduler = None
    if schedule:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    config = PPOConfig(**SETTINGS | settings)
    dataset = prompts() if dataset is None else dataset
    trainer = PPOTrainer(config, model, dataset=dataset, optimizer=optimizer, lr_scheduler=scheduler)
    return trainer, LengthSampler(2, 7, seed=seed_of_lengths)


def train(trainer: PPOTrainer, lengths: LengthSampler, total: int, after=lambda: None) -> list[dict]:
    """The classic loop; scores depend on the tokens. Returns every number of every step but the times."""
    rows = []
    for batch in trainer.batches(total):
        queries = batch["input_ids"]
        responses = trainer.generate(queries, return_prompt=False, length_sampler=lengths)
        scores = [(response < 20).float().mean() for response in responses]
        stats = trainer.step(queries, responses, scores)
        rows.append({k: v for k, v in stats.items() if not k.startswith("time/")})
        rows[-1]["queries"] = np.concatenate([query.numpy() for query in queries])
        after()
    return rows


def everything(trainer: PPOTrainer, lengths: LengthSampler) -> tuple[str, dict[str, torch.Tensor]]:
    plain, tensors = state.snapshot(trainer, {"lengths": lengths})
    return json.dumps(plain["state"]), tensors


def assert_same(a, b) -> None:
    assert a[0] == b[0]
    assert a[1].keys() == b[1].keys()
    for name in a[1]:
        assert torch.equal(a[1][name], b[1][name]), name


def assert_same_rows(a: list[dict], b: list[dict]) -> None:
    assert len(a) == len(b) > 0
    for row, other in zip(a, b, strict=True):
        assert row.keys() == other.keys()
        for key in row:
            np.testing.assert_array_equal(row[key], other[key], err_msg=key)


# ---------------------------------------------------------------------------------- the same end, bit for bit

CASES = {
    "in an epoch": ({}, 2),
    "at the end of an epoch": ({}, EPOCH),
    "in the second epoch, scores scaled, rate scheduled": (
        {"schedule": True, "use_score_scaling": True, "use_score_norm": True, "max_grad_norm": 1.0},
        EPOCH + 1,
    ),
    "fixed beta, seedable sampler": (
        {"adap_kl_ctrl": False, "accelerator_kwargs": {"cpu": True, "dataloader_config": "seedable"}},
        EPOCH + 2,
    ),
    "LoRA": ({"model": lora_policy}, 3),
    "lengths from numpy's global state": ({"seed_of_lengths": None}, 1),
}


def settings_of(case: str) -> dict:
    from accelerate import DataLoaderConfiguration

    settings = dict(CASES[case][0])
    if "model" in settings:
        settings["model"] = settings["model"]()
    if "dataloader_config" in settings.get("accelerator_kwargs", {}):
        loader = DataLoaderConfiguration(use_seedable_sampler=True)
        settings["accelerator_kwargs"] = {"cpu": True, "dataloader_config": loader}
    return settings


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_ends_like_an_unbroken_one(case, tmp_path):
    stop = CASES[case][1]
    total = max(stop + 2, EPOCH + 1)
    trainer, lengths = build(**settings_of(case))
    unbroken = train(trainer, lengths, total)
    end = everything(trainer, lengths)

    first, sampler = build(**settings_of(case))
    rows = train(first, sampler, stop)
    folder = first.save_state(tmp_path, {"lengths": sampler})
    assert folder == latest_state(tmp_path)
    del first
    random.seed(99), np.random.seed(99), torch.manual_seed(99)

    second, sampler = build(**settings_of(case))
    assert second.load_state(tmp_path, {"lengths": sampler}) == folder
    assert second.current_step == stop
    rows += train(second, sampler, total)
    assert_same_rows(rows, unbroken)
    assert_same(everything(second, sampler), end)


def test_every_random_state_goes_on(tmp_path):
    trainer, lengths = build()

    def draw() -> list[float]:
        python, numpy = [random.random(), random.gauss(0, 1)], [*np.random.rand(1), *np.random.randn(1)]
        return [*python, *numpy, *torch.rand(1).tolist(), *torch.randn(1).tolist(), lengths()]

    draw()  # an odd number of normal draws, of which some generators keep the other half
    trainer.save_state(tmp_path, {"lengths": lengths})
    coming = draw()
    assert draw() != coming
    trainer.load_state(tmp_path, {"lengths": lengths})
    assert draw() == coming


def test_saving_changes_nothing(tmp_path):
    trainer, lengths = build()
    unbroken = train(trainer, lengths, EPOCH + 1)
    saving, sampler = build()
    rows = train(saving, sampler, EPOCH + 1, after=lambda: saving.save_state(tmp_path, {"lengths": sampler}))
    assert_same_rows(rows, unbroken)
    assert_same(everything(saving, sampler), everything(trainer, lengths))


def test_with_an_adapter_only_what_learns_is_stored(tmp_path):
    trainer, lengths = build(lora_policy())
    train(trainer, lengths, 1)
    with safe_open(trainer.save_state(tmp_path) / state.TENSORS, "pt") as file:
        names = {name.removeprefix("policy/") for name in file.keys() if name.startswith("policy/")}  # noqa: SIM118
    assert names == {name for name, p in trainer.policy.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "v_head" in name for name in names)


# ------------------------------------------------------------------------------------------------- prompts


def test_batches_go_through_the_prompts_again_and_again():
    trainer, _ = build()
    seen = [batch["query"] for batch in trainer.batches(3 * EPOCH)]
    epochs = [[q for batch in seen[k : k + EPOCH] for q in batch] for k in (0, EPOCH, 2 * EPOCH)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    again, _ = build()
    assert [b["query"] for _ in range(3) for b in again.dataloader] == seen
    other, _ = build(seed=1)
    assert [b["query"] for b in other.batches(EPOCH)] != seen[:EPOCH]


def test_batches_go_on_where_the_last_step_was():
    trainer, lengths = build()
    expected = train(trainer, lengths, 5)
    parts, sampler = build()
    rows = train(parts, sampler, 2) + train(parts, sampler, 5)
    assert_same_rows(rows, expected)
    assert list(parts.batches(3)) == []  # it has taken more steps than that


def test_a_batch_that_was_not_trained_on_comes_again(tmp_path):
    trainer, lengths = build()
    train(trainer, lengths, 2)
    coming = next(iter(trainer.batches(10)))["query"]  # handed out, and then the run stops
    trainer.save_state(tmp_path)
    other, _ = build()
    other.load_state(tmp_path)
    assert next(iter(other.batches(10)))["query"] == coming


def test_the_classic_loop_over_the_dataloader_can_be_resumed_too(tmp_path):
    def loop(trainer, lengths, stop):
        for batch in trainer.dataloader:
            queries = batch["input_ids"]
            responses = trainer.generate(queries, return_prompt=False, length_sampler=lengths)
            trainer.step(queries, responses, [r.float().mean() for r in responses])
            if trainer.current_step == stop:
                break

    trainer, lengths = build()
    loop(trainer, lengths, EPOCH)
    first, sampler = build()
    loop(first, sampler, 2)
    first.save_state(tmp_path, {"lengths": sampler})
    second, sampler = build()
    second.load_state(tmp_path, {"lengths": sampler})
    loop(second, sampler, None)
    assert second.current_step == EPOCH
    assert_same(everything(second, sampler), everything(trainer, lengths))


def test_without_prompts_there_are_no_batches_but_a_state(tmp_path):
    trainer = PPOTrainer(PPOConfig(**SETTINGS), tiny_policy())
    with pytest.raises(BadConfig, match="no data set"):
        trainer.batches(3)
    other = PPOTrainer(PPOConfig(**SETTINGS), tiny_policy(seed=0))
    other.load_state(trainer.save_state(tmp_path))
    assert other.current_step == 0


# --------------------------------------------------------------------------------------------------- files


def test_a_state_is_json_and_safetensors_and_nothing_else(tmp_path):
    trainer, lengths = build(schedule=True)
    train(trainer, lengths, 2)
    folder = trainer.save_state(tmp_path, {"lengths": lengths})
    assert folder.name == "0001_step_000002"
    assert sorted(path.name for path in folder.iterdir()) == ["state.json", "tensors.safetensors"]
    record = json.loads((folder / "state.json").read_text())
    assert record["step"] == 2 and record["state"]["kl_coef"] == trainer.kl_ctl.value
    with safe_open(folder / "tensors.safetensors", "pt") as file:
        names = set(file.keys())
    assert "policy/v_head.summary.weight" in names
    assert {"policy", "optimizer", "processes", "permutations", "prompts"} <= {n.split("/")[0] for n in names}


def test_old_states_are_removed_and_a_later_one_never_meets_an_old_name(tmp_path):
    trainer, lengths = build()
    train(trainer, lengths, 3, after=lambda: trainer.save_state(tmp_path, keep=2))
    trainer.save_state(tmp_path, keep=2)  # the same step once more
    assert [p.name for p in state.versions(tmp_path)] == ["0003_step_000003", "0004_step_000003"]
    trainer.load_state(tmp_path / "0003_step_000003")  # an earlier one by its name
    trainer.save_state(tmp_path, keep=3)
    assert [p.name[:4] for p in state.versions(tmp_path)] == ["0003", "0004", "0005"]


def test_no_space_is_said_and_the_older_state_stays(tmp_path, monkeypatch):
    trainer, _ = build()
    before = trainer.save_state(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlhf.ppo.state.save_file", full)
    with pytest.raises(CannotWrite, match="No space left"):
        trainer.save_state(tmp_path)
    assert list(tmp_path.iterdir()) == [before]


def test_packing_is_exact_and_refuses_what_it_does_not_know():
    tensor = torch.tensor([1.5, float("nan"), -0.0], dtype=torch.bfloat16)
    tree = {
        "a": [1, 0.1 + 0.2, None, True, "é"],
        "b": (1, (2.0,)),
        "c": {0: {"step": tensor}, 1: {}},
        "d": {},
    }
    tree |= {"e": {"tensor": "a dict that looks like a mark"}, "f": np.arange(3), "g": np.float64(1 / 3)}
    tensors: dict = {}
    back = unpack(json.loads(json.dumps(pack(tree, "x", tensors))), tensors)
    found = back["c"][0].pop("step"), back.pop("f")
    assert found[0].dtype == torch.bfloat16 and torch.equal(
        found[0].view(torch.int16), tensor.view(torch.int16)
    )
    assert isinstance(found[1], np.ndarray) and found[1].tolist() == [0, 1, 2]
    expected = {**tree, "c": {0: {}, 1: {}}, "g": 1 / 3}
    del expected["f"]
    assert back == expected and isinstance(back["b"], tuple)
    with pytest.raises(TypeError, match="x/a/0: function"):
        pack({"a": [lambda: None]}, "x", {})


# --------------------------------------------------------------------------------------- what is refused


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    trainer, lengths = build()
    train(trainer, lengths, 2)
    trainer.save_state(folder, {"lengths": lengths})
    return folder


def other_reference():
    model = tiny_policy()
    with torch.no_grad():
        model.v_head.summary.bias += 1  # a policy that has been trained: its frozen copy is another reference
    return model


WRONG = {
    "learning rate": ({"learning_rate": 1e-4}, "config.learning_rate: 0.001 → 0.0001"),
    "two settings": ({"lam": 0.9, "gamma": 0.9}, "config.lam: 0.95 → 0.9"),
    "kl controller": ({"adap_kl_ctrl": False}, "config.adap_kl_ctrl: True → False"),
    "width": ({"model": lambda: tiny_policy(n_embd=16)}, "model.n_embd: 32 → 16"),
    "heads, which change no shape": ({"model": lambda: tiny_policy(n_head=4)}, "model.n_head: 2 → 4"),
    "architecture": ({"model": lambda: tiny_policy("llama")}, "model.model_type: gpt2 → llama"),
    "adapter": ({"model": lora_policy}, "parameters"),
    "optimiser": ({"schedule": True}, "optimizer.class: Adam → AdamW"),
    "reference": ({"model": other_reference}, "reference: .* → .*"),
    "prompts": ({"dataset": prompts(seed=1)}, "dataset.tokens"),
    "number of prompts": ({"dataset": prompts(30)}, "dataset.rows: 14 → 30"),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_state_of_another_run_is_refused_by_field(case, saved):
    settings, message = WRONG[case]
    settings = {k: v() if callable(v) else v for k, v in settings.items()}
    trainer, lengths = build(**settings)
    before = everything(trainer, lengths)
    with pytest.raises(BadState, match=message) as caught:
        trainer.load_state(saved, {"lengths": lengths})
    assert isinstance(caught.value, CourseError) and "属于另一次训练" in caught.value.zh
    assert_same(everything(trainer, lengths), before)


def test_a_setting_that_is_newer_than_the_state_is_taken_as_its_default(saved, tmp_path):
    """A state that was saved before ``whiten_advantages`` existed belongs to a run that whitened."""
    folder = tmp_path / "0001_step_000002"
    shutil.copytree(state.latest(saved), folder)
    record = json.loads((folder / "state.json").read_text())
    del record["checksum"], record["identity"]["config"]["whiten_advantages"]
    record["checksum"] = state._digest_record(record)
    (folder / "state.json").write_text(json.dumps(record))
    trainer, lengths = build()
    trainer.load_state(folder, {"lengths": lengths})
    other, lengths = build(whiten_advantages=False)
    with pytest.raises(BadState, match=r"config\.whiten_advantages: True → False"):
        other.load_state(folder, {"lengths": lengths})


def test_hints_say_what_to_do(saved):
    for settings, hint in (
        ({"dataset": prompts(seed=1)}, "probably has no seed"),
        ({"model": other_reference()}, "original model"),
        ({"target": 3.0}, "change="),
    ):
        trainer, lengths = build(**settings)
        with pytest.raises(BadState, match=hint):
            trainer.load_state(saved, {"lengths": lengths})


def test_a_setting_changed_on_purpose_is_named(saved):
    trainer, lengths = build(learning_rate=1e-4, lam=0.9)
    with pytest.raises(BadState, match="lam"):
        trainer.load_state(saved, {"lengths": lengths}, change=["learning_rate"])
    trainer.load_state(saved, {"lengths": lengths}, change=["learning_rate", "lam"])
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    assert train(trainer, lengths, 3)[0]["ppo/learning_rate"] == pytest.approx(1e-4)
    for wrong in (["learning_rates"], ["logging_dir"], "learning_rate"):
        with pytest.raises(BadState, match="list of fields"):
            trainer.load_state(saved, {"lengths": lengths}, change=wrong)


def test_a_changed_rate_keeps_the_shape_of_its_schedule(tmp_path):
    trainer, lengths = build(schedule=True)
    train(trainer, lengths, 2)
    trainer.save_state(tmp_path)
    slower, _ = build(schedule=True, learning_rate=SETTINGS["learning_rate"] / 2)
    slower.load_state(tmp_path, change=["learning_rate"])
    for one in (trainer, slower):
        one.lr_scheduler.step()
    rates = [one.optimizer.param_groups[0]["lr"] for one in (trainer, slower)]
    assert rates[1] == pytest.approx(rates[0] / 2)


def test_extra_parts_must_be_the_same(saved):
    trainer, lengths = build()
    for extra, message in (
        ({}, r"saved with extra=\['lengths'\], but load_state was given \[\]"),
        ({"lengths": lengths, "more": lengths}, "more"),
        (
            {"lengths": LengthSampler(2, 9, seed=3)},
            r"LengthSampler\(2, 7, seed=...\); here it is LengthSampler\(2, 9",
        ),
        ({"lengths": LengthSampler(2, 7)}, r"here it is LengthSampler\(2, 7\)"),
        ({"lengths": [1, 2]}, "without state_dict"),
    ):
        before = everything(trainer, lengths)
        with pytest.raises(BadState, match=message):
            trainer.load_state(saved, extra)
        assert_same(everything(trainer, lengths), before)

    class Odd:
        def state_dict(self):
            return {"rule": [len]}

        def load_state_dict(self, state): ...

    with pytest.raises(BadState, match="processes/0/extra/odd/rule/0: builtin_function"):
        trainer.save_state(saved.parent / "nowhere", {"odd": Odd()})


def test_nothing_saved_is_said(tmp_path):
    trainer, _ = build()
    (tmp_path / "notes.txt").write_text("not a state")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MissingAssets, match="No training state was saved") as caught:
            trainer.load_state(folder)
        assert "save_state" in caught.value.zh
    assert latest_state(tmp_path) is None


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "a flipped bit in the tensors": ("tensors.safetensors", flip),
    "a flipped bit in the record": ("state.json", flip),
    "half of the tensors": ("tensors.safetensors", lambda f: f.write_bytes(f.read_bytes()[:1000])),
    "half of the record": ("state.json", lambda f: f.write_text(f.read_text()[:500])),
    "no tensors": ("tensors.safetensors", Path.unlink),
    "no record": ("state.json", Path.unlink),
    "another record": ("state.json", lambda f: f.write_text("[]")),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_state_is_said_and_the_one_before_is_named(case, tmp_path):
    name, damage = DAMAGE[case]
    trainer, lengths = build()
    good = trainer.save_state(tmp_path)
    bad = trainer.save_state(tmp_path)
    damage(bad / name)
    before = everything(trainer, lengths)
    with pytest.raises(BadState, match=f"damaged: .*{name}.*Can still be loaded: {good.name}"):
        trainer.load_state(tmp_path)
    assert_same(everything(trainer, lengths), before)
    assert trainer.load_state(good) == good


def test_an_interrupted_step_is_not_saved(tmp_path, monkeypatch):
    trainer, lengths = build()
    train(trainer, lengths, 1)
    trainer.save_state(tmp_path, {"lengths": lengths})
    updates, update = [], trainer.update

    def interrupted(*arguments):
        updates.append(1)
        if len(updates) == 2:
            raise KeyboardInterrupt
        return update(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(trainer, lengths, 2)
    with pytest.raises(BadState, match="interrupted half-way"):
        trainer.save_state(tmp_path, {"lengths": lengths})
    trainer.load_state(tmp_path, {"lengths": lengths})
    train(trainer, lengths, 2)
    unbroken, sampler = build()
    train(unbroken, sampler, 2)
    assert_same(everything(trainer, lengths), everything(unbroken, sampler))


def test_another_number_of_threads_is_mentioned(saved):
    trainer, lengths = build()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.warns(UserWarning, match=f"threads {threads} -> {threads + 1}"):
            trainer.load_state(saved, {"lengths": lengths})
    finally:
        torch.set_num_threads(threads)


def test_the_optimisers_memory_and_the_reference_are_not_shared_with_the_file(saved):
    """Two trainers loaded from one folder go their own ways."""
    a, lengths = build()
    b, sampler = build()
    a.load_state(saved, {"lengths": lengths})
    b.load_state(saved, {"lengths": sampler})
    before = everything(b, sampler)[1]
    train(a, lengths, 3)
    after = everything(b, sampler)[1]
    own = [name for name in before if name.split("/")[0] in ("policy", "optimizer", "permutations")]
    assert own and all(torch.equal(before[name], after[name]) for name in own)


# -------------------------------------------------------------------------------- other processes, real kills


@pytest.mark.parametrize("saving", [False, True], ids=["by the clock", "while saving"])
def test_a_killed_run_ends_like_an_unbroken_one(saving, tmp_path, unbroken):
    context, model = unbroken
    result = kills.trial(context, tmp_path / "run", model, saving, random.Random(4))
    assert result["same"], result


def test_a_kill_before_any_file_operation_of_a_save_leaves_a_whole_state(tmp_path, unbroken):
    """The save of step 6 removes that of step 2: a kill before every fourth of its operations."""
    context, model = unbroken
    survivors = set()
    for operation in range(1, model["operations"][2], 4):
        folder = tmp_path / str(operation)
        folder.mkdir()
        process, _ = kills.start(context, folder, 6, operation)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        trainer, lengths = kills.build()
        trainer.load_state(folder / "state", {"lengths": lengths})
        survivors.add(trainer.current_step)
    assert survivors == {4, 6}  # before the rename, and after it


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    context = kills.processes()
    return context, kills.unbroken(context, tmp_path_factory.mktemp("unbroken") / "run")


def test_a_saved_policy_needs_nothing_of_this_package(tmp_path):
    """Plain transformers loads what save_pretrained wrote, in a process that cannot import rlhf."""
    trainer, lengths = build()
    train(trainer, lengths, 1)
    code = """
        import sys
        sys.modules["rlhf"] = None  # any import of it is an error from here on
        import torch
        from transformers import AutoModelForCausalLM
        model = AutoModelForCausalLM.from_pretrained(sys.argv[1], use_safetensors=True)
        ids = torch.tensor([[3, 14, 15, 9]])
        print(model(ids).logits.double().sum().item())
        assert not any(name.split(".")[0] == "rlhf" and module for name, module in sys.modules.items())
    """
    folder = trainer.save_pretrained(tmp_path / "policy")
    run = [sys.executable, "-I", "-c", textwrap.dedent(code), str(folder)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        logits = trainer.policy.pretrained_model(torch.tensor([[3, 14, 15, 9]])).logits
    assert float(done.stdout.split()[-1]) == pytest.approx(logits.double().sum().item(), rel=1e-6)
    assert not list(folder.glob("*.bin")) and not list(folder.glob("*.pt"))


def test_tensorboard_shows_every_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def run(until, resume):
        trainer, lengths = build(log_with="tensorboard", logging_dir=tmp_path / "runs")
        if resume:
            trainer.load_state(tmp_path / "state", {"lengths": lengths})
        for batch in trainer.batches(until):
            queries = batch["input_ids"]
            responses = trainer.generate(queries, return_prompt=False, length_sampler=lengths)
            scores = [(response < 20).float().mean() for response in responses]
            trainer.log_stats(trainer.step(queries, responses, scores), batch, scores)
            if trainer.current_step == 2:
                trainer.save_state(tmp_path / "state", {"lengths": lengths})
        trainer.accelerator.end_training()

    run(3, resume=False)  # "killed" one step after the last saved state
    run(5, resume=True)
    events = EventAccumulator(str(tmp_path / "runs" / "ppo"))
    events.Reload()
    assert [event.step for event in events.Scalars("objective/kl")] == [1, 2, 3, 4, 5]
