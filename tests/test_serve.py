"""The command of rlhf.serve as it is run, asked by the real openai client and by the page's own requests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import openai
import psutil
import pytest
from ppo_tools import save_world, tiny_lm, tiny_tokenizer
from transformers import AutoTokenizer

from rlhf import pairs, serve
from rlhf.errors import CannotServe, MissingAssets
from rlhf.rewards import SentimentReward
from rlhf.serve import BadModel, BadQuestion, Question
from rlhf.serve.__main__ import main
from rlhf.serve.endpoint import distinct
from rlhf.serve.folders import DIALOGUE, OWN, automatic_start, prepare

LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Running:
    """``python -m rlhf.serve`` as somebody started it: what it said, and where its parts are."""

    process: subprocess.Popen
    said: str
    policy: Path
    sentiment: Path

    @property
    def page(self) -> str:
        return self.said.split("page: ")[1].split(" ")[0].rstrip("/")

    def client(self) -> openai.OpenAI:
        base_url = self.said.split("OpenAI-compatible: ")[1].split(" ")[0]
        web = openai.DefaultHttpxClient(trust_env=False)
        return openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, http_client=web)

    def get(self, path: str, **headers: str):
        return LOCAL.open(urllib.request.Request(self.page + path, headers=headers), timeout=60)

    def compare(self, body: bytes | dict, kind: str = "application/json"):
        """Status and answer of the page's request."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.page}/api/compare", data, {"Content-Type": kind})
        try:
            with LOCAL.open(request, timeout=300) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = tmp_path_factory.mktemp("serving")
    policy, sentiment, _ = save_world(root / "model")
    config = json.loads((policy / "config.json").read_text())
    names = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    tiny_lm(seed=7, **{name: config[name] for name in names}).save_pretrained(root / "output" / "ppo_3")
    AutoTokenizer.from_pretrained(policy).save_pretrained(root / "output" / "ppo_3")
    return root, policy, sentiment


@pytest.fixture(scope="module")
def running(home):
    root, policy, sentiment = home
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RLHF_")}
    environment = clean | {"RLHF_HOME": str(root), "RLHF_DEVICE": "cpu"}
    command = [sys.executable, "-m", "rlhf.serve", str(policy), "ppo_3"]
    command += ["--reward", str(sentiment), "--port", "0"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith("page: "):
            break
    yield Running(process, said, policy, sentiment)
    process.kill()
    process.wait()


# ---- the server


def test_the_seed_decides_and_chat_continues_the_prompt_likewise(running):
    client = running.client()
    assert sorted(model.id for model in client.models.list()) == ["policy", "ppo_3"]
    asked = {"model": "ppo_3", "max_tokens": 12, "temperature": 1.0}

    def write(**changes) -> str:
        return (
            client.completions.create(**asked | {"prompt": "this movie", "seed": 3} | changes).choices[0].text
        )

    def chat(**changes):
        turn = [{"role": "user", "content": "this movie"}]
        return client.chat.completions.create(**asked | {"messages": turn, "seed": 3} | changes)

    first = write()
    assert first and write() == first == chat().choices[0].message.content
    assert write(seed=4) != first  # it samples, and temperature counts
    assert write(seed=4, temperature=0) == write(seed=5, temperature=0)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chat(stream=True)]
    whole = first.rstrip("\ufffd")  # half a character at the end is not streamed
    assert "".join(pieces).rstrip("\ufffd") == whole and len(pieces) > 3
    assert write(model="policy") != first


def test_an_answer_ends_where_the_positions_end(running):
    client = running.client()
    whole = [
        client.completions.create(model="policy", prompt="this movie was", seed=seed).usage
        for seed in range(2)
    ]
    assert max(used.total_tokens for used in whole) <= 64 and whole[0].prompt_tokens > 1
    cut = client.completions.create(model="policy", prompt="was " * 25, max_tokens=500, seed=1)
    assert cut.usage.total_tokens <= 64 and cut.choices[0].finish_reason in ("length", "stop")


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({"prompt": ""}, 400, "no tokens"),
        ({"prompt": "movie " * 90}, 400, "the model reads 64"),
        ({"model": "gpt-4"}, 404, "there are: policy, ppo_3"),
        ({"model": "/etc"}, 404, "no model"),
        ({"temperature": -1}, 400, "temperature"),
        ({"seed": 2**80}, 400, "Overflow"),
    ],
)
def test_what_the_server_cannot_do_it_says_as_openai_does(running, asked, status, words):
    with pytest.raises(openai.APIStatusError, match=words) as error:
        running.client().completions.create(**{"model": "policy", "prompt": "this", "max_tokens": 4} | asked)
    assert error.value.status_code == status


