"""How much does batching save? Responses per second: all prompts together against one prompt at a time.

    python benchmarks/rejection.py [--profile offline] [--prompts 64] [--k 16] [--repeats 3]

In: a built profile. Out: one line per way of sampling, and the ratios. The same policy, prompts and lengths,
the same full softmax, in one process and one run; the ways take turns, each keeps its best of ``--repeats``.

- ``one by one``: the loop that tutorials write, one ``model.generate`` per response.
- ``one prompt at a time``: the same loop, with all K responses to a prompt in one call.
- ``batched``: ``rlhf.rejection.sample_pool``, rows of equal length together, ``--batch`` at once.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import transformers

from rlhf import evaluate, profiles, rejection, sampling, sft

PASSES = 8  # of the loops, only this share of the responses is written: 1 in PASSES


def loop(policy, tokenizer, queries: list[torch.Tensor], lengths: list[int], copies: int) -> int:
    """One ``generate`` per query; the number of responses."""
    for query, length in zip(queries, lengths, strict=True):
        ids = query.unsqueeze(0).repeat(copies, 1).to(policy.device)  # (copies, Q)
        policy.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=length,
            pad_token_id=tokenizer.pad_token_id,
            **sampling.FULL_SOFTMAX,
        )
    return copies * len(queries)


def rate(write: Callable[[], int], clock: Callable[[], float]) -> float:
    """Responses per second of ``clock``."""
    started = clock()
    return write() / (clock() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="offline")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--cpu-seconds", action="store_true", help="count CPU time: for a machine that is busy"
    )
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()  # a finished row that waits looks like padding to it
    setup = profiles.setup("08_rejection_sampling", args.profile)
    clock = time.process_time if args.cpu_seconds else time.perf_counter
    policy, tokenizer = sft.load_policy(setup.policy, setup.device)
    policy.eval()
    prompts = evaluate.held_out_prompts(setup, tokenizer, args.prompts)
    lengths = evaluate.response_lengths(setup, args.prompts)
    queries = [torch.as_tensor(ids) for ids in prompts["input_ids"]]
    some = slice(None, None, PASSES)

    def batched() -> int:
        pool = rejection.sample_pool(
            policy,
            tokenizer,
            prompts,
            lengths,
            args.k,
            lambda texts: torch.zeros(len(texts)),
            batch_size=args.batch,
        )
        return len(pool.texts)

    ways = {
        "one by one": lambda: sum(loop(policy, tokenizer, queries[some], lengths[some], 1) for _ in range(2)),
        "one prompt at a time": lambda: loop(policy, tokenizer, queries[some], lengths[some], args.k),
        "batched": batched,
    }
    rates = {name: [] for name in ways}
    for write in ways.values():
        write()  # warm up
    for _ in range(args.repeats):
        for name, write in ways.items():
            rates[name].append(rate(write, clock))
    print(
        f"{args.prompts} prompts × {args.k} responses of {statistics.mean(lengths):.1f} tokens at most, mean"
    )
    for name, found in rates.items():
        print(f"{name:>20}: {max(found):8.1f} responses per second")
    best = max(rates["batched"])
    print(f"batched is {best / max(rates['one by one']):.1f} times as fast as one by one,")
    slower = max(rates["one prompt at a time"])
    print(f"and {best / slower:.1f} times as fast as one prompt at a time with K in a call")


if __name__ == "__main__":
    main()
