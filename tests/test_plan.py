"""The planner against real tiny models: bytes of every kind, the allocator's peak, and the command."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch
import yaml
from ppo_tools import tiny_lm

from rlhf import anatomy, memory, museum, plan
from rlhf.errors import BadRecipe, MissingAssets
from rlhf.memory import GIB, BadPlan
from rlhf.ppo.optimizers import OPTIMIZERS, build_optimizer

ASKS = {
    "all weights": plan.Ask("sft", 3, 16),
    "LoRA in bfloat16": plan.Ask("sft", 3, 16, dtype="bfloat16", lora_rank=4),
    "a reward model": plan.Ask("reward", 4, 16, lora_rank=2),
    "PPO": plan.Ask("ppo", 3, 16, passes=4, lora_rank=4, rows=6, new_tokens=10),
    "recomputed": plan.Ask("ppo", 3, 16, passes=4, lora_rank=4, checkpointing=True, rows=6, new_tokens=10),
}
LAYERS = 3  # the planner looks at one and two


def tiny_config(kind: str):
    return tiny_lm(kind, num_hidden_layers=LAYERS).config


def llama():
    import transformers

    return transformers.LlamaConfig(**museum.card("llama-2-7b").fields())


def a_step(model, ask: plan.Ask) -> torch.Tensor:
    ids = torch.ones(ask.sequences, ask.tokens, dtype=torch.long)
    return plan.under_autocast(ask, plan.LOSSES[ask.stage], model, ids, ask)


# every case on Llama's shape, and every shape with weights and with adapters
PAIRS = [("llama", case) for case in ASKS] + [("gpt2", "PPO"), ("opt", "all weights"), ("qwen2", "PPO")]


@pytest.fixture(scope="module", params=PAIRS, ids=" ".join)
def pair(request):
    """What was planned, and the real thing after a step of Adam."""
    kind, case = request.param
    config, ask = tiny_config(kind), ASKS[case]
    model = plan.build(config, ask, LAYERS, "cpu")
    return plan.needs(config, ask), model, ask


def test_weights_gradients_and_adam_are_those_of_a_real_step(pair):
    planned, model, ask = pair
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(learning)
    a_step(model, ask).backward()
    optimizer.step()
    real = memory.measured_training(model, optimizer)
    assert (planned.rows["weights"], planned.rows["gradients"]) == (real.weights, real.gradients)
    assert real.optimizer == planned.rows["optimizer"] + 4 * len(learning)  # Adam's step counters
    head = model.config.hidden_size + 1 if ask.stage == "ppo" else 0
    assert planned.parameters == anatomy.count(model) + head
    assert planned.trained == sum(weight.numel() for weight in learning) + head


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_keeps_what_was_planned(name, rank):
    """After a real step; single numbers, such as step counters, are left out."""
    config, ask = tiny_config("llama"), replace(ASKS["PPO"], optimizer=name, lora_rank=rank)
    model = plan.build(config, ask, LAYERS, "cpu")
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = build_optimizer(name, learning, 1e-3)
    a_step(model, ask).backward()
    optimizer.step()
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    kept = [value for value in state if isinstance(value, torch.Tensor) and value.dim()]
    rows = plan.needs(config, ask).rows
    assert rows["optimizer"] == memory.tensor_bytes(kept) > 0
    width = config.hidden_size
    assert rows["value_head"] == 8 * (width + 1) + (
        4 * (width + 2) if name == "adafactor" else 8 * (width + 1)
    )


def test_activations_are_those_that_autograd_keeps(pair):
    planned, model, ask = pair
    real = memory.measured_activations(model, lambda: a_step(model, ask))
    # recomputing leaves so little that an attention mask, which only fake tensors keep, can be seen
    assert planned.rows["activations"] == pytest.approx(real, rel=0.1 if ask.checkpointing else 0.01)


def test_the_cache_is_that_of_a_real_model(pair):
    planned, model, ask = pair
    if ask.stage != "ppo":
        assert planned.rows["cache"] == 0
        return
    with torch.no_grad():
        ids = torch.ones(ask.sequences, ask.tokens, dtype=torch.long)
        cache = model.eval()(input_ids=ids, use_cache=True).past_key_values
    assert planned.rows["cache"] == memory.measured_cache(cache) > 0


@pytest.mark.parametrize("case", ["all weights", "LoRA in bfloat16", "PPO"])
def test_the_peak_is_that_of_the_allocator(case):
    """torch's profiler hears of every allocation: an independent count of the same step."""
    ask = replace(ASKS[case], sequences=6, tokens=48)
    model = plan.build(tiny_config("llama"), ask, LAYERS, "cpu")
    a_step(model, ask).backward()  # gradients exist, as in the second pass of a step
    activity = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity], profile_memory=True) as profile:
        a_step(model, ask).backward()
    now = highest = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    counted, *_ = plan.count(tiny_config("llama"), ask)
    assert counted.peak == pytest.approx(highest, rel=0.05)


