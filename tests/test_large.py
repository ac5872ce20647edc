"""The 7B recipes: every file is valid, and the whole chain runs with a miniature in place of Llama-2-7B."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import openai
import pytest
import torch
import yaml
from ppo_tools import TEXT, llama_tokenizer, tiny_lm, tiny_reviews, tiny_tokenizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf import loop, merge, pairs, profiles, recipes, reward_model, rewards, serve, stages, train
from rlhf.errors import BadData, BadRecipe, MissingAssets

RECIPES = profiles.CHECKOUT / "recipes"
FILES = sorted(RECIPES.glob("*.yaml")) + sorted(RECIPES.glob("7b/*.yaml"))
SMALL = {  # what a miniature changes in the recipes: sizes, no names
    "sft": ["--max_length", "32"],
    "reward": ["--max_length", "64", "--epochs", "1", "--pairs", "8", "--held_out", "4"],
    "ppo": [
        *(
            "--batch_size",
            "4",
            "--mini_batch_size",
            "2",
            "--gradient_accumulation_steps",
            "2",
            "--steps",
            "2",
        ),
        *("--query_tokens", "[2, 90]", "--response_tokens", "[3, 4]", "--log_with", "none"),
    ],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A miniature of what download.sh fetches for recipes/7b, and the three stages, each merged."""
    root = tmp_path_factory.mktemp("seven")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RLHF_PROFILE", "RLHF_DATA", "RLHF_SEED"):
            patch.delenv(name, raising=False)
        patch.setenv("RLHF_HOME", str(root))
        patch.setenv("RLHF_DEVICE", "cpu")
        patch.chdir(root)
        tokenizer = llama_tokenizer([*tiny_reviews(8), pairs.HUMAN, pairs.ASSISTANT])
        sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 128, "initializer_range": 0.05}
        model = tiny_lm("llama", **sizes, bos_token_id=1, eos_token_id=2, pad_token_id=None)
        model.save_pretrained(root / "model" / "Llama-2-7b-hf")
        tokenizer.save_pretrained(root / "model" / "Llama-2-7b-hf")
        data = root / "dataset" / "orca_dpo_pairs"
        data.mkdir(parents=True)
        (data / "orca_rlhf.jsonl").write_text("\n".join(map(json.dumps, orca_rows(12))))
        yield root


def orca_rows(count: int) -> list[dict[str, str]]:
    words = TEXT.split()
    return [
        {
            "system": "be good" if k % 2 else "",
            "question": " ".join(words * 3) if k == 7 else f"was {words[k]} {words[k + 1]}",
            "chosen": f"{words[k]} was good",
            "rejected": f"{words[k]} was bad",
        }
        for k in range(count)
    ]


@pytest.fixture(scope="module")
def chain(home):
    """Every stage by its own recipe file, and after it ``rlhf.merge``."""
    for name in ("sft", "reward", "ppo"):
        train.run(name, ["--config", str(RECIPES / "7b" / f"{name}.yaml"), *SMALL[name]])
        made = yaml.safe_load((RECIPES / "7b" / f"{name}.yaml").read_text())["output"]
        merge.merge(made, made.removesuffix("_lora"))
    return home / "output"


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_recipe_has_only_fields_that_its_stage_knows(file):
    stage = stages.STAGES[file.stem]
    found = recipes.read_file(file, stage.known())
    values = train.resolve(stage, stage.known(), ["--config", str(file)], "")
    assert {name: values[name] for name in found} == found


def test_the_7b_recipes_say_what_the_course_says_about_them():
    sft, reward, ppo = (yaml.safe_load((RECIPES / "7b" / f"{n}.yaml").read_text()) for n in SMALL)
    assert all(r["dtype"] == "bfloat16" and r["lora_rank"] > 0 and not r["merge"] for r in (sft, reward, ppo))
    assert (sft["batch_size"], sft["gradient_accumulation_steps"], sft["learning_rate"]) == (2, 4, 1e-4)
    assert (sft["epochs"], sft["save_every"], sft["keep"], sft["packing"]) == (3, 2000, 1, True)
    assert (reward["epochs"], reward["batch_size"]) == (3, 4)
    assert ppo["response_tokens"] == [128, 129] and ppo["mini_batch_size"] == 8
    assert ppo["gradient_accumulation_steps"] == 8 and ppo["batch_size"] == 64
    assert (ppo["ppo_epochs"], ppo["learning_rate"], ppo["save_every"]) == (4, 1.4e-5, 100)
    assert ppo["early_stopping"] and ppo["policy"] == reward["policy"]
    made = [r["output"].removesuffix("_lora") for r in (sft, reward)]
    assert [ppo["policy"], ppo["reward_model"]] == made


