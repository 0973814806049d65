"""Kills every stage of the embedded default while it trains, again and again, and holds what it ends with against a run that
was never killed: weights, figures, every line of the log and the last checkpoint, to the bit. See README.md.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import psutil
from against_trl import CORES, PROJECT, RESULTS, console, new_table

from pipeline.artifact.digests import file_sha256

RECIPE = PROJECT / "recipes/tiny.yaml"
PARENTS = {
    "pretrain": (),
    "sft": ("pretrain",),
    "reward": ("pretrain", "sft"),
    **dict.fromkeys(("dpo", "kto", "orpo", "simpo"), ("pretrain", "sft")),
    **dict.fromkeys(("grpo", "rloo", "ppo"), ("pretrain", "sft", "reward")),
}
IN_ROLLOUTS = ("grpo", "rloo", "ppo")
# Enough steps for some seconds of training; those of a checkpoint are multiples neither of a line of the log nor, where there
# are rollouts, of the steps that are made with one.
STEPS = {"pretrain": 60, "sft": 80, "reward": 60, "dpo": 36, "kto": 36, "orpo": 36, "simpo": 36, "grpo": 36, "rloo": 36}
SHORT = [
    *(f"stages.{stage}.train.max_steps={steps}" for stage, steps in STEPS.items()),
    "stages.ppo.train.total_episodes=576",  # 36 steps
    *(f"stages.{stage}.train.logging_steps=3" for stage in PARENTS),
    *(f"stages.{stage}.train.save_steps=5" for stage in PARENTS),
    "evaluation.max_rows=40",
]
VICTIMS = ("the command", "the stage's process", "both")
OF_SEVERAL = ("the launcher", "the second process", "the command", "all")  # with --processes 2
WHILE_TRAINING = ("training", "checkpoint", "rollout")
CLOCK = ("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")
TRIES = 4  # to hit a stage while it trains


@dataclass(frozen=True)
class Moment:
    """`share` of the training's seconds, and then the next time that it is in the phase `aim`, where there is one."""

    share: float
    aim: str | None = None

    @property
    def words(self) -> str:
        return f"after {self.share:.0%} of the training" + (f", in the next {self.aim}" if self.aim else "")


