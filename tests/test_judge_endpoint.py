"""The real openai client against real HTTP servers on this machine, well-behaved and not."""

import json
import os
import subprocess
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlhf import judge
from rlhf.judge import Always, CapReached, EndpointJudge, Faults, RewardJudge, judge_pairs, keys, serve
from rlhf.judge.question import from_prompt
from rlhf.judge.server import main

KEY = "sk-secret-0123456789"
N = 40
COLUMNS = [
    [f"The film number {i} was" for i in range(N)],
    [" warm" + " and lovely" * (i % 4) for i in range(N)],
    [" dull" + " and slow" * (i % 3) for i in range(N)],
]
REWARD = RewardJudge(lambda texts: [len(text) for text in texts], name="longer")


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch, tmp_path):
    """Neither a key nor an address nor a proxy of the machine that runs the tests."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(keys, "FILE", tmp_path / "no" / "openai.key")


def ask(server, **settings):
    usual = {"timeout": 20, "retries": 3, "progress": False}
    return EndpointJudge(server.model, server.url, **usual | settings)


@contextmanager
def answering(status, body, kind="application/json"):
    """A server that says one and the same to everything; ``seen`` holds (path, Authorization)."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.seen.append((self.path, self.headers.get("Authorization")))
            self.send_response(status)
            for name, value in {
                "Content-Type": kind,
                "Retry-After-Ms": "5",
                "Content-Length": len(data),
            }.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.model = [], "some-model"
    server.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fails(call, words, kind=judge.NoEndpoint):
    """``call`` fails with a message in both languages that has ``words`` and no key."""
    with pytest.raises(kind, match=words) as error:
        call()
    assert any("\u4e00" <= letter <= "\u9fff" for letter in error.value.zh)
    assert KEY not in str(error.value) and KEY not in repr(error.value)
    return error.value


# ---- the run


def test_over_http_a_judge_says_what_it_says_without():
    with serve(REWARD) as server:
        asked = ask(server)
        over_http = judge_pairs(asked, *COLUMNS)
        always = serve(Always("B"))
        with always as second:
            found_out = judge_pairs(ask(second), *COLUMNS)
    direct = judge_pairs(REWARD, *COLUMNS)
    assert over_http.outcomes == direct.outcomes and over_http.straight == direct.straight
    assert {"win", "tie", "loss"} == set(direct.outcomes)
    assert asked.usage.asked == 2 * N and asked.usage.failed == asked.usage.malformed == 0
    assert judge.win_rate(found_out).rate == 0.5
    assert judge.order_bias(found_out).share_b == 1.0 and judge.order_bias(found_out).biased


def test_a_server_that_misbehaves_still_leaves_the_right_counts(tmp_path):
    faults = Faults(malformed=0.2, busy=0.25, slow=0.04, dead=0.04, delay=6.0, seed=9)
    with serve(REWARD, faults=faults) as server:
        asked = ask(server, timeout=3.0, cache=tmp_path / "answers", workers=8)
        judged = judge_pairs(asked, *COLUMNS)
        kinds = server.kinds()
        prompts = {judge.to_prompt(q): q for pair in judged.questions for q in (pair, pair.swapped())}
        assert set(server.prompts) == set(prompts) and len(prompts) == 2 * N
        assert all(kinds[kind] > 1 for kind in ("malformed", "busy", "slow", "dead"))
        assert server.statuses[429] == kinds["busy"]  # each was asked again, and then answered

        counts, right = judged.answers(), Counter(judge_pairs(REWARD, *COLUMNS).answers())
        assert counts["malformed"] == asked.usage.malformed == kinds["malformed"]
        assert counts["failed"] == asked.usage.failed == kinds["dead"]
        assert counts["A"] + counts["B"] + counts["tie"] == 2 * N - kinds["malformed"] - kinds["dead"]
        for prompt, question in prompts.items():
            if faults.of(prompt) in ("malformed", "dead"):
                right[REWARD([question])[0]] -= 1
        assert {name: counts[name] for name in ("A", "B", "tie")} == {n: right[n] for n in ("A", "B", "tie")}
        assert asked.usage.retries >= kinds["busy"] + kinds["slow"] + 3 * kinds["dead"]

        # the second time only what failed is asked for, and what was malformed is so still
        before = Counter(server.prompts)
        again = judge_pairs(ask(server, timeout=3.0, cache=tmp_path / "answers", retries=0), *COLUMNS)
        assert again.answers() == counts
        assert sum((Counter(server.prompts) - before).values()) == kinds["dead"]
    direct = judge_pairs(REWARD, *COLUMNS)
    for mine, theirs in zip(judged.outcomes, direct.outcomes, strict=True):
        assert mine in (None, theirs)  # nothing was guessed
    assert judge.win_rate(judged).incomplete == judged.outcomes.count(None) > 0


