"""The trainer: what it refuses, what it leaves alone, and the brakes that TRL's never had."""

import copy
import warnings

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from ppo_tools import EOS, VOCABULARY, rollouts, tiny_lm, tiny_policy, tiny_trainer
from torch.testing import assert_close

from rlhf.errors import BadData, BadRollout, CourseError
from rlhf.ppo import (
    AdaptiveKLController,
    FixedKLController,
    PPOConfig,
    PPOTrainer,
    create_reference_model,
    losses,
    set_seed,
)
from rlhf.ppo.scores import RunningMoments


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


# --------------------------------------------------------------------------------- what is refused


def state(trainer: PPOTrainer) -> dict:
    return copy.deepcopy(
        {
            "weights": trainer.model.state_dict(),
            "reference": trainer.ref_model.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "kl": trainer.kl_ctl.value,
            "running": vars(trainer.running),
            "permutations": trainer.permutations.get_state()[1].tolist(),
            "step": trainer.current_step,
        }
    )


def assert_same_state(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same_state(a[key], b[key])
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def replaced(values: list, i: int, value) -> list:
    return [value if k == i else v for k, v in enumerate(values)]


q, r, s = rollouts()
REFUSED = {
    "nan score": (q, r, replaced(s, 3, torch.tensor(float("nan"))), r"scores\[3\] is nan"),
    "inf score": (q, r, replaced(s, 5, torch.tensor(float("inf"))), r"scores\[5\] is inf"),
    "inf float score": (q, r, replaced(s, 0, float("-inf")), r"scores\[0\] is -inf"),
    "nan in a tensor of scores": (
        q,
        r,
        torch.stack(s).index_fill(0, torch.tensor([2]), torch.nan),
        r"scores\[2\]",
    ),
    "two scores for one": (q, r, replaced(s, 1, torch.tensor([1.0, 2.0])), r"scores\[1\] must be a single"),
    "score of shape (1, 1)": (q, r, replaced(s, 1, torch.tensor([[1.0]])), r"scores\[1\] must be a single"),
    "text as a score": (q, r, replaced(s, 1, "good"), r"scores\[1\] must be a single"),
    "true as a score": (q, r, replaced(s, 1, True), r"scores\[1\] must be a single"),
    "no score": (q, r, replaced(s, 1, None), r"scores\[1\] must be a single"),
    "scores of shape (8, 1)": (q, r, torch.stack(s)[:, None], "scores must be a list"),
    "empty response": (q, replaced(r, 6, torch.tensor([], dtype=torch.long)), s, r"responses\[6\] is empty"),
    "empty query": (replaced(q, 2, torch.tensor([], dtype=torch.long)), r, s, r"queries\[2\] is empty"),
    "response of shape (1, R)": (q, replaced(r, 4, r[4][None]), s, r"responses\[4\] must be a 1-D"),
    "list as a query": (replaced(q, 0, [1, 2]), r, s, r"queries\[0\] must be a 1-D tensor, not list"),
    "float tokens": (q, replaced(r, 1, r[1].float()), s, r"responses\[1\] must hold integer"),
    "boolean tokens": (q, replaced(r, 1, r[1] > 3), s, r"responses\[1\] must hold integer"),
    "token too large": (
        q,
        replaced(r, 7, torch.tensor([3, VOCABULARY])),
        s,
        rf"responses\[7\].* {VOCABULARY}",
    ),
    "negative token": (replaced(q, 7, torch.tensor([3, -100])), r, s, r"queries\[7\].* -100"),
    "one query short": (q[:7], r, s, "queries has 7 elements, but config.batch_size is 8"),
    "one response short": (q, r[:7], s, "responses has 7"),
    "one score short": (q, r, s[:7], "scores has 7"),
    "wrong batch size": (q * 2, r * 2, s * 2, "queries has 16"),
    "nothing": ([], [], [], "queries has 0"),
    "a padded tensor of queries": (torch.ones(8, 3, dtype=torch.long), r, s, "queries must be a list"),
    "longer than the model": (replaced(q, 0, torch.ones(64, dtype=torch.long)), r, s, "64 positions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_on_is_named_and_changes_nothing(case):
    queries, responses, scores, message = REFUSED[case]
    trainer = tiny_trainer(use_score_scaling=True, learning_rate=1e-4)
    trainer.step(*rollouts(seed=1))  # so that the optimiser and the running statistics hold something
    before = state(trainer)
    with pytest.raises(BadRollout, match=message) as caught:
        trainer.step(queries, responses, scores)
    assert isinstance(caught.value, ValueError)
    assert caught.value.zh in str(caught.value)
    assert_same_state(before, state(trainer))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(99), "must be a tensor of shape"),
        (torch.zeros(len(r[2])), "at least one 1"),
        (torch.full((len(r[2]),), 0.5), "only 0 and 1"),
        ([1], "must be a tensor"),
    ],
)
def test_response_masks_are_checked(mask, message):
    masks = replaced([torch.ones_like(x) for x in r], 2, mask)
    with pytest.raises(BadRollout, match=r"response_masks\[2\].*" + message):
        tiny_trainer().step(q, r, s, masks)


