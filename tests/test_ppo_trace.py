"""The tracer: it lists everything, computes nothing of its own, and changes not a single bit."""

import copy
import random
import re

import numpy as np
import pytest
import torch
from ppo_tools import EOS, tiny_policy, tiny_trainer
from torch.testing import assert_close

from rlhf.errors import BadRollout
from rlhf.pictures import sliders, token_grid, token_grid_picture
from rlhf.ppo import BadConfig, PPOTrainer, create_reference_model, losses, trace

B = 12


def ragged(seed: int = 0, n: int = B):
    """Queries of 1 to 8 tokens, responses of 1 to 16: the first and the last hold both extremes."""
    g = torch.Generator().manual_seed(seed)
    queries = [1, 8, *torch.randint(1, 9, (n - 2,), generator=g).tolist()]
    responses = [16, 1, *torch.randint(1, 17, (n - 2,), generator=g).tolist()]
    draw = [[torch.randint(0, EOS, (k,), generator=g) for k in side] for side in (queries, responses)]
    return draw[0], draw[1], list(torch.randn(n, generator=g))


def moved_trainer(**settings) -> PPOTrainer:
    """A policy that has left its reference, so that KL and advantages are not trivial."""
    policy = tiny_policy()
    reference = create_reference_model(policy)
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=g))
    settings = {"batch_size": B, "mini_batch_size": 4, "ppo_epochs": 3, "learning_rate": 3e-3} | settings
    return tiny_trainer(policy, reference, **settings)


def random_state() -> list:
    return [torch.get_rng_state().tolist(), str(np.random.get_state()), str(random.getstate())]


def everything(trainer: PPOTrainer, stats: list[dict]) -> dict:
    """All that a step can change, and all that it returns, except for how long it took."""
    timeless = [{k: v for k, v in s.items() if not k.startswith("time/")} for s in stats]
    return copy.deepcopy(
        {
            "weights": trainer.model.state_dict(),
            "reference": trainer.ref_model.state_dict(),
            "gradients": [p.grad for p in trainer.parameters],
            "optimizer": trainer.optimizer.state_dict(),
            "beta": trainer.kl_ctl.value,
            "running": vars(trainer.running),
            "permutations": str(trainer.permutations.get_state()),
            "random": random_state(),
            "experience": vars(trainer.experience),
            "passes": trainer.passes,
            "training": [m.training for m in trainer.model.modules()],
            "stats": timeless,
        }
    )


def assert_identical(a, b, where="") -> None:
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_identical(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_identical(*pair, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)), where
    elif isinstance(a, np.ndarray):
        assert np.array_equal(a, b, equal_nan=True), where
    else:
        assert a == b, where


SETTINGS = {
    "default": {},
    "one minibatch, one epoch": {"mini_batch_size": B, "ppo_epochs": 1},
    "accumulation": {"mini_batch_size": 3, "gradient_accumulation_steps": 2, "accumulate_by_tokens": True},
    "full kl": {"kl_penalty": "full", "whiten_rewards": True},
    "scaled scores": {"use_score_scaling": True, "use_score_norm": True, "score_clip": 0.8},
    "brakes": {"early_stopping": True, "target_kl": 1e-6, "max_grad_norm": 0.3},
    "left out": {"ratio_threshold": 1.0000001},
    "checkpointing": {"gradient_checkpointing": True},
}


def run(settings: dict, recorded: bool) -> tuple[dict, list]:
    trainer, stats, tapes = moved_trainer(**{"ppo_epochs": 2} | settings), [], []
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    for seed in range(2):  # the second step starts from what the first one left behind
        queries, _, scores = ragged(seed)
        written = trainer.generate(queries, max_new_tokens=3, return_prompt=False)  # draws random numbers
        responses = [torch.cat([r, w])[:16] for r, w in zip(ragged(seed)[1], written, strict=True)]
        if recorded:
            with trace.recording(trainer) as tape:
                stats.append(trainer.step(queries, responses, scores))
            tapes.append(tape)
        else:
            stats.append(trainer.step(queries, responses, scores))
    return everything(trainer, stats), tapes