def test_a_server_that_answers_nothing_any_more_stops_the_run():
    with serve(REWARD, faults=Faults(dead=1.0)) as server:
        fails(lambda: judge_pairs(ask(server, retries=1), *COLUMNS), "5 questions in a row .*HTTP 503")
        assert 10 <= sum(server.prompts.values()) <= 2 * (5 + 4)  # not all 120


def test_the_rate_limit_holds_for_all_workers_and_retries():
    with serve(REWARD, faults=Faults(busy=0.5)) as server:
        asked = ask(server, requests_per_minute=1200, workers=8)
        judge_pairs(asked, *(column[:6] for column in COLUMNS))
        requests = sum(server.prompts.values())
        assert requests == 12 + asked.usage.retries and asked.usage.retries > 0
        times = sorted(server.times)
        assert times[-1] - times[0] > 0.05 * (requests - 2)


# ---- costs


def test_the_estimate_is_an_upper_bound_and_asks_nothing(tmp_path):
    questions = judge.both_orders(*COLUMNS)
    with serve(REWARD) as server:
        asked = ask(server, price=(1.0, 2.0), cache=tmp_path)
        estimate = asked.estimate(questions)
        assert not server.prompts and estimate.questions == 2 * N and estimate.cached == 0
        asked(questions[:20])
        assert asked.usage.tokens_in == sum(len(judge.to_prompt(q).split()) for q in questions[:20])
        assert asked.usage.tokens_out == 20
        assert asked.usage.cost == pytest.approx((asked.usage.tokens_in + 2 * 20) / 1e6)
        asked(questions[20:])
        assert asked.usage.cost < estimate.cost == (estimate.tokens_in + 2 * estimate.tokens_out) / 1e6
        later = asked.estimate(questions)
        assert (later.cached, later.tokens_in, later.cost) == (2 * N, 0, 0) and "cached" in str(later)
        assert ask(server).estimate(questions).cost is None


def test_the_cap_stops_the_run_and_a_higher_one_goes_on_without_paying_twice(tmp_path):
    with serve(REWARD) as server:
        first = ask(server, price=(1.0, 2.0), max_cost=0.0045, cache=tmp_path)
        stop = fails(lambda: judge_pairs(first, *COLUMNS), "cap", CapReached)
        counts = stop.judgements.answers()
        assert 0 < counts["unasked"] < 2 * N and sum(counts.values()) == 2 * N
        assert first.usage.cost <= 0.0045 and first.usage.asked == 2 * N - counts["unasked"]
        partial = judge.win_rate(stop.judgements)
        assert partial.incomplete >= counts["unasked"] // 2 and partial.wins + partial.losses > 0

        second = ask(server, price=(1.0, 2.0), max_cost=1.0, cache=tmp_path)
        whole = judge_pairs(second, *COLUMNS)
        assert whole.outcomes == judge_pairs(REWARD, *COLUMNS).outcomes
        assert second.usage.asked == counts["unasked"] and max(server.prompts.values()) == 1

        none = ask(server, price=(1.0, 2.0), max_cost=0.0)
        assert (
            fails(lambda: none(judge.both_orders(*COLUMNS)), "cap", CapReached).answers == ["unasked"] * 2 * N
        )


# ---- the cache


