"""Does the plan know what each of several processes holds? Held against real steps of two on this machine's CPU.

    make bench-memory-processes     # about five minutes on two cores

Each process counts the bytes of its live storages over two steps of a stage's own trainer; the first one's count is kept. See
benchmarks/README.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from benchmarks.memory import FREE, GIB, RESULTS, SMALL, _compared, _write_rows

CASES = [
    # stage, tuning, checkpointing, strategy, passes of a step in all
    ("sft", "lora", False, "ddp", 2),
    ("sft", "full", False, "ddp", 2),
    ("dpo", "lora", False, "ddp", 2),
    ("sft", "lora", False, "fsdp", 2),
    ("sft", "lora", True, "fsdp", 2),
    ("sft", "full", False, "fsdp", 2),
    ("sft", "full", True, "fsdp", 2),
    ("sft", "full", True, "fsdp", 4),
    ("dpo", "lora", False, "fsdp", 2),
    ("dpo", "full", True, "fsdp", 2),
    ("reward", "lora", False, "fsdp", 2),
    ("reward", "full", True, "fsdp", 2),
]
ROWS, WORDS, PROCESSES = 4, 48, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", type=int, help="numbers of CASES")
    parser.add_argument("--model", choices=SMALL, default="20M")
    parser.add_argument("--out", type=Path, default=RESULTS / f"memory-of-processes-{datetime.now():%Y-%m-%d}.json")
    chosen = parser.parse_args()
    from benchmarks.random_models import write_model

    found = []
    out = chosen.out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_model(SMALL[chosen.model], "base")
        _write_rows(WORDS)
        for number in range(len(CASES)) if chosen.cases is None else chosen.cases:
            begun = time.monotonic()
            started = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
            subprocess.run([*started, __file__, "--one", str(number)], check=True)
            said = dict(zip(("stage", "tuning", "checkpointing", "strategy", "passes"), CASES[number], strict=True))
            row = said | {"model": chosen.model, "rows": ROWS} | json.loads(Path("said.json").read_text())
            row["seconds"] = round(time.monotonic() - begun, 1)
            found.append(row)
            out.write_text(json.dumps(found, indent=1) + "\n")
            print(
                f"{row['stage']:6} {row['tuning']:4} checkpointing {row['checkpointing']!s:5} {row['strategy']:4} {row['passes']} "
                f"passes  seen {row['seen'] / GIB:6.3f}  planned {row['planned'] / GIB:6.3f}  {row['off']:+6.1%}  without "
                f"weights {row['off_without_weights']:+6.1%}; one process {row['one process'] / GIB:6.3f}; {row['seconds']} s",
                flush=True,
            )


def one(stage: str, method: str, checkpointing: bool, strategy: str, passes: int) -> None:
    """In each of the processes. The first writes down what it saw and what the plan says of it."""
    from benchmarks.live_storages import ResizedStorages
    from pipeline import ranks as ranks_of
    from pipeline.artifact.attempt import Attempt
    from pipeline.plan.memory import held, lengths, of_recipe, stage_need
    from pipeline.plan.planner import Planner
    from pipeline.recipe.reading import load_recipe
    from pipeline.train.job.checked_job import check
    from pipeline.train.job.interruption import Interruption
    from pipeline.train.job.job import Job
    from pipeline.train.stage_run import StageRun

    train = {"per_device_train_batch_size": ROWS, "gradient_accumulation_steps": passes, "max_length": 512}
    train |= {"gradient_checkpointing": checkpointing, "max_steps": 2, "eval_strategy": "no", "save_strategy": "no"}
    section = {
        "data": {"path": "chat.jsonl" if stage == "sft" else "pairs.jsonl", "held_out": 0.0},
        "train": train | {"logging_steps": 1},
    } | ({"share_prompt": False} if stage == "dpo" else {})  # which the plan does not reckon with
    adapter = {"method": method} | ({"r": 16} if method == "lora" else {})
    launch = {"processes": PROCESSES, "strategy": strategy}
    recipe = {"name": "small", "threads": 1, "model": {"id": "./base"}, "adapter": adapter, "evaluation": FREE}
    file = f"small-{os.environ['RANK']}.yaml"
    Path(file).write_text(json.dumps(recipe | {"launch": launch, "stages": {stage: section}}))
    loaded = load_recipe(file, ["name=small"])
    planner = Planner(loaded, Path("runs"))
    step = planner.plan([stage])[-1]
    folder = Path(f"out/{stage}-{method}-{checkpointing}-{strategy}-{passes}")
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(file, [], "runs", stage, str(folder), step.fingerprint, "run", processes=PROCESSES, strategy=strategy)
    checked = check(job, Attempt(folder), ranks_of.here())
    run = StageRun(checked, lambda *_, **__: None, Interruption())
    if checked.ranks.first:
        run.rows.prepare()
    checked.ranks.wait()
    trainer = run.trainer(run.models.at_the_start())
    live, longest, train_on = ResizedStorages(), [0], trainer.training_step

    def noting(model, inputs, *others):
        longest[0] = max(longest[0], *(one.shape[1] for key, one in inputs.items() if key.endswith("input_ids")))
        return train_on(model, inputs, *others)

    trainer.training_step = noting
    with live:
        for tensor in [*trainer.model.parameters(), *trainer.model.buffers()]:
            live.count(tensor)
        if isinstance(other := getattr(trainer, "ref_model", None), type(trainer.model)):
            for tensor in other.parameters():
                live.count(tensor)
        standing = live.now
        trainer.train()
    if checked.ranks.first:
        known = lengths.known(planner, stage)
        setting = of_recipe.setting_of(loaded, step, planner.parents.named_base(), known)
        # Two steps need not meet the longest rows: the plan is asked about those that they met.
        setting = replace(setting, gpu=False, length=longest[0])
        need = stage_need.need_of(setting).of_training(evaluates=False)
        alone = stage_need.need_of(replace(setting, held=held.ALONE)).of_training(evaluates=False)
        said = {
            "length": longest[0],
            "at": live.peak_at,
            "in": need.name,
            "parts": need.parts,
            "one process": alone.allocated,
        }
        Path("said.json").write_text(json.dumps(said | _compared(live.peak, need.allocated, standing)))
    checked.ranks.wait()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(*CASES[int(sys.argv[2])])
    else:
        main()