def test_every_stage_leaves_an_adapter_and_merging_makes_a_model_of_it(chain):
    for name in ("sft_7b", "rm_7b", "ppo_7b"):
        adapter = load_file(chain / f"{name}_lora" / merge.WEIGHTS)
        learnt = [tensor for key, tensor in adapter.items() if "lora_B" in key]
        assert learnt and all(tensor.abs().max() > 0 for tensor in learnt), name
        assert not (chain / f"{name}_lora" / "model.safetensors").exists()
        assert (chain / name / "recipe.yaml").is_file()
    bases = [json.loads((chain / f"{n}_lora" / merge.CONFIG).read_text()) for n in ("sft_7b", "ppo_7b")]
    assert [b["base_model_name_or_path"].rpartition("/")[2] for b in bases] == ["Llama-2-7b-hf", "sft_7b"]
    assert AutoModelForCausalLM.from_pretrained(chain / "ppo_7b").config.model_type == "llama"
    assert (chain / "ppo_7b" / "v_head.safetensors").is_file()


def test_the_reward_model_scores_with_the_tokens_of_its_training(chain, home):
    """Template, end-of-sequence token and truncation: the same in training, after merging, and in PPO."""
    score = stages.load_reward(chain / "rm_7b", "cpu")
    assert isinstance(score, rewards.PairwiseReward) and score.max_length == score.form.max_length == 64
    assert score.form.marks == (pairs.HUMAN, pairs.ASSISTANT) and not score.form.begins  # some have a system
    rows = pairs.load_pairs(home / "dataset" / "orca_dpo_pairs")
    long = rows["chosen"][0] + " and so it was" * 60
    trained = rewards.to_tokens(score.tokenizer, [long], 64)[0]
    seen = []
    score.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
    )
    score([long])
    assert seen == [trained] and len(trained) == 64 and trained[-1] == score.tokenizer.eos_token_id


