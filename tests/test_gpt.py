"""The GPT of lesson 03 against transformers: logits, gradients, tokens, checkpoints; and clear errors."""

import json
import math
import re

import pytest
import torch
import torch.nn.functional as F
from ppo_tools import EOS, VOCABULARY, tiny_lm
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model, TopKLogitsWarper, TopPLogitsWarper

from rlhf import blocks, published, sampling
from rlhf.blocks import position_ids, split_heads
from rlhf.errors import BadRollout, CannotWrite, MissingAssets
from rlhf.gpt import (
    GPT,
    GPTConfig,
    KVCache,
    MaskedMultiheadSelfAttention,
    TransformerDecoder,
    keep_top_k,
    keep_top_p,
    next_token,
    next_token_loss,
    visible_keys,
)
from rlhf.published import UnsupportedModel

SIZES = [
    {},
    {"n_head": 1, "n_layer": 1},
    {"n_embd": 24, "n_head": 8, "n_inner": 40, "vocab_size": 61},
    {"n_embd": 18, "n_head": 3, "n_layer": 4, "vocab_size": 97, "activation_function": "gelu"},
    {"n_inner": 7, "activation_function": "gelu_pytorch_tanh", "layer_norm_epsilon": 1e-3},
    {"activation_function": "relu", "n_positions": 40},
    {"activation_function": "silu"},
    {"activation_function": "gelu_fast"},
    {"activation_function": "tanh", "reorder_and_upcast_attn": True},
]
MASKS = {
    "none": [[1] * 9] * 3,
    "left": [[0, 0, 0, 1, 1, 1, 1, 1, 1], [1] * 9, [0] * 8 + [1]],
    "right": [[1] * 5 + [0] * 4, [1] + [0] * 8, [1] * 9],
    "both": [[0, 0, 1, 1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1, 1, 0], [0] * 4 + [1] + [0] * 4],
}
QUERIES = [torch.tensor(q) for q in ([3], [5, 9, 2, 7, 1, 4], [8, 8], [11, 30, 17])]


def pair(tmp_path, seed: int = 0, **changes) -> tuple[GPT2LMHeadModel, GPT]:
    """A random transformers GPT-2, and ours read from its folder."""
    theirs = tiny_lm("gpt2", seed, **changes)
    with torch.no_grad():  # biases and norms are 0 and 1 in a fresh model, and would hide a missing one
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias") or ".ln_" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "published")
    return theirs, GPT.from_pretrained(tmp_path / "published")


def random_ids(shape: tuple[int, int], vocab: int = VOCABULARY) -> torch.Tensor:
    return torch.randint(0, vocab, shape, generator=torch.Generator().manual_seed(1))


# ----------------------------------------------------------------------------------------------- logits


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "-".join(map(str, sizes.values())) or "plain")
def test_logits_are_those_of_transformers(tmp_path, sizes):
    theirs, ours = pair(tmp_path, **sizes)
    ids = random_ids((3, 9), ours.config.vocab_size)
    for mask in map(torch.tensor, MASKS.values()):
        with torch.no_grad():
            want = theirs(ids, attention_mask=mask, position_ids=position_ids(mask)).logits
            got = ours(ids, mask)
        assert torch.isfinite(got).all(), "padding must not become NaN"
        assert_close(got[mask.bool()], want[mask.bool()], atol=1e-4, rtol=1e-4)
    assert sum(p.numel() for p in ours.parameters()) == theirs.num_parameters()


def test_a_single_token_and_a_full_context(tmp_path):
    theirs, ours = pair(tmp_path)
    for length in (1, 64):
        ids = random_ids((2, length))
        assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=1e-4)


def test_padding_changes_nothing_and_neither_do_neighbours(tmp_path):
    _, ours = pair(tmp_path)
    alone = ours(torch.tensor([[7, 3, 12]]))[0]
    for mask in ([0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0]):
        ids = torch.randint(0, VOCABULARY, (2, 5))
        ids[0, torch.tensor(mask).bool()] = torch.tensor([7, 3, 12])
        got = ours(ids, torch.tensor([mask, [1] * 5]))[0][torch.tensor(mask).bool()]
        assert_close(got, alone, atol=1e-5, rtol=1e-5)