def test_products_are_six_per_weight_and_token_and_eight_when_recomputed():
    ask, hidden = ASKS["all weights"], 32
    full, *_ = plan.count(tiny_config("llama"), ask)
    tokens, embedding = ask.sequences * ask.tokens, 60 * hidden
    norms = (2 * LAYERS + 1) * hidden
    matrices = full.parameters - embedding - norms  # looking up an embedding is no product
    assert full.both == 6 * matrices * tokens
    again, *_ = plan.count(tiny_config("llama"), replace(ask, checkpointing=True))
    blocks = (again.both / tokens - 6 * embedding) / (matrices - embedding)
    assert 7 < blocks <= 8  # torch stops recomputing a block before its last product
    assert again.activations < full.activations / 2
    lora, *_ = plan.count(tiny_config("llama"), replace(ask, lora_rank=1))
    assert lora.both < 5 * matrices * tokens  # frozen weights need no gradient


def test_seven_billion_by_hand():
    ask = plan.Ask("ppo", 8, 160, passes=32, dtype="bfloat16", lora_rank=16, rows=64, new_tokens=128)
    found = plan.needs(llama(), ask)
    published, adapter = museum.card("llama-2-7b").published, 16 * 32 * (4 * 8192 + 3 * (4096 + 11008))
    assert found.trained == adapter + 4097 and found.parameters == published + adapter + 4097
    assert found.rows["weights"] == 2 * published + 4 * adapter  # PEFT keeps adapters in float32
    assert found.rows["gradients"] == 4 * adapter and found.rows["optimizer"] == 8 * adapter
    assert found.rows["reference"] == 0 and found.rows["value_head"] == 16 * 4097
    assert found.rows["reward_model"] == 2 * (published - 32000 * 4096 + 4096)
    assert found.rows["cache"] == 2 * 32 * 4096 * 160 * 8 * 2


def test_without_an_adapter_ppo_has_a_second_model():
    rows = plan.needs(tiny_config("llama"), replace(ASKS["PPO"], lora_rank=0)).rows
    assert rows["reference"] == rows["weights"] > 0


def test_zero_shares_out_what_it_says():
    ask = plan.Ask("sft", 1, 64, dtype="bfloat16")
    n = museum.card("llama-2-7b").published
    one, two, three = (plan.needs(llama(), ask, processes=8, zero=stage).rows for stage in (0, 2, 3))
    assert (one["weights"], one["gradients"], one["optimizer"]) == (2 * n, 2 * n, 4 * n)
    assert two["weights"] == 2 * n and two["gradients"] == n / 4 and two["optimizer"] == 12 * n / 8
    assert three["weights"] == n / 4 and two["gathered"] == 0
    block = 2 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096)
    assert three["gathered"] == 2 * block + 2 * (2 * 32000 * 4096 + 4096)
    with pytest.raises(BadPlan, match="0, 2 or 3"):
        plan.needs(llama(), ask, zero=1)


def test_ppo_in_shards_samples_from_gathered_weights():
    """All of them, and only then; the reference is shared out, the reward model is not."""
    ask = plan.Ask("ppo", 8, 160, dtype="bfloat16", new_tokens=128, rows=64)
    n = museum.card("llama-2-7b").published
    whole, shards = (plan.needs(llama(), ask, processes=8, zero=stage) for stage in (0, 3))
    assert shards.rows["gathered_whole"] == 2 * n and whole.rows["gathered_whole"] == 0
    assert shards.rows["reference"] == 2 * n / 8 and whole.rows["reference"] == 2 * n
    assert shards.rows["reward_model"] == whole.rows["reward_model"]
    names = ("weights", "optimizer", "reference", "reward_model", "value_head", "cache", "gathered_whole")
    assert shards.during("sampling") == sum(shards.rows[name] for name in names)
    passing = ("gradients", "activations", "temporaries", "gathered")
    assert shards.during("training") == shards.always + sum(shards.rows[name] for name in passing)