def test_a_model_that_has_diverged_is_named():
    trainer = tiny_trainer()
    trainer.model.v_head.summary.weight.data.fill_(float("nan"))
    before = trainer.kl_ctl.value
    with pytest.raises(BadRollout, match="diverged"):
        trainer.step(q, r, s)
    assert trainer.kl_ctl.value == before


def test_scores_may_be_numbers_or_one_tensor():
    expected = tiny_trainer().step(q, r, s)["ppo/mean_scores"]
    for scores in (torch.stack(s), [x.item() for x in s], [x[None] for x in s], [np.float32(x) for x in s]):
        assert tiny_trainer().step(q, r, scores)["ppo/mean_scores"] == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 8, "mini_batch_size": 3}, "multiple of"),
        ({"batch_size": 8, "mini_batch_size": 4, "gradient_accumulation_steps": 4}, "multiple of"),
        ({"batch_size": 0}, "batch_size must be an integer"),
        ({"ppo_epochs": 2.5}, "ppo_epochs must be an integer"),
        ({"gamma": 1.5}, "gamma must be a number"),
        ({"lam": -0.1}, "lam must be a number"),
        ({"cliprange": 0.0}, "cliprange must be a number > 0"),
        ({"learning_rate": "1e-5"}, "learning_rate must be a number"),
        ({"init_kl_coef": float("nan")}, "init_kl_coef must be a number"),
        ({"max_grad_norm": -1.0}, "max_grad_norm"),
        ({"kl_penalty": "k3"}, "kl_penalty must be one of"),
        ({"use_score_norm": True}, "needs use_score_scaling"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        PPOConfig(**settings)
    assert isinstance(caught.value, CourseError)


def test_classic_defaults():
    config = PPOConfig()
    assert (config.learning_rate, config.batch_size, config.ppo_epochs) == (1.41e-5, 128, 4)
    assert (config.gamma, config.lam, config.cliprange, config.vf_coef) == (1.0, 0.95, 0.2, 0.1)
    assert (config.init_kl_coef, config.target, config.horizon) == (0.2, 6.0, 10000.0)
    assert config.backward_batch_size == 128
    with pytest.warns(UserWarning, match="old name"):
        assert PPOConfig(batch_size=8, forward_batch_size=4).mini_batch_size == 4


def test_wrong_models_are_named():
    with pytest.raises(ValueError, match="AutoModelForCausalLMWithValueHead"):
        PPOTrainer(PPOConfig(log_with="none"), tiny_lm())
    policy = tiny_policy()
    with pytest.raises(ValueError, match="is the policy itself"):
        tiny_trainer(policy, policy)
    with pytest.raises(BadData, match="3 rows"):
        tiny_trainer(dataset=[{"input_ids": torch.tensor([1])}] * 3)


# ------------------------------------------------------------------------------------ what a step does


def test_the_same_seed_gives_the_same_run():
    def run(seed):
        trainer = tiny_trainer(tiny_policy(), mini_batch_size=2, learning_rate=1e-4, seed=seed)
        queries = rollouts()[0]
        for _ in range(2):
            responses = trainer.generate(queries, max_new_tokens=6, return_prompt=False)
            stats = trainer.step(queries, responses, [float(len(set(x.tolist()))) for x in responses])
        return weights(trainer.model), stats["objective/kl"]

    first, second, other = run(1), run(1), run(2)
    assert same(first[0], second[0])
    assert first[1] == second[1]
    assert not same(first[0], other[0])


def test_sampling_does_not_disturb_the_minibatches():
    """Permutations have a generator of their own: drawing other random numbers in between changes nothing."""

    def run(disturb):
        trainer = tiny_trainer(mini_batch_size=2, learning_rate=1e-4)
        if disturb:
            torch.rand(3), np.random.rand(3), trainer.generate(q, max_new_tokens=2)
        trainer.step(q, r, s)
        return weights(trainer.model)

    assert same(run(False), run(True))


def test_the_reference_is_frozen_and_the_policy_moves():
    trainer = tiny_trainer(learning_rate=1e-3)
    before, reference = weights(trainer.model), weights(trainer.ref_model)
    trainer.step(q, r, s)
    assert same(reference, weights(trainer.ref_model))
    assert same(before, reference)
    moved = weights(trainer.model)
    assert all(not torch.equal(before[n], moved[n]) for n in before if "v_head" in n or "wte" in n)
    assert not any(p.requires_grad for p in create_reference_model(trainer.model).parameters())


def test_a_plain_model_may_be_the_reference():
    with_head, plain = tiny_trainer(), tiny_trainer(ref_model=tiny_lm())
    assert with_head.step(q, r, s)["objective/kl"] == plain.step(q, r, s)["objective/kl"] == 0.0


@pytest.mark.parametrize("kind", ["opt", "llama", "qwen"])
def test_other_architectures(kind):
    trainer = tiny_trainer(tiny_policy(kind), tiny_policy(kind, seed=1), learning_rate=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random responses: the KL may be negative
        stats = trainer.step(q, r, s)
    assert stats["objective/kl"] != 0
    assert all(np.isfinite(v).all() for v in stats.values())
    assert trainer.experience.values.abs().sum() > 0


def test_statistics_are_finite_floats_even_for_one_rollout_of_one_token():
    trainer = tiny_trainer(batch_size=1, mini_batch_size=1)
    stats = trainer.step([torch.tensor([3])], [torch.tensor([4])], [1.0])
    for name, value in stats.items():
        assert isinstance(value, (float, np.ndarray)), name
        assert np.isfinite(value).all(), name
    assert stats["ppo/std_scores"] == 0.0


def test_minibatch_size_of_the_forward_pass_changes_no_number():
    whole, parts = tiny_trainer(), tiny_trainer(mini_batch_size=2)
    whole.step(q, r, s), parts.step(q, r, s)
    for name in ("logprobs", "ref_logprobs", "values", "advantages", "returns"):
        assert_close(getattr(whole.experience, name), getattr(parts.experience, name), atol=1e-5, rtol=1e-4)


def test_response_masks_leave_tokens_out():
    masks = [torch.ones_like(x) for x in r]
    long = max(range(8), key=lambda i: len(r[i]))
    masks[long][-2:] = 0
    trainer = tiny_trainer()
    trainer.step(q, r, s, masks)
    mask = trainer.experience.mask[long]
    assert int(mask.sum()) == len(r[long]) - 2
    last = int(mask.nonzero()[-1])
    found = (trainer.experience.rewards - trainer.experience.non_score_reward)[long]
    assert int(found.abs().argmax()) == last
    assert_close(found[last], s[long], atol=1e-5, rtol=1e-5)


def test_full_kl_is_the_exact_divergence():
    trainer = tiny_trainer(ref_model=tiny_policy(seed=1), kl_penalty="full", mini_batch_size=4)
    trainer.step(q, r, s)
    fresh, other = tiny_lm(), tiny_lm(seed=1)
    ids = torch.cat([q[0], r[0]])
    with torch.no_grad():
        p, reference = fresh(ids[None]).logits, other(ids[None]).logits
    exact = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=reference)
    )[0, :-1]
    assert_close(trainer.experience.kl[0, : len(exact)], exact, atol=1e-5, rtol=1e-4)
    assert (trainer.experience.kl >= 0).all()


