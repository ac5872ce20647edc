"""Is one policy's response better than another's? Ask a judge, in both orders, and check the judge.

In: queries, the responses of two policies or of several, a judge. Out: win rates and strengths with
intervals, and what tells whether the judge can be trusted. Lesson 10 explains it::

    judged = judge_pairs(RewardJudge(reward), queries, after, before)
    print(win_rate(judged), order_bias(judged), length_bias(judged), sep="\\n")

    question   a pair as a prompt, a text as an answer      pairwise   judges, pairs in both orders, outcomes
    measures   win rate, order and length bias, agreement   ratings    Bradley–Terry
    endpoint   a chat model behind any OpenAI-compatible address, with its client, keys and cache
    server     a judge on this machine, behind the same interface
    faults     every error, with the next step
"""

from rlhf.errors import CannotServe
from rlhf.judge.endpoint import EndpointJudge, Estimate, Usage
from rlhf.judge.faults import BadCache, BadJudging, CapReached, MissingKey, NoEndpoint
from rlhf.judge.keys import find_key
from rlhf.judge.measures import (
    Agreement,
    LengthBias,
    OrderBias,
    WinRate,
    agreement,
    length_bias,
    order_bias,
    sign_test,
    wilson,
    win_rate,
)
from rlhf.judge.pairwise import Always, Judge, Judgements, RewardJudge, judge_pairs, round_robin
from rlhf.judge.question import CRITERION, PROMPT, Question, both_orders, read_answer, to_prompt
from rlhf.judge.ratings import Ratings, bradley_terry
from rlhf.judge.server import Faults, LocalServer, serve

__all__ = [
    "CRITERION",
    "PROMPT",
    "Agreement",
    "Always",
    "BadCache",
    "BadJudging",
    "CannotServe",
    "CapReached",
    "EndpointJudge",
    "Estimate",
    "Faults",
    "Judge",
    "Judgements",
    "LengthBias",
    "LocalServer",
    "MissingKey",
    "NoEndpoint",
    "OrderBias",
    "Question",
    "Ratings",
    "RewardJudge",
    "Usage",
    "WinRate",
    "agreement",
    "both_orders",
    "bradley_terry",
    "find_key",
    "judge_pairs",
    "length_bias",
    "order_bias",
    "read_answer",
    "round_robin",
    "serve",
    "sign_test",
    "to_prompt",
    "wilson",
    "win_rate",
]
