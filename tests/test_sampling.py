"""Batched sampling: the same text as one by one, own lengths, and exactly the softmax that PPO scores."""

import pytest
import torch
from ppo_tools import EOS, VOCABULARY, tiny_lm, tiny_policy, tiny_tokenizer, tiny_trainer
from torch.testing import assert_close

from rlhf.errors import BadRollout
from rlhf.ppo import LengthSampler, losses, set_seed
from rlhf.sampling import Draw, Rollout, generate, left_pad

QUERIES = [torch.tensor(q) for q in ([3], [5, 9, 2, 7, 1, 4], [8, 8], [11, 30, 17])]


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama", "qwen"])
def test_a_batch_gives_what_one_by_one_gives(kind):
    """Greedy tokens are the same, so are the scores behind them: left padding moves no position."""
    model = tiny_lm(kind)
    together = generate(model, QUERIES, 9, do_sample=False, eos_token_id=-1)
    alone = [generate(model, [q], 9, do_sample=False, eos_token_id=-1).responses[0] for q in QUERIES]
    assert [r.tolist() for r in together.responses] == [r.tolist() for r in alone]
    assert [r.tolist() for r in alone] == [by_hand(model, q, 9) for q in QUERIES]


def by_hand(model, query: torch.Tensor, n: int) -> list[int]:
    """Greedy decoding without a cache, a batch or padding."""
    ids = query[None]
    with torch.no_grad():
        for _ in range(n):
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[0, len(query) :].tolist()


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama", "qwen"])
def test_scores_under_left_padding_are_those_of_the_step(kind):
    """The distribution a padded row is sampled from is the one that a right-padded pass scores."""
    model = tiny_lm(kind)
    ids, mask = left_pad(QUERIES, EOS)
    output = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=1, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    for row, query in enumerate(QUERIES):
        with torch.no_grad():
            expected = model(query[None]).logits[0, -1]
        assert_close(output.logits[0][row], expected, atol=2e-5, rtol=1e-5)


def test_every_query_has_its_own_length():
    limits = [1, 7, 3, 5]
    rollout = generate(tiny_lm(), QUERIES, limits, eos_token_id=-1)
    assert rollout.lengths == limits
    assert [q.tolist() for q in rollout.queries] == [q.tolist() for q in QUERIES]
    assert rollout.response_mask().sum(1).tolist() == limits
    assert [len(s) for s in rollout.sequences] == [len(q) + n for q, n in zip(QUERIES, limits, strict=True)]


def test_chunks_do_not_change_the_order():
    whole = generate(tiny_lm(), QUERIES, [2, 3, 4, 5], do_sample=False)
    chunks = generate(tiny_lm(), QUERIES, [2, 3, 4, 5], do_sample=False, batch_size=3)
    assert [r.tolist() for r in whole.responses] == [r.tolist() for r in chunks.responses]


def test_a_response_ends_with_its_first_eos_and_one_in_the_query_does_not_count():
    model = tiny_lm()
    with torch.no_grad():  # make EOS likely
        model.lm_head.weight[EOS] += 0.15 * model.lm_head.weight.norm(dim=1).mean()
    set_seed(0)
    query = torch.tensor([4, EOS, 6])
    responses = generate(model, [query] * 200, 12).responses
    assert all(EOS not in r[:-1] for r in responses)
    ended = [r for r in responses if r[-1] == EOS]
    assert 0 < len(ended) < 200
    assert all(len(r) == 12 for r in responses if r[-1] != EOS)


def frequencies(model, n: int, **settings) -> torch.Tensor:
    set_seed(0)
    responses = generate(model, [torch.tensor([7, 3])] * n, 1, batch_size=n, **settings).responses
    return torch.bincount(torch.cat(responses), minlength=VOCABULARY) / n


