"""Does a run that is killed and continued end like one that was never interrupted? Kill it and see.

    python benchmarks/kills.py --kills 20

A short PPO run on a tiny random model (2 layers, width 32; adaptive KL, score scaling, a learning-rate
schedule, several epochs over the prompts) saves its state after every second step. Each trial starts the run
in a process of its own, ends that process with SIGKILL, starts it again until it is done, and compares the
digest of all that the run ends with (parameters, optimiser, random states, place among the prompts) with that
of the unbroken run.

Half of the kills come at a random moment of the training, found by the clock; the other half in the middle of
saving, before a randomly chosen one of the file operations (open, rename, remove …) that a save consists of.
In: nothing. Out: benchmarks/results/kills.json and a line per trial; exit code 1 if any end differs.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

STEPS, EVERY, BATCH = 10, 2, 4
RESULTS = Path(__file__).parent / "results" / "kills.json"
FILE_EVENTS = {
    "open",
    "os.rename",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.chmod",
    "os.scandir",
    "os.listdir",
}
FILE_EVENTS |= {"shutil.rmtree", "glob.glob"}


# ---------------------------------------------------------------------------------------------- one process


class Saboteur:
    """Counts the file operations of every save, and kills this very process before a chosen one of them.

    Python announces each operation to audit hooks before it is carried out, so no moment between two of them
    is out of reach.
    """

    def __init__(self, folder: Path, step: int | None = None, operation: int | None = None):
        self.folder, self.step, self.operation = str(folder), step, operation
        self.counts, self.saving = [], None
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.saving is None or event not in FILE_EVENTS or self.folder not in str(arguments):
            return
        if (self.saving, self.counts[-1]) == (self.step, self.operation):
            os.kill(os.getpid(), signal.SIGKILL)
        self.counts[-1] += 1

    def save(self, trainer, **extra) -> None:
        self.saving = trainer.current_step
        self.counts.append(0)
        trainer.save_state(self.folder, extra)
        self.saving = None


def build():
    """A trainer on 18 prompts (an epoch of 4 batches, 2 prompts left over) and a sampler of lengths."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from rlhf.ppo import AutoModelForCausalLMWithValueHead, LengthSampler, PPOConfig, PPOTrainer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 60}
    backbone = GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=59, bos_token_id=59, initializer_range=0.3))
    config = PPOConfig(
        batch_size=BATCH,
        mini_batch_size=2,
        learning_rate=1e-3,
        use_score_scaling=True,
        use_score_norm=True,
        log_with="none",
        accelerator_kwargs={"cpu": True},
    )
    prompts = [{"input_ids": torch.randint(0, 59, (int(n),))} for n in torch.randint(2, 6, (18,))]
    model = AutoModelForCausalLMWithValueHead.from_pretrained(backbone, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    trainer = PPOTrainer(config, model, dataset=prompts, optimizer=optimizer, lr_scheduler=scheduler)
    return trainer, LengthSampler(2, 8, seed=1)


def work(folder: Path, step: int | None = None, operation: int | None = None) -> None:
    """The run itself: go on from the last saved state if there is one; at the end write ``end.json``."""
    trainer, lengths = build()
    saboteur = Saboteur(folder / "state", step, operation)
    if (folder / "state").is_dir() and any((folder / "state").glob("[0-9]*")):
        trainer.load_state(folder / "state", {"lengths": lengths})
    (folder / "begun").touch()
    for batch in trainer.batches(STEPS):
        queries = batch["input_ids"]
        responses = trainer.generate(queries, return_prompt=False, length_sampler=lengths)
        scores = [(r < 20).float().mean() for r in responses]
        trainer.step(queries, responses, scores)
        if trainer.current_step % EVERY == 0:
            saboteur.save(trainer, lengths=lengths)
    end = {"digests": digests(trainer, lengths), "operations": saboteur.counts}
    (folder / "end.tmp").write_text(json.dumps(end))
    os.replace(folder / "end.tmp", folder / "end.json")


def digests(trainer, lengths) -> dict[str, str]:
    """SHA-256 of the parameters alone, and of everything that a saved state holds."""
    from rlhf.ppo import state

    plain, tensors = state.snapshot(trainer, {"lengths": lengths})
    parameters, whole = hashlib.sha256(), hashlib.sha256(json.dumps(plain["state"]).encode())
    for name in sorted(tensors):
        content = name.encode() + tensors[name].numpy().tobytes()
        whole.update(content)
        if name.startswith("policy/"):
            parameters.update(content)
    return {"parameters": parameters.hexdigest(), "everything": whole.hexdigest()}


# ------------------------------------------------------------------------------------------------ the trials


def processes(method: str = "forkserver"):
    """Start method of the processes: ``forkserver`` imports torch once, ``spawn`` in each of them."""
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["rlhf.ppo", "transformers.models.gpt2.modeling_gpt2"])
    return context