def test_whitened_rewards_do_not_leak_into_padding():
    trainer = tiny_trainer(ref_model=tiny_policy(seed=1), whiten_rewards=True)
    trainer.step(q, r, s)
    batch = trainer.experience
    live = batch.mask.bool()
    assert not batch.rewards_used[~live].any()
    assert_close(batch.rewards_used[live].var(), torch.tensor(1.0))
    assert_close(batch.rewards_used[live].mean(), batch.rewards[live].mean(), atol=1e-5, rtol=1e-4)
    for i in range(8):  # every sequence gets the advantages it would get without any padding
        alone = losses.gae(
            batch.rewards_used[i][live[i]][None], batch.values_raw[i][live[i]][None], 1.0, 0.95
        )
        assert_close(batch.advantages_raw[i][live[i]], alone[0], atol=1e-5, rtol=1e-4)


def test_advantages_stay_as_they_are_without_whitening():
    trainer = tiny_trainer(whiten_advantages=False)
    trainer.step(q, r, s)
    batch = trainer.experience
    live = batch.mask.bool()
    assert_close(batch.advantages[live], batch.advantages_raw[live])
    assert not batch.advantages[~live].any()
    assert abs(batch.advantages[live].mean()) > 1e-3  # whitening would have centred them


def test_scores_are_scaled_by_everything_seen_and_clipped():
    trainer = tiny_trainer(use_score_scaling=True, use_score_norm=True, score_clip=1.0)
    first, second = torch.stack(rollouts(seed=1)[2]) * 5, torch.stack(rollouts(seed=2)[2]) * 5 + 3
    trainer.step(q, r, first)
    trainer.step(q, r, second)
    seen = torch.cat([first, second])
    assert_close(trainer.experience.scores, ((second - seen.mean()) / seen.std()).clamp(-1, 1))
    scaled = tiny_trainer(use_score_scaling=True)
    scaled.step(q, r, first)
    assert_close(scaled.experience.scores, first / first.std())