@pytest.mark.parametrize("own_settings", [{}, {"top_k": 50}, {"top_k": 2, "temperature": 0.3, "top_p": 0.5}])
def test_what_is_sampled_is_the_softmax_that_is_scored(own_settings):
    """Chi-square over the whole vocabulary, also for models whose generation settings cut or sharpen it."""
    model, n = tiny_lm(initializer_range=0.1), 20_000
    model.generation_config.update(**own_settings)
    scored = model(torch.tensor([[7, 3]])).logits[0, -1].softmax(-1).detach()
    seen = frequencies(model, n)
    statistic = n * ((seen - scored) ** 2 / scored).sum()
    assert statistic < 98  # 59 degrees of freedom: p = 0.001
    assert model.generation_config.top_k == own_settings.get("top_k"), "the model's settings must survive"


def test_the_test_above_would_notice_a_cut():
    model, n = tiny_lm(initializer_range=0.1), 20_000
    scored = model(torch.tensor([[7, 3]])).logits[0, -1].softmax(-1).detach()
    seen = frequencies(model, n, top_k=50)
    assert n * ((seen - scored) ** 2 / scored).sum() > 98


def test_classic_settings_pass_through():
    classic = {"min_length": -1, "top_k": 0.0, "top_p": 1.0, "do_sample": True, "pad_token_id": EOS}
    assert generate(tiny_lm(), QUERIES, 3, **classic, eos_token_id=-1).lengths == [3, 3, 3, 3]


def test_dropout_is_off_while_sampling_and_modes_are_restored():
    model = tiny_lm().train()
    runs = [generate(model, [QUERIES[1]], 9, do_sample=False).responses[0].tolist() for _ in range(6)]
    assert all(run == runs[0] for run in runs)
    assert model.training
    assert all(m.training for m in model.modules())


def test_sampled_logprobs_agree_with_the_steps(monkeypatch):
    """Log-probabilities from sampling a left-padded batch equal those of the right-padded scoring pass."""
    trainer = tiny_trainer(batch_size=4, mini_batch_size=4)
    backbone = trainer.policy.pretrained_model
    original, seen = backbone.generate, {}

    def watch(**kwargs):
        output = original(**kwargs, output_logits=True, return_dict_in_generate=True)
        seen["logits"] = torch.stack(output.logits, 1)  # (B, R, V)
        return output.sequences

    monkeypatch.setattr(backbone, "generate", watch)
    responses = trainer.generate(QUERIES, return_prompt=False, max_new_tokens=[5, 2, 4, 3], eos_token_id=-1)
    trainer.step(QUERIES, responses, [0.0, 1.0, 2.0, 3.0])
    for i, response in enumerate(responses):
        sampled = losses.logprobs_from_logits(seen["logits"][i : i + 1, : len(response)], response[None])[0]
        scored = trainer.experience.logprobs[i][trainer.experience.mask[i].bool()]
        assert_close(sampled, scored, atol=2e-5, rtol=1e-5)


def test_return_conventions_of_the_trainer():
    trainer = tiny_trainer()
    query = torch.tensor([5, 6, 7])
    one = trainer.generate(query, max_new_tokens=4, eos_token_id=-1)
    assert one.shape == (1, 7)
    assert one[0, :3].tolist() == [5, 6, 7]
    assert trainer.generate(query, max_new_tokens=4, eos_token_id=-1, return_prompt=False).shape == (1, 4)
    many = trainer.generate(QUERIES, length_sampler=LengthSampler(2, 6, seed=0), eos_token_id=-1)
    assert [len(m) - len(q) for m, q in zip(many, QUERIES, strict=True)] != [2, 2, 2, 2]
    assert all(2 <= len(m) - len(q) <= 5 for m, q in zip(many, QUERIES, strict=True))
    ours, reference = trainer.generate(
        QUERIES, generate_ref_response=True, max_new_tokens=6, do_sample=False, return_prompt=False
    )
    assert [a.tolist() for a in ours] == [b.tolist() for b in reference], "the reference starts as the policy"
    assert trainer.generate(query, eos_token_id=-1).shape == (1, 23), "20 new tokens unless told otherwise"
    assert trainer.generate(query, eos_token_id=-1, max_length=8).shape == (1, 8)


