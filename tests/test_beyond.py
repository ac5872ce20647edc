"""Beyond PPO: each loss is the trainer's, each method learns within its budget, and lengths are its own."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import re

import numpy as np
import pytest
import torch
import trl
from datasets import Dataset
from ppo_tools import save_world, tiny_reviews
from torch.testing import assert_close

from rlhf import beyond, frontier, profiles
from rlhf.beyond import best_of, dpo, losses, online
from rlhf.beyond.held_out import HeldOut
from rlhf.beyond.run import Run, Task
from rlhf.errors import BadData, BadRollout
from rlhf.frontier import picture
from rlhf.ppo.config import BadConfig
from rlhf.rejection import Pool, best_of_kl, expected_max, sample_pool
from rlhf.undisturbed import untangle

BUDGET = 1600


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A random policy on disk, and reviews to train on and to be measured on."""
    folder = tmp_path_factory.mktemp("world")
    policy, judge, _ = save_world(folder)
    for split, seed, n in (("train", 1, 520), ("test", 2, 48)):
        rows = {"text": tiny_reviews(n, seed), "label": [i % 2 for i in range(n)]}
        Dataset.from_dict(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return profiles.Setup(
        profile="offline",
        lesson="09_beyond_ppo",
        policy=policy,
        reward_model=judge,
        dataset=folder,
        prompts={"min_chars": 200, "min_tokens": 2, "max_tokens": 6},
        response={"min_tokens": 2, "max_tokens": 6},
        evaluation={"prompts": 48, "shown": 16},
        ppo={
            "steps": 2,
            "batch_size": 48,
            "mini_batch_size": 24,
            "learning_rate": 3e-3,
            "init_kl_coef": 0.01,
        },
        device="cpu",
        seed=0,
        prepare="",
    )


def count_good(texts):
    """A score that a tiny policy can learn: how often a text says what pays."""
    return torch.tensor([float(text.count("g") + text.count("o")) for text in texts])


@pytest.fixture(scope="module")
def held_out(world):
    return HeldOut(world, world.policy, count_good)


def test_best_of_n_is_the_expected_maximum(world, held_out):
    result = beyond.train("best_of_n", world, world.policy, count_good, held_out=held_out, n=8)
    parts = (held_out.reference, held_out.tokenizer, held_out.prompts, held_out.lengths)
    scores = sample_pool(*parts, 32, count_good, seed=5).scores
    want = expected_max(scores, 8).mean().item()
    assert result.policy is None and result.final.kl == best_of_kl(8)
    assert result.final.reward == pytest.approx(want, abs=4 * scores.std().item() / 48**0.5)
    assert result.final.gain[1] > 0


# ---------------------------------------------------------------------------------------------------- losses


def move(policy, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)


def online_parts(world, held_out, kind, trl_kind, folder, **own):
    """A trainer, a real batch of a policy that has left the start, log-probabilities by plain transformers.

    ``old`` is of the policy that sampled, ``new`` of what it has become since, ``ref`` of the start.
    """
    run = Run("x", Task(world, world.policy, count_good, 400, 0, held_out))
    config = online.OnlineConfig(k=4, batch_size=16, mini_batch_size=16, epochs=2, beta=0.07)
    trainer = online.make_trainer(run, config, kind, trl_kind, folder, **own)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    rows = [trainer.train_dataset[i] for i in range(4) for _ in range(4)]
    move(run.policy, 1)
    batch = trainer._generate_and_score_completions(rows)
    logp = {"old": plain_logprobs(run.policy, rows, batch)}
    move(run.policy, 2)
    logp |= {
        "new": plain_logprobs(run.policy, rows, batch),
        "ref": plain_logprobs(held_out.reference, rows, batch),
    }
    return trainer, rows, batch, logp


@torch.no_grad()
def plain_logprobs(model, rows, batch):
    """Of every sampled token, one unpadded sequence after the other, with plain transformers: ``(B, R)``."""
    out = torch.zeros(batch["completion_ids"].shape)
    for i, row in enumerate(rows):
        response = batch["completion_ids"][i][batch["completion_mask"][i].bool()]
        ids = torch.cat([torch.tensor(row["input_ids"]), response])
        logp = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        out[i, : len(response)] = logp[len(row["input_ids"]) - 1 :]
    return out


def scores_of(trainer, rows, batch):
    masks = batch["completion_mask"].bool()
    ids = [row[mask] for row, mask in zip(batch["completion_ids"], masks, strict=True)]
    texts = trainer.processing_class.batch_decode(ids, skip_special_tokens=True)
    return count_good([row["prompt"] + text for row, text in zip(rows, texts, strict=True)]).view(4, 4)


@pytest.mark.parametrize("kind", ["grpo", "dapo"])
def test_grpo_is_what_trl_computes(world, held_out, tmp_path, kind):
    own = online.PAPER if kind == "grpo" else {}  # the paper's, or TRL's own defaults
    trainer, rows, batch, logp = online_parts(world, held_out, online.GRPO, trl.GRPOConfig, tmp_path, **own)
    mask = batch["completion_mask"]
    lengths = torch.tensor([row["length"] for row in rows])
    assert (mask.sum(1) <= lengths).all() and len(set(lengths.tolist())) > 1
    assert len({len(row["input_ids"]) for row in rows}) > 1  # some prompts are padded
    assert_close(batch["old_per_token_logps"] * mask, logp["old"], atol=1e-5, rtol=1e-5)
    assert_close(batch["ref_per_token_logps"] * mask, logp["ref"], atol=1e-5, rtol=1e-5)
    advantages = losses.group_advantages(scores_of(trainer, rows, batch))
    assert_close(advantages, batch["advantages"], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        theirs = trainer._compute_loss(trainer.model, batch)
    loss = getattr(losses, f"{kind}_loss")
    ours = loss(logp["new"], logp["old"], logp["ref"], advantages, mask, beta=0.07)
    assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    assert abs(ours) > 1e-3


def test_rloo_is_what_trl_computes(world, held_out, tmp_path):
    trainer, rows, batch, logp = online_parts(world, held_out, online.RLOO, trl.RLOOConfig, tmp_path)
    mask = batch["completion_mask"]
    assert_close(batch["old_logps"], logp["old"].sum(1), atol=1e-5, rtol=1e-5)
    scores = scores_of(trainer, rows, batch)
    taxed = losses.taxed_scores(scores, logp["old"], logp["ref"], mask, 0.07)
    assert (taxed - scores).abs().max() > 1e-3
    assert_close(losses.leave_one_out(taxed), batch["advantages"], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        theirs = trainer._compute_loss(trainer.model, batch)
    ours = losses.rloo_loss(logp["new"], logp["old"], batch["advantages"], mask)
    assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


def test_without_positions_the_loss_is_about_other_log_probabilities(world, held_out, tmp_path):
    """The trap that positions_from_mask is for: rows whose prompt is padded differ, the others do not."""
    trainer, _, batch, logp = online_parts(world, held_out, online.RLOO, trl.RLOOConfig, tmp_path)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    width = batch["completion_ids"].shape[1]
    trainer.positions.remove()
    with torch.no_grad():
        wrong = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width)[0]
    padded = batch["prompt_mask"][:, 0] == 0
    off = ((logp["new"] - wrong).abs() * batch["completion_mask"]).sum(1)
    assert padded.any() and (~padded).any()
    assert off[padded].min() > 1e-4 and off[~padded].max() < 1e-5


def test_dpo_is_what_trl_computes(world, held_out, tmp_path):
    run = Run("x", Task(world, world.policy, count_good, 200, 0, held_out))
    draws = best_of.Draws(run, 4)
    pool = draws.pool(run.policy, 200)
    pairs = dpo.rank(pool)
    trainer = dpo.make_trainer(run, dpo.PairConfig(batch_size=8, beta=0.3), pairs, tmp_path)
    move(run.policy, 1)
    rows = [trainer.train_dataset[i] for i in range(8)]
    with torch.no_grad():
        theirs = trainer._compute_loss(trainer.model, trainer.data_collator(rows), return_outputs=False)
        sums = []
        for model in (run.policy, held_out.reference):
            for name in ("chosen_ids", "rejected_ids"):
                sums.append(torch.stack([whole_logprob(model, row["prompt_ids"], row[name]) for row in rows]))
    assert_close(theirs, losses.dpo_loss(*sums, beta=0.3), atol=1e-5, rtol=1e-5)
    untangle(run.policy)


def whole_logprob(model, prompt, response):
    ids = torch.tensor(prompt + response)
    logp = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    return logp[len(prompt) - 1 :].sum()


def test_losses_have_at_most_five_lines():
    for name in ("group_advantages", "grpo_loss", "dapo_loss", "taxed_scores", "leave_one_out", "rloo_loss"):
        source = inspect.getsource(getattr(losses, name)).split('"""')[-1]
        assert len(source.strip().splitlines()) <= 5, name
    assert len(inspect.getsource(losses.dpo_loss).split('"""')[-1].strip().splitlines()) <= 5


def test_leave_one_out_by_hand():
    assert losses.leave_one_out(torch.tensor([[1.0, 2.0, 6.0]])).tolist() == [-3.0, -1.5, 4.5]


def test_pairs_are_the_best_against_the_worst_and_ties_make_none():
    ids = [torch.tensor([i]) for i in range(6)]
    scores = torch.tensor([[0.1, 2.0, -1.0], [3.0, 3.0, 3.0]])
    pool = Pool(["a", "b"], [torch.tensor([7]), torch.tensor([8])], list("uvwxyz"), ids, scores)
    assert dpo.rank(pool).to_list() == [{"prompt_ids": [7], "chosen_ids": [1], "rejected_ids": [2]}]


# -------------------------------------------------------------------------------------------------- settings


def test_trl_defaults_are_what_the_docstrings_say():
    """A new TRL may change them; then the docstrings and lesson 09 have to change too."""

    def default(kind, name):
        each = next(each for each in dataclasses.fields(kind) if each.name == name)
        made = each.default_factory is not dataclasses.MISSING
        return each.default_factory() if made else each.default

    told = {
        trl.GRPOConfig: {"beta": 0.0, "loss_type": "dapo", "scale_rewards": "group", "epsilon": 0.2},
        trl.RLOOConfig: {"beta": 0.05, "normalize_advantages": False, "num_generations": 2, "epsilon": 0.2},
        trl.DPOConfig: {"beta": 0.1, "loss_type": ["sigmoid"], "disable_dropout": True, "max_length": 1024},
    }
    told[trl.GRPOConfig] |= {"num_iterations": 1, "num_generations": 8, "disable_dropout": False}
    told[trl.GRPOConfig]["use_bias_correction_kl"] = True
    told[trl.RLOOConfig] |= {"disable_dropout": False, "learning_rate": 1e-6}
    for kind, values in told.items():
        assert {name: default(kind, name) for name in values} == values


@pytest.mark.skipif(trl.__version__ != "1.16.0", reason="the lines are those of 1.16.0")
def test_the_lines_that_the_docstrings_name_are_there():
    for module, kinds in ((online, (trl.GRPOConfig, trl.RLOOConfig)), (dpo, (trl.DPOConfig,))):
        sections = re.split(r"\nRLOO \(", module.__doc__)
        for text, kind in zip(sections, kinds, strict=True):
            lines = inspect.getsource(inspect.getmodule(kind)).splitlines()
            found = re.findall(r"``(\w+) =\s+[^`]+`` \(line\s+(\d+)\)", text)
            assert len(found) >= 2
            for name, line in found:
                near = "\n".join(lines[int(line) - 3 : int(line) + 1])
                assert re.search(rf"\b{name}:", near), f"{name} is not at line {line}"


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("grpo", {"k": 7}, "multiple of k"),
        ("grpo", {"clip": 0.1}, "No such setting: clip"),
        ("rloo", {"beta": -1}, "beta"),
        ("dpo", {"k": 1}, "k >= 2"),
        ("dpo", {"beta": 0}, "beta"),
        ("rejection", {"rounds": 0}, "rounds"),
        ("ppo2", {}, "No method 'ppo2'"),
    ],
)
def test_a_wrong_setting_is_named(world, name, change, said):
    with pytest.raises(BadConfig, match=said):
        beyond.train(name, world, world.policy, count_good, 100, **change)


