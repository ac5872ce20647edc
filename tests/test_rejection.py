"""Rejection sampling: what is picked, what the best of K is worth, what SFT reads, and rounds that resume."""

from __future__ import annotations

import copy
import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from ppo_tools import save_world
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf import profiles, rejection
from rlhf.errors import BadData, BadRollout
from rlhf.ppo.config import BadConfig
from rlhf.rejection import Pool, RejectionConfig

SMALL = {"rounds": 2, "prompts": 6, "k": 4, "epochs": 1, "batch_size": 4, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A random policy and classifier on disk, and 40 training reviews."""
    folder = tmp_path_factory.mktemp("world")
    policy, judge, reviews = save_world(folder)
    rows = {"text": reviews[:40], "label": [i % 2 for i in range(40)]}
    Dataset.from_dict(rows).to_parquet(folder / "train-00000-of-00001.parquet")
    return profiles.Setup(
        profile="offline",
        lesson="08_rejection_sampling",
        policy=policy,
        reward_model=judge,
        dataset=folder,
        prompts={"min_chars": 200, "min_tokens": 2, "max_tokens": 5},
        response={"min_tokens": 2, "max_tokens": 6},
        evaluation={},
        ppo={},
        device="cpu",
        seed=0,
        prepare="",
    )


def count_good(texts):
    """A score that a tiny policy can learn: how often a text says what pays."""
    return torch.tensor([float(text.count("g") + text.count("o")) for text in texts])


def train(world, tmp_path, name, **more):
    changes = {key: more.pop(key) for key in ("pick", "refresh", "rounds", "k") if key in more}
    config = RejectionConfig(**SMALL | changes)
    places = {"folder": tmp_path / name, "logs": tmp_path / "logs" / name}
    return rejection.train_rounds(world, config, score=count_good, **places | more)


def weights(run):
    return torch.cat([tensor.flatten() for tensor in run.policy.state_dict().values()])


# ------------------------------------------------------------------------------------------------- choosing


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_expected_max_is_the_mean_over_all_ways_to_take_k(k):
    scores = torch.tensor([[0.3, -1.2, 0.9, 2.0, 0.9], [1.0, 1.0, -4.0, 0.0, 2.5]])
    by_hand = [[max(way) for way in itertools.combinations(row, k)] for row in scores.tolist()]
    want = torch.tensor([sum(ways) / len(ways) for ways in by_hand], dtype=torch.float64)
    assert_close(rejection.expected_max(scores, k), want)


def test_expected_max_is_unbiased_and_agrees_with_the_integral():
    """Uniform scores: E[max of k] = k / (k + 1), from heaps that are hardly larger than k."""
    heaps = torch.rand(20_000, 6, generator=torch.Generator().manual_seed(0))
    for k in (1, 2, 4, 6):
        estimate = rejection.expected_max(heaps, k)
        error = estimate.std() / len(heaps) ** 0.5
        assert abs(estimate.mean() - k / (k + 1)) < 4 * error


@pytest.mark.parametrize("k", [0, 4])
def test_expected_max_needs_k_scores(k):
    with pytest.raises(BadRollout, match="between 1 and 3"):
        rejection.expected_max(torch.zeros(2, 3), k)


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_the_kl_of_best_of_n_is_a_bound_that_rare_responses_reach(n):
    def exact(size):
        at_most = torch.arange(1, size + 1, dtype=torch.float64) / size  # equally likely responses
        best = at_most**n - (at_most - 1 / size) ** n
        return torch.xlogy(best, best * size).sum()

    bound = rejection.best_of_kl(n)
    assert exact(5) <= bound + 1e-12 and exact(50) <= bound + 1e-12
    assert exact(200_000) == pytest.approx(bound, abs=1e-3)


def test_the_best_of_every_prompt_is_found_where_it_stands():
    scores = torch.tensor([[0.2, 1.9, -1.1], [0.7, -0.4, 0.1]])
    pool = Pool(["a", "b"], [], ["a1", "a2", "a3", "b1", "b2", "b3"], [], scores)
    picks = rejection.pick_best(scores)
    assert [pool.texts[i] for i in pool.flat(picks)] == ["a2", "b1"]


def test_a_random_pick_repeats_with_its_seed_and_takes_every_place():
    scores = torch.randn(3000, 4)
    picks = rejection.pick_random(scores, 7)
    assert torch.equal(picks, rejection.pick_random(scores, 7))
    assert not torch.equal(picks, rejection.pick_random(scores, 8))
    assert (picks.bincount(minlength=4) / 3000 - 0.25).abs().max() < 0.04


# ------------------------------------------------------------------------------------------------- sampling


@pytest.fixture(scope="module")
def parts(world):
    tokenizer = AutoTokenizer.from_pretrained(world.policy)
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(world.policy).eval()
    prompts, lengths = rejection.training_prompts(world, tokenizer, RejectionConfig(**SMALL))
    return model, tokenizer, prompts[:6], lengths[:6]


def test_a_pool_keeps_the_order_of_the_prompts(parts):
    """Rows are sorted by length on the way; afterwards every response is back with its prompt."""
    model, tokenizer, prompts, lengths = parts
    seen = []

    def score(texts):
        seen.extend(texts)
        return torch.arange(float(len(texts)))

    told = []
    pool = rejection.sample_pool(
        model, tokenizer, prompts, lengths, 3, score, batch_size=4, seed=1, progress=told.append
    )
    assert pool.scores.shape == (6, 3) and pool.scores.flatten().tolist() == list(range(18))
    assert sum(told) == 18 and max(told) <= 4
    for i, prompt in enumerate(prompts["query"]):
        for j in range(3):
            place = 3 * i + j
            assert seen[place] == prompt + pool.texts[place]
            assert pool.texts[place] == tokenizer.decode(pool.responses[place], skip_special_tokens=True)
            ended = pool.responses[place][-1] == tokenizer.eos_token_id
            assert ended or len(pool.responses[place]) == lengths[i]


def test_a_pool_repeats_with_its_seed_and_leaves_the_random_state_alone(parts):
    model, tokenizer, prompts, lengths = parts
    torch.manual_seed(5)
    state = torch.get_rng_state()
    pools = [
        rejection.sample_pool(model, tokenizer, prompts, lengths, 3, count_good, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(state, torch.get_rng_state())
    assert pools[0].texts == pools[1].texts != pools[2].texts


@pytest.mark.parametrize("scores", [torch.zeros(5), torch.full((6,), float("nan")), torch.zeros(6, 2)])
def test_scores_that_cannot_be_used_are_refused(parts, scores):
    model, tokenizer, prompts, lengths = parts
    with pytest.raises(BadRollout, match="6 finite scores"):
        rejection.sample_pool(model, tokenizer, prompts, lengths, 1, lambda texts: scores)


def test_every_prompt_needs_a_length(parts):
    model, tokenizer, prompts, lengths = parts
    with pytest.raises(BadRollout, match="one length per prompt"):
        rejection.sample_pool(model, tokenizer, prompts, lengths[:-1], 2, count_good)


# ------------------------------------------------------------------------------------------------ imitation


def test_sft_reads_the_sampled_tokens_and_the_loss_is_theirs_alone(parts, tmp_path):
    """TRL's first loss is −log p of the response tokens, averaged over tokens; no EOS is added."""
    model, tokenizer, prompts, lengths = parts
    pool = rejection.sample_pool(model, tokenizer, prompts, lengths, 2, count_good, seed=3)
    rows = rejection.demonstrations(pool, rejection.pick_best(pool.scores))
    losses = []
    for i, row in enumerate(rows):
        place = pool.flat(rejection.pick_best(pool.scores))[i]
        query = pool.queries[i].tolist()
        assert row["input_ids"] == query + pool.responses[place].tolist()
        assert row["completion_mask"] == [0] * len(query) + [1] * len(pool.responses[place])
        with torch.no_grad():
            logp = model(torch.tensor([row["input_ids"]])).logits[0, :-1].log_softmax(-1)
        target = torch.tensor(row["input_ids"][1:])
        losses.append(-logp.gather(1, target[:, None])[len(query) - 1 :, 0])
    config = RejectionConfig(**SMALL | {"batch_size": 6})
    student = copy.deepcopy(model)
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    log = rejection.imitate(student, tokenizer, rows, config, logs=tmp_path / "logs")
    assert log[0]["loss"] == pytest.approx(torch.cat(losses).mean().item(), abs=1e-3)
    assert any(path.is_file() for path in (tmp_path / "logs").rglob("*tfevents*"))


def test_a_copy_of_a_trained_policy_computes_with_its_own_weights(parts, tmp_path):
    """TRL leaves a forward on the object that a copy would share with its original."""
    model, tokenizer, prompts, lengths = parts
    pool = rejection.sample_pool(model, tokenizer, prompts, lengths, 2, count_good, seed=3)
    student = copy.deepcopy(model)
    rows = rejection.demonstrations(pool, rejection.pick_best(pool.scores))
    rejection.imitate(student, tokenizer, rows, RejectionConfig(**SMALL), logs=tmp_path / "logs")
    twin = copy.deepcopy(student)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
        assert twin(torch.tensor([[1, 2]])).logits.abs().max() == 0
        assert student(torch.tensor([[1, 2]])).logits.abs().max() > 0


# --------------------------------------------------------------------------------------------------- rounds


@pytest.fixture(scope="module")
def unbroken(world, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("unbroken")
    seen = []
    run = train(world, tmp_path, "rs_4", on_round=lambda number, policy: seen.append(number))
    return SimpleNamespace(run=run, folder=tmp_path / "rs_4", logs=tmp_path / "logs" / "rs_4", seen=seen)


def test_rounds_leave_a_plain_model_a_record_and_logs(unbroken):
    run, folder = unbroken.run, unbroken.folder
    assert unbroken.seen == [0, 1, 2]
    record = json.loads((folder / "rounds.json").read_text())
    assert record["history"] == run.history and record["config"]["k"] == 4
    assert [row["samples"] for row in run.history] == [24, 24]
    assert all(row["score/best"] == row["score/picked"] >= row["score/mean"] for row in run.history)
    for name in ("round_1", "round_2"):
        assert any(path.is_file() for path in (folder / "runs" / name).glob("*tfevents*"))
    assert not list(folder.rglob("*.bin")) and not list(folder.rglob("*.pt"))
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert_close(loaded(ids).logits, run.policy(ids).logits)
    assert AutoTokenizer.from_pretrained(folder)("good").input_ids


def test_the_numbers_of_every_round_are_in_tensorboard(unbroken):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(unbroken.logs))
    board.Reload()
    for key in ("score/mean", "score/best", "score/picked", "sft/loss_last"):
        logged = [(event.step, event.value) for event in board.Scalars(f"rejection/{key}")]
        want = [(i + 1, row[key]) for i, row in enumerate(unbroken.run.history)]
        assert [step for step, _ in logged] == [1, 2]
        assert_close([value for _, value in logged], [value for _, value in want], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stop", [1, "in round 2"])
def test_a_run_that_was_stopped_ends_with_the_same_parameters(world, tmp_path, unbroken, stop, monkeypatch):
    """Killed after round 1, or in the middle of round 2: bit for bit the same, and the log holds no rest."""

    def end(number, policy):
        if number == stop:
            raise KeyboardInterrupt

    real = rejection.imitate

    def end_in_training(policy, *args, **kwargs):
        log = real(policy, *args, **kwargs)
        if "round_2" in str(kwargs["logs"]):
            raise KeyboardInterrupt
        return log

    if stop == "in round 2":
        monkeypatch.setattr(rejection, "imitate", end_in_training)
    with pytest.raises(KeyboardInterrupt):
        train(world, tmp_path, "rs_4", state=tmp_path / "state", on_round=end)
    monkeypatch.undo()
    assert not (tmp_path / "rs_4").exists()
    seen = []
    run = train(world, tmp_path, "rs_4", state=tmp_path / "state", on_round=lambda n, p: seen.append(n))
    assert seen == [1, 2]
    assert torch.equal(weights(run), weights(unbroken.run))
    timeless = [{k: v for k, v in row.items() if k != "seconds"} for row in run.history]
    assert timeless == [{k: v for k, v in row.items() if k != "seconds"} for row in unbroken.run.history]
    assert len(list((tmp_path / "logs" / "rs_4" / "round_2").glob("*tfevents*"))) == len(
        list((unbroken.logs / "round_2").glob("*tfevents*"))
    )


def test_a_state_of_other_settings_is_not_taken_up(world, tmp_path, unbroken):
    train(world, tmp_path, "a", state=tmp_path / "state", rounds=1)
    seen = []
    run = train(world, tmp_path, "b", state=tmp_path / "state", on_round=lambda n, p: seen.append(n))
    assert seen == [0, 1, 2] and torch.equal(weights(run), weights(unbroken.run))


def test_a_frozen_sampler_writes_what_the_start_would_write(world, tmp_path, unbroken):
    """Round 1 is the same, and the pool may be handed over; round 2 then has other texts."""
    first = unbroken.run.first_pool
    frozen = train(world, tmp_path, "frozen", refresh=False, first_pool=first)
    same = {key: value for key, value in unbroken.run.history[0].items() if key != "seconds"}
    assert {key: value for key, value in frozen.history[0].items() if key != "seconds"} == same
    assert frozen.history[1] != unbroken.run.history[1]
    start = train(world, tmp_path, "twice", refresh=False)
    assert torch.equal(weights(start), weights(frozen))


def test_a_random_pick_is_no_better_than_the_mean(world, tmp_path, unbroken):
    run = train(world, tmp_path, "random", pick="random", first_pool=unbroken.run.first_pool)
    first = run.history[0]
    assert first["score/mean"] == unbroken.run.history[0]["score/mean"]
    assert first["score/picked"] < first["score/best"]
    assert not torch.equal(weights(run), weights(unbroken.run))


def test_a_pool_of_another_run_is_refused(world, tmp_path, unbroken):
    with pytest.raises(BadRollout, match="another run"):
        train(world, tmp_path, "other", k=3, first_pool=unbroken.run.first_pool)


def test_rounds_learn_what_is_rewarded_and_random_picks_do_not(world, parts, tmp_path):
    """On the same prompts, before and after; the best is ahead by half a standard deviation."""
    start, tokenizer, prompts, lengths = parts
    sizes = {"rounds": 2, "prompts": 20, "k": 32, "epochs": 8, "batch_size": 10, "learning_rate": 5e-3}

    def pool(policy):
        return rejection.sample_pool(policy, tokenizer, prompts, lengths, 64, count_good, seed=9).scores

    before, gains, first = pool(start), {}, None
    for pick in rejection.PICKS:
        config, places = (
            RejectionConfig(**sizes, pick=pick),
            {"folder": tmp_path / pick, "logs": tmp_path / "l"},
        )
        run = rejection.train_rounds(world, config, score=count_good, first_pool=first, **places)
        first = run.first_pool
        gains[pick] = (pool(run.policy) - before).mean() / before.std(1).mean()
    assert gains["best"] > gains["random"] + 0.5, gains


def test_too_few_reviews_are_named(world, tmp_path):
    with pytest.raises(BadData, match="20 rounds of 6 prompts take 120 reviews, not 40"):
        train(world, tmp_path, "long", rounds=20)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rounds": 0}, "rounds"),
        ({"k": 2.5}, "k must be"),
        ({"batch_size": True}, "batch_size"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": math.inf}, "learning_rate"),
        ({"pick": "worst"}, "best, random"),
    ],
)
def test_a_wrong_size_names_its_field(change, said):
    with pytest.raises(BadConfig, match=said):
        RejectionConfig(**change)


@pytest.mark.parametrize("profile", profiles.names())
def test_every_profile_has_sizes_for_the_lesson(profile):
    sizes = rejection.lesson_sizes(profile)
    config = RejectionConfig.of(sizes, pick="random")
    assert config.pick == "random" and config.prompts == sizes["prompts"] and sizes["pool"] % 16 == 0