def test_time_by_hand():
    h100 = plan.gpu("H100")
    found = plan.Needs({}, 1, 1, flops=989e12, read=3350e9, tokens=1)
    assert found.seconds(h100, 0.5) == pytest.approx(2 + 1 / plan.READING)
    assert found.total == 0


def test_every_gpu_has_its_numbers_and_their_source():
    sizes = [gpu.usable for gpu in plan.gpus().values()]
    assert sizes == sorted(sizes) and len(sizes) > 8
    for gpu in plan.gpus().values():
        assert 50 < gpu.tflops < 2000 and 100 < gpu.bandwidth < 6000 and len(gpu.source) > 10
    with pytest.raises(BadPlan, match=r"no v100.*there are: t4"):
        plan.gpu("v100")


# ---------------------------------------------------------------------------------------------- the command


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A recipe of every stage, for a chain that begins with the museum's Llama and was never run."""
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    monkeypatch.delenv("RLHF_PROFILE", raising=False)
    chain = {
        "sft": {"policy": "meta-llama/Llama-2-7b-hf", "output": "sft_7b_lora", "max_length": 512},
        "reward": {"policy": "sft_7b", "output": "rm_7b", "tokens": [12, 255], "batch_size": 4},
        "ppo": {
            "policy": "sft_7b",
            "reward_model": "rm_7b",
            "output": "ppo_7b",
            "query_tokens": [2, 33],
            "response_tokens": [128, 129],
            "batch_size": 64,
            "mini_batch_size": 8,
            "gradient_accumulation_steps": 8,
        },
    }
    for name, fields in chain.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(fields))
    return tmp_path


def run(capsys, *words: str, code: int = 0) -> str:
    assert plan.main([str(word) for word in words]) == code
    shown = capsys.readouterr()
    return shown.err if code else shown.out