def test_a_token_does_not_see_the_future(tmp_path):
    _, ours = pair(tmp_path)
    ids = random_ids((1, 8))
    other = ids.clone()
    other[0, 5:] = (other[0, 5:] + 1) % VOCABULARY
    a, b = ours(ids), ours(other)
    assert_close(a[:, :5], b[:, :5])
    assert (a[:, 5:] - b[:, 5:]).abs().max() > 0.1


def test_loss_and_every_gradient_are_those_of_transformers(tmp_path):
    theirs, ours = pair(tmp_path)
    ids, mask = random_ids((3, 9)), torch.tensor(MASKS["right"])
    labels = ids.masked_fill(mask == 0, -100)
    want = theirs(ids, attention_mask=mask, labels=labels).loss
    loss = next_token_loss(ours(ids, mask), ids, mask)
    assert_close(loss, want, atol=1e-5, rtol=1e-5)
    want.backward()
    loss.backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        grad = wanted[f"transformer.{published.published_name(name)}"].grad
        grad = grad.T if published.is_transposed(name) else grad
        assert_close(parameter.grad, grad, atol=1e-4, rtol=1e-3)


def test_the_loss_leaves_padding_out():
    logits, ids = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]])
    by_hand = [
        F.cross_entropy(logits[r, t], ids[r, t + 1]) for r, t in ((0, 2), (0, 3), (1, 0), (1, 1), (1, 2))
    ]
    assert_close(next_token_loss(logits, ids, mask), torch.stack(by_hand).mean())


def test_attention_is_scaled_dot_product_attention():
    torch.manual_seed(0)
    layer = MaskedMultiheadSelfAttention(GPTConfig(n_embd=24, n_head=4)).eval()
    x, mask = torch.randn(2, 6, 24), torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    visible = visible_keys(mask, 6)
    q, k, v = (split_heads(part, 4) for part in layer.qkv(x).chunk(3, -1))
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)  # (B, heads, T, d)
    assert_close(layer(x, visible), layer.out(want.transpose(1, 2).reshape(2, 6, 24)), atol=1e-5, rtol=1e-5)


def test_visible_keys_by_hand():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    visible = visible_keys(mask, 5)
    assert visible.shape == (2, 1, 5, 5)
    assert visible[0, 0].long().tolist() == [
        [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1],
    ]  # fmt: skip
    for new in (1, 2, 5):
        assert torch.equal(visible_keys(mask, new), blocks.visible(mask)[:, :, -new:])


def test_the_cache_changes_no_number(tmp_path):
    _, ours = pair(tmp_path)
    ids, mask = random_ids((2, 9)), torch.tensor([[0, 0, 0] + [1] * 6, [1] * 9])
    cache = [KVCache() for _ in ours.decoder.blocks]
    parts = [ours(ids[:, a:b], mask[:, :b], cache) for a, b in ((0, 4), (4, 5), (5, 8), (8, 9))]
    real = mask.bool()
    assert_close(torch.cat(parts, 1)[real], ours(ids, mask)[real], atol=1e-5, rtol=1e-5)
    assert cache[0].keys.shape == (2, ours.config.n_head, 9, ours.config.n_embd // ours.config.n_head)


# --------------------------------------------------------------------------------------- fresh and training


def test_a_fresh_model_knows_nothing_and_is_initialised_as_gpt2_is():
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=500, n_positions=64, n_embd=64, n_layer=8, n_head=4)
    model = GPT(config).eval()
    assert next_token_loss(model(random_ids((8, 64), 500)), random_ids((8, 64), 500)).item() == pytest.approx(
        math.log(500), abs=0.1
    )
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=500, n_positions=64, n_embd=64, n_layer=8, n_head=4))
    wanted = dict(theirs.named_parameters())
    for name, parameter in model.named_parameters():
        want = wanted[f"transformer.{published.published_name(name)}"]
        assert parameter.std().item() == pytest.approx(want.std().item(), rel=0.1, abs=1e-8), name
        assert parameter.mean().item() == pytest.approx(want.mean().item(), abs=3e-3), name


def test_dropout_falls_in_training_only_and_generation_leaves_the_mode_alone(tmp_path):
    _, ours = pair(tmp_path)
    ids = random_ids((2, 9))
    assert not ours.training and torch.equal(ours(ids), ours(ids))
    ours.train()
    ours.decoder.blocks[0].eval()  # a mixed state has to survive as well
    assert not torch.equal(ours(ids), ours(ids))
    first = ours.batch_generate(QUERIES, 8, do_sample=False)
    again = ours.batch_generate(QUERIES, 8, do_sample=False)
    assert all(map(torch.equal, first.responses, again.responses))
    assert ours.training and ours.decoder.training and not ours.decoder.blocks[0].training