@dataclass(frozen=True)
class Trial:
    stage: str
    moment: str
    victim: str
    hit: bool  # it was alive and, where the moment is one of training, training
    missed: int  # tries before that came too late
    phase: str  # what it was doing, by its own log
    seconds: float | None  # after training began; None: the moment is one around it
    logged_step: int
    from_step: int  # of the checkpoint that it went on from
    same: dict[str, bool]
    said: str = ""  # by the second run, where something is not the same

    @property
    def same_to_the_bit(self) -> bool:
        return all(self.same.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--stages", nargs="*", choices=list(PARENTS), default=[one for one in PARENTS if PARENTS[one]])
    parser.add_argument("--processes", type=int, default=1, help="by which a stage is trained")
    parser.add_argument("--strategy", default="ddp", help="what each of several holds")
    parser.add_argument("--around", action="store_true", help="also while it evaluates, saves and signs")
    parser.add_argument("--results", type=Path, default=RESULTS / f"kill-{datetime.now():%Y-%m-%d}.json")
    options = parser.parse_args()
    trials: list[Trial] = []
    seconds: dict[str, float] = {}
    victims = VICTIMS
    if options.processes > 1:
        passes = f"train.gradient_accumulation_steps={options.processes}"  # some losses need one for each process
        launch = [f"launch.processes={options.processes}", f"launch.strategy={options.strategy}"]
        SHORT.extend([*launch, *(f"stages.{stage}.{passes}" for stage in PARENTS)])
        victims = OF_SEVERAL
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        whole = Path(scratch) / "whole"
        begin(whole)
        align(whole, *options.stages)
        for stage in options.stages:
            seconds[stage] = manifest(whole, stage)["seconds"]["training"]
            console.print(f"{stage}: {manifest(whole, stage)['steps']} steps in {seconds[stage]:.1f} s", soft_wrap=True)
            for number, moment in enumerate(moments(stage, options.moments)):
                trials.append(tried(whole, stage, moment, victims[number % len(victims)], seconds[stage]))
            if options.around:
                trials += [around(whole, stage, *one) for one in phases_around(stage)]
            write(options.results, trials, seconds)
    show(trials)
    console.print(str(options.results))
    sys.exit(not all(one.same_to_the_bit and (one.hit or one.seconds is None) for one in trials))


# -- the moments -------------------------------------------------------------------------------------


def moments(stage: str, number: int) -> list[Moment]:
    """Spread over the training; every fourth one inside of a checkpoint, or of a rollout where there are any."""
    found = []
    for one in range(number):
        aims = {1: "checkpoint", 3: "rollout" if stage in IN_ROLLOUTS else None}
        found.append(Moment((one + 0.5) / number, aims.get(one % 4)))
    return found


def tried(whole: Path, stage: str, moment: Moment, victim: str, seconds: float) -> Trial:
    """Until a kill hits the stage while it trains, each time a little earlier."""
    for missed in range(TRIES):
        trial = killed(whole, stage, moment, victim, seconds, missed)
        if trial.hit or missed == TRIES - 1:
            break
        moment = Moment(moment.share * 0.85, moment.aim)
    console.print(json.dumps(asdict(trial)), soft_wrap=True)
    return trial


def killed(whole: Path, stage: str, moment: Moment, victim: str, seconds: float, missed: int) -> Trial:
    process, folder = begun(whole, stage)
    until(process, folder, stage, lambda phase: phase.startswith("training"))
    started = time.monotonic()
    time.sleep(moment.share * seconds)
    if moment.aim:
        until(process, folder, stage, lambda phase: phase.startswith((moment.aim, "evaluation after")))
        time.sleep(0.003 if moment.aim == "rollout" else 0)
    after = time.monotonic() - started
    alive = kill(process, victim)
    return ended(whole, folder, stage, victim, moment.words, alive, missed, after)


def phases_around(stage: str) -> list[tuple[str, Callable[[str, Path], bool]]]:
    output = "model" if stage == "pretrain" else "adapter"
    return [
        ("in the evaluation before", lambda phase, _: phase.startswith("evaluation before")),
        ("in the evaluation after", lambda phase, _: phase.startswith("evaluation after")),
        ("while the weights are written", lambda _, attempt: any(attempt.glob(f".{output}/*"))),
        ("while the manifest is written", lambda phase, _: phase.startswith("manifest")),
    ]


def around(whole: Path, stage: str, words: str, come: Callable[[str, Path], bool]) -> Trial:
    process, folder = begun(whole, stage)
    while process.poll() is None and not any(come(phase_of(one), one) for one in attempts(folder, stage)):
        time.sleep(0.0005)
    alive = kill(process, VICTIMS[0])
    trial = ended(whole, folder, stage, VICTIMS[0], words, alive, 0, None)
    console.print(json.dumps(asdict(trial)), soft_wrap=True)
    return trial


# -- a trial -----------------------------------------------------------------------------------------


def begin(folder: Path) -> None:
    """A folder to run in: recipe and data by the names that the recipe has for them."""
    folder.mkdir(parents=True)
    (folder / "data").symlink_to(PROJECT / "data")
    shutil.copyfile(RECIPE, folder / "tiny.yaml")


def command(stages: Sequence[str], overrides: Sequence[str] = ()) -> list[str]:
    overrides = [word for pair in (*SHORT, *overrides) for word in ("--set", pair)]
    return [sys.executable, "-m", "pipeline.cli", "run", *stages, "-r", "tiny.yaml", *overrides, "--no-unsloth"]


def align(folder: Path, *stages: str, check: bool = True, overrides: Sequence[str] = ()) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command(stages, overrides), cwd=folder, env=environment, capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done


def begun(whole: Path, stage: str) -> tuple[subprocess.Popen, Path]:
    """The stage, started in a folder of its own in which its parents are finished."""
    folder = beside(whole, PARENTS[stage])
    return started(folder, stage), folder


def beside(whole: Path, parents: Sequence[str]) -> Path:
    """A folder to run in, with stages that are finished in `whole`."""
    folder = Path(tempfile.mkdtemp(dir=whole.parent)) / "again"
    begin(folder)
    for parent in parents:
        shutil.copytree(whole / "runs/tiny" / parent, folder / "runs/tiny" / parent, symlinks=True)
    return folder


def started(folder: Path, stage: str, overrides: Sequence[str] = ()) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    line = command([stage], overrides)
    return subprocess.Popen(line, cwd=folder, env=environment, start_new_session=True, **quiet)


def until(process: subprocess.Popen, folder: Path, stage: str, come: Callable[[str], bool]) -> None:
    while process.poll() is None and not any(come(phase_of(one)) for one in attempts(folder, stage)):
        time.sleep(0.0005)


def kill(process: subprocess.Popen, victim: str) -> bool:
    """SIGKILL to the victim; whether all of it was still alive to be hit."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
        workers = [one.pid for one in below if "pipeline.train" in " ".join(one.cmdline())]
    except psutil.NoSuchProcess:
        return False
    pids = {
        "the command": [process.pid],
        "the stage's process": workers,
        "the launcher": workers[:1],
        "the second process": workers[-1:],
    }.get(victim, [process.pid, *workers])
    alive = process.poll() is None and bool(workers)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            alive = False
    process.wait()
    gone = time.monotonic() + 30
    while any(map(lives, workers)) and time.monotonic() < gone:  # one whose parent is killed ends by itself
        time.sleep(0.01)
    return alive


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ended(
    whole: Path, folder: Path, stage: str, victim: str, moment: str, alive: bool, missed: int, seconds: float | None
) -> Trial:
    """The same command once more, and what it ends with."""
    attempt = attempts(folder, stage)[0]
    phase, logged, steps = phase_of(attempt), lines(attempt), checkpoints(attempt)
    again = align(folder, stage, check=False)
    same = compared(whole, folder, stage) if not again.returncode else {"ended": False}
    trial = Trial(
        stage=stage,
        moment=moment,
        victim=victim,
        hit=alive and (seconds is None or phase.startswith(WHILE_TRAINING)),
        missed=missed,
        phase=phase,
        seconds=None if seconds is None else round(seconds, 2),
        logged_step=logged[-1]["step"] if logged else 0,
        from_step=steps[-1] if steps else 0,
        same=same,
        said="" if all(same.values()) else again.stdout[-1000:],
    )
    if all(same.values()):
        shutil.rmtree(folder.parent)
    return trial


def compared(whole: Path, folder: Path, stage: str) -> dict[str, bool]:
    wanted, found = manifest(whole, stage), manifest(folder, stage)
    one, other = attempts(whole, stage)[0], attempts(folder, stage)[0]
    return {
        "weights_sha256": found["weights_sha256"] == wanted["weights_sha256"],
        "log": without_clock(lines(other)) == without_clock(lines(one)),
        "figures": all(found[key] == wanted[key] for key in ("metrics", "tokens", "steps")),
        "last checkpoint": tensors(other) == tensors(one),
    }


def attempts(folder: Path, stage: str) -> list[Path]:
    return [one for one in folder.glob(f"runs/tiny/{stage}/*") if not one.is_symlink() and one.is_dir()]


def manifest(folder: Path, stage: str) -> dict:
    return json.loads((attempts(folder, stage)[0] / "manifest.json").read_text())


def phase_of(attempt: Path) -> str:
    """The last one that the stage's own log names."""
    log = attempt / "stage.log"
    said = [line for line in log.read_text().splitlines() if line[2:3] == ":"] if log.is_file() else []
    return said[-1][9:] if said else "before the stage began"


def lines(attempt: Path) -> list[dict]:
    """Of the log of losses, without one that is half written."""
    file = attempt / "log.jsonl"
    said = file.read_text().splitlines(keepends=True) if file.is_file() else []
    return [json.loads(line) for line in said if line.endswith("\n")]


def without_clock(said: list[dict]) -> list[dict]:
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in said]