@pytest.mark.filterwarnings("ignore:mean ratio")
@pytest.mark.parametrize("name", SETTINGS)
def test_recording_changes_no_bit(name):
    off, _ = run(SETTINGS[name], recorded=False)
    on, tapes = run(SETTINGS[name], recorded=True)
    assert all(tape.records for tape in tapes)
    assert_identical(off, on)


def test_the_comparison_notices_a_changed_bit():
    off, _ = run({}, recorded=False)
    other, _ = run({"learning_rate": 3.0000001e-3}, recorded=False)
    with pytest.raises(AssertionError, match="/weights/"):
        assert_identical(off, other)


def test_nothing_is_wrapped_before_and_after():
    trainer = moved_trainer()
    before = dict(vars(losses)), dict(vars(trainer)), dict(vars(trainer.kl_ctl))
    with trace.recording(trainer):
        assert losses.gae is before[0]["gae"] and losses.td_errors is not before[0]["td_errors"]
        assert "forward" in vars(trainer)
    with pytest.raises(BadRollout), trace.recording(trainer):
        trainer.step([], [], [])
    assert dict(vars(losses)) == before[0]
    assert vars(trainer).keys() == before[1].keys()
    assert vars(trainer.kl_ctl).keys() == before[2].keys()
    assert "forward" not in vars(trainer.policy.v_head)


def test_an_instance_that_was_wrapped_by_others_stays_so():
    trainer = moved_trainer()
    calls, forward = [], trainer.forward
    trainer.forward = lambda *args: calls.append(1) or forward(*args)
    own = trainer.forward
    with trace.recording(trainer):
        trainer.step(*ragged())
    assert trainer.forward is own and calls


@pytest.fixture(scope="module")
def recorded():
    trainer = moved_trainer()
    with trace.recording(trainer) as tape:
        stats = trainer.step(*ragged())
    return trainer, tape, stats


def test_the_tape_holds_what_the_trainer_kept(recorded):
    trainer, tape, stats = recorded
    for name, value in vars(trainer.experience).items():
        assert torch.equal(tape.batch[name], value), name
    assert torch.equal(tape.batch["scores_in"], torch.stack(ragged()[2]))
    assert tape.beta == (0.2, trainer.kl_ctl.value) and tape.beta[1] != 0.2
    assert len(tape.updates) == len(trainer.passes) == 9
    for update, kept in zip(tape.updates, trainer.passes, strict=True):
        live = kept["mask"].bool()
        assert torch.equal(update["mask"], kept["mask"])
        assert torch.equal(update["ratio"][live], kept["policy/ratio"][live])
        assert torch.equal(update["loss"], kept["loss/total"])
        assert torch.equal(update["policy_loss"], kept["loss/policy"])
        assert torch.equal(update["policy_kl"], kept["policy/policykl"])
        assert torch.equal(update["approx_kl"], kept["policy/approxkl"])
        assert torch.equal(update["grad_norm"], kept["policy/grad_norm"])
        assert torch.equal(update["entropy"].mean(), kept["policy/entropy"])
        clipped = (update["policy_clipped"] > update["policy_plain"]).float()
        assert torch.equal(losses.masked_mean(clipped, update["mask"]), kept["policy/clipfrac"])
        assert torch.equal(trainer.experience.mask[update["rows"]], kept["mask"])
    assert [u["epoch"] for u in tape.updates] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for epoch in range(3):
        rows = torch.cat([u["rows"] for u in tape.updates if u["epoch"] == epoch])
        assert sorted(rows.tolist()) == list(range(B))
    values = {r.name: r.value for r in tape.records if r.stage == "statistics"}
    assert values["objective/kl"].item() == pytest.approx(stats["objective/kl"])


def test_delta_is_what_gae_sums_up(recorded):
    trainer, tape, _ = recorded
    delta, advantages = tape.batch["delta"], torch.zeros_like(tape.batch["delta"])
    for t in range(delta.shape[1]):
        for k in range(delta.shape[1] - t):
            advantages[:, t] += (trainer.config.gamma * trainer.config.lam) ** k * delta[:, t + k]
    assert_close(advantages, tape.batch["advantages_raw"])