def test_it_learns(tmp_path):
    torch.manual_seed(0)
    model = GPT(
        GPTConfig(vocab_size=20, n_positions=16, n_embd=32, n_layer=2, n_head=2, embd_pdrop=0, resid_pdrop=0)
    )
    ids = torch.arange(16).expand(4, 16) % 20
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = next_token_loss(model(ids), ids)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5
    assert model.generate(torch.tensor([0, 1, 2]), 5, do_sample=False).tolist() == [3, 4, 5, 6, 7]


# ------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("sizes", SIZES[:4], ids=lambda sizes: "-".join(map(str, sizes.values())) or "plain")
def test_greedy_tokens_are_those_of_transformers(tmp_path, sizes):
    theirs, ours = pair(tmp_path, **sizes)
    together = ours.batch_generate(QUERIES, 12, do_sample=False, eos_token_id=-1)
    want = sampling.generate(theirs, QUERIES, 12, do_sample=False, eos_token_id=-1)
    assert [r.tolist() for r in together.responses] == [r.tolist() for r in want.responses]
    alone = [ours.generate(query, 12, do_sample=False, eos_token_id=-1) for query in QUERIES]
    assert [r.tolist() for r in together.responses] == [r.tolist() for r in alone]


def eager_to_stop(theirs: GPT2LMHeadModel, ours: GPT) -> None:
    """Make EOS likely in both: the final norm adds its bias to every state, and so to this dot product."""
    with torch.no_grad():
        for weight in (theirs.transformer.wte.weight, ours.decoder.token_embedding.weight):
            weight[EOS] += 3 * ours.decoder.final_norm.bias


@pytest.fixture
def drawn_by_transformers(monkeypatch):
    """The course's own draw, cheaper on a CPU, uses other random numbers than transformers and this GPT."""
    monkeypatch.setattr(sampling, "_own_draw", lambda settings: (settings, []))


@pytest.mark.usefixtures("drawn_by_transformers")
def test_responses_end_where_transformers_ends_them(tmp_path):
    theirs, ours = pair(tmp_path)
    eager_to_stop(theirs, ours)
    queries = QUERIES * 8
    torch.manual_seed(3)
    want = sampling.generate(theirs, queries, 12)
    torch.manual_seed(3)
    got = ours.batch_generate(queries, 12)
    assert [r.tolist() for r in got.responses] == [r.tolist() for r in want.responses]
    ended = [r for r in got.responses if r[-1] == EOS]
    assert 0 < len(ended) < len(queries) and len({len(r) for r in got.responses}) > 3
    assert all(EOS not in r[:-1] for r in got.responses)
    for query, response in zip(queries, got.responses, strict=True):  # neighbours that wait do no harm
        scored = ours(torch.cat([query, response])[None])[0, len(query) - 1 : -1]
        assert torch.isfinite(scored.log_softmax(-1).gather(1, response[:, None])).all()


def test_greedy_with_early_eos_is_the_same_alone_and_together(tmp_path):
    theirs, ours = pair(tmp_path)
    continued = ours.batch_generate(QUERIES, 12, do_sample=False, eos_token_id=-1).responses
    eos = int(continued[0][2])  # a token that at least the first row writes early
    got = ours.batch_generate(QUERIES, 12, do_sample=False, eos_token_id=eos)
    want = sampling.generate(theirs, QUERIES, 12, do_sample=False, eos_token_id=eos)
    alone = [ours.generate(query, 12, do_sample=False, eos_token_id=[eos]) for query in QUERIES]
    assert [r.tolist() for r in got.responses] == [r.tolist() for r in want.responses]
    assert [r.tolist() for r in got.responses] == [r.tolist() for r in alone]
    assert got.lengths[0] <= 3 and max(got.lengths) > 3


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.8}, {"temperature": 1.5, "top_k": 12, "top_p": 0.7}],
    ids=str,
)
@pytest.mark.usefixtures("drawn_by_transformers")
def test_sampled_tokens_are_those_of_transformers(tmp_path, settings):
    """The same random numbers, the same distribution: the same tokens."""
    theirs, ours = pair(tmp_path)
    torch.manual_seed(5)
    want = sampling.generate(theirs, QUERIES * 4, 10, eos_token_id=-1, **settings)
    torch.manual_seed(5)
    got = ours.batch_generate(QUERIES * 4, 10, eos_token_id=-1, **settings)
    assert [r.tolist() for r in got.responses] == [r.tolist() for r in want.responses]


