"""The museum: published configurations give the published counts, and what is said about them is measured."""

import hashlib
import json

import pytest
import torch
from torch import nn

from rlhf import anatomy, museum
from rlhf.assets import CHECKOUT

# config.json of two repositories at the commits that assets.lock pins, byte for byte
GPT2 = """{
  "activation_function": "gelu_new",
  "architectures": [
    "GPT2LMHeadModel"
  ],
  "attn_pdrop": 0.1,
  "bos_token_id": 50256,
  "embd_pdrop": 0.1,
  "eos_token_id": 50256,
  "initializer_range": 0.02,
  "layer_norm_epsilon": 1e-05,
  "model_type": "gpt2",
  "n_ctx": 1024,
  "n_embd": 768,
  "n_head": 12,
  "n_layer": 12,
  "n_positions": 1024,
  "resid_pdrop": 0.1,
  "summary_activation": null,
  "summary_first_dropout": 0.1,
  "summary_proj_to_labels": true,
  "summary_type": "cls_index",
  "summary_use_proj": true,
  "task_specific_params": {
    "text-generation": {
      "do_sample": true,
      "max_length": 50
    }
  },
  "vocab_size": 50257
}"""
QWEN = """{
  "architectures": [
    "Qwen2ForCausalLM"
  ],
  "attention_dropout": 0.0,
  "bos_token_id": 151643,
  "eos_token_id": 151645,
  "hidden_act": "silu",
  "hidden_size": 896,
  "initializer_range": 0.02,
  "intermediate_size": 4864,
  "max_position_embeddings": 32768,
  "max_window_layers": 21,
  "model_type": "qwen2",
  "num_attention_heads": 14,
  "num_hidden_layers": 24,
  "num_key_value_heads": 2,
  "rms_norm_eps": 1e-06,
  "rope_theta": 1000000.0,
  "sliding_window": 32768,
  "tie_word_embeddings": true,
  "torch_dtype": "bfloat16",
  "transformers_version": "4.43.1",
  "use_cache": true,
  "use_sliding_window": false,
  "vocab_size": 151936
}
"""


@pytest.mark.parametrize("name", museum.names())
def test_counts_are_the_published_ones(name):
    model = museum.build(name)
    assert anatomy.count(model) == museum.card(name).published
    assert sum(anatomy.by_kind(model).values()) == museum.card(name).published
    assert {w.device.type for w in model.parameters()} == {"meta"}
    assert museum.card(name).source.startswith("https://")


def test_the_configurations_are_those_of_the_pinned_files():
    lock = (CHECKOUT / "assets.lock").read_text(encoding="utf-8")
    blob = f"blob {len(QWEN)}\0{QWEN}".encode()
    for name, text, digest in (
        ("gpt2", GPT2, hashlib.sha256(GPT2.encode()).hexdigest()),
        ("qwen2.5-0.5b", QWEN, hashlib.sha1(blob).hexdigest()),
    ):
        assert digest in lock and museum.card(name).revision in lock
        published = json.loads(text)
        assert dict(museum.card(name).config) == {key: published[key] for key in museum.card(name).config}


@pytest.mark.parametrize("name", [name for name, card in museum.exhibits().items() if card.file])
def test_the_published_files_have_room_for_the_weights_and_little_more(name):
    exhibit = museum.card(name)
    masks = 12 * 1024 * 1024 * 4 if name == "gpt2" else 0  # GPT-2's file holds its causal masks
    rest = exhibit.file["bytes"] - exhibit.published * exhibit.file["each"] - masks
    assert 0 < rest < 100_000  # the header: names and shapes


def test_the_table_says_what_the_papers_say():
    table = museum.table()
    assert list(table["block order"]) == ["pre-LN", "pre-LN", "post-LN", "post-LN (DeepNorm)"] + [
        "pre-LN"
    ] * 3 + ["post-LN"]
    assert list(table["norm"]) == ["LayerNorm"] * 4 + ["RMSNorm"] * 3 + ["LayerNorm"]
    assert [entry.split()[0] for entry in table["FFN or GLU"]] == ["FFN"] * 4 + ["GLU"] * 3 + ["FFN"]
    assert table.loc["ChatGLM2-6B", "attention"] == "GQA (32 → 2)"
    assert table.loc["ChatGLM2-6B", "position"] == "RoPE on 50% of a head"
    assert list(table["tied head"]) == ["yes"] * 4 + ["no", "no", "yes", "no LM head"]
    assert list(table["pad token"]) == ["none", "1", "1", "3", "0", "none", "none", "0"]
    assert list(table["activation"])[:4] == ["GELU (tanh)", "ReLU", "ReLU", "GELU (tanh)"]


def test_shares_add_up_and_show_the_gate():
    shares = museum.shares()
    assert shares.sum(axis=1).round(9).eq(1).all()
    assert shares.loc["ChatGLM2-6B", "ffn"] > shares.loc["ChatGLM-6B", "ffn"] > shares["attention"].max()