def test_every_tensor_is_listed_with_shape_and_mask(recorded):
    trainer, tape, _ = recorded
    longest = tape.batch["input_ids"].shape[1]
    vocabulary = trainer.policy.config.vocab_size
    listed = {}
    for record in tape.records:
        listed.setdefault((record.stage, record.name), record)
    slots = (B, longest - 1)
    for stage, names, shape in (
        ("check", ("input_ids", "attention_mask"), (B, longest)),
        ("check", ("scores_in", "query_lengths", "response_lengths"), (B,)),
        ("check", ("mask",), slots),
        ("forward", ("hidden",), (4, longest, 32)),
        ("forward", ("values_everywhere",), (4, longest)),
        ("forward", ("logits", "ref_logits"), (4, longest - 1, vocabulary)),
        ("forward", ("ref_logprobs", "kl", "values_raw"), slots),
        ("rewards", ("rewards", "non_score_reward"), slots),
        ("advantages", ("delta", "advantages_raw", "returns", "advantages", "values"), slots),
        ("optimise", ("ratio", "policy_plain", "policy_clipped", "values", "logprobs"), (4, longest - 1)),
        ("optimise", ("loss", "policy_loss", "value_loss", "approx_kl", "policy_kl", "grad_norm"), ()),
    ):
        for name in names:
            assert listed[stage, name].shape == shape, (stage, name)
            has_slots = shape[:2] in (slots, (4, longest - 1))
            assert (listed[stage, name].mask is not None) == has_slots, (stage, name)
    first = listed["forward", "logits"]
    assert first.rows.tolist() == [0, 1, 2, 3]
    assert torch.equal(first.mask, tape.batch["mask"][:4]) and first.live == int(first.mask.sum())
    live = tape.batch["mask"].bool()
    assert listed["forward", "ref_logprobs"].mean == pytest.approx(
        tape.batch["ref_logprobs"][live].mean().item()
    )
    table = tape.table().query("stage == 'optimise'").set_index("name")
    assert table.loc["ratio", "times"] == table.loc["grad_norm", "times"] == 9
    assert "advantages_raw" in repr(tape) and "<table" in tape._repr_html_()


def test_a_copy_does_not_change_with_the_original(recorded):
    trainer, tape, _ = recorded
    kept = tape.batch["advantages"].clone()
    backup = trainer.experience.advantages.clone()
    trainer.experience.advantages.zero_()
    assert torch.equal(tape.batch["advantages"], kept)
    trainer.experience.advantages.copy_(backup)
    assert all(not v.requires_grad for u in tape.updates for v in u.values() if torch.is_tensor(v))


def test_large_tensors_are_listed_but_not_kept():
    trainer = moved_trainer(ppo_epochs=1)
    with trace.recording(trainer, keep=B * 24) as tape:
        trainer.step(*ragged())
    logits = [r for r in tape.records if r.name == "logits"]
    assert logits and all(r.value is None and r.mean is None and r.shape[2] == 60 for r in logits)
    assert "logits" not in tape.updates[0] and "ratio" in tape.updates[0]
    assert tape.batch["advantages"].shape == (B, tape.batch["input_ids"].shape[1] - 1)


def test_only_this_trainer_is_recorded_and_only_while_it_computes():
    trainer, other = moved_trainer(ppo_epochs=1), moved_trainer(ppo_epochs=1)
    with trace.recording(trainer) as tape:
        other.step(*ragged())
        losses.td_errors(torch.zeros(1, 3), torch.zeros(1, 3), 1.0)
        trainer.generate(ragged()[0], max_new_tokens=2)
        assert tape.records == [] and tape.batch == {} and tape.beta == ()
        trainer.step(*ragged())
    assert len(tape.updates) == 3
    with pytest.raises(BadRollout, match="No whole step"):
        trace.Tape(trainer).slots(0)