def test_filters_are_those_of_transformers():
    logits = 3 * torch.randn(40, VOCABULARY, generator=torch.Generator().manual_seed(0))
    for k in (1, 3, VOCABULARY - 1):
        assert torch.equal(keep_top_k(logits, k), TopKLogitsWarper(k)(None, logits))
    for p in (0.05, 0.5, 0.9, 0.999):
        assert torch.equal(keep_top_p(logits, p), TopPLogitsWarper(p)(None, logits))
    for k in (0, VOCABULARY, VOCABULARY + 1):
        assert torch.equal(keep_top_k(logits, k), logits)
    assert torch.equal(keep_top_p(logits, 1.0), logits)
    assert next_token(logits, do_sample=False).tolist() == logits.argmax(-1).tolist()
    assert next_token(logits, top_k=1).tolist() == logits.argmax(-1).tolist()


def test_sampled_frequencies_follow_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(40_000, 4)
    drawn = next_token(logits, temperature=2.0, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    assert_close(share, (logits[0] / 2).softmax(-1), atol=0.01, rtol=0)


def test_every_query_has_its_own_length_and_batches_do_not_matter(tmp_path):
    _, ours = pair(tmp_path)
    limits = [1, 7, 3, 5]
    rollout = ours.batch_generate(QUERIES, limits, do_sample=False, eos_token_id=-1)
    assert rollout.lengths == limits
    for size in (1, 3):
        split = ours.batch_generate(QUERIES, limits, do_sample=False, eos_token_id=-1, batch_size=size)
        assert [r.tolist() for r in split.responses] == [r.tolist() for r in rollout.responses]


def test_every_row_may_use_all_positions(tmp_path):
    """A long query and a short one: padded, the batch is wider than the model, but no text is."""
    theirs, ours = pair(tmp_path, n_positions=16)
    queries, limits = [torch.arange(14), torch.tensor([5, 6])], [2, 14]
    got = ours.batch_generate(queries, limits, do_sample=False, eos_token_id=-1)
    want = [
        sampling.generate(theirs, [q], n, do_sample=False, eos_token_id=-1).responses[0]
        for q, n in zip(queries, limits, strict=True)
    ]
    assert [r.tolist() for r in got.responses] == [r.tolist() for r in want]


# ------------------------------------------------------------------------------- reading published ones


def test_checkpoints_with_and_without_the_prefix(tmp_path):
    theirs = tiny_lm("gpt2")
    theirs.save_pretrained(tmp_path / "full")
    theirs.transformer.save_pretrained(tmp_path / "bare")
    assert isinstance(theirs.transformer, GPT2Model)
    bare = load_file(tmp_path / "bare" / "model.safetensors")
    assert "wte.weight" in bare and "transformer.wte.weight" in load_file(
        tmp_path / "full" / "model.safetensors"
    )
    a, b = (GPT.from_pretrained(tmp_path / name).state_dict() for name in ("full", "bare"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_old_checkpoints_hold_masks_and_a_tied_head(tmp_path):
    _, ours = pair(tmp_path)
    path = tmp_path / "published" / "model.safetensors"
    tensors = load_file(path)
    tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
    tensors["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    save_file(tensors, path)
    again = GPT.from_pretrained(tmp_path / "published")
    assert torch.equal(again(QUERIES[1][None]), ours(QUERIES[1][None]))
    tensors["lm_head.weight"][3] += 1
    save_file(tensors, path)
    with pytest.raises(UnsupportedModel, match="lm_head"):
        GPT.from_pretrained(tmp_path / "published")


def test_shards_and_half_precision(tmp_path):
    theirs, ours = pair(tmp_path)
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="30KB")
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(shards) > 2
    again = GPT.from_pretrained(tmp_path / "shards")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))
    shards[1].unlink()
    with pytest.raises(MissingAssets, match=re.escape(shards[1].name)):
        GPT.from_pretrained(tmp_path / "shards")
    theirs.bfloat16().save_pretrained(tmp_path / "half")
    half = GPT.from_pretrained(tmp_path / "half")
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert_close(half(QUERIES[1][None]), theirs.float()(QUERIES[1][None]).logits, atol=1e-4, rtol=1e-4)


def test_square_matrices_are_transposed_too(tmp_path):
    theirs, ours = pair(tmp_path)
    block, mine = theirs.transformer.h[1], ours.decoder.blocks[1]
    assert block.attn.c_proj.weight.shape == mine.attention.out.weight.shape
    assert torch.equal(mine.attention.out.weight, block.attn.c_proj.weight.T)


def test_an_exported_model_loads_in_transformers(tmp_path):
    theirs, ours = pair(tmp_path)
    folder = ours.save_pretrained(tmp_path / "out", lambda place: (place / "tokenizer.json").write_text("{}"))
    assert (folder / "tokenizer.json").read_text() == "{}"
    loaded, report = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(loaded.eval()(QUERIES[1][None]).logits, theirs(QUERIES[1][None]).logits)
    ours.save_pretrained(folder)  # over its own export
    assert torch.equal(GPT.from_pretrained(folder)(QUERIES[1][None]), ours(QUERIES[1][None]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "layer's number"),
        ({"scale_attn_weights": False}, "√d"),
        ({"add_cross_attention": True}, "cross-attention"),
        ({"tie_word_embeddings": False}, "token embedding"),
        ({"model_type": "opt"}, "GPT-2 only"),
        ({"activation_function": "laplace"}, "laplace"),
        ({"n_head": 5}, "5 heads"),
        ({"n_layer": 0}, "n_layer"),
        ({"n_embd": "32"}, "n_embd"),
        ({"n_embd": None}, "n_embd"),
        ({"n_positions": 32}, "position_embedding"),  # other shapes than the weights
        ({"n_layer": 3}, "missing h.2.ln_1.weight"),
        ({"n_layer": 1}, "unknown h.1"),
    ],
    ids=str,
)
def test_configurations_that_it_cannot_honour(tmp_path, change, said):
    pair(tmp_path)
    path = tmp_path / "published" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UnsupportedModel, match=re.escape(said)) as caught:
        GPT.from_pretrained(tmp_path / "published")
    assert "\n" in str(caught.value) and re.search("[一-鿿]", caught.value.zh)