def test_an_answer_depends_on_model_prompt_and_settings(tmp_path):
    question = judge.both_orders(*(column[:1] for column in COLUMNS))
    with serve(REWARD) as server:
        for settings, asks in (
            ({}, 2),
            ({}, 0),
            ({"settings": {"temperature": 1.0, "max_tokens": 16}}, 2),
            ({"criterion": "Which one is longer?"}, 2),
            ({"workers": 1, "timeout": 9, "retries": 0}, 0),
        ):
            asked = ask(server, cache=tmp_path, **settings)
            asked(question)
            assert (asked.usage.asked, asked.usage.cached) == (asks, 2 - asks)
    with serve(Always("B"), model="another") as server:
        assert ask(server, cache=tmp_path)(question) == ["B", "B"]
    with serve(REWARD) as server:  # another port, the same model
        asked = ask(server, cache=tmp_path)
        asked(question)
        assert asked.usage.asked == 0
    assert not list(tmp_path.rglob(".*"))  # nothing half-written


@pytest.mark.parametrize(
    "damage", ['{"reply": {"te', "[]", '{"facts": {}, "reply": {"text": "[[A]]"}}', b"\xff"]
)
def test_an_answer_that_cannot_be_read_is_named_and_not_guessed(tmp_path, damage):
    questions = judge.both_orders(*(column[:1] for column in COLUMNS))
    with serve(REWARD) as server:
        ask(server, cache=tmp_path)(questions)
        file = next(tmp_path.rglob("*.json"))
        file.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
        fails(lambda: ask(server, cache=tmp_path)(questions), file.name, judge.BadCache)
        file.unlink()
        assert ask(server, cache=tmp_path)(questions) == REWARD(questions)


def test_a_cache_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with serve(REWARD) as server:
        asked = ask(server, cache=tmp_path / "file" / "answers")
        with pytest.raises(Exception) as error:
            judge_pairs(asked, *COLUMNS)
    assert isinstance(error.value, judge.BadCache)


# ---- addresses, models, refusals


def test_wrong_addresses():
    with serve(REWARD) as server:
        closed, elsewhere = server.url, server.url.replace("/v1", "")
        fails(lambda: EndpointJudge(server.model, elsewhere, KEY, progress=False)(questions()), "/v1")
    fails(lambda: EndpointJudge("m", closed, KEY, retries=0, progress=False)(questions()), "Cannot reach")
    fails(lambda: EndpointJudge("m", "localhost:8765", KEY), "not an http")
    with answering(200, "<html>a web page</html>", "text/html") as server:
        fails(lambda: ask(server)(questions()), "not as an OpenAI-compatible")
    with answering(200, {"choices": []}) as server:
        fails(lambda: ask(server)(questions()), "not as an OpenAI-compatible")


def test_an_unknown_model_is_named_with_those_that_exist():
    with serve(REWARD) as server:
        fails(
            lambda: EndpointJudge("gpt-none", server.url, KEY, progress=False)(questions()),
            "gpt-none.*longer",
        )


def test_a_refused_key_is_not_repeated_even_if_the_server_does(capfd, caplog, tmp_path):
    body = {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}}
    for status, words in ((401, "not accept"), (403, "not accept"), (400, r"rejected.*\*\*\*")):
        with answering(status, body) as server:
            asked = ask(server, key=KEY, cache=tmp_path)
            fails(lambda asked=asked: asked(questions()), words)
            assert server.seen and {key for _, key in server.seen} == {f"Bearer {KEY}"}
            assert KEY not in repr(asked)
    with serve(REWARD) as server:
        ask(server, key=KEY, cache=tmp_path)(questions())
    assert all(KEY not in file.read_text() for file in tmp_path.rglob("*.json"))
    printed = capfd.readouterr()
    assert KEY not in printed.out + printed.err + caplog.text


def test_an_empty_account_is_no_rate_limit():
    with answering(429, {"error": {"message": "You exceeded", "code": "insufficient_quota"}}) as server:
        fails(lambda: ask(server, retries=1)(questions()), "no credit")


def test_what_stops_a_local_judge_is_told():
    broken = RewardJudge(lambda texts: [float("nan")] * len(texts), name="broken")
    with serve(broken) as server:
        fails(lambda: ask(server)(questions()), "rejected .*finite scores")


def test_a_password_in_the_address_is_not_shown():
    asked = EndpointJudge(
        "m", "http://user:hidden@127.0.0.1:9/v1?token=hidden", KEY, retries=0, progress=False
    )
    error = fails(lambda: asked(questions()), "Cannot reach")
    assert "hidden" not in str(error) + repr(asked)