def test_the_tokenizers_padding_side_does_not_matter():
    tokenizer = tiny_tokenizer(["a b c"])
    tokenizer.pad_token = tokenizer.eos_token
    results = []
    for side in ("left", "right"):
        tokenizer.padding_side = side
        trainer = tiny_trainer(tiny_policy(vocab_size=len(tokenizer)), tokenizer=tokenizer)
        texts = trainer.generate(QUERIES, max_new_tokens=5, do_sample=False)
        results.append([t.tolist() for t in texts])
        assert tokenizer.padding_side == side
    assert results[0] == results[1]


def test_long_and_short_queries_share_a_batch():
    """Each fits into 64 positions by itself, padded to the longest they would not."""
    queries = [torch.arange(58) % EOS, torch.tensor([1, 2])]
    assert generate(tiny_lm(), queries, [6, 60], eos_token_id=-1).lengths == [6, 60]


@pytest.mark.parametrize(
    ("queries", "limit", "message"),
    [
        ([], 3, "non-empty list"),
        (torch.tensor([1, 2]), 3, "non-empty list"),
        ([torch.tensor([], dtype=torch.long)], 3, r"queries\[0\] is empty"),
        ([torch.tensor([1]), torch.tensor([[1, 2]])], 3, r"queries\[1\] must be a 1-D"),
        ([torch.tensor([1.5])], 3, r"queries\[0\] must be a 1-D integer"),
        ([torch.tensor([1]), torch.tensor([VOCABULARY])], 3, r"queries\[1\] holds a token outside"),
        ([torch.tensor([-1])], 3, r"queries\[0\] holds a token outside"),
        ([torch.tensor([1])], 0, "at least 1"),
        ([torch.tensor([1])], [3, 4], "2 entries for 1 queries"),
        ([torch.tensor([1])], 64, "exceed the model's 64 positions"),
    ],
)
def test_what_cannot_be_continued_is_named(queries, limit, message):
    with pytest.raises(BadRollout, match=message):
        generate(tiny_lm(), queries, limit)


def test_a_rollout_knows_its_texts():
    tokenizer = tiny_tokenizer(["good movie"])
    ids = tokenizer.encode("good movie")
    rollout = Rollout([torch.tensor([1])], [torch.tensor([*ids, tokenizer.eos_token_id])])
    assert rollout.texts(tokenizer) == ["good movie"]
    assert len(rollout) == 1


def test_several_responses_need_repeated_queries():
    with pytest.raises(BadRollout, match="repeat the query"):
        generate(tiny_lm(), QUERIES, 3, num_return_sequences=2)


def test_lengths_exclude_the_upper_bound():
    sampler = LengthSampler(2, 8, seed=0)
    draws = [sampler() for _ in range(300)]
    assert set(draws) == {2, 3, 4, 5, 6, 7}
    assert all(type(d) is int for d in draws)
    again = LengthSampler(2, 8, seed=0)
    assert [again() for _ in range(300)] == draws
    set_seed(3)
    first = [LengthSampler(2, 8)() for _ in range(20)]
    set_seed(3)
    assert [LengthSampler(2, 8)() for _ in range(20)] == first
    with pytest.raises(ValueError, match="upper bound"):
        LengthSampler(3, 3)


def test_the_cheap_draw_has_the_frequencies_of_the_softmax():
    """One look-up per row in the cumulative softmax: right frequencies, never a token of probability 0."""
    logits = torch.tensor([2.0, -torch.inf, 0.5, 0.0, -3.0, -torch.inf])
    for temperature in (1.0, 0.5):
        torch.manual_seed(0)
        drawn = Draw(temperature)(torch.zeros(40_000, 1), logits.expand(40_000, -1)).argmax(-1)
        share = drawn.bincount(minlength=6) / len(drawn)
        want = (logits / temperature).softmax(-1)
        assert (share - want).abs().max() < 5 * (0.25 / len(drawn)) ** 0.5
        assert not share[logits.isinf()].any()


def test_settings_that_cut_the_softmax_stay_with_transformers():
    """top_k of 1 leaves one choice, whichever way is taken; the cheap draw is for the full softmax alone."""
    greedy = generate(tiny_lm(), QUERIES, 9, do_sample=False, eos_token_id=-1)
    single = generate(tiny_lm(), QUERIES, 9, top_k=1, eos_token_id=-1)
    assert [r.tolist() for r in greedy.responses] == [r.tolist() for r in single.responses]
