"""A reward model scores texts of the form it was trained on, with the tokens of training, and no others."""

from __future__ import annotations

import json
import shutil

import pytest
from datasets import Dataset
from ppo_tools import TEXT, llama_tokenizer, tiny_lm
from test_reward_model import a_setup

from rlhf import merge, pairs, reward_model, stages, text_form
from rlhf.errors import BadData
from rlhf.rewards import PairwiseReward, to_tokens

WORDS = TEXT.split()
SYSTEMS = ("", "You help: be brief.", "", "Be good.\nAnswer: the question")


def orca(system, question, answer):
    return pairs.to_text(question, answer, system)


def hh(system, question, answer):
    return pairs.to_text(question, answer)


def fixed_system(system, question, answer):
    return f"Below is a question.\n\n### Instruction:\n{question}\n\n### Response:\n{answer}"


def chat_tags(system, question, answer):
    front = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return f"{front}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}"


def header_tags(system, question, answer):
    who = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    front = who("system") + f"{system}<|eot_id|>" if system else ""
    return f"<|begin|>{front}{who('user')}{question}<|eot_id|>{who('assistant')}{answer}"


def glued_tags(system, question, answer):
    return f"<|user|>{question}<|assistant|>{answer}"


def brackets(system, question, answer):
    return f"[INST] {system}{question} [/INST] {answer}"


def one_line(system, question, answer):
    return f"{system}USER: {question} ASSISTANT: {answer}"


def chinese(system, question, answer):
    return f"问：{question}\n答：{answer}"


def plain(system, question, answer):
    return f"{question} {answer}"


TEMPLATES = {
    orca: (("\n\nHuman: ", "\n\nAssistant:"), ""),
    hh: (("\n\nHuman: ", "\n\nAssistant:"), "\n\nHuman: "),
    fixed_system: (
        ("\n\n### Instruction:\n", "\n\n### Response:"),
        "Below is a question.\n\n### Instruction:\n",
    ),
    chat_tags: (("<|im_start|>user\n", "<|im_end|>", "\n<|im_start|>assistant"), ""),
    header_tags: (
        (
            "<|begin|>",
            "<|start_header_id|>user<|end_header_id|>\n\n",
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>",
        ),
        "<|begin|>",
    ),
    glued_tags: (("<|user|>", "<|assistant|>"), "<|user|>"),
    brackets: (("[INST] ", "[/INST]"), "[INST] "),
    one_line: (("USER: ", "ASSISTANT:"), ""),
    chinese: (("问：", "\n答："), "问："),
    plain: ((), ""),
}
EACH = pytest.mark.parametrize("write", TEMPLATES, ids=lambda write: write.__name__)


def some_pairs(write, count=8):
    """With questions that hold labels, tags and brackets of their own."""
    rows = []
    for k in range(count):
        question = (f"was {WORDS[k]} good", f"Note: fix {WORDS[k]}?\nplease", f"<b>{k}</b> [A]")[k % 3]
        both = (("Yes", "No"), ("I think so", "I do not"), ("Answer: yes", "no"))[k % 3]
        rows.append([write(SYSTEMS[k % 4], question, answer) for answer in both])
    return Dataset.from_dict(dict(zip(pairs.COLUMNS, zip(*rows, strict=True), strict=True)))


def form_of(rows) -> text_form.TextForm:
    prompts = [pairs.split_prompt(*both)[0] for both in zip(rows["chosen"], rows["rejected"], strict=True)]
    return text_form.TextForm.of(prompts, "</s>", 64, lambda text: list(text.encode()))


@EACH
def test_a_template_is_read_off_the_texts(write):
    rows = some_pairs(write)
    form = form_of(rows)
    assert (form.marks, form.begins) == TEMPLATES[write]
    form.check([*rows["chosen"], *rows["rejected"], form.probe])
    assert text_form.TextForm.read(json.loads(json.dumps(form.to_dict())), "rm") == form


@EACH
def test_other_templates_are_refused(write):
    """Except where texts without any marks were learnt from: a single label is no dialogue."""
    form, accepted = form_of(some_pairs(write)), {write}
    if write in (orca, hh):
        accepted |= {hh, orca}  # the same where the system text is empty
    if write is plain:
        accepted |= {chinese}
    for other in TEMPLATES:
        if other in accepted:
            form.check([other("", "was it good", "Yes")])
        else:
            with pytest.raises(BadData, match="another template") as caught:
                form.check([write("", "was it", "Yes"), other("", "was it good", "Yes")])
            assert "第一条是" in caught.value.zh and "1 of these 2" in caught.value.en
    if form.begins and form.begins != "<|begin|>":
        with pytest.raises(BadData, match="begins with"):
            form.check(["Be kind. " + write("", "was it good", "Yes")])


def test_what_only_some_prompts_have_is_no_template():
    assert text_form.template(["Note: this film", "The film: it", "A film"]) == ((), "")
    assert text_form.template(["\n\nHuman: a\n\nAssistant:", "no dialogue"]) == ((), "")
    assert text_form.template([]) == text_form.template(["Human: a", ""]) == ((), "")