@pytest.mark.parametrize(
    "settings",
    [{"workers": 0}, {"retries": -1}, {"timeout": 0}, {"requests_per_minute": 0}, {"max_cost": 1.0}],
)
def test_settings_that_cannot_work_are_refused(settings):
    fails(
        lambda: EndpointJudge("m", "http://127.0.0.1:9/v1", KEY, **settings), "must|needs", judge.BadJudging
    )


def questions():
    return judge.both_orders(*(column[:2] for column in COLUMNS))


# ---- the key


def test_the_key_comes_from_the_environment_then_from_the_file(monkeypatch, tmp_path):
    file = tmp_path / "openai.key"
    fails(lambda: judge.find_key("https://api.example.org/v1", file), "OPENAI_API_KEY", judge.MissingKey)
    fails(lambda: judge.find_key(None, file), "openai.key", judge.MissingKey)
    fails(lambda: EndpointJudge("gpt"), "There is no key", judge.MissingKey)
    assert judge.find_key("http://127.0.0.1:8000/v1", file) == judge.find_key("http://localhost/v1", file)
    file.write_text(f"{KEY}\n")
    assert judge.find_key(None, file) == KEY
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}2 ")
    assert judge.find_key(None, file) == f"{KEY}2"


@pytest.mark.parametrize("text", ["", f"{KEY} {KEY}", f"{KEY}\n{KEY}", "sk-密钥", "\x00" + KEY])
def test_what_does_not_look_like_a_key_is_not_sent(tmp_path, text):
    file = tmp_path / "openai.key"
    file.write_text(text, encoding="utf-8")
    fails(lambda: judge.find_key(None, file), "one line of ASCII", judge.MissingKey)
    if text:
        fails(lambda: EndpointJudge("m", "http://127.0.0.1:9/v1", text), "one line", judge.MissingKey)


def test_a_key_that_git_tracks_is_not_read(tmp_path):
    file = tmp_path / "openai.key"
    file.write_text(KEY)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert judge.find_key(None, file) == KEY  # there, but not tracked
    subprocess.run([*git, "add", "-f", "openai.key"], check=True)
    fails(lambda: judge.find_key(None, file), "rm --cached", judge.MissingKey)


def test_git_ignores_the_key_file_of_this_checkout():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not os.path.exists(os.path.join(root, ".git")):
        pytest.skip("not a checkout")
    ignored = subprocess.run(["git", "-C", root, "check-ignore", "-q", "openai.key"])
    assert ignored.returncode == 0


# ---- the local server


def test_the_server_answers_this_machine_and_these_prompts_only():
    import openai

    with serve(REWARD) as server:
        assert server.server_address[0] == "127.0.0.1"
        with openai.OpenAI(api_key="x", base_url=server.url, max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["longer"]
            with pytest.raises(openai.BadRequestError, match="to_prompt"):
                client.chat.completions.create(model="longer", messages=[{"role": "user", "content": "Hi"}])
            with pytest.raises(openai.BadRequestError, match="messages"):
                client.post("/chat/completions", body={"model": "longer"}, cast_to=object)
        port = server.server_address[1]
        with pytest.raises(judge.CannotServe, match=str(port)), serve(REWARD, port=port):
            pass


def test_faults_strike_the_shares_they_name_and_the_same_prompts_each_time():
    prompts = [judge.to_prompt(q) for q in judge.both_orders(*COLUMNS)] + [str(i) for i in range(2000)]
    faults = Faults(malformed=0.2, busy=0.1, slow=0.05, dead=0.01)
    kinds = Counter(map(faults.of, prompts))
    for name in ("malformed", "busy", "slow", "dead"):
        assert kinds[name] / len(prompts) == pytest.approx(getattr(faults, name), abs=0.02)
    assert (
        kinds == Counter(map(faults.of, prompts)) != Counter(map(Faults(malformed=0.2, seed=1).of, prompts))
    )
    assert from_prompt(prompts[0]).query == COLUMNS[0][0]


def test_the_command_says_what_is_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    assert main(["--reward", "nowhere"]) == 2
    assert "python -m rlhf.build" in capsys.readouterr().err