def test_a_wrong_budget_is_named(world, held_out):
    with pytest.raises(BadRollout, match="budget"):
        beyond.train("grpo", world, world.policy, count_good, 0, held_out=held_out)


def test_all_methods_draw_from_the_front_of_one_list(world, held_out):
    few, many = (
        Run("x", Task(world, world.policy, count_good, 300, 4, held_out)).prompts(k, 8) for k in (8, 2)
    )
    n = len(few[1])
    assert n < len(many[1])
    assert list(few[0]["query"]) == list(many[0]["query"])[:n] and few[1] == many[1][:n]


# -------------------------------------------------------------------------------------------------- learning


SETTINGS = {
    "ppo": {},
    "grpo": {"k": 8, "batch_size": 48, "mini_batch_size": 24, "learning_rate": 5e-3, "beta": 0.01},
    "rloo": {"k": 8, "batch_size": 48, "mini_batch_size": 24, "learning_rate": 5e-3, "beta": 0.01},
    "dpo": {"k": 4, "batch_size": 8, "learning_rate": 4e-3, "beta": 0.05, "epochs": 5},
    "rejection": {"k": 8, "rounds": 2, "epochs": 4, "batch_size": 8, "learning_rate": 5e-3},
}
BATCH = {"ppo": 48, "grpo": 48, "rloo": 48, "dpo": best_of.CHUNK * 4, "rejection": best_of.CHUNK * 8}