# ---- the page


def test_the_page_compares_and_scores_what_the_models_wrote(running):
    question = {"prompt": "this movie was  ", "max_tokens": 10, "temperature": 0.7, "seed": 11}
    status, done = running.compare(question)
    assert status == 200 and done["text"] == done["question"]["prompt"] == "this movie was"
    assert [done[side]["model"] for side in ("before", "after")] == ["policy", "ppo_3"]
    client, texts = running.client(), []
    for side in ("before", "after"):
        written = client.completions.create(model=done[side]["model"], **question | {"prompt": done["text"]})
        assert done[side]["text"] == written.choices[0].text
        assert 0 < done[side]["tokens"] <= 10
        texts.append(done["text"] + done[side]["text"])
    scores = SentimentReward(running.sentiment)(texts)
    assert [done["before"]["score"], done["after"]["score"]] == pytest.approx(scores.tolist(), abs=1e-5)
    assert done["difference"] == pytest.approx(float(scores[1] - scores[0]), abs=1e-5)
    assert running.compare(question)[1] == done


def test_text_that_looks_like_html_comes_back_as_it_was(running):
    status, done = running.compare({"prompt": "<script>alert(1)</script> 很好 & so", "max_tokens": 3})
    assert status == 200 and done["text"] == "<script>alert(1)</script> 很好 & so"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"prompt": " \n "}, 422, "a few words"),
        ({"prompt": 7}, 422, "a few words"),
        ({"prompt": "movie " * 90}, 422, "it has 9"),
        ({"prompt": "m" * 30_000}, 422, "30000 characters"),
        (b'{"prompt": "\\ud800"}', 422, "surrogate"),
        (b'{"prompt": "\xff\xfe"}', 422, "UTF-8"),
        (b"not json", 422, "JSON"),
        (b"[" * 50_000, 422, "JSON"),
        (b'["prompt"]', 422, "object"),
        ({"prompt": "a", "model": "x"}, 422, "object"),
        ({"prompt": "a", "max_tokens": 0}, 422, "max_tokens must be a whole number from 1"),
        ({"prompt": "a", "max_tokens": True}, 422, "max_tokens"),
        ({"prompt": "a", "temperature": None}, 422, "temperature"),
        (b'{"prompt": "a", "temperature": NaN}', 422, "temperature"),
        ({"prompt": "a", "seed": 1.5}, 422, "seed"),
        ({"prompt": "a", "seed": 2**40}, 422, "seed"),
        (b'{"prompt": "' + b"a" * 3_000_000 + b'"}', 413, "too large"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_bad_question_is_explained_in_both_languages(running, body, status, words):
    got, told = running.compare(body)
    assert got == status and words in told["en"]
    assert any("\u4e00" <= letter <= "\u9fff" for letter in told["zh"]) and "Traceback" not in str(told)


def test_other_sites_cannot_use_the_page(running):
    assert running.compare({"prompt": "this"}, kind="text/plain")[0] == 415  # what a form may send
    with pytest.raises(urllib.error.HTTPError, match="400"):
        running.get("/", Host="evil.example")
    with running.get("/") as page:
        policy = page.headers["Content-Security-Policy"]
        html = page.read().decode()
    assert "default-src 'none'" in policy and "script-src 'self'" in policy
    assert "http://" not in html and "https://" not in html and "<script>" not in html
    for path in ("/page.css", "/page.js"):
        with running.get(path) as file:
            assert "http" not in file.read().decode()
    with running.get("/api/facts") as answer:
        facts = json.load(answer)
    assert (facts["before"], facts["after"], facts["reward"]) == ("policy", "ppo_3", "sentiment")
    assert facts["max_tokens"] == {"value": 24, "max": 63}


def test_a_port_that_is_taken(running, home, monkeypatch, capsys):
    root, policy, sentiment = home
    monkeypatch.setenv("RLHF_HOME", str(root))
    port, handler = running.page.rpartition(":")[2], signal.getsignal(signal.SIGTERM)
    assert main([str(policy), "ppo_3", "--reward", str(sentiment), "--port", port]) == 2
    assert signal.getsignal(signal.SIGTERM) is handler  # as it was
    told = capsys.readouterr().err
    assert f"Port {port} of 127.0.0.1" in told and "--port" in told and "端口" in told
    with pytest.raises(CannotServe, match=port), serve.running(policy, port=int(port), log=root / "log"):
        pass


def test_nothing_outlives_a_signal_to_stop(running):
    """The last test that uses the server."""
    children = psutil.Process(running.process.pid).children(recursive=True)
    assert any("rlhf.serve.engine" in child.cmdline() for child in children)
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(120) == 130
    assert not psutil.wait_procs(children, timeout=30)[1]
    with pytest.raises(OSError):
        running.get("/")


def test_the_engine_stops_when_nobody_holds_it_any_more(tmp_path):
    command = [sys.executable, "-m", "rlhf.serve.engine", str(tmp_path), "--port", "1"]
    engine = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    time.sleep(0.2)
    engine.stdin.close()
    assert engine.wait(120) in (0, -signal.SIGTERM)


# ---- folders


def test_a_folder_is_made_ready_and_left_as_it_was(home, tmp_path):
    _, policy, _ = home
    before = {file.name: file.read_bytes() for file in policy.iterdir()}
    made = prepare(policy, tmp_path, "policy")
    assert (made.name, made.form, made.positions) == ("policy", "continue", 64)
    assert {file.name: file.read_bytes() for file in policy.iterdir()} == before
    sampling = json.loads((made.folder / "generation_config.json").read_text())
    assert sampling["do_sample"] and sampling["top_k"] == 0 and sampling["eos_token_id"] is not None
    turns = [{"role": "system", "content": "a "}, {"role": "user", "content": "b"}]
    tokenizer = AutoTokenizer.from_pretrained(made.folder)
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == "a b"


def test_dialogues_keep_the_words_of_their_training_and_the_first_token(tmp_path):
    folder = tmp_path / "sft_7b"
    tiny_lm("llama").save_pretrained(folder)
    tokenizer = tiny_tokenizer(["some text"])
    from tokenizers.processors import TemplateProcessing

    start = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokenizer.eos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    (folder / "recipe.yaml").write_text("data: dataset/orca_dpo_pairs\n")
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6}')
    made = prepare(folder, tmp_path / "ready", "sft_7b")
    ready = AutoTokenizer.from_pretrained(made.folder)
    assert made.form == DIALOGUE and automatic_start(ready) == start
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    ids = ready.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == tokenizer(pairs.to_text("Why?", "", "Be brief.")[:-1])["input_ids"]
    assert json.loads((made.folder / "generation_config.json").read_text())["temperature"] == 0.6
    ready.chat_template = "{{ 'mine' }}"
    ready.save_pretrained(folder)
    assert prepare(folder, tmp_path / "again", "x").form == OWN
    assert AutoTokenizer.from_pretrained(tmp_path / "again" / "x").chat_template == "{{ 'mine' }}"