def start(context, folder: Path, *death):
    """A running process of :func:`work`, and the time when its training began."""
    (folder / "begun").unlink(missing_ok=True)
    process = context.Process(target=work, args=(folder, *death))
    process.start()
    while process.is_alive() and not (folder / "begun").exists():
        time.sleep(0.002)
    return process, time.monotonic()


def unbroken(context, folder: Path) -> dict:
    """The run that nobody kills: its ``end.json`` and how long its training took."""
    folder.mkdir(parents=True)
    process, begun = start(context, folder)
    process.join()
    return json.loads((folder / "end.json").read_text()) | {"seconds": time.monotonic() - begun}


def trial(context, folder: Path, model: dict, saving: bool, chance: random.Random) -> dict:
    """Kill once, continue until done; what happened and whether the end is that of ``model``."""
    folder.mkdir(parents=True)
    death = ()
    if saving:
        save = chance.randrange(len(model["operations"]))
        death = ((save + 1) * EVERY, chance.randrange(model["operations"][save]))
    while True:
        process, _ = start(context, folder, *death)
        if not saving:
            process.join(chance.uniform(0, model["seconds"]))
            process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            break
        if saving:
            raise RuntimeError(f"the run was to be killed at {death} and ended with {process.exitcode}")
        for file in sorted(folder.rglob("*"), reverse=True):  # it was done before the kill: once more
            file.rmdir() if file.is_dir() else file.unlink()
    facts = {"killed": "while saving" if saving else "by the clock", **left_behind(folder)}
    if saving:
        facts["before"] = f"file operation {death[1] + 1} of {model['operations'][save]}"
    process, _ = start(context, folder)
    process.join()
    end = json.loads((folder / "end.json").read_text())
    return facts | {"same": end["digests"] == model["digests"], "digest": end["digests"]["parameters"][:16]}


def left_behind(folder: Path) -> dict:
    """What the killed process left: the newest whole state, and whether half of another lies beside it."""
    names = sorted(path.name for path in (folder / "state").glob("*"))
    whole = [name for name in names if not name.startswith(".")]
    return {"goes on from": int(whole[-1].split("_")[-1]) if whole else 0, "half a state": whole != names}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--start", choices=["forkserver", "spawn"], default="forkserver")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    context, chance = processes(args.start), random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        model = unbroken(context, Path(scratch) / "unbroken")
        again = unbroken(context, Path(scratch) / "again")
        print(f"unbroken: {STEPS} steps in {model['seconds']:.1f} s")
        print("file operations of each save:", model["operations"])
        print("twice the same:", model["digests"] == again["digests"], model["digests"]["parameters"][:16])
        rows = []
        for number in range(args.kills):
            rows.append(trial(context, Path(scratch) / str(number), model, number % 2 == 1, chance))
            print(f"{number + 1:3}", json.dumps(rows[-1]), flush=True)
    same = sum(row["same"] for row in rows)
    print(f"{same} of {args.kills} killed runs ended like the unbroken one, bit for bit")
    facts = {
        "date": datetime.date.today().isoformat(),
        "steps": STEPS,
        "saved every": EVERY,
        "start": args.start,
    }
    facts |= {"unbroken": model["digests"], "identical": same, "trials": rows}
    args.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return int(same < args.kills or model["digests"] != again["digests"])


if __name__ == "__main__":
    sys.exit(main())