@pytest.fixture(scope="module", params=SETTINGS)
def result(request, world, held_out):
    name = request.param
    return beyond.train(
        name, world, world.policy, count_good, BUDGET, 3, held_out=held_out, points=2, **SETTINGS[name]
    )


def test_every_method_learns_within_its_budget(result, held_out):
    """The gain's interval over prompts is above 0, tokens exceed the budget by less than one batch."""
    start, final = result.curve[0], result.final
    assert start == held_out.start and start.tokens == 0 and start.kl == 0.0
    assert final.gain[1] > 0 and final.reward > start.reward
    assert final.kl > 0.01
    longest = 5  # max_tokens is exclusive
    rounds = 2 if result.method == "rejection" else 1
    assert BUDGET <= result.tokens < BUDGET + rounds * BATCH[result.method] * longest
    assert final.tokens == result.tokens and final.scores.shape == (48,)
    assert result.settings["budget"] == BUDGET and result.settings["seed"] == 3


def test_what_is_left_is_a_plain_model(result):
    """No forward or hook of TRL stays on it: a copy with other weights computes with those."""
    assert "forward" not in vars(result.policy) and not result.policy._forward_pre_hooks
    twin = copy.deepcopy(result.policy)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
        assert twin(torch.tensor([[1, 2]])).logits.abs().max() == 0
    assert not result.policy.training


