"""PPO for language models, one readable trainer: ``generate`` → score → ``step`` → ``log_stats``.

In: a policy with a value head, a frozen reference, rollouts and their scores. Out: an updated policy and
the statistics of the step. Lesson 06 takes ``step`` apart, lesson 07 trains with it.

Names, defaults and numbers are those of TRL 0.11.4 (its ``PPOTrainer.step``), except where that is wrong or
surprising. Every deliberate departure:

1.  Rollouts are sampled with dropout off, always, and the model is left in eval mode. TRL leaves it in
    train mode after a step, so that later batches come from a policy that nobody scores.
2.  Gradients are clipped before *every* update. TRL's parameter iterator is empty after the first one.
3.  ``ratio_threshold`` really leaves a minibatch out (one whose loss is not finite too): no gradient, and
    no optimiser step if nothing is left. TRL multiplies the loss by zero, which still moves the weights by
    momentum, and makes inf into nan.
4.  Whitened rewards and whitened advantages are 0 outside the mask; in TRL the mean leaks into the padding
    and from there through the recursion into real tokens.
5.  ``use_score_scaling`` works (TRL: AttributeError); constant scores are not divided by zero.
6.  Sequences are padded on the right for training whatever the tokenizer prefers, where positions are
    correct; TRL's are wrong under left padding. Padding on the left is used for sampling only, with
    positions from the mask.
7.  Gradient accumulation accumulates on every batch; with TRL the last one of an epoch does not. As in TRL
    it takes the mean of minibatch means; ``accumulate_by_tokens=True`` weighs by tokens, which equals one
    large minibatch.
8.  The value head is drawn from a seed of its own, without the dropout layer that no forward of TRL's step
    uses. Minibatch permutations and the data loader have generators of their own too, seeded by
    ``config.seed``.
9.  ``generate`` samples from the full softmax unless told otherwise, whatever the model's generation
    settings say; a ``length_sampler`` draws one length per query (TRL: one per chunk); ``batch_size``
    defaults to the minibatch; without a length it writes 20 new tokens; and only an EOS in the response
    ends it, not one in the prompt.
10. Rollouts and scores are checked before anything changes, KL coefficient and running statistics included;
    wrong ones raise :class:`~rlhf.errors.BadRollout`. A batch may also give its scores as one tensor
    ``(B,)`` or floats.
11. The ratio is taken as 1 outside the mask, so that an overflow in the prompt cannot become nan. Scalars
    are finite Python floats; a standard deviation of one number is 0.
12. Logging works without settings: TensorBoard under ``output/ppo/runs``, W&B offline, both opened by the
    first ``log_stats``; ``"none"`` switches it off. Histograms of advantages and ratios hold response
    tokens only; ``ppo/policy/grad_norm`` is new.
13. Gradient checkpointing has an effect; in TRL it has none, because the forward runs in eval mode.
    Gradients that an interrupted step left behind are dropped. Several processes take the step that one
    process would take with all their rollouts: minibatches are drawn from the common batch, and whitening,
    losses, KL, brakes and statistics are those of that batch (TRL whitens and shuffles within each process).
    Each samples from its own seed.
14. :meth:`PPOTrainer.save_state` and ``load_state`` are new, and ``dataloader`` knows its place for them;
    so are ``config.optimizer``, a name, and ``response_only``, ``fused`` (:mod:`rlhf.ppo.lean`),
    ``reuse_sampling`` (:mod:`rlhf.ppo.written`) and ``compile_sampling`` (:mod:`rlhf.static`).
15. With FSDP2 the weights are shared out among the processes and gathered whole while sampling, so
    ``generate`` has to be called by all of them: :mod:`rlhf.ppo.sharding`. Not here: DeepSpeed,
    encoder-decoder models, uploading to a hub, shared layers.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import nn

from .. import sampling
from ..errors import BadRollout
from . import identity, lean, losses, models, processes, sharding, state, trackers
from . import stats as reporting
from .config import BadConfig, PPOConfig
from .kl import AdaptiveKLController, FixedKLController
from .optimizers import build_optimizer
from .prompts import PromptLoader, shuffled_batches
from .rollouts import Experience, RolloutBatch, check_rollouts
from .scores import RunningMoments
from .stats import Clock
from .value_head import AutoModelForCausalLMWithValueHead, create_reference_model
from .written import Written

DEFAULT_NEW_TOKENS = 20


class PPOTrainer:
    """Trains ``model`` to score high while staying close to ``ref_model``.

    Attributes: ``model``, ``ref_model``, ``tokenizer``, ``config``, ``accelerator``, ``optimizer``,
    ``dataloader`` (shuffled batches of ``config.batch_size``, or None), ``kl_ctl`` (its ``value`` is beta),
    ``current_step``, and after a step ``experience`` (every intermediate) and ``passes`` (the statistics of
    every minibatch).
    """

    def __init__(
        self,
        config: PPOConfig | None = None,
        model: AutoModelForCausalLMWithValueHead | None = None,
        ref_model: nn.Module | None = None,
        tokenizer=None,
        dataset=None,
        optimizer: torch.optim.Optimizer | None = None,
        data_collator: Callable | None = None,
        lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    ):
        """``ref_model=None`` freezes a copy of the policy (or, with a PEFT adapter, uses it without the
        adapter); ``ref_model`` may also be a plain causal LM. ``dataset`` has a column ``input_ids`` of
        token ids; ``data_collator`` makes lists of columns unless given. ``optimizer`` takes the place of
        the one that ``config`` names. ``lr_scheduler`` is stepped once per PPO step.
        """
        self.config = config or PPOConfig()
        models.check(model, ref_model)
        self.accelerator = trackers.build_accelerator(self.config)
        self.sharded = sharding.check(self.accelerator, self.config)
        set_seed(self.config.seed, device_specific=True)  # every process samples texts of its own
        self.permutations = np.random.RandomState(self.config.seed)  # of minibatches, independent of sampling
        self.tokenizer = tokenizer
        if ref_model is None and not model.is_peft_model:
            ref_model = create_reference_model(model)
        if self.config.fused:
            lean.fuse_activations(*(m for m in (model, ref_model) if m is not None))
        self.checkpointed = models.checkpoint_activations(model) if self.config.gradient_checkpointing else []
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = optimizer or build_optimizer(
            self.config.optimizer, self.parameters, self.config.learning_rate
        )
        if self.config.fused:
            lean.fuse_update(optimizer)
            if self.accelerator.num_processes == 1 and not self.sharded:  # what is exchanged has to be whole
                lean.spare_embedding_gradient(model)
        self.model, self.optimizer, self.ref_model = sharding.prepare(
            self.accelerator, model, optimizer, ref_model
        )
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]  # shards are other ones
        self.lr_scheduler = lr_scheduler
        self.dataset = dataset
        self.dataloader: PromptLoader | None = None
        if dataset is not None:
            self.dataloader = shuffled_batches(dataset, data_collator, self.config, self.accelerator)
        self.kl_ctl = self._build_kl_controller()
        self.running = RunningMoments()
        self.written = Written(limit=4 * self.config.batch_size)
        self.current_step = 0
        self.experience: Experience | None = None
        self.passes: list[reporting.PassStats] = []
        self.resumed = self.unfinished = False  # continued from a saved state; interrupted within a step
        self._logging = False

    def _build_kl_controller(self) -> AdaptiveKLController | FixedKLController:
        if self.config.adap_kl_ctrl:
            return AdaptiveKLController(self.config.init_kl_coef, self.config.target, self.config.horizon)
        return FixedKLController(self.config.init_kl_coef)

    @property
    def policy(self) -> AutoModelForCausalLMWithValueHead:
        """The model without whatever Accelerate wrapped around it."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def current_device(self) -> torch.device:
        """Where the policy computes."""
        return self.accelerator.device

    @property
    def pad_token_id(self) -> int:
        """The tokenizer's, else the model's, else EOS; its value never changes a number that counts."""
        config = self.policy.config
        ids = (
            getattr(self.tokenizer, "pad_token_id", None),
            getattr(self.tokenizer, "eos_token_id", None),
            config.pad_token_id,
            config.eos_token_id,
        )
        vocabulary = self.policy.get_input_embeddings().num_embeddings
        return next((i for i in ids if isinstance(i, int) and 0 <= i < vocabulary), 0)

    # --------------------------------------------------------------------------------------- rollouts

    def generate(
        self,
        query_tensor: torch.Tensor | Sequence[torch.Tensor],
        length_sampler: Callable[[], int] | None = None,
        batch_size: int | None = None,
        return_prompt: bool = True,
        generate_ref_response: bool = False,
        **generation_kwargs,
    ):
        """Sample a response to every query, from the full softmax unless ``generation_kwargs`` change it.

        One query ``(Q,)`` gives a tensor ``(1, Q + R)``; a list of queries gives a list of 1-D tensors,
        computed ``batch_size`` at a time (default: ``config.mini_batch_size``, or the large minibatch that
        ``config.accumulate_by_tokens`` puts together). ``return_prompt=False``
        leaves the query out. Lengths: ``length_sampler()`` is called once per query, or ``max_new_tokens``
        is a number or one per query. ``generate_ref_response=True`` returns ``(responses, responses of the
        reference)``. A model in shards is gathered first, by all processes together. Raises
        :class:`BadRollout` for empty or malformed queries.
        """
        single = isinstance(query_tensor, torch.Tensor)
        queries = [query_tensor] if single else query_tensor
        settings = dict(generation_kwargs)
        limits = self._response_limits(queries, length_sampler, settings)
        settings.setdefault("pad_token_id", self.pad_token_id)
        settings.setdefault("eos_token_id", getattr(self.tokenizer, "eos_token_id", None))
        if self.config.compile_sampling:
            settings.setdefault("compiled", True)

        def write(model: nn.Module):
            whole = self.config.accumulate_by_tokens
            size = batch_size or (self.config.backward_batch_size if whole else self.config.mini_batch_size)
            noting = self.config.reuse_sampling and model is self.policy
            head = self.policy.v_head if noting else None
            with sharding.whole(model), self.accelerator.autocast():
                rollout = sampling.generate(
                    model, queries, limits, batch_size=size, value_head=head, **settings
                )
            self.written.add(rollout)
            texts = rollout.sequences if return_prompt else rollout.responses
            return texts[0].unsqueeze(0) if single else texts

        if not generate_ref_response:
            return write(self.policy)
        responses = write(self.policy)
        with self._reference() as reference:
            return responses, write(self.accelerator.unwrap_model(reference))

    def _response_limits(
        self, queries: Sequence, length_sampler: Callable | None, settings: dict
    ) -> int | list[int]:
        """How many tokens to write at most, taken out of the generation settings."""
        new_tokens, total = settings.pop("max_new_tokens", None), settings.pop("max_length", None)
        if length_sampler is not None:  # drawn for every process, so that equally seeded ones differ
            everyones = [int(length_sampler()) for _ in range(len(queries) * self.accelerator.num_processes)]
            return everyones[self.own_rows(len(everyones))]
        if new_tokens is None and total is not None:
            return [total - len(q) for q in queries]
        return DEFAULT_NEW_TOKENS if new_tokens is None else new_tokens

    # --------------------------------------------------------------------------------------- the step

    def step(
        self,
        queries: Sequence[torch.Tensor],
        responses: Sequence[torch.Tensor],
        scores: Sequence[torch.Tensor] | torch.Tensor,
        response_masks: Sequence[torch.Tensor] | None = None,
    ) -> dict:
        """Learn from one batch of ``config.batch_size`` rollouts and return its statistics.

        ``queries`` and ``responses`` are lists of 1-D token tensors, ``scores`` one number per rollout,
        ``response_masks`` (optional) 0/1 tensors that leave response tokens out. Raises :class:`BadRollout`
        before anything is updated if one of them cannot be trained on.
        """
        clock = Clock()
        rollouts = self.validate(queries, responses, scores, response_masks)
        self.unfinished = True  # until the end: an interrupt leaves parameters that belong to no step
        with clock("forward_pass"):
            experience = self.forward_rollouts(rollouts)
        with clock("compute_rewards"):
            self.compute_rewards(experience, rollouts.scores)
        with clock("compute_advantages"):
            self.compute_advantages(experience)
        with clock("optimize_step"):
            passes = self.optimise(experience)
        with clock("calc_stats"):
            result = self.statistics(experience, rollouts, passes)
        self.kl_ctl.update(result["objective/kl"], self.config.batch_size * self.accelerator.num_processes)
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        self.experience, self.passes = experience, passes
        self.current_step += 1
        if isinstance(self.dataloader, PromptLoader):
            self.dataloader.used()
        self.unfinished = False
        return result | clock.times()

    def validate(
        self,
        queries: Sequence[torch.Tensor],
        responses: Sequence[torch.Tensor],
        scores: Sequence[torch.Tensor] | torch.Tensor,
        response_masks: Sequence[torch.Tensor] | None = None,
    ) -> RolloutBatch:
        """Check the input of a step and pad it; changes nothing. Returns the rollouts of all processes."""
        policy, rollouts, problem = self.policy, None, None
        try:
            rollouts = check_rollouts(
                queries,
                responses,
                scores,
                response_masks,
                batch_size=self.config.batch_size,
                vocab_size=policy.get_input_embeddings().num_embeddings,
                max_length=getattr(policy.config, "max_position_embeddings", None),
                pad_token_id=self.pad_token_id,
                device=self.current_device,
            )
        except BadRollout as error:
            problem = error
        processes.raise_everywhere(self.accelerator, problem)
        return processes.join_rollouts(self.accelerator, rollouts, self.pad_token_id)

    def own_rows(self, total: int) -> slice:
        """Which of the batch's ``total`` rows this process computes; alone: all."""
        return processes.own_rows(self.accelerator, total)

    @torch.no_grad()
    def forward_rollouts(self, rollouts: RolloutBatch) -> Experience:
        """What policy and reference say about the rollouts: log-probs, values, KL; by minibatches."""
        self.model.eval()
        own, size = self.own_rows(len(rollouts.input_ids)), self.config.mini_batch_size
        order = torch.arange(own.start, own.stop, device=self.current_device)
        if self.config.response_only:
            order = lean.like_lengths_together(rollouts.attention_mask, order)
            if self.current_device.type == "cpu":
                size = (size + 1) // 2  # a small pass costs nothing here, and has less padding
        known = self._from_sampling(rollouts, own)
        parts = [self._both_models(rollouts, rows, known) for rows in order.split(size)]
        columns = (torch.cat(column)[order.argsort()] for column in zip(*parts, strict=True))  # (b, T-1) each
        logprobs, ref_logprobs, kl, values = (processes.join(self.accelerator, c) for c in columns)
        models.check_finite(logprobs, ref_logprobs, values)
        return Experience(
            rollouts.input_ids, rollouts.attention_mask, rollouts.mask, logprobs, ref_logprobs, kl, values
        )

    def _from_sampling(self, rollouts: RolloutBatch, own: slice) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The policy's log-probs and values as it noted them when it wrote, in all their rows; None if it did
        not, in any process, for then all of them have to compute."""
        if not self.config.reuse_sampling or self.config.kl_penalty == "full":
            return None
        known = self.written.columns(rollouts, own)
        missing = torch.tensor([float(known is None)], device=self.current_device)
        if self._largest(missing):
            return None
        unset = torch.zeros_like(rollouts.mask, dtype=torch.float32)  # the other processes' rows
        return tuple(unset.index_put((torch.arange(own.start, own.stop),), column) for column in known)

    def _both_models(
        self, rollouts: RolloutBatch, rows: torch.Tensor, known: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, ...]:
        """Log-probs of policy (``known`` or computed) and reference, their KL, and values, of some rows;
        ``(b, T-1)`` each."""
        ids, attention_mask = rollouts.input_ids[rows], rollouts.attention_mask[rows]
        if self.config.response_only and self.config.kl_penalty != "full":
            live = lean.Live.of(ids, attention_mask, rollouts.mask[rows])
            logprobs, values = (k[rows] for k in known) if known else self.forward_live(live)[:2]
            ref_logprobs = self.forward_reference_live(live)
        else:
            logprobs, values, logits = self.forward(ids, attention_mask)
            ref_logits = self.forward_reference(ids, attention_mask)
            ref_logprobs = losses.logprobs_from_logits(ref_logits, ids[:, 1:])
        if self.config.kl_penalty == "full":
            kl = losses.kl_penalty(logits.log_softmax(-1), ref_logits.log_softmax(-1), "full")
        else:
            kl = losses.kl_penalty(logprobs, ref_logprobs, self.config.kl_penalty)
        return logprobs, ref_logprobs, kl, values

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One pass of the policy over ``(b, T)``: log-probs and values ``(b, T-1)``, logits with V more."""
        logits, _, values = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        logits = logits[:, :-1]  # the last position predicts a token nobody has written
        return losses.logprobs_from_logits(logits, input_ids[:, 1:]), values[:, :-1], logits

    def forward_reference(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits of the reference, ``(b, T-1, V)``."""
        with self._reference() as reference, self.accelerator.autocast():
            answer = getattr(reference, "forward_backbone", reference)
            output = answer(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return output.logits[:, :-1].float()

    def forward_live(self, live: lean.Live) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """:meth:`forward` where it counts (``config.response_only``): log-probs and values ``(b, T-1)``, and
        entropies ``(n,)`` of the n response positions."""
        with lean.head_at(self.policy.pretrained_model, live.places):
            logits, _, values = self.model(
                input_ids=live.inputs, attention_mask=live.attention_mask, use_cache=False
            )
        logprobs, entropies = lean.TokenLogprobs.apply(logits, live.tokens)
        return live.spread(logprobs), live.widen(values), entropies

    def forward_reference_live(self, live: lean.Live) -> torch.Tensor:
        """The reference's log-probs where they count, ``(b, T-1)``."""
        with self._reference() as reference, self.accelerator.autocast():
            answer = getattr(reference, "forward_backbone", reference)
            with lean.head_at(reference, live.places):
                output = answer(input_ids=live.inputs, attention_mask=live.attention_mask, use_cache=False)
        return live.spread(lean.TokenLogprobs.apply(output.logits.float(), live.tokens)[0])

    @contextlib.contextmanager
    def _reference(self) -> Iterator[nn.Module]:
        """The reference model: a model of its own, or the policy with its adapter switched off."""
        if self.ref_model is not None:
            yield self.ref_model
        else:
            with self.policy.pretrained_model.disable_adapter():
                yield self.policy

    def compute_rewards(self, experience: Experience, scores: torch.Tensor) -> None:
        """Scale and clip the scores ``(B,)``, tax every token by its KL, put the score on the last one."""
        if self.config.use_score_scaling:
            self.running.update(scores)
            scores = self.running.scale(scores, subtract_mean=self.config.use_score_norm)
        if self.config.score_clip is not None:
            scores = scores.clamp(-self.config.score_clip, self.config.score_clip)
        experience.scores = scores
        experience.rewards, experience.non_score_reward = losses.token_rewards(
            scores, experience.kl, experience.mask, self.kl_ctl.value
        )

    def compute_advantages(self, experience: Experience) -> None:
        """Mask, (whiten rewards,) GAE, returns, whiten advantages over the whole batch; in this order."""
        mask = experience.mask
        values, rewards = experience.values_raw * mask, experience.rewards * mask
        if self.config.whiten_rewards:
            rewards = losses.whiten(rewards, mask, shift_mean=False)
        advantages = losses.gae(rewards, values, self.config.gamma, self.config.lam)
        experience.rewards_used, experience.values = rewards, values
        experience.advantages_raw = advantages
        experience.returns = losses.returns_from(advantages, values)
        whitened = self.config.whiten_advantages
        experience.advantages = losses.whiten(advantages, mask) if whitened else advantages * mask

    # ----------------------------------------------------------------------------------- optimisation

    def optimise(self, experience: Experience) -> list[reporting.PassStats]:
        """``ppo_epochs`` times through the batch in random order; the statistics of every minibatch."""
        self.written.forget()  # from here on the policy is another one
        passes: list[reporting.PassStats] = []
        everyone = self.accelerator.num_processes
        for _ in range(self.config.ppo_epochs):
            order = torch.from_numpy(self.permutations.permutation(self.config.batch_size * everyone))
            for rows in order.to(self.current_device).split(self.config.backward_batch_size * everyone):
                passes += self.update(experience, rows)
            if self.config.early_stopping and self._moved_too_far(passes):
                break
        return passes

    def update(self, experience: Experience, rows: torch.Tensor) -> list[reporting.PassStats]:
        """One optimiser step on the sequences ``rows``: minibatch gradients added up, clipped, applied."""
        passes, learnt, everyone = [], False, self.accelerator.num_processes
        size = self.config.mini_batch_size * everyone
        if self.config.response_only and self.config.accumulate_by_tokens:  # one minibatch, cut as it suits
            rows = lean.like_lengths_together(experience.attention_mask, rows)
        minibatches = [experience.rows(index) for index in rows.split(size)]
        self.optimizer.zero_grad()  # an interrupted step may have left something
        for batch in minibatches:
            last = batch is minibatches[-1]
            waiting = contextlib.nullcontext()
            if not last and not self.sharded:  # a shard of the gradient is added up as it comes
                waiting = self.accelerator.no_sync(self.model)
            with waiting, models.train_mode(self.checkpointed):
                loss, record, skip = self.minibatch_loss(batch)
                if not skip:  # times their number, since the parts of all processes will be averaged
                    self.accelerator.backward(loss * self._share(batch, minibatches) * everyone)
                    learnt = True
            sharding.settle(self.model)
            passes.append(record)
        if learnt and skip and everyone > 1 and not self.sharded:
            self._average_gradients()
        norm = self._apply_gradients() if learnt else torch.zeros((), device=self.current_device)
        for record in passes:
            record["policy/grad_norm"] = norm
        return passes

    def _share(self, batch: Experience, minibatches: Sequence[Experience]) -> torch.Tensor | float:
        """Weight of one accumulated minibatch: the same for all, or by its tokens."""
        if self.config.accumulate_by_tokens:
            return batch.mask.sum() / sum(b.mask.sum() for b in minibatches)
        return 1 / len(minibatches)

    def _average_gradients(self) -> None:
        """What the last backward pass of an update does among processes, for one that was left out."""
        for parameter in (p for p in self.parameters if p.grad is not None):
            parameter.grad.copy_(self.accelerator.reduce(parameter.grad, "mean"))

    def minibatch_loss(self, batch: Experience) -> tuple[torch.Tensor, reporting.PassStats, bool]:
        """The current policy on a minibatch: ``(loss to differentiate, statistics, leave it out?)``.

        With several processes ``batch`` holds the rows of all; this one computes its share of them.
        """
        own = self.own_rows(len(batch.input_ids))
        ids, attention_mask, mask = batch.input_ids[own], batch.attention_mask[own], batch.mask[own]
        if self.config.response_only:
            logprobs, values, entropies = self.forward_live(lean.Live.of(ids, attention_mask, mask))
        else:
            logprobs, values, logits = self.forward(ids, attention_mask)
            entropies = losses.entropy_from_logits(logits.detach()[mask.bool()])  # of response tokens
        logprobs, values = (processes.join(self.accelerator, x) for x in (logprobs, values))
        ratio = losses.probability_ratio(logprobs, batch.logprobs, batch.mask)
        policy_loss, policy_clipped = losses.policy_loss(
            ratio, batch.advantages, batch.mask, self.config.cliprange
        )
        value_loss, value_clipped = losses.value_loss(
            values, batch.values, batch.returns, batch.mask, self.config.cliprange_value
        )
        loss = policy_loss + self.config.vf_coef * value_loss
        mean_ratio = losses.masked_mean(ratio, batch.mask) + 0 * loss  # nan if the loss is not finite
        mean_ratio = self._largest(mean_ratio.detach())
        skip = not mean_ratio <= self.config.ratio_threshold  # true for nan
        if skip:
            if self.accelerator.is_main_process:
                warnings.warn(f"mean ratio {mean_ratio:.2f}: above ratio_threshold, left out", stacklevel=2)
            policy_loss, value_loss, loss = (torch.zeros_like(x) for x in (policy_loss, value_loss, loss))
        clipped = (policy_clipped, value_clipped)
        record = reporting.pass_stats(
            logprobs, entropies, values, batch, policy_loss, value_loss, loss, clipped
        )
        if self.accelerator.num_processes > 1:  # the only number that needs the logits
            tokens = mask.sum() / batch.mask.sum()
            record["policy/entropy"] = self.accelerator.reduce(record["policy/entropy"] * tokens, "sum")
        return loss, record, skip

    def _largest(self, value: torch.Tensor) -> float:
        """Over all processes, which must agree on leaving a minibatch out."""
        return self.accelerator.gather(value.reshape(1)).max().item()

    def _apply_gradients(self) -> torch.Tensor:
        """Clip, step, forget; returns the gradient norm before clipping."""
        limit = float("inf") if self.config.max_grad_norm is None else self.config.max_grad_norm
        if self.config.fused and limit == float("inf") and self.accelerator.scaler is None:
            norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        else:
            norm = self.accelerator.clip_grad_norm_(self.parameters, limit)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return sharding.plain(norm)

    def _moved_too_far(self, passes: Sequence[reporting.PassStats]) -> bool:
        """Looks at the last minibatch, or at the whole last update if its minibatches stand for a larger
        one."""
        last = self._as_reported(passes[-self.config.gradient_accumulation_steps :])[-1]
        kl = self.accelerator.reduce(last["policy/policykl"], "mean")  # equal, but all must agree
        return kl.item() > 1.5 * self.config.target_kl

    def _as_reported(self, passes: Sequence[reporting.PassStats]) -> Sequence[reporting.PassStats]:
        """The passes, or one record per update where accumulation stands for a larger minibatch."""
        if not self.config.accumulate_by_tokens:
            return passes
        size = self.config.gradient_accumulation_steps
        return [reporting.merged(passes[i : i + size]) for i in range(0, len(passes), size)]

    # ------------------------------------------------------------------------------ statistics and logging

    def statistics(
        self, experience: Experience, rollouts: RolloutBatch, passes: Sequence[reporting.PassStats]
    ) -> dict:
        """The step in numbers, under the classic names: see :mod:`rlhf.ppo.stats`."""
        result = reporting.objective_stats(experience, rollouts, self.kl_ctl.value)
        result |= reporting.optimisation_stats(self._as_reported(passes))
        result = reporting.to_plain(result)
        if (rate := self.optimizer.param_groups[0]["lr"]) is not None:  # Adafactor may choose its own
            result["ppo/learning_rate"] = rate
        if result["objective/kl"] < -1.0 and self.accelerator.is_main_process:
            warnings.warn(
                f"KL is {result['objective/kl']:.2f}: so negative a value usually means that responses were "
                "not sampled from the policy's full softmax",
                stacklevel=3,
            )
        return result

    def log_stats(
        self,
        stats: dict,
        batch: dict,
        rewards: Sequence[torch.Tensor] | torch.Tensor,
        columns_to_log: Iterable[str] = ("query", "response"),
    ) -> dict[str, float]:
        """Send a step's statistics to the trackers and return the scalars that were sent.

        ``rewards`` are the scores given to :meth:`step`; they add ``env/reward_mean``, ``env/reward_std``
        and the distribution ``env/reward_dist``. ``batch`` provides the texts named by ``columns_to_log``
        for W&B's table. Of several processes each has to call this, and one writes.
        """
        rewards = torch.as_tensor([float(r) for r in rewards], device=self.current_device)
        rewards = self.accelerator.gather(rewards)
        scalars, distributions = reporting.split(stats)
        scalars["env/reward_mean"] = reporting.finite(rewards.mean())
        scalars["env/reward_std"] = reporting.finite(reporting.std(rewards))
        if not self.config.trackers:
            return scalars
        distributions |= self._response_token_distributions()
        distributions["env/reward_dist"] = rewards.cpu().numpy()
        if not self._logging:
            trackers.start_trackers(
                self.accelerator, self.config, self.current_step if self.resumed else None
            )
            self._logging = True
        columns, rows = list(columns_to_log), []
        if all(name in batch for name in columns):
            rows = list(zip(*(batch[name] for name in columns), rewards.tolist(), strict=False))
        trackers.write(
            self.accelerator, scalars, distributions, self.current_step, [*columns, "reward"], rows
        )
        return scalars

    def _response_token_distributions(self) -> dict[str, np.ndarray]:
        """Advantages of the last step, and ratios of its last pass, at response tokens only."""
        if self.experience is None:
            return {}
        live = self.experience.advantages[self.experience.mask.bool()]
        ratio = self.passes[-1]["policy/ratio"][self.passes[-1]["mask"].bool()]
        found = {"ppo/policy/advantages": live, "ppo/policy/ratio": ratio}
        return {name: np.nan_to_num(values.float().cpu().numpy()) for name, values in found.items()}

    # ------------------------------------------------------------------------------- interrupt and resume

    def batches(self, total: int) -> Iterator[Any]:
        """Batches of prompts until the run has taken ``total`` steps, one batch per step: through the data
        again and again, every epoch shuffled anew. After :meth:`load_state` it goes on with the next batch.
        Raises :class:`BadConfig` if the trainer has no data set.
        """
        if self.dataloader is None:
            raise BadConfig("PPOTrainer 没有数据集（dataset=None）", "The PPOTrainer has no data set")
        if isinstance(self.dataloader, PromptLoader):
            self.dataloader.resume()
        endless = itertools.chain.from_iterable(itertools.repeat(self.dataloader))
        return itertools.islice(endless, max(0, total - self.current_step))

    def save_state(self, folder: str | Path, extra: Mapping[str, Any] | None = None, keep: int = 2) -> Path:
        """Save all that changes during a run, to be continued by :meth:`load_state`; call it after a step.

        Policy (what learns), value head, optimiser, scheduler, beta, running moments, every random state, the
        place among the prompts, ``current_step``. ``extra`` names further objects with ``state_dict`` and
        ``load_state_dict``, such as a :class:`LengthSampler` with a seed. Every call makes a new sub-folder
        (which is returned), whole or not at all, and then removes all but the ``keep`` newest.

        Raises :class:`BadState` after a step that was interrupted half-way, :class:`CannotWrite` without
        space or permission.
        """
        return state.save(self, folder, extra, keep)

    def load_state(
        self, folder: str | Path, extra: Mapping[str, Any] | None = None, change: Sequence[str] = ()
    ) -> Path:
        """Go on where :meth:`save_state` was called last, in a trainer built as the first one was: same
        configuration, original model and reference, same prompts. Returns the sub-folder it took; ``folder``
        may name one, to take an earlier one. ``change`` names fields of the configuration that are different
        on purpose, such as a lower ``learning_rate``.

        Raises :class:`MissingAssets` if there is nothing, :class:`BadState` if it is damaged or of another
        run, naming what differs. Either way this trainer is then as it was.
        """
        self.written.forget()
        return state.load(self, folder, extra, change)

    @functools.cached_property
    def frozen_parts(self) -> dict[str, Any]:
        """Digests of what never changes, by which a saved state recognises its run."""
        return identity.frozen_parts(self)

    def whole_weights(self) -> dict[str, torch.Tensor] | None:
        """What ``policy.save_pretrained`` needs as ``state_dict`` if the policy is in shards: its weights, on
        the CPU of the main process; else None. Every process has to call it."""
        return sharding.whole_weights(self.accelerator, self.model)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Save policy, value head and tokenizer; plain ``transformers`` loads the folder as a causal LM. All
        processes call it, one writes."""
        also = [self.tokenizer.save_pretrained] if self.tokenizer is not None else []
        weights = self.whole_weights()
        if self.accelerator.is_main_process:
            self.policy.save_pretrained(folder, *also, state_dict=weights)
        self.accelerator.wait_for_everyone()
        return Path(folder)