def test_what_cannot_be_served_says_what_to_do(home, tmp_path, monkeypatch):
    _, policy, sentiment = home
    with pytest.raises(BadModel, match="DistilBertForSequenceClassification, which writes no text"):
        prepare(sentiment, tmp_path, "a")
    adapter = tmp_path / "ppo_7b_lora"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(BadModel, match=r"rlhf\.merge ppo_7b_lora"):
        prepare(adapter, tmp_path, "b")
    with pytest.raises(MissingAssets, match=r"no config\.json"):
        prepare(tmp_path, tmp_path, "c")
    for left_out, error in (("model.safetensors", "no weights"), ("tokenizer", "no tokenizer")):
        part = tmp_path / left_out
        part.mkdir()
        for file in policy.iterdir():
            if not file.name.startswith(left_out):
                (part / file.name).write_bytes(file.read_bytes())
        with pytest.raises((BadModel, MissingAssets), match=error):
            prepare(part, tmp_path / "out", left_out)
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    with pytest.raises(MissingAssets, match=r"rlhf\.train rejection"):
        serve.endpoint.find("rs_4")


def test_names_are_told_apart_and_a_question_knows_its_limits():
    assert distinct(["policy", "a b@c", "policy"]) == ["policy", "a_b_c", "policy-2"]
    assert distinct(["a-2", "a", "a", ".."]) == ["a-2", "a", "a-3", "model"]
    assert Question("so  \n").prompt == "so"
    with pytest.raises(BadQuestion, match="temperature must be a number from 0"):
        Question("so", temperature=float("inf"))