def test_files_that_are_missing_or_damaged(tmp_path):
    pair(tmp_path)
    folder = tmp_path / "published"
    with pytest.raises(MissingAssets, match="from_checkpoint"):
        GPT.from_pretrained(tmp_path / "nowhere")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MissingAssets, match=r"model\.safetensors"):
        GPT.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingAssets, match=r"model\.safetensors"):
        GPT.from_pretrained(folder)
    for text in ("{", "[1]"):
        (folder / "config.json").write_text(text)
        with pytest.raises(MissingAssets, match=r"config\.json"):
            GPT.from_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "gpt2", "n_head": 2}')
    with pytest.raises(UnsupportedModel, match="lacks vocab_size, n_positions, n_embd, n_layer"):
        GPT.from_pretrained(folder)


# ----------------------------------------------------------------------------------- its own checkpoints


def test_its_own_checkpoint(tmp_path):
    _, ours = pair(tmp_path)
    folder = ours.save_checkpoint(tmp_path / "own")
    again = GPT.from_checkpoint(folder)
    assert again.config == ours.config and not again.training
    assert torch.equal(again(QUERIES[1][None]), ours(QUERIES[1][None]))
    assert all(p.requires_grad for p in again.parameters())
    with torch.no_grad():
        ours.decoder.final_norm.bias += 1
    ours.save_checkpoint(folder)  # an older one is replaced
    assert torch.equal(GPT.from_checkpoint(folder).decoder.final_norm.bias, ours.decoder.final_norm.bias)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_saving_never_destroys_what_it_did_not_write(tmp_path):
    _, ours = pair(tmp_path)
    before = sorted(path.name for path in (tmp_path / "published").iterdir())
    for save in (ours.save_checkpoint, ours.save_pretrained):
        with pytest.raises(CannotWrite, match="left alone"):
            save(tmp_path / "published")
    assert sorted(path.name for path in (tmp_path / "published").iterdir()) == before
    (tmp_path / "file").write_text("mine")
    for save in (ours.save_checkpoint, ours.save_pretrained):
        with pytest.raises(CannotWrite):
            save(tmp_path / "file" / "folder")
    (tmp_path / "empty").mkdir()
    ours.save_checkpoint(tmp_path / "empty")