def test_slots_speak_of_the_token_they_predict(recorded):
    _, tape, _ = recorded
    queries, responses, _ = ragged()
    for row, (query, response) in enumerate(zip(queries, responses, strict=True)):
        frame = tape.slots(row)
        live = frame[frame["part"] == "response"]
        assert live["token"].tolist() == response.tolist()
        assert live.index[0] == len(query) - 1  # the last query token predicts the first response token
        assert (frame["mask"] == 1).tolist() == (frame["part"] == "response").tolist()
        assert len(frame) == tape.batch["mask"].shape[1]
        last = [u for u in tape.updates if row in u["rows"].tolist()][-1]
        place = last["rows"].tolist().index(row)
        assert frame["ratio"].tolist() == last["ratio"][place].tolist()
    assert (tape.slots(0)["part"] == "query").sum() == 0  # a query of one token: slot 0 is live
    with pytest.raises(BadRollout, match="no sequence 12"):
        tape.slots(B)


def test_clipped_means_that_the_clipped_term_is_the_larger(recorded):
    _, tape, _ = recorded
    seen = 0
    for row in range(B):
        for _, slot in tape.slots(row).query("part == 'response'").iterrows():
            up, down = slot["advantages"] > 0 and slot["ratio"] > 1.2, slot["advantages"] < 0
            expected = up or (down and slot["ratio"] < 0.8)
            assert slot["clipped"] == expected
            seen += expected
    assert seen > 0


def test_response_masks_leave_slots_out():
    trainer = moved_trainer(ppo_epochs=1)
    queries, responses, scores = ragged()
    masks = [torch.ones_like(r) for r in responses]
    masks[0][:5] = 0
    with trace.recording(trainer) as tape:
        trainer.step(queries, responses, scores, masks)
    frame = tape.slots(0)
    assert frame["mask"].sum() == 11 and (frame["part"] == "response").sum() == 16


# ------------------------------------------------------------------------------------- what if


def test_what_if_nothing_changes_nothing(recorded):
    _, tape, _ = recorded
    same = tape.what_if()
    for name in ("rewards", "delta", "advantages_raw", "advantages", "returns"):
        assert torch.equal(same.batch[name], tape.batch[name]), name
    for a, b in zip(same.updates, tape.updates, strict=True):
        assert torch.equal(a["policy_clipped"], b["policy_clipped"])
    assert same.slots(3).equals(tape.slots(3))


def test_what_if_asks_the_trainers_own_methods(recorded):
    trainer, tape, _ = recorded
    mask = tape.batch["mask"]
    untaxed = tape.what_if(beta=0.0)
    expected = torch.zeros(mask.shape)
    expected[torch.arange(B), losses.last_index(mask)] = tape.batch["scores"]
    assert_close(untaxed.batch["rewards"] * mask, expected)
    short = tape.what_if(lam=0.0)
    assert_close(short.batch["advantages_raw"], tape.batch["delta"])
    long = tape.what_if(lam=1.0, gamma=1.0).batch
    to_go = long["rewards_used"].flip(1).cumsum(1).flip(1)
    assert_close((long["advantages_raw"] * mask), (to_go - long["values"]) * mask)
    assert tape.what_if(gamma=0.0).batch["delta"].ne(tape.batch["delta"]).any()
    wide, narrow = tape.what_if(cliprange=1e6), tape.what_if(cliprange=1e-6)
    counts = [sum(t.slots(r)["clipped"].sum() for r in range(B)) for t in (wide, tape, narrow)]
    assert counts[0] == 0 < counts[1] < counts[2]
    assert trainer.config.lam == 0.95 and trainer.kl_ctl.value == tape.beta[1]


def test_what_if_on_scaled_scores_and_full_kl():
    trainer = moved_trainer(use_score_scaling=True, score_clip=0.5, kl_penalty="full")
    with trace.recording(trainer) as tape:
        trainer.step(*ragged())
    state = dict(vars(trainer.running))
    assert torch.equal(tape.what_if().batch["advantages"], tape.batch["advantages"])
    assert vars(trainer.running) == state


