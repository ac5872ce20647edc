"""Try a result: an OpenAI-compatible server over model folders, and a page that shows two side by side.

In: one or two model folders, and a reward model. Out: an address for any OpenAI client, or a page on this
machine. Lesson 11 uses both; as a command::

    python -m rlhf.serve                       # the profile's policy beside output/ppo_3
    python -m rlhf.serve sft_1 rs_4 --open     # any two, opened in the browser

    with running("ppo_3") as server:           # transformers serve, in a process of its own
        client = openai.OpenAI(base_url=server.base_url, api_key="none")
        client.completions.create(model=server.model, prompt="This film", max_tokens=16, seed=0)

    folders    a model folder as a server wants it     compare    two answers with their scores
    engine     transformers serve, made safe           page       the web page; its files are beside it
    endpoint   the server's process
"""

from rlhf.errors import CannotServe
from rlhf.serve.compare import Answer, BadQuestion, Comparison, Pair, Question, Unanswered
from rlhf.serve.endpoint import Server, running
from rlhf.serve.folders import BadModel, Served, prepare
from rlhf.serve.page import Page, comparing

__all__ = [
    "Answer",
    "BadModel",
    "BadQuestion",
    "CannotServe",
    "Comparison",
    "Page",
    "Pair",
    "Question",
    "Served",
    "Server",
    "Unanswered",
    "comparing",
    "prepare",
    "running",
]
