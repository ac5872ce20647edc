"""PPO from TRL 0.4 to 0.11, kept alive and readable: the loop that years of tutorials teach.

In: a language model, prompts, a function that scores texts. Out: a policy that scores higher. Lessons 06
and 07 teach it. A tutorial written for TRL 0.4 to 0.11 runs with ``from trl import ...`` changed to ``from
rlhf.ppo import ...``. The list of every deliberate departure from TRL 0.11.4 opens :mod:`rlhf.ppo.trainer`.

``config`` knobs · ``losses`` the mathematics, pure functions · ``value_head`` policy and critic ·
``rollouts`` what a step knows · ``processes`` one batch, several processes · ``optimizers`` by name ·
``trainer`` the step, read top to bottom · ``lean`` only the work that counts · ``stats`` what it reports ·
``trackers`` where that goes · ``kl`` beta · ``scores`` running moments · ``lengths`` sampled lengths ·
``prompts`` batches with a place · ``state`` stop and go on: ``identity`` which run · ``randomness`` random
states · ``packing`` without pickle.
"""

from accelerate.utils import set_seed

from .config import BadConfig, PPOConfig
from .kl import AdaptiveKLController, FixedKLController
from .lengths import LengthSampler
from .rollouts import Experience, RolloutBatch
from .state import latest as latest_state
from .trainer import PPOTrainer
from .value_head import AutoModelForCausalLMWithValueHead, create_reference_model

__all__ = [
    "AdaptiveKLController",
    "AutoModelForCausalLMWithValueHead",
    "BadConfig",
    "Experience",
    "FixedKLController",
    "LengthSampler",
    "PPOConfig",
    "PPOTrainer",
    "RolloutBatch",
    "create_reference_model",
    "latest_state",
    "set_seed",
]