def texts_of_training(chain, home) -> list[list[int]]:
    """The preferred texts in RewardTrainer's batches, as tokens, padding taken away."""
    values = train.plan("reward", ["--config", str(RECIPES / "7b" / "reward.yaml"), *SMALL["reward"]]).values
    setup = stages._with_sizes(train.make_setup(stages.STAGES["reward"], values), values)
    splits = pairs.load_splits(home / "dataset" / "orca_dpo_pairs", 8, 4)
    tokenizer = reward_model.load_tokenizer(chain / "sft_7b")
    model = reward_model.new_model(chain / "sft_7b", tokenizer)
    longest = values["max_length"]
    trainer = reward_model.new_trainer(setup, splits, tokenizer, model, longest=longest, report_to="none")
    rows = []
    for batch in trainer.get_train_dataloader():
        both = list(zip(batch["input_ids"], batch["attention_mask"], strict=True))
        rows += [ids[mask.bool()].tolist() for ids, mask in both[: len(both) // 2]]
    return sorted(rows)


def texts_of_ppo(chain, home, score: rewards.PairwiseReward, begins: int = 0) -> list[list[int]]:
    """What the reward model reads in one turn of PPO whose responses are the preferred answers."""
    values = train.plan("ppo", ["--config", str(RECIPES / "7b" / "ppo.yaml"), *SMALL["ppo"]]).values
    setup = train.make_setup(stages.STAGES["ppo"], values)
    tokenizer = AutoTokenizer.from_pretrained(chain / "sft_7b")
    found = loop.question_prompts(setup, tokenizer, home / "dataset" / "orca_dpo_pairs")[:8]
    answers = [f" {row['chosen']}{tokenizer.eos_token}" for row in orca_rows(8)]
    written = [torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in answers]
    trainer = SimpleNamespace(
        tokenizer=tokenizer,
        generate=lambda queries, **settings: written,
        step=lambda *rollouts: {},
        log_stats=lambda *rest: {},
    )
    seen = []

    def look(module, args, kwargs):
        for ids, mask in zip(kwargs["input_ids"], kwargs["attention_mask"], strict=True):
            seen.append(ids[mask.bool()].tolist())

    hook = score.model.register_forward_pre_hook(look, with_kwargs=True)
    batch = {"input_ids": found["input_ids"], "query": [text[begins:] for text in found["query"]]}
    try:
        loop.one_step(trainer, score, None, batch)
    finally:
        hook.remove()
    return sorted(seen)


def test_ppo_scores_the_tokens_of_the_reward_models_training(chain, home):
    """And would not, if template, tokenizer, truncation or the end-of-sequence token were other ones."""
    wanted = texts_of_training(chain, home)
    score = stages.load_reward(chain / "rm_7b", "cpu")
    assert texts_of_ppo(chain, home, score) == wanted
    assert [len(ids) for ids in wanted].count(64) == 1 and all(ids[0] == 1 and ids[-1] == 2 for ids in wanted)
    score.max_length = 63
    assert texts_of_ppo(chain, home, score) != wanted
    score = stages.load_reward(chain / "rm_7b", "cpu")
    score.tokenizer.eos_token = "<unk>"
    assert texts_of_ppo(chain, home, score) != wanted
    score = stages.load_reward(chain / "rm_7b", "cpu")
    score.tokenizer = tiny_tokenizer(tiny_reviews(8))
    score.tokenizer.pad_token = score.tokenizer.eos_token
    assert texts_of_ppo(chain, home, score) != wanted
    with pytest.raises(BadData, match=r"Human: ', '\\n\\nAssistant:', in this order; 8 of these 8"):
        texts_of_ppo(chain, home, stages.load_reward(chain / "rm_7b", "cpu"), begins=20)


def test_queries_are_whole_questions_with_the_tokens_of_sft(chain, home):
    setup = train.make_setup(
        stages.STAGES["ppo"],
        train.plan("ppo", ["--config", str(RECIPES / "7b" / "ppo.yaml"), *SMALL["ppo"]]).values,
    )
    tokenizer = AutoTokenizer.from_pretrained(chain / "sft_7b")
    found = loop.question_prompts(setup, tokenizer, home / "dataset" / "orca_dpo_pairs")
    for query, ids, row in zip(found["query"], found["input_ids"], orca_rows(12), strict=True):
        assert query == pairs.to_text(row["question"], "", row["system"])[:-1]
        assert ids.tolist() == tokenizer(query)["input_ids"] and ids[0] == tokenizer.bos_token_id
    few = train.dataclasses.replace(setup, prompts={"min_tokens": 1, "max_tokens": 2})
    with pytest.raises(BadData, match="no question of 1 to 1 tokens"):
        loop.question_prompts(few, tokenizer, home / "dataset" / "orca_dpo_pairs")


def test_the_result_is_served_and_compared_with_what_it_was_before(chain):
    """The end of the chain: both models behind an OpenAI address, asked and scored as in training."""
    question = orca_rows(1)[0]["question"]
    with serve.comparing("sft_7b", "ppo_7b", "rm_7b", device="cpu") as page:
        done = page.pair.ask(serve.Question(question, max_tokens=6, seed=1))
        server = page.pair.server
        web = openai.DefaultHttpxClient(trust_env=False)
        client = openai.OpenAI(base_url=server.base_url, api_key="none", http_client=web)
        turn = [{"role": "user", "content": question}]
        asked = {"messages": turn, "max_tokens": 6, "seed": 1, "temperature": 1.0}
        chat = [client.chat.completions.create(model=name, **asked) for name in ("sft_7b", "ppo_7b")]
    assert server.process.poll() is not None
    assert done.text == pairs.to_text(question, "")[:-1]
    assert [one.choices[0].message.content for one in chat] == [done.before.text, done.after.text]
    score = stages.load_reward(chain / "rm_7b", "cpu")
    torch.testing.assert_close(
        score([done.text + done.before.text, done.text + done.after.text]),
        torch.tensor([done.before.score, done.after.score]),
    )


def test_held_out_pairs_are_never_among_those_to_learn_from(home):
    path = home / "dataset" / "orca_dpo_pairs"
    splits = pairs.load_splits(path, 100, 4)
    assert [len(splits[name]) for name in ("train", "test")] == [8, 4]
    assert not set(splits["train"]["chosen"]) & set(splits["test"]["chosen"])
    with pytest.raises(BadData, match="12 pairs"):
        pairs.load_splits(path, 4, 12)


def test_what_is_missing_names_the_command_that_makes_it(chain, home):
    with pytest.raises(MissingAssets, match=r"download\.sh --only opt-350m"):
        train.find_model("opt-350m", home)
    (home / "output" / "other_lora").mkdir()
    (home / "output" / "other_lora" / merge.CONFIG).write_text("{}")
    with pytest.raises(MissingAssets, match=r"rlhf\.merge other_lora --output other"):
        train.find_model("other", home)
    with pytest.raises(BadRecipe, match="float32 or bfloat16, not int8"):
        train.plan("sft", ["--dtype", "int8"])


def test_accelerate_reads_its_recipes():
    from accelerate.commands.config.config_args import load_config_from_file

    files = sorted((RECIPES / "accelerate").glob("*.yaml"))
    assert {file.stem for file in files} >= {"one_gpu", "eight_gpus", "zero2", "zero3", "fsdp", "gaudi"}
    for file in files:
        config = load_config_from_file(str(file))
        named = yaml.safe_load(file.read_text())
        assert config.num_processes == named["num_processes"]
        assert config.distributed_type.value == named["distributed_type"]
        assert file.stem == "two_cpus" or "not run" in file.read_text()
    assert (
        load_config_from_file(str(RECIPES / "accelerate" / "zero3.yaml")).deepspeed_config["zero_stage"] == 3
    )


def test_two_processes_start_where_two_are_asked_for(tmp_path):
    """accelerate starts a single one, without a word, when the file says MULTI_CPU."""
    script = tmp_path / "rank.py"
    script.write_text("import os; print(f\"of {os.environ.get('WORLD_SIZE')}\")")  # in one piece
    recipe = RECIPES / "accelerate" / "two_cpus.yaml"
    command = ["-m", "accelerate.commands.launch", "--config_file", str(recipe), str(script)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)
    assert done.stdout.count("of 2") == 2, done.stdout + done.stderr