@pytest.mark.parametrize(
    "change", [{"marks": 3}, {"cut": "right"}, {"max_length": "64"}, {"tokens": [0.5]}, None]
)
def test_a_damaged_record_is_named(change):
    found = form_of(some_pairs(orca)).to_dict()
    with pytest.raises(BadData, match=r"rm/config\.json cannot be read.*reward") as caught:
        text_form.TextForm.read({**found, **change} if change else [1], "rm")
    assert "重新训练" in caught.value.zh
    assert text_form.TextForm.read(None, "rm") is None  # a model of before there was a record


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("form") / "model" / "base"
    texts = [text for write in TEMPLATES for text in some_pairs(write)["chosen"]]
    tokenizer = llama_tokenizer(texts)
    sizes = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    for part in (tiny_lm("llama", **sizes), tokenizer):
        part.save_pretrained(folder)
    return folder


def saved(base, home, monkeypatch, rows, rank=0):
    """A reward model as the stage saves it, not trained; an adapter is merged by rlhf.merge."""
    setup, tokenizer = a_setup(base, monkeypatch, home), reward_model.load_tokenizer(base)
    trainer = reward_model.new_trainer(
        setup,
        {"train": rows},
        tokenizer,
        longest=12,
        peft_config=stages._adapter(rank, "SEQ_CLS"),
        report_to="none",
    )
    folder = home / "output" / ("rm_lora" if rank else "rm")
    reward_model.save(setup, trainer, {"train": rows}, folder, merge=not rank)
    if rank:
        merge.merge(folder, "rm", str(base))
    return home / "output" / "rm"


@pytest.mark.parametrize(("write", "rank"), [(orca, 2), (chat_tags, 0), (plain, 0)])
def test_the_form_lies_in_the_folder_and_is_held_to(write, rank, base, tmp_path, monkeypatch):
    rows = some_pairs(write)
    folder = saved(base, tmp_path, monkeypatch, rows, rank)
    score, record = PairwiseReward(folder), json.loads((folder / "reward_model.json").read_text())
    assert (score.form.marks, score.form.begins) == TEMPLATES[write]
    assert record[text_form.ATTRIBUTE] == score.form.to_dict() and score.max_length == 12
    assert score.form.tokens == tuple(to_tokens(score.tokenizer, [score.form.probe], 12)[0])
    assert max(map(len, to_tokens(score.tokenizer, rows["chosen"][:], 99))) > 12  # some texts are cut
    assert score(rows["chosen"][:]).shape == (8,)
    foreign = (glued_tags if write is plain else hh)("", "was it good", "Yes")
    if write is orca:
        foreign = foreign.replace("Human", "User")
    with pytest.raises(BadData, match="another template"):
        score([foreign])
    with pytest.raises(BadData, match="trained on 12 tokens"):
        PairwiseReward(folder, max_length=11)
    queries = [pairs.split_prompt(*both)[0] for both in zip(rows["chosen"], rows["rejected"], strict=True)]
    stages.check_template(score, queries)
    with pytest.raises(BadData, match="another template"):
        stages.check_template(score, [foreign])


def test_another_tokenizer_is_refused_and_an_older_model_scores_as_ever(base, tmp_path, monkeypatch):
    folder = saved(base, tmp_path, monkeypatch, some_pairs(orca))
    tokenizer = reward_model.load_tokenizer(base)
    tokenizer.eos_token = "<unk>"
    tokenizer.save_pretrained(folder)
    with pytest.raises(BadData, match="'</s>' → '<unk>'"):
        PairwiseReward(folder)
    other = llama_tokenizer(["entirely different words"])
    other.pad_token = other.eos_token
    other.save_pretrained(folder)
    with pytest.raises(BadData, match="not the one it was trained with"):
        PairwiseReward(folder)
    reward_model.load_tokenizer(base).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    del config[text_form.ATTRIBUTE]
    (folder / "config.json").write_text(json.dumps(config))
    older = PairwiseReward(folder)
    assert older.form is None and older.max_length == 12
    assert older(["no template at all"]).isfinite().all()  # with systems, nothing was noted of the template


def test_a_folder_that_is_no_reward_model_is_named(base, tmp_path):
    with pytest.raises(BadData, match="no label POSITIVE"):
        stages.load_reward(base, "cpu")  # a language model
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        folder = tmp_path / name.partition(".")[0]
        shutil.copytree(base, folder)
        (folder / "config.json").write_text(
            json.dumps(json.loads((base / "config.json").read_text()) | {"id2label": {"0": "x"}})
        )
        (folder / name).write_bytes(b"{")
        with pytest.raises(BadData, match=f"{folder.name} cannot be loaded.*again") as caught:
            stages.load_reward(folder, "cpu")
        assert "重新训练" in caught.value.zh
