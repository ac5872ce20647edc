"""What can go wrong with a judge, each with the next step, in Chinese and in English.

In: what happened. Out: an error to raise. Lesson 10 meets some of them on purpose. No message holds a key.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.errors import CourseError

if TYPE_CHECKING:
    from rlhf.judge.pairwise import Judgements


class BadJudging(CourseError, ValueError):
    """Responses that cannot be compared, answers that are none, or numbers that they do not give."""


class MissingKey(CourseError):
    """No key for an endpoint that wants one, or one that must not be used."""


class NoEndpoint(CourseError):
    """The endpoint cannot be reached, does not know the model, or refuses what it is asked."""


class BadCache(CourseError):
    """An answer on disk that cannot be read."""


class CapReached(CourseError):
    """The cap on the costs stopped the run. What was answered is kept.

    ``answers`` holds one entry per question, ``unasked`` where none was put. ``judgements`` holds the same as
    pairs, where :func:`rlhf.judge.judge_pairs` had asked.
    """

    answers: list[str]
    judgements: Judgements | None = None


# ---- the key


def no_key(file: Path) -> MissingKey:
    return MissingKey(
        f"没有密钥。设置环境变量 OPENAI_API_KEY，或把密钥写进 {file.name}（git 会忽略它）；"
        "不用密钥也可以：rlhf.judge.serve 在本机开一个评委。",
        f"There is no key. Set OPENAI_API_KEY, or write it into {file.name} (which git ignores); "
        "without any key, rlhf.judge.serve starts a judge on this machine.",
    )


def tracked_key(file: Path) -> MissingKey:
    return MissingKey(
        f"{file.name} 已被 git 跟踪，密钥会随提交公开，所以不读取它。先运行 git rm --cached {file.name}；"
        "如果已经推送过，请作废这个密钥，换一个新的。",
        f"git tracks {file.name}, so a push would publish the key; it is not read. Run git rm --cached "
        f"{file.name} first, and if it was ever pushed, revoke the key and make a new one.",
    )


def strange_key(where: str) -> MissingKey:
    return MissingKey(
        f"{where} 里的内容不像密钥：应当是一行，没有空格，只有 ASCII 字符。",
        f"What {where} holds does not look like a key: one line of ASCII without spaces is expected.",
    )


def unreadable_key(file: Path, why: str) -> MissingKey:
    return MissingKey(f"读不了 {file.name}（{why}）。", f"{file.name} cannot be read ({why}).")


# ---- the endpoint


def unreachable(url: str, why: str) -> NoEndpoint:
    return NoEndpoint(
        f"连不上 {url}（{why}）。检查 base_url 和网络；OpenAI 式的地址通常以 /v1 结尾。",
        f"Cannot reach {url} ({why}). Check base_url and the network; such addresses usually end in /v1.",
    )


def not_an_api(url: str) -> NoEndpoint:
    return NoEndpoint(
        f"{url} 有回应，但不是 OpenAI 式的接口。检查 base_url；它通常以 /v1 结尾。",
        f"{url} answers, but not as an OpenAI-compatible API. Check base_url; it usually ends in /v1.",
    )


def no_model(url: str, model: str, known: list[str]) -> NoEndpoint:
    shown = ", ".join(known[:12]) + (" …" if len(known) > 12 else "")
    return NoEndpoint(
        f"{url} 没有模型 {model!r}；它有：{shown}。",
        f"{url} has no model {model!r}; it has: {shown}.",
    )


def refused(url: str, status: int) -> NoEndpoint:
    return NoEndpoint(
        f"{url} 不接受这个密钥（HTTP {status}）。检查它是否属于这个地址、是否过期。",
        f"{url} does not accept the key (HTTP {status}). Does it belong to this address, has it expired?",
    )


def no_credit(url: str) -> NoEndpoint:
    return NoEndpoint(f"{url} 的账户余额不足。", f"The account at {url} has no credit left.")


def rejected(url: str, status: int, said: str) -> NoEndpoint:
    return NoEndpoint(
        f"{url} 拒绝了请求（HTTP {status}）：{said}。检查 settings；"
        "有的模型不接受 temperature 或 max_tokens。",
        f"{url} rejected the request (HTTP {status}): {said}. Check settings; some models take no "
        "temperature or no max_tokens.",
    )


def keeps_failing(url: str, count: int, why: str) -> NoEndpoint:
    return NoEndpoint(
        f"{url} 连续 {count} 个问题都没有回答（最后一次：{why}），已停止。有 cache 时，"
        "答过的不会再问，稍后重跑即可。",
        f"{url} left {count} questions in a row unanswered (at last: {why}); stopped. With a cache, run it "
        "again later: what was answered is not asked again.",
    )


# ---- costs and the cache


def cap_reached(cap: float, spent: float, asked: int, count: int, kept: bool) -> CapReached:
    zh = "提高 max_cost 再运行，答过的不再收费。" if kept else "提高 max_cost；给出 cache，答过的就不再收费。"
    en = "Raise max_cost and run again: " if kept else "Raise max_cost, and name a cache: "
    return CapReached(
        f"花费到了上限 {cap:g}（已花约 {spent:.4g}），{count} 个问题答了 {asked} 个就停下了。{zh}",
        f"The cap of {cap:g} stopped the run (about {spent:.4g} spent) after {asked} of {count} questions. "
        f"{en}what was answered is not paid for twice.",
    )


def unreadable_cache(file: Path, why: str) -> BadCache:
    return BadCache(
        f"缓存文件 {file} 读不了（{why}）。删除它，这个问题会重新问一次。",
        f"The cached answer {file} cannot be read ({why}). Delete it, and that question is asked again.",
    )