def test_checkpoints_that_cannot_be_read(tmp_path):
    _, ours = pair(tmp_path)
    folder = ours.save_checkpoint(tmp_path / "own")
    with pytest.raises(MissingAssets, match=r"checkpoint\.json"):
        GPT.from_checkpoint(tmp_path / "published")
    record = json.loads((folder / "checkpoint.json").read_text())
    for change, error, said in (
        ({"kind": "LoRA"}, MissingAssets, "one of LoRA, not of GPT"),
        ({"config": {**record["config"], "n_layer": 3}}, UnsupportedModel, "do not fit"),
        ({"config": {"width": 3}}, UnsupportedModel, "config"),
        ({"config": None}, UnsupportedModel, "config"),
    ):
        (folder / "checkpoint.json").write_text(json.dumps(record | change))
        with pytest.raises(error, match=said):
            GPT.from_checkpoint(folder)


# --------------------------------------------------------------------------------------------- bad input

IDS = torch.ones(2, 3, dtype=torch.long)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((torch.ones(3, dtype=torch.long),), "(B, T)"),
        ((torch.ones(0, 3, dtype=torch.long),), "(B, T)"),
        ((torch.ones(2, 3),), "integers"),
        ((IDS * VOCABULARY,), "outside the vocabulary of 60"),
        ((-IDS,), "outside the vocabulary"),
        ((torch.ones(1, 65, dtype=torch.long),), "65 tokens exceed the model's 64"),
        ((IDS, torch.ones(2, 4)), "does not fit"),
        ((IDS, torch.ones(1, 3)), "does not fit"),
        ((IDS, torch.ones(3)), "does not fit"),
    ],
)
def test_bad_input_is_named(args, said):
    model = GPT(GPTConfig(vocab_size=60, n_positions=64, n_embd=8, n_layer=1, n_head=2))
    with pytest.raises(BadRollout, match=re.escape(said)) as caught:
        model(*args)
    assert re.search("[一-鿿]", caught.value.zh)


@pytest.mark.parametrize(
    ("queries", "new", "settings", "said"),
    [
        ([], 3, {}, "non-empty list"),
        (torch.ones(2, 3), 3, {}, "non-empty list"),
        ([torch.tensor([], dtype=torch.long)], 3, {}, r"queries[0] must be a non-empty"),
        ([IDS[0], torch.ones(3)], 3, {}, r"queries[1] must be a non-empty 1-D integer"),
        ([IDS], 3, {}, "1-D"),
        ([IDS[0] * 99], 3, {}, "outside the vocabulary"),
        ([IDS[0]], 0, {}, "at least 1"),
        ([IDS[0]], [2, 2], {}, "2 entries for 1 queries"),
        ([IDS[0]], 62, {}, "3 tokens; 62 more exceed the model's 64"),
        ([IDS[0]], 2, {"temperature": 0}, "do_sample=False"),
        ([IDS[0]], 2, {"top_k": -1}, "top_k=-1"),
        ([IDS[0]], 2, {"top_p": 0.0}, "top_p=0.0"),
        ([IDS[0]], 2, {"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_queries_are_named(queries, new, settings, said):
    model = GPT(GPTConfig(vocab_size=60, n_positions=64, n_embd=8, n_layer=1, n_head=2, eos_token_id=None))
    with pytest.raises(BadRollout, match=re.escape(said)):
        model.batch_generate(queries, new, **settings)


def test_generate_checks_its_prompt_too():
    model = GPT(GPTConfig(vocab_size=60, n_positions=8, n_embd=8, n_layer=1, n_head=2, eos_token_id=None))
    for prompt, new in ((IDS, 2), (IDS[0] * 99, 2), (IDS[0], 6)):
        with pytest.raises(BadRollout):
            model.generate(prompt, new)
    assert len(model.generate(IDS[0], 5)) == 5


def test_the_parts_have_the_names_that_the_lesson_uses():
    model = GPT(GPTConfig(vocab_size=60, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    assert isinstance(model.decoder, TransformerDecoder)
    assert published.published_name("decoder.blocks.0.attention.qkv.weight") == "h.0.attn.c_attn.weight"