def test_constant_scores_are_not_divided_by_zero():
    moments = RunningMoments()
    moments.update(torch.ones(8))
    assert moments.scale(torch.ones(8)).tolist() == pytest.approx([1.0] * 8)


# -------------------------------------------------------------------------------------------- brakes


def test_early_stopping_drops_the_remaining_epochs():
    settings = {"learning_rate": 1e-3, "mini_batch_size": 4}
    ran = tiny_trainer(**settings)
    ran.step(q, r, s)
    assert len(ran.passes) == 8
    stopped = tiny_trainer(**settings, early_stopping=True, target_kl=1e-6)
    stopped.step(q, r, s)
    moved = stopped.passes[-1]["policy/policykl"]
    assert len(stopped.passes) in (2, 4, 6)
    assert moved > 1.5e-6


def test_the_norm_is_limited_before_every_update(monkeypatch):
    trainer = tiny_trainer(max_grad_norm=0.05, mini_batch_size=4, learning_rate=1e-5)
    step, norms = trainer.optimizer.step, []

    def watch():
        norms.append(torch.stack([p.grad.norm() for p in trainer.parameters]).norm().item())
        return step()

    monkeypatch.setattr(trainer.optimizer, "step", watch)
    stats = trainer.step(q, r, s)
    assert norms == pytest.approx([0.05] * 8, rel=1e-3)
    assert stats["ppo/policy/grad_norm"] > 0.05


def blow_up(trainer: PPOTrainer, value: float = 200.0) -> None:
    """Make the next update's ratios overflow: the rollout's log-probabilities are made far too small."""
    original = trainer.compute_advantages

    def sabotage(experience):
        original(experience)
        experience.logprobs = experience.logprobs - value

    trainer.compute_advantages = sabotage


def test_ratio_threshold_really_skips():
    """Neither weights nor momentum move, and an overflowing ratio makes no nan."""
    trainer = tiny_trainer(learning_rate=1e-3)
    trainer.step(q, r, s)
    before, optimizer = weights(trainer.model), copy.deepcopy(trainer.optimizer.state_dict())
    blow_up(trainer)
    with pytest.warns(UserWarning, match="left out"):
        stats = trainer.step(q, r, s)
    assert same(before, weights(trainer.model))
    assert_same_state(optimizer, trainer.optimizer.state_dict())
    assert stats["ppo/loss/total"] == 0.0
    assert all(np.isfinite(v).all() for v in stats.values())


def test_a_skipped_minibatch_does_not_spoil_the_others():
    trainer = tiny_trainer(learning_rate=1e-3, mini_batch_size=4, gradient_accumulation_steps=2, ppo_epochs=1)
    original = trainer.minibatch_loss
    calls = []

    def first_fails(batch):
        calls.append(batch)
        if len(calls) == 1:
            batch.logprobs = batch.logprobs - 200
        return original(batch)

    trainer.minibatch_loss = first_fails
    before = weights(trainer.model)
    with pytest.warns(UserWarning, match="left out"):
        trainer.step(q, r, s)
    after = weights(trainer.model)
    assert not same(before, after)
    assert all(torch.isfinite(p).all() for p in after.values())