def checkpoints(attempt: Path) -> list[int]:
    return sorted(int(one.name.rpartition("-")[2]) for one in attempt.glob("checkpoints/checkpoint-*"))


def tensors(attempt: Path) -> dict[str, str]:
    """The digests of the last checkpoint: the policy's, and a value model's and a rollout's where there are any."""
    last = attempt / "checkpoints" / f"checkpoint-{checkpoints(attempt)[-1]}"
    return {str(file.relative_to(last)): file_sha256(file) for file in sorted(last.rglob("*.safetensors"))}


# -- what is told ------------------------------------------------------------------------------------


def surroundings() -> dict:
    """When, with what and on what it was measured."""
    names = ("torch", "transformers", "trl", "peft", "accelerate")
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {"python": sys.version.split()[0]} | {name: version(name) for name in names},
        "cores": CORES,
        "load_after": os.getloadavg(),
        "recipe": "recipes/tiny.yaml",
    }


def write(file: Path, trials: Sequence[Trial], seconds: dict[str, float]) -> None:
    found = surroundings() | {
        "overrides": SHORT,
        "training_seconds": seconds,
        "stages": {
            stage: {
                name: {
                    "kills": len(some),
                    "hit": sum(one.hit for one in some),
                    "same to the bit": sum(one.same_to_the_bit for one in some),
                    "came too late and were done again": sum(one.missed for one in some),
                }
                for name, some in (("while it trained", trained), ("around", others))
                if some
            }
            for stage, (trained, others) in by_stage(trials).items()
        },
        "trials": [asdict(one) for one in trials],
    }
    file.write_text(json.dumps(found, indent=1) + "\n")


def by_stage(trials: Sequence[Trial]) -> dict[str, tuple[list[Trial], list[Trial]]]:
    """(those while it trained, those around) of each stage."""
    found: dict[str, tuple[list[Trial], list[Trial]]] = {}
    for one in trials:
        found.setdefault(one.stage, ([], []))[one.seconds is None].append(one)
    return found


def show(trials: Sequence[Trial]) -> None:
    table = new_table("Killed", ("", "while it trained", "same to the bit", "at", "from step", "around", "same"))
    for stage, (trained, others) in by_stage(trials).items():
        phases = {name: sum(one.phase.startswith(name) for one in trained) for name in WHILE_TRAINING}
        cells = [
            f"{sum(one.hit for one in trained)} of {len(trained)} hit",
            f"{sum(one.same_to_the_bit for one in trained)} of {len(trained)}",
            ", ".join(f"{number} {name}" for name, number in phases.items() if number),
            " ".join(str(one.from_step) for one in trained),
            str(len(others)) if others else "",
            f"{sum(one.same_to_the_bit for one in others)} of {len(others)}" if others else "",
        ]
        table.add_row(stage, *cells)
    console.print(table)


if __name__ == "__main__":
    main()