# ---------------------------------------------------------------------------------------------- the frontier


def small(world, **more):
    """Sizes for two cheap methods."""
    methods = {"ppo": {"learning_rate": 7e-5}, "rejection": {"k": 4, "epochs": 1, "strengths": [1]}}
    methods["best_of_n"] = {"strengths": [2, 4]}
    return dataclasses.replace(world, sizes={"budget": 100, "methods": methods | more})


def test_results_resume_where_they_stopped_and_refuse_other_settings(world, tmp_path):
    out, names, said = tmp_path / "frontier.json", ("rejection", "best_of_n"), []
    setup = small(world)

    def stop(line):
        said.append(line)
        if len(said) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        frontier.run(setup, out, [0], names, reward=count_good, command="by hand", say=stop)
    record = json.loads(out.read_text())
    assert len(record["runs"]) == 2
    said.clear()
    frontier.run(setup, out, [0], names, reward=count_good, say=said.append)
    again = json.loads(out.read_text())
    assert len(said) == 1 and again["runs"][:2] == record["runs"] and len(again["runs"]) == 3
    frontier.run(setup, out, [0], names, reward=count_good, say=said.append)
    assert said[-1] == "all runs are in frontier.json"
    assert again["command"] == "by hand" and again["versions"]["trl"] == trl.__version__
    assert {"hardware", "date", "budget", "models"} <= set(again)
    assert all({"seed", "settings", "date", "seconds", "tokens"} <= set(row) for row in again["runs"])
    of_the_profile = {key: value for key, value in setup.ppo.items() if key != "steps"}
    assert again["methods"]["ppo"] == of_the_profile | {"learning_rate": 7e-5}  # a method's own setting wins
    assert len(again["start"]["scores"]) == 48 and out.stat().st_size < 8_000
    with pytest.raises(BadData, match="another budget"):
        frontier.run(setup, out, [1], names, budget=90, reward=count_good)
    changed = small(world, rejection={"k": 8, "epochs": 1, "strengths": [1]})
    with pytest.raises(BadData, match="another methods"):
        frontier.run(changed, out, [1], names, reward=count_good)
    found = frontier.load(out)
    rows = frontier.table(found)
    assert rows["seeds"].tolist() == [1, 1, 1] and (rows["low"] <= rows["gain"]).all()


def made_up(gains, kls, prompts=200):
    """A file in which the runs of a method gain what ``gains[method][strength][seed]`` says, with noise."""
    rng = np.random.default_rng(0)
    runs = [
        {
            "method": method,
            "strength": strength,
            "seed": seed,
            "kl": kls[method][strength],
            "scores": (100 * rng.normal(gain, 1.0, prompts)).round().tolist(),
            "distinct_2": 0.8,
            "judge": None,
            "tokens": 100,
            "seconds": 1.0,
        }
        for method, strengths in gains.items()
        for strength, seeds in strengths.items()
        for seed, gain in enumerate(seeds)
    ]
    start = (100 * rng.normal(0, 1.0, prompts)).round().tolist()
    return frontier.Frontier({"runs": runs, "start": {"scores": start}, "budget": 1000})


