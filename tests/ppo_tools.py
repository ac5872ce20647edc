"""Tiny models and data for the PPO tests: random weights, seconds to train, written to a temporary folder."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rlhf.ppo import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer

VOCABULARY = 60
EOS = 59
SPECIAL = {"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": EOS}
TEXT = "this movie was really good bad and the plot felt slow but I liked every scene of it so much"
WORDS = TEXT.split()


def tiny_lm(kind: str = "gpt2", seed: int = 0, **changes):
    """A random causal LM with a vocabulary of 60 and 64 positions; wide initial weights give it opinions."""
    torch.manual_seed(seed)
    common = {"vocab_size": VOCABULARY, "initializer_range": 0.3, **SPECIAL}
    llama = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
    }
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
        return GPT2LMHeadModel(GPT2Config(**common | sizes | changes)).eval()
    if kind == "opt":  # OPT-350m's oddities: post-LN, and embeddings narrower than the hidden states
        sizes = {
            "hidden_size": 32,
            "word_embed_proj_dim": 16,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 64,
            "do_layer_norm_before": False,
            "init_std": 0.3,
        }
        return OPTForCausalLM(OPTConfig(**common | sizes | changes)).eval()
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**common | llama | changes)).eval()
    return Qwen2ForCausalLM(Qwen2Config(**common | llama | changes)).eval()


def tiny_policy(kind: str = "gpt2", seed: int = 0, **changes) -> AutoModelForCausalLMWithValueHead:
    return AutoModelForCausalLMWithValueHead(tiny_lm(kind, seed, **changes), seed=seed)


def tiny_trainer(model=None, ref_model=None, tokenizer=None, dataset=None, **settings) -> PPOTrainer:
    """A trainer on 8 rollouts that logs nothing unless told to."""
    settings = {"batch_size": 8, "mini_batch_size": 8, "log_with": "none"} | settings
    model = model or tiny_policy()
    return PPOTrainer(PPOConfig(**settings), model, ref_model, tokenizer=tokenizer, dataset=dataset)


def rollouts(n: int = 8, seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Ragged random queries (2 to 5 tokens), responses (1 to 7) and scores."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.stack([torch.randint(2, 6, (n,), generator=g), torch.randint(1, 8, (n,), generator=g)], 1)
    draw = [[torch.randint(0, EOS, (int(k),), generator=g) for k in pair] for pair in lengths]
    scores = list(torch.randn(n, generator=g))
    return [q for q, _ in draw], [r for _, r in draw], scores


def tiny_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with one special token, trained on the spot, as GPT-2's: no pad token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)


def llama_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """As Llama-2's: ``<s>`` in front of every text, ``</s>`` where it ends, and no pad token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = dict(zip(("unk_token", "bos_token", "eos_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def tiny_reviews(n: int = 64, seed: int = 0) -> list[str]:
    """Texts longer than 200 characters."""
    g = torch.Generator().manual_seed(seed)
    picks = torch.randint(0, len(WORDS), (n, 60), generator=g).tolist()
    return [" ".join(WORDS[i] for i in row) for row in picks]


def save_world(folder: Path) -> tuple[Path, Path, list[str]]:
    """A GPT-2 policy and a DistilBERT sentiment classifier in the layout of the hub, and the reviews."""
    reviews = tiny_reviews()
    tokenizer = tiny_tokenizer(reviews)
    policy, judge = folder / "policy", folder / "sentiment"
    end = tokenizer.eos_token_id
    ids = {"vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end, "pad_token_id": None}
    tiny_lm(**ids, initializer_range=0.05).save_pretrained(policy)
    tokenizer.save_pretrained(policy)
    torch.manual_seed(1)
    config = DistilBertConfig(
        vocab_size=len(tokenizer) + 1,
        dim=32,
        hidden_dim=64,
        n_layers=1,
        n_heads=2,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
    )
    DistilBertForSequenceClassification(config).save_pretrained(judge)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(judge)
    return policy, judge, reviews