# ----------------------------------------------------------------------------------- accumulation, memory


def gradients(**settings) -> dict[str, torch.Tensor]:
    """Gradients of the first update."""
    trainer = tiny_trainer(ppo_epochs=1, **settings)
    found = {}
    clip = trainer.accelerator.clip_grad_norm_

    def watch(parameters, limit):
        found.update({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
        return clip(parameters, limit)

    trainer.accelerator.clip_grad_norm_ = watch
    trainer.step(q, r, s)
    return found


def test_accumulation_by_tokens_equals_one_large_minibatch():
    whole = gradients(mini_batch_size=8)
    parts = gradients(mini_batch_size=2, gradient_accumulation_steps=4, accumulate_by_tokens=True)
    for name in whole:
        assert_close(parts[name], whole[name], atol=1e-6, rtol=1e-3)


def test_accumulation_is_the_mean_of_minibatch_means():
    """TRL's arithmetic: each minibatch counts the same, however many tokens it has."""
    trainer = tiny_trainer(mini_batch_size=4)
    trainer.step(q, r, s)
    parts = gradients(mini_batch_size=4, gradient_accumulation_steps=2)
    fresh = tiny_trainer(mini_batch_size=4)
    experience = fresh.forward_rollouts(fresh.validate(q, r, s))
    fresh.compute_rewards(experience, torch.stack(s))
    fresh.compute_advantages(experience)
    order = torch.from_numpy(np.random.RandomState(0).permutation(8))
    for rows in order.split(4):
        loss, _, _ = fresh.minibatch_loss(experience.rows(rows))
        (loss / 2).backward()
    for name, parameter in fresh.model.named_parameters():
        assert_close(parts[name], parameter.grad, atol=1e-7, rtol=1e-4)


def test_accumulation_holds_on_the_last_batch_of_the_dataloader():
    dataset = [{"input_ids": torch.tensor([3, 4])} for _ in range(16)]
    trainer = tiny_trainer(dataset=dataset, mini_batch_size=2, gradient_accumulation_steps=2, ppo_epochs=1)
    updates, step = [], trainer.optimizer.step
    trainer.optimizer.step = lambda: (updates.append(1), step())
    for batch in trainer.dataloader:
        trainer.step(batch["input_ids"], r, s)
    assert len(updates) == 2 * 2


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama"])
def test_gradient_checkpointing_saves_activations_and_changes_no_number(kind):
    plain = gradients(model=tiny_policy(kind))
    checkpointed = gradients(model=tiny_policy(kind), gradient_checkpointing=True)
    for name in plain:
        assert_close(checkpointed[name], plain[name], atol=1e-6, rtol=1e-4)
    trainer, calls = tiny_trainer(tiny_policy(kind), gradient_checkpointing=True), []
    for layer in trainer.checkpointed:
        original = layer._gradient_checkpointing_func
        layer._gradient_checkpointing_func = lambda *a, f=original, **k: (calls.append(1), f(*a, **k))[1]
    trainer.step(q, r, s)
    assert len(calls) == 4 * len(trainer.checkpointed) > 0
    assert not any(m.training for m in trainer.model.modules())


def test_what_an_interrupted_step_left_behind_is_dropped():
    clean, interrupted = tiny_trainer(learning_rate=1e-4), tiny_trainer(learning_rate=1e-4)
    original = interrupted.minibatch_loss

    def interrupt(batch):
        loss, *_ = original(batch)
        (100 * loss).backward()
        raise KeyboardInterrupt

    interrupted.minibatch_loss = interrupt
    with pytest.raises(KeyboardInterrupt):
        interrupted.step(q, r, s)
    interrupted.minibatch_loss = original
    interrupted.permutations = np.random.RandomState(0)
    clean.step(q, r, s), interrupted.step(q, r, s)
    assert same(weights(clean.model), weights(interrupted.model))


def test_policy_and_reference_share_mixed_precision():
    """In bfloat16 a policy equal to its reference still has a KL of exactly 0."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        trainer = tiny_trainer(accelerator_kwargs={"mixed_precision": "bf16"})
        stats = trainer.step(q, trainer.generate(q, max_new_tokens=5, return_prompt=False), s)
        assert stats["objective/kl"] == 0.0
        exact = tiny_lm()(torch.cat([q[0], r[0]])[None]).logits.detach()
        rounded = trainer.forward_reference(torch.cat([q[0], r[0]])[None], None)
        assert 0 < (exact[:, :-1] - rounded).abs().max() < 1
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_an_adapter_trains_and_its_backbone_is_the_reference():
    from peft import LoraConfig

    policy = tiny_policy()
    config = LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    policy = type(policy).from_pretrained(tiny_lm(), peft_config=config)
    trainer = tiny_trainer(policy, learning_rate=1e-2)
    before = weights(trainer.model)
    assert trainer.step(q, r, s)["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    after = weights(trainer.model)
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert all("lora" in n or "v_head" in n for n in changed)
    assert any("v_head" in n for n in changed)
    assert trainer.step(q, r, s)["objective/kl"] != pytest.approx(0.0, abs=1e-5)


def test_a_scheduler_moves_once_per_step():
    policy = tiny_policy()
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    config = PPOConfig(batch_size=8, mini_batch_size=2, log_with="none")
    trainer = PPOTrainer(config, policy, optimizer=optimizer, lr_scheduler=scheduler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rates = [trainer.step(q, r, s)["ppo/learning_rate"] for _ in range(3)]
    assert rates == pytest.approx([1e-5, 5e-6, 2.5e-6])


# --------------------------------------------------------------------------------------------- beta


def test_beta_moves_slowly():
    """0.2 towards 0.32 needs 184 batches of 128, however far the KL is from its target."""
    controller = AdaptiveKLController(0.2, target=6.0, horizon=10000)
    controller.update(1000.0, 128)
    assert controller.value == pytest.approx(0.2 * (1 + 0.2 * 128 / 10000))
    for _ in range(183):
        controller.update(1000.0, 128)
    assert controller.value == pytest.approx(0.32, abs=0.001)
    down = AdaptiveKLController(0.2, 6.0, 10000)
    down.update(0.0, 128)
    assert down.value == pytest.approx(0.2 * (1 - 0.2 * 128 / 10000))
    exact = AdaptiveKLController(0.2, 6.0, 10000)
    exact.update(6.6, 100)
    assert exact.value == pytest.approx(0.2 * (1 + 0.1 * 100 / 10000))
    fixed = FixedKLController(0.2)
    fixed.update(1000.0, 128)
    assert fixed.value == 0.2


def test_the_step_uses_beta_as_it_was():
    trainer = tiny_trainer(ref_model=tiny_policy(seed=1), target=0.01)
    stats = trainer.step(q, r, s)
    assert stats["objective/kl_coef"] == 0.2
    assert_close(trainer.experience.non_score_reward, -0.2 * trainer.experience.kl)
    assert trainer.kl_ctl.value != 0.2


def test_a_very_negative_kl_is_a_warning():
    trainer = tiny_trainer(ref_model=tiny_policy(seed=1))
    worst = [trainer.ref_model.generate(x[None], max_new_tokens=8, do_sample=False)[0, len(x) :] for x in q]
    with pytest.warns(UserWarning, match="full softmax"):
        trainer.step(q, worst, s)


# ------------------------------------------------------------------------------------------- learning


@pytest.mark.slow
def test_it_learns():
    """Reward the share of even tokens: 20 steps are enough for a clear gain, and the KL stays small."""
    trainer = tiny_trainer(
        tiny_policy(initializer_range=0.1), batch_size=32, mini_batch_size=32, learning_rate=3e-3
    )
    set_seed(0)
    queries = [torch.randint(0, EOS, (3,)) for _ in range(32)]

    def share(responses):
        return torch.stack([(x % 2 == 0).float().mean() for x in responses])

    history = []
    for _ in range(20):
        responses = trainer.generate(queries, max_new_tokens=8, return_prompt=False, eos_token_id=-1)
        scores = share(responses)
        stats = trainer.step(queries, responses, 4 * (scores - 0.5))
        history.append(scores.mean().item())
    assert np.mean(history[-3:]) > np.mean(history[:3]) + 0.2
    assert 0 < stats["objective/kl"] < 10