def test_a_clear_winner_is_named_and_a_close_race_is_open():
    gains = {
        "ppo": {0.1: [2.0, 2.1, 1.9], 0.4: [1.0, 1.1, 0.9]},
        "grpo": {0.1: [2.0, 2.05, 2.1], 0.4: [1.05, 1.0, 0.95]},
        "dpo": {0.1: [1.0, 1.1, 0.9], 0.4: [0.5, 0.4, 0.6]},
        "best_of_n": {2: [0.9] * 3, 4: [1.2] * 3},
    }
    kls = {name: {0.1: 6.0, 0.4: 2.0} for name in gains} | {"best_of_n": {2: 0.19, 4: 0.64}}
    result = frontier.compare(made_up(gains, kls), kl=4.0)
    verdicts = result.rows["verdict"].to_dict()
    assert verdicts["DPO"] == "behind" and verdicts["best-of-n"] == "not reached"
    assert sorted([verdicts["PPO"], verdicts["GRPO"]]) == ["first", "inconclusive"]
    assert not result.conclusive
    assert "Clearly behind: DPO." in result.en and "Inconclusive" in result.en
    assert "明显落后的：DPO。" in result.zh and "best-of-n" in result.zh
    only = frontier.compare(made_up(gains, kls), 4.0, ["grpo", "dpo"])
    assert only.conclusive and only.rows.index[0] == "GRPO"
    assert only.rows.loc["GRPO", "gain"] == pytest.approx(1.5, abs=0.25)  # between its two strengths
    assert frontier.compare(made_up(gains, kls), 50.0).en == "At a KL of 50 nobody has a result."


def test_seeds_that_disagree_widen_the_interval():
    """The same mean over seeds, on the same number of prompts: only the runs differ from each other."""
    widths = []
    for seeds in ([1.0, 1.0, 1.0], [0.0, 1.0, 2.0]):
        rows = frontier.table(made_up({"ppo": {0.1: seeds}}, {"ppo": {0.1: 2.0}}))
        widths.append((rows["high"] - rows["low"]).item())
    assert widths[1] > 2 * widths[0]


def test_the_picture_has_a_line_per_method_with_intervals():
    from matplotlib.figure import Figure

    gains = {"ppo": {0.1: [2.0], 0.4: [1.0]}, "dpo": {0.1: [1.0], 0.4: [0.5]}}
    axes = Figure().subplots()
    frontier.draw(made_up(gains, {name: {0.1: 6.0, 0.4: 2.0} for name in gains}), axes)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["PPO", "DPO"]
    line = axes.containers[0].lines[0]
    assert line.get_xdata().tolist() == [0.0, 2.0, 6.0] and axes.containers[0].has_yerr


def test_lines_are_told_apart_without_their_colours():
    assert set(picture.LOOKS) == set(beyond.METHODS)
    assert len({mark for _, mark, _ in picture.LOOKS.values()}) == len(beyond.METHODS)
    assert len({color for color, _, _ in picture.LOOKS.values()}) == len(beyond.METHODS)


def test_a_strength_that_is_not_finished_is_left_out():
    """A run that is still going on must not cost the finished strengths their seeds."""
    gains = {"ppo": {0.1: [2.0, 2.1, 1.9], 0.4: [1.0]}}
    found = made_up(gains, {"ppo": {0.1: 6.0, 0.4: 2.0}})
    assert list(found.runs("ppo")) == [0.1] and list(found.runs("ppo")[0.1]) == [0, 1, 2]
    assert frontier.table(found)["seeds"].tolist() == [3]


@pytest.mark.parametrize("text", ["", "{}", '{"runs": [], "start": {"scores": [1]}}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "frontier.json").write_text(text)
    with pytest.raises(BadData, match="cannot be read"):
        frontier.load(tmp_path / "frontier.json")


@pytest.mark.parametrize("profile", profiles.names())
def test_every_profile_has_sizes_for_the_frontier(profile):
    sizes = profiles.read(profile)["lessons"]["09_beyond_ppo"]
    assert set(sizes["methods"]) == set(beyond.METHODS) and sizes["budget"] > 0
    for name, part in sizes["methods"].items():
        assert len(part["strengths"]) >= 3
        own = {key: value for key, value in part.items() if key != "strengths"}
        for strength in part["strengths"]:
            settings = own | {beyond.STRENGTH[name]: strength}
            kinds = {"grpo": online.OnlineConfig, "rloo": online.OnlineConfig, "dpo": dpo.PairConfig}
            kind = kinds.get(name) or {"rejection": best_of.BestOfConfig}.get(name)
            assert kind is None or kind(**settings)