def test_a_recipe_is_read_like_the_stage_reads_it(home):
    question = plan.Question.of(home / "ppo.yaml", ["--ppo_epochs", "2"])
    assert (question.ask.sequences, question.ask.tokens, question.ask.new_tokens) == (8, 32 + 128, 128)
    assert (question.ask.passes, question.ask.rows) == (2 * 64 // 8, 64)
    assert question.config.hidden_size == question.reward.hidden_size == 4096  # both through the chain
    reward = plan.Question.of(home / "reward.yaml")
    assert (reward.ask.sequences, reward.ask.tokens, reward.ask.passes) == (8, 256, 1)
    sft = plan.Question.of(home / "sft.yaml", ["--max_length", "99999"], model="gpt2")
    assert sft.ask.tokens == 1024 and sft.title == "GPT-2 (124M)"  # no more than the model has positions


def test_models_are_found_where_they_are(home):
    folder = home / "output" / "mine"
    tiny_config("qwen2").save_pretrained(folder)
    for name in ("mine", str(folder)):
        title, config = plan.find_config(name, {})
        assert title == "mine" and config.model_type == "qwen2" and config.num_hidden_layers == LAYERS
    assert plan.find_config("opt-350m", {})[1].model_type == "opt"
    with pytest.raises(BadPlan, match=r"no configuration of sft_9.*llama-2-7b"):
        plan.find_config("sft_9", {}, home)
    with pytest.raises(MissingAssets, match="--model"):
        plan.find_config("profile", {"profile": "full"})


def test_the_command_prints_what_was_counted(home, capsys):
    shown = run(capsys, "--recipe", home / "sft.yaml")
    question = plan.Question.of(home / "sft.yaml")
    found = question.needs()
    assert "Llama-2-7B: 6,738,415,616 parameters, 6,738,415,616 of them learn" in shown
    assert "6,738,415,616 of them learn" in shown
    for name in ("weights", "gradients", "optimizer", "activations"):
        line = next(line for line in shown.splitlines() if line.startswith(name))
        assert float(line.split()[1]) == pytest.approx(found.rows[name] / GIB, abs=0.01)
    assert "reference" not in shown and "sampling" not in shown
    lines = [line for line in shown.splitlines() if line.split(" ")[0] in plan.gpus()]
    assert len(lines) == len(plan.gpus())
    for line, gpu in zip(lines, plan.gpus().values(), strict=True):
        assert ("fits" in line) == (found.total <= gpu.usable)


def test_what_does_not_fit_is_told_what_to_change(home, capsys):
    shown = run(capsys, "--recipe", home / "ppo.yaml", "--gpu", "h100", "--model", "llama-2-7b")
    assert "too small · 放不下, by" in shown and "sampling" in shown
    steps = [line for line in shown.splitlines() if "→" in line]
    sizes = [float(line.split("→")[1].split()[0]) for line in steps]
    assert sizes == sorted(sizes, reverse=True) and steps[-1].endswith(", fits")
    assert "fits" not in "".join(steps[:-1])
    mine = home / "output" / "mine"
    tiny_config("llama").save_pretrained(mine)
    words = ["--gpu", "t4", "--model", "mine", "--batch_size", "2", "--max_length", "32"]
    small = run(capsys, "--recipe", home / "sft.yaml", *words)
    assert "fits · 放得下" in small and "→" not in small


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "sft.yaml", "--gpu", "gtx"], "The table has no gtx"),
        (["--recipe", "sft.yaml", "--batch_sise", "1"], "did you mean batch_size"),
        (["--recipe", "mine.yaml"], "does not tell its stage"),
        (["--recipe", "rejection.yaml"], "Rejection sampling trains"),
        (["--recipe", "sft.yaml", "--utilisation", "2"], "share between 0 and 1"),
        (["--recipe", "sft.yaml", "--processes", "0"], "--processes at least 1"),
        (["--recipe", "sft.yaml", "--zero", "1"], "0, 2 or 3"),
        (["--gpu", "t4"], "--recipe"),
    ],
)
def test_what_is_wrong_is_named_in_both_languages(words, message, home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    (home / "mine.yaml").write_text("lam: 0.9\n")
    (home / "rejection.yaml").write_text("policy: gpt2\n")
    error = run(capsys, *words, code=2)
    assert message in error and any("\u4e00" <= letter <= "\u9fff" for letter in error)


def test_more_tokens_than_positions_and_formats_that_do_not_exist():
    with pytest.raises(BadPlan, match="only 64 positions"):
        plan.count(tiny_config("gpt2"), plan.Ask("sft", 1, 65))
    with pytest.raises(BadPlan, match="fp8"):
        plan.Ask.of("sft", {"batch_size": 1, "max_length": 8, "dtype": "fp8"})
    with pytest.raises(BadRecipe, match=r"nowhere\.yaml"):
        plan.read_recipe("nowhere.yaml", stage="sft")


def test_help_explains_every_row(capsys):
    with contextlib.suppress(SystemExit):
        plan.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert {f.name for f in memory.fields(memory.Plan)} <= set(plan.ROWS)
    for name, texts in plan.ROWS.items():
        assert name in shown and all(text in shown for text in texts)
    assert all(option in shown for option in ("--gpu", "--processes", "--zero", "--recipe", *plan.gpus()))


def test_models_that_are_no_row_of_equal_blocks_are_refused():
    """A mixture of experts with a dense block in it, an encoder, an encoder with a decoder."""
    import transformers

    sizes = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 4}
    some = {"mlp_only_layers": [2], "num_experts": 4, "moe_intermediate_size": 16, "intermediate_size": 48}
    odd = [
        transformers.Qwen2MoeConfig(
            **sizes, **some, shared_expert_intermediate_size=24, num_key_value_heads=2
        ),
        transformers.T5Config(vocab_size=64, d_model=32, num_layers=2, num_heads=4, d_ff=48, d_kv=8),
        transformers.ViTConfig(**{name: value for name, value in sizes.items() if name != "vocab_size"}),
    ]
    for config in odd:
        with pytest.raises(BadPlan, match=r"equal blocks.*--model") as caught:
            plan.needs(config, plan.Ask("sft", 2, 8))
        assert "--model" in caught.value.zh and config.model_type in caught.value.zh
