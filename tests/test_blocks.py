"""The parts of a transformer block against PyTorch and transformers, and what a mask must not let through."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from rlhf import blocks
from rlhf.errors import CourseError


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_attention_is_pytorchs():
    query, key, value = (numbers(2, 3, 5, 8, seed=i) for i in range(3))  # (B, heads, T, d)
    output, weights = blocks.attention(query, key, value)
    assert_close(output, F.scaled_dot_product_attention(query, key, value), atol=1e-5, rtol=1e-5)
    assert_close(weights.sum(-1), torch.ones(2, 3, 5))
    causal, weights = blocks.attention(query, key, value, blocks.causal_mask(5))
    assert_close(
        causal, F.scaled_dot_product_attention(query, key, value, is_causal=True), atol=1e-5, rtol=1e-5
    )
    assert torch.equal(weights, weights.tril()), "no weight on the future"


def test_a_padded_batch_gives_what_each_text_gives_alone():
    attention_mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]])
    x, layer = numbers(3, 4, 8), blocks.SelfAttention(8, 2)
    output = layer(x, blocks.visible(attention_mask))
    assert output.isfinite().all(), "a padded row must not be a softmax over nothing"
    for row, mask in enumerate(attention_mask.bool()):
        alone = layer(x[row, mask][None], blocks.causal_mask(int(mask.sum())))
        assert_close(output[row, mask], alone[0], atol=1e-5, rtol=1e-5)


def test_visible_wants_two_dimensions():
    with pytest.raises(CourseError, match=r"\(B, T\)"):
        blocks.visible(torch.ones(4))


def test_positions_start_at_the_first_real_token():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]])
    positions = blocks.position_ids(mask)
    assert positions.tolist()[:2] == [[0, 0, 0, 1], [0, 1, 2, 3]] and positions[2, :2].tolist() == [0, 1]
    assert (positions >= 0).all() and (positions < 4).all()


def test_heads_split_features_and_not_tokens():
    x = numbers(2, 5, 12)
    heads = blocks.split_heads(x, 3)
    assert heads.shape == (2, 3, 5, 4)
    assert_close(heads[1, 2, 3], x[1, 3, 8:])
    assert torch.equal(blocks.merge_heads(heads), x)
    with pytest.raises(CourseError, match="5 heads"):
        blocks.SelfAttention(12, 5)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_block_is_gpt2s(implementation):
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 12, "vocab_size": 30}
    config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, initializer_range=0.3)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    model.set_attn_implementation(implementation)
    ids, mask = torch.randint(30, (2, 6)), torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    positions = blocks.position_ids(mask)
    states = model(ids, attention_mask=mask, position_ids=positions, output_hidden_states=True).hidden_states
    theirs, ours = model.transformer.h[0], blocks.Block(16, 2, blocks.FFN(16, 64, "gelu_tanh", bias=True))
    for here, there in (
        ("norm_1", "ln_1"),
        ("attention.qkv", "attn.c_attn"),
        ("attention.out", "attn.c_proj"),
        ("norm_2", "ln_2"),
        ("mlp.up", "mlp.c_fc"),
        ("mlp.down", "mlp.c_proj"),
    ):
        source, target = theirs.get_submodule(there), ours.get_submodule(here)
        target.weight.data = source.weight.T.clone() if source.weight.dim() == 2 else source.weight
        target.bias.data = source.bias
    live = mask.bool()
    assert_close(ours(states[0], blocks.visible(mask))[live], states[1][live], atol=1e-5, rtol=1e-5)


def test_pre_ln_leaves_the_stream_alone_and_post_ln_does_not():
    class Silent(nn.Module):
        def forward(self, x):
            return torch.zeros_like(x)

    x = 7 * numbers(2, 3, 8)
    pre, post = (blocks.Block(8, 2, Silent(), pre=pre) for pre in (True, False))
    for block in (pre, post):
        nn.init.zeros_(block.attention.out.weight)
        nn.init.zeros_(block.attention.out.bias)
    assert torch.equal(pre(x), x)
    assert_close(post(x).std(-1, unbiased=False), torch.ones(2, 3), atol=1e-3, rtol=0)


def test_the_block_takes_other_norms_and_a_glu():
    block = blocks.Block(8, 2, blocks.GLU(8, 20), norm=nn.RMSNorm)
    assert block(numbers(1, 4, 8), blocks.causal_mask(4)).shape == (1, 4, 8)
    assert not any("norm" in name and "bias" in name for name, _ in block.named_parameters())


def test_swiglu_is_llamas():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    theirs, ours = LlamaMLP(LlamaConfig(hidden_size=64, intermediate_size=20)), blocks.GLU(64, 20)
    ours.load_state_dict({name.replace("_proj", ""): weight for name, weight in theirs.state_dict().items()})
    assert_close(ours(numbers(2, 64)), theirs(numbers(2, 64)), atol=1e-5, rtol=1e-5)


def test_every_gate_bends_the_gate_and_not_what_passes():
    x = numbers(3, 6)
    for kind, activation in blocks.GATES.items():
        layer = blocks.GLU(6, 4, kind)
        gate, passed = x @ layer.gate.weight.T, x @ layer.up.weight.T
        assert_close(layer(x), (blocks.ACTIVATIONS[activation](gate) * passed) @ layer.down.weight.T)
    assert_close(blocks.ACTIVATIONS["silu"](x), x * torch.sigmoid(x))


def test_matched_hidden_gives_equally_many_weights():
    ffn, glu = blocks.FFN(96, 384), blocks.GLU(96, blocks.matched_hidden(384))
    count = [sum(p.numel() for p in layer.parameters()) for layer in (ffn, glu)]
    assert count[0] == count[1]
    assert blocks.matched_hidden(4 * 4096, 256) == 11008  # Llama-7B
    assert blocks.matched_hidden(10) == 7  # rounded up


def test_rotary_scores_depend_on_the_distance_only():
    q, k = numbers(2, 16).double()

    def score(m, n):
        at = [blocks.rotary_angles(torch.tensor(p).double(), 16) for p in (m, n)]
        return blocks.rotate(q, at[0]) @ blocks.rotate(k, at[1])

    assert_close(score(7, 3), score(1007, 1003))
    assert_close(score(0, 0), q @ k)
    assert torch.stack([score(7, n) for n in range(7)]).std() > 0.1, "other distances, other scores"


def test_rotation_is_that_of_transformers():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q, angles = numbers(1, 2, 5, 8), blocks.rotary_angles(torch.arange(5), 8)
    whole = torch.cat((angles, angles), -1)[None]
    theirs, _ = apply_rotary_pos_emb(q, q, whole.cos(), whole.sin())
    assert_close(blocks.rotate(q, angles), theirs, atol=1e-5, rtol=1e-5)
    assert_close(blocks.rotate(q, angles).norm(dim=-1), q.norm(dim=-1))
