"""The course's own sampling loop: the tokens of transformers' ``generate`` from the same random numbers, in
less."""

import pytest
import torch
from ppo_tools import EOS, tiny_lm

from rlhf import decoding, sampling

QUERIES = [torch.randint(0, EOS, (2 + i % 5,), generator=torch.Generator().manual_seed(i)) for i in range(40)]
LIMITS = [3 + i % 9 for i in range(40)]


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama", "qwen2"])
@pytest.mark.parametrize("eos", [-1, 5])
def test_it_writes_what_transformers_writes_with_the_same_draws(kind, eos, monkeypatch):
    model, rows = tiny_lm(kind), []
    hook = model.get_output_embeddings().register_forward_hook(lambda *about: rows.append(len(about[2])))
    torch.manual_seed(3)
    ours = sampling.generate(model, QUERIES, LIMITS, eos_token_id=eos)
    hook.remove()
    assert rows[0] == 40 and rows[-1] < 20  # rows that ended have left
    monkeypatch.setattr(decoding, "drivable", lambda backbone: None)
    torch.manual_seed(3)
    theirs = sampling.generate(model, QUERIES, LIMITS, eos_token_id=eos)
    for one, other in zip(ours.responses, theirs.responses, strict=True):
        assert torch.equal(one, other)


def test_a_model_with_a_generate_of_its_own_keeps_it(monkeypatch):
    model, calls = tiny_lm(), []
    theirs = model.generate
    monkeypatch.setattr(model, "generate", lambda **kwargs: calls.append(1) or theirs(**kwargs))
    sampling.generate(model, QUERIES[:3], 4)
    assert calls == [1]
    assert decoding.drivable(torch.nn.Linear(2, 2)) is None


def test_draws_from_a_vocabulary_of_several_blocks():
    torch.manual_seed(0)
    logits = torch.randn(2 * decoding.BLOCK + 100)
    logits[::3] = -torch.inf
    spots = torch.rand(200_000, 1, dtype=torch.float64)
    tokens = torch.cat([decoding.draw(logits.expand(len(s), -1), s) for s in spots.split(20_000)])
    share = tokens.bincount(minlength=len(logits)) / len(tokens)
    want = logits.softmax(-1)
    assert not share[::3].any()
    assert (share - want).abs().max() < 5 * (want.max() / len(tokens)) ** 0.5
    first = (want > 0).nonzero()[0].item()
    last = (want > 0).nonzero()[-1].item()
    ends = torch.tensor([[0.0], [1 - 1e-16]], dtype=torch.float64)
    assert decoding.draw(logits.expand(2, -1), ends).tolist() == [first, last]