@pytest.mark.parametrize("wrong", [{"lam": 1.5}, {"gamma": -0.1}, {"cliprange": 0}, {"lam": "much"}])
def test_what_if_refuses_impossible_settings(recorded, wrong):
    with pytest.raises(BadConfig):
        recorded[1].what_if(**wrong)


# ----------------------------------------------------------------------------------- the grid


def test_a_grid_of_every_quantity(recorded):
    _, tape, _ = recorded
    for row in (0, 1, 5):
        html, frame = tape.grid(row, title="sequence <b>", padding=99)._repr_html_(), tape.slots(row)
        for label in trace.GRID.values():
            assert f"<th>{label}</th>" in html
        assert html.count("<td") == len(frame) * len(trace.GRID)
        off = int((frame["part"] != "response").sum())
        assert html.count('<td class="off"') == off * len(trace.GRID)
        assert "sequence &lt;b&gt;" in html
    assert "advantage" in repr(tape.grid(0))
    assert tape.picture(0, title="sequence")._repr_png_()[:4] == b"\x89PNG"


def test_padding_is_cut_short(recorded):
    _, tape, _ = recorded
    row = int(tape.batch["mask"].sum(1).argmin())  # a response of one token
    real = int((tape.slots(row)["part"] != "padding").sum())
    for padding in (0, 2):
        html = tape.grid(row, padding=padding)._repr_html_()
        assert html.count("<td") == (real + padding) * len(trace.GRID)
        assert html.count("<code>pad</code>") == padding


def test_the_grid_shows_and_escapes_what_it_is_given():
    tokens, parts = ["<a>", " b", "c"], ["query", "response", "response"]
    rows = {"x": [5.0, -1.0, 0.5], "flag": [True, True, False], "n": [1, 2, 3], "ratio": [9.0, 1.0, 1.3]}
    html = token_grid(tokens, rows, parts=parts, centres={"ratio": 1.0})._repr_html_()
    assert "&lt;a&gt;" in html and "·b" in html and html.count("●") == 2
    assert (
        html.count("rgba(213,94,0,0.55)") == 1
    )  # -1 is the largest that counts; 5 stands beside the response
    assert html.count("rgba(0,114,178,0.28)") == 1 and html.count("rgba(0,114,178,0.55)") == 1
    assert ">-0.00<" not in token_grid(["a"], {"x": [-1e-9]})._repr_html_()
    assert "–" in repr(token_grid(["a"], {"x": [float("nan")]}))
    assert token_grid_picture(tokens, rows, parts=parts)._repr_png_()
    with pytest.raises(BadRollout, match="x: 3 tokens, but 2 values"):
        token_grid(tokens, {"x": [1.0, 2.0]})


def test_sliders_draw_again_and_show_errors(recorded):
    _, tape, _ = recorded

    def draw(beta, lam):
        return tape.what_if(beta=beta, lam=lam).grid(0, title=f"beta {beta}")

    box = sliders(draw, beta=(0.0, 1.0, 0.1, 0.2), lam=(0.0, 2.0, 0.05, 0.95))
    (beta, beta_slider), (lam, _) = (row.children for row in box.children[:2])
    shown, names = box.children[2:]
    assert "beta 0.2" in shown.value
    first = shown.value
    beta_slider.value = 0.7  # the field goes along
    assert beta.value == 0.7 and "beta 0.7" in shown.value and shown.value != first
    beta_slider.value = 0.1 + 0.2  # what a slider arrives at, in steps
    assert beta.value == 0.3 and "beta 0.3<" in shown.value
    assert beta.description == "beta"
    assert beta_slider.tooltip == "beta, 0.0 to 1.0"
    assert "aria-label" in names.outputs[0]["data"]["application/javascript"]
    lam.value = 1.5  # above 1: the trainer's own message, not a traceback
    assert "lam" in shown.value and "<pre>" in shown.value
    picture = sliders(lambda beta: tape.what_if(beta=beta).picture(1), beta=(0.0, 1.0, 0.1, 0.2))
    assert re.match(r'<img alt="[^"]+" src="data:image/png;base64,', picture.children[1].value)