def test_opt_350m_is_the_odd_one():
    odd, sibling = museum.steps("opt-350m"), museum.steps("opt-125m")
    assert anatomy.pattern(odd) == ("attention", "norm", "ffn", "norm")
    assert anatomy.pattern(sibling) == ("norm", "attention", "norm", "ffn")
    outline = [
        (step.path.rsplit(".", 1)[-1], step.width_out) for step in anatomy.outline(museum.build("opt-350m"))
    ]
    assert (
        ("embed_tokens", 512) in outline
        and ("project_in", 1024) in outline
        and ("project_out", 512) in outline
    )


def test_the_norm_before_attention_in_chatglm_is_not_pre_ln():
    assert anatomy.pattern(museum.steps("chatglm-6b")) == anatomy.pattern(museum.steps("gpt2"))
    assert (
        anatomy.highway(museum.build("chatglm-6b", small=True))
        < 1.01
        < anatomy.highway(museum.build("gpt2", small=True))
    )


def test_small_copies_run_and_are_the_same_every_time():
    for name in museum.names():
        state = torch.random.get_rng_state()
        one, two = museum.build(name, small=True), museum.build(name, small=True)
        assert torch.equal(state, torch.random.get_rng_state())  # the lesson's own draws stay as they are
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
        same, full = anatomy.Anatomy.of(one), museum.facts(name)
        assert (same.gated, same.norm, same.activation, same.cached) == (
            full.gated,
            full.norm,
            full.activation,
            full.cached,
        )
        assert (same.kv_heads == same.heads) == (full.kv_heads == full.heads)


def test_chatglm_reads_only_backwards_and_its_cache_changes_nothing():
    model = museum.build("chatglm-6b", small=True)
    ids = torch.arange(12)[None] + 5
    with torch.no_grad():
        whole = model(ids, use_cache=True)
        other = model(torch.cat([ids[:, :-1], ids[:, :1]], dim=1)).logits
        torch.testing.assert_close(whole.logits[:, :-1], other[:, :-1])  # the last token is seen by nobody
        cache = model(ids[:, :-1], use_cache=True).past_key_values
        step = model(ids[:, -1:], past_key_values=cache).logits
    torch.testing.assert_close(step[:, -1], whole.logits[:, -1])
    assert whole.past_key_values.layers[0].keys.shape == (1, 4, 12, 16)


def test_chatglm_rotates_by_relative_position():
    """The score of a query and a key depends on how far apart they stand, and only in the first half."""
    attention = museum.build("chatglm-6b", small=True).transformer.layers[0].attention
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 4, 1, 16)

    def score(at, to):
        turned = [attention.rotate(x, torch.tensor([[[n], [0]]])) for x, n in ((query, at), (key, to))]
        return (turned[0] * turned[1]).sum(-1)

    torch.testing.assert_close(score(9, 4), score(25, 20))
    assert not torch.allclose(score(9, 4), score(9, 5))
    turned = attention.rotate(query, torch.tensor([[[7], [0]]]))
    assert torch.equal(turned[..., 8:], query[..., 8:])  # the position in the block is 0


def test_a_changed_configuration_changes_the_model():
    larger = museum.build("chatglm-6b", vocab_size=150_528)
    assert anatomy.count(larger) - museum.card("chatglm-6b").published == (150_528 - 130_528) * 4096


def test_unknown_names_are_explained():
    with pytest.raises(museum.NoExhibit, match=r"no 'gpt-5'.*chatglm2-6b"):
        museum.build("gpt-5")


def test_anatomy_of_the_profiles_shapes():
    """GPT-2 with a value head, and a classifier: what the course trains."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    from rlhf.ppo import AutoModelForCausalLMWithValueHead

    policy = AutoModelForCausalLMWithValueHead(museum.build("gpt2", small=True))
    facts = anatomy.Anatomy.of(policy)
    assert (facts.layers, facts.hidden, facts.kv_heads, facts.vocab, facts.cached) == (2, 64, 4, 211, True)
    config = DistilBertConfig(**museum.card("distilbert").fields(small=True), num_labels=2)
    classifier = DistilBertForSequenceClassification(config)
    facts = anatomy.Anatomy.of(classifier)
    assert (facts.layers, facts.vocab, facts.cached) == (2, 0, False)
    assert anatomy.by_kind(classifier)["head"] == 64 * 64 + 64 + 64 * 2 + 2
    classifier.train()
    anatomy.forward(classifier)
    assert classifier.training


def test_hooks_are_gone_after_a_look():
    model = museum.build("llama-2-7b", small=True)
    anatomy.first_block(model), anatomy.outline(model), anatomy.highway(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_is_no_transformer_is_refused():
    with pytest.raises(anatomy.NoTransformer, match="Sequential"):
        anatomy.blocks(nn.Sequential(nn.Linear(2, 2)))


def test_widths_tell_a_gate_whatever_the_layout():
    for name, gated in (("chatglm2-6b", True), ("llama-2-7b", True), ("chatglm-6b", False), ("gpt2", False)):
        up, down = anatomy.ffn_widths(museum.steps(name))  # one fused matrix, two matrices, none
        assert (up == 2 * down) is gated and (up == down) is not gated
    square = museum.build("llama-2-7b", small=True, intermediate_size=64)  # as wide as the hidden state
    assert anatomy.Anatomy.of(square).gated and anatomy.Anatomy.of(square).ffn == 64
