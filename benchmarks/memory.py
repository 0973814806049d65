"""How well does the plan know what a stage needs? Held against fake steps of real sizes, and real steps of small ones.

    make bench-memory                     # both, about ten minutes on two cores
    make bench-memory ARGS="--only fake"  # the fake steps alone

A fake step runs transformers' and PEFT's own code on tensors without content and counts the bytes of live storages; TRL's losses
are written out, as they look at numbers. A real step is a stage's own trainer. See benchmarks/README.md.
"""

import argparse
import json
import os
import time
import warnings
from functools import partial
from pathlib import Path

from benchmarks.real_sizes import CONFIGS, sizes
from pipeline.model.adapters import NAMED

warnings.filterwarnings("ignore")
os.environ.setdefault("OMP_NUM_THREADS", "1")
RESULTS = Path(__file__).parent / "results"
GIB = 2**30

TRACED = ("Llama-3.2-1B", "Llama-3.2-3B", "Llama-3.1-8B", "Qwen3-0.6B", "Qwen3-4B", "Qwen3-8B", "gemma-2-2b")
CASES = [
    # stage, tuning, checkpointing, rows, length
    ("sft", "lora", True, 2, 1024),
    ("sft", "lora", False, 2, 512),
    ("dpo", "lora", True, 1, 1024),
    ("dpo", "lora", False, 1, 512),
    ("sft", "full", True, 2, 1024),
    ("sft", "full", False, 2, 512),
    ("dpo", "full", True, 1, 1024),
    # With tokens of a template that are new to the model.
    ("sft", "lora+tokens", True, 2, 1024),
    ("dpo", "lora+tokens", True, 1, 1024),
    ("dpo", "lora+tokens", False, 1, 512),
]
NEW_TOKENS = 2


def planned(config: dict, stage: str, method: str, checkpointing: bool, rows: int, length: int, dtype: str, **more):
    """The plan's phase of a training step, without its margin."""
    from pipeline.plan.memory import stage_need
    from pipeline.plan.memory.setting import Setting
    from pipeline.plan.memory.shape import shape_of
    from pipeline.plan.memory.tuned import tuned
    from pipeline.plan.memory.weights import BYTES
    from pipeline.recipe.fields import effective
    from pipeline.stage import specs

    spec, shape = specs()[stage], shape_of(config)
    if spec.head == "score":
        shape = shape.without_head()
    method, _, tokens = method.partition("+")
    fields = {"r": 16, "target_modules": "all-linear"} | more.pop("fields", {})
    given = {"per_device_train_batch_size": rows, "gradient_checkpointing": checkpointing, "max_length": length}
    setting = Setting(
        spec=spec,
        shape=shape,
        tuned=tuned(
            method, fields, shape, BYTES[dtype], score=spec.head == "score", tokens=NEW_TOKENS if tokens else 0
        ),
        train=effective(spec.config, given | more.pop("train", {})),
        dtype=dtype,
        bits=None,
        length=length,
        prompt=length // 2,
        gpu=False,
        **more,
    )
    return stage_need.need_of(setting), setting


def fake_step(config: dict, stage: str, method: str, checkpointing: bool, rows: int, length: int, dtype: str) -> dict:
    """The peak of live bytes in one forward and backward pass, and that of the weights alone."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoConfig, AutoModelForCausalLM

    from benchmarks.live_storages import LiveStorages, made_fake
    from pipeline.model.new_tokens import without_copies
    from pipeline.plan.memory.shape import shape_of

    kind = getattr(torch, dtype)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=kind, attn_implementation="sdpa")
        lora, _, tokens = method.partition("+")
        if lora == "lora":
            settings = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
            if tokens:
                apart = [] if shape_of(config).tied else ["lm_head"]
                settings.trainable_token_indices = {name: list(range(NEW_TOKENS)) for name in ("embed_tokens", *apart)}
            model = get_peft_model(model, settings)
            without_copies(model)
            for one in model.parameters():
                if one.requires_grad:
                    one.data = one.data.float()
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    fake = FakeTensorMode()
    made_fake(model, fake)
    live, sequences = LiveStorages(), rows * (2 if stage == "dpo" else 1)
    with fake, live:
        for one in [*model.parameters(), *model.buffers()]:
            live.count(one)
        standing = live.now
        ids = torch.zeros((sequences, length), dtype=torch.long)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != "float32"):
            plain = model.base_model.model if lora == "lora" else model
            loss = _LOSSES[stage](plain, ids)
        after_forward = live.now
        loss.backward()
    return {"standing": standing, "peak": live.peak, "after_forward": after_forward, "at": live.peak_at}


def _chunked(model, ids):
    """TRL's chunked loss, whose number of chunks hangs on the labels, over all tokens."""
    import torch
    from trl.trainer.sft_trainer import _chunk

    hidden = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state
    hidden, labels = hidden[:, :-1].reshape(-1, hidden.shape[-1]), ids[:, 1:].reshape(-1)
    order = torch.ones_like(labels).argsort(stable=True)
    hidden, labels, loss = hidden[order], labels[order], 0.0
    weight = model.lm_head.weight  # once, as TRL does: with tokens trained beside, it is another copy each time
    for start in range(0, len(labels), 256):
        parts = torch.utils.checkpoint.checkpoint(
            _chunk,
            hidden[start : start + 256],
            weight,
            None,
            labels[start : start + 256],
            1.0,
            None,
            use_reentrant=False,
        )
        loss = loss + parts[0]
    return loss


def _selected(model, ids):
    """TRL's loss of pairs, with the reference's log-probabilities in the rows."""
    import torch
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float()[:, :-1]
    sums = selective_log_softmax(logits, ids[:, 1:]).sum(1)
    with torch.no_grad():
        entropy_from_logits(logits)
    chosen, rejected = sums.chunk(2)
    return -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()


_LOSSES = {"sft": _chunked, "dpo": _selected}


def fakes(models, cases, dtypes, keep) -> None:
    for name in models:
        for dtype in dtypes:
            for case in cases:
                begun = time.monotonic()
                seen = fake_step(CONFIGS[name], *case, dtype)
                phase = planned(CONFIGS[name], *case, dtype)[0].phases[0]
                said = dict(zip(("stage", "tuning", "checkpointing", "rows", "length"), case, strict=True))
                said |= {"model": name, "dtype": dtype, "at": seen["at"], "seconds": round(time.monotonic() - begun, 1)}
                # A first step has no states of the optimizer yet.
                keep(said | _compared(seen["peak"], phase.allocated - phase.parts["optimizer"], seen["standing"]))


def _compared(seen: int, said: int, standing: int) -> dict:
    without = (said - standing) / (seen - standing) - 1
    return {"seen": seen, "planned": said, "off": round(said / seen - 1, 4), "off_without_weights": round(without, 4)}


# -- real steps -----------------------------------------------------------------------------------------

SMALL = {
    "20M": {"model_type": "llama", "vocab_size": 8192} | sizes(384, 1024, 8, 6, num_key_value_heads=2, head_dim=64),
    "110M": {"model_type": "qwen3", "vocab_size": 32000} | sizes(640, 1920, 14, 10, num_key_value_heads=5, head_dim=64),
}
SMALL = {name: one | {"max_position_embeddings": 2048, "tie_word_embeddings": True} for name, one in SMALL.items()}
REAL = [
    # stage, tuning, checkpointing
    ("sft", "lora", False),
    ("sft", "lora", True),
    ("sft", "full", False),
    ("dpo", "lora", False),
    ("dpo", "lora", True),
    ("dpo", "full", True),
    ("reward", "lora", False),
    ("reward", "full", True),
    ("kto", "lora", False),
    ("orpo", "lora", False),
    ("simpo", "lora", False),
    ("ppo", "lora", False),
    ("grpo", "lora", False),
    *(("sft", method, False) for method in NAMED if method not in ("lora", "full", "bitfit")),  # a Llama has no biases
]
REWARDED = ("ppo", "grpo", "rloo")
FREE = {"max_rows": 0}  # nothing is evaluated


def real_steps(models, cases, rows: int, words: int, keep) -> None:
    """Two steps of a stage's own trainer each, in fp32 on one thread, with the bytes of live storages counted."""
    from tempfile import TemporaryDirectory

    from benchmarks.random_models import write_model

    for name in models:
        with TemporaryDirectory() as folder:
            os.chdir(folder)
            write_model(SMALL[name], "base")
            _write_rows(words)
            for case in cases:
                begun = time.monotonic()
                seen, phase, standing = _real_step(*case, rows)
                said = dict(zip(("stage", "tuning", "checkpointing"), case, strict=True)) | {
                    "model": name,
                    "rows": rows,
                }
                said |= {"dtype": "float32", "length": phase[1], "seconds": round(time.monotonic() - begun, 1)}
                keep(said | _compared(seen, phase[0], standing))


def _write_rows(words: int) -> None:
    import random

    rng = random.Random(0)

    def text(number: int) -> str:
        some = rng.randint(number // 2, number)  # rows of unlike length, which are padded
        return " ".join(rng.choice(("red", "green", "blue", "old", "new", "tree", "house")) for _ in range(some))

    rows = [
        {"prompt": text(words // 4), "completion": text(words), "chosen": text(words), "rejected": text(words)}
        for _ in range(32)
    ]
    keys = {"chat": ("prompt", "completion"), "pairs": ("prompt", "chosen", "rejected"), "prompts": ("prompt",)}
    for file, wanted in keys.items():
        Path(f"{file}.jsonl").write_text("".join(json.dumps({key: row[key] for key in wanted}) + "\n" for row in rows))


def _real_step(stage: str, method: str, checkpointing: bool, rows: int) -> tuple[int, tuple[int, int], int]:
    """(peak of live bytes, (what the plan says of it, its tokens a row), bytes of the weights)."""
    from dataclasses import replace

    from benchmarks.live_storages import LiveStorages
    from pipeline.artifact.attempt import Attempt
    from pipeline.plan.memory import lengths, of_recipe, stage_need
    from pipeline.plan.planner import Planner
    from pipeline.recipe.reading import load_recipe
    from pipeline.train.job.checked_job import check
    from pipeline.train.job.interruption import Interruption
    from pipeline.train.job.job import Job
    from pipeline.train.stage_run import StageRun

    file = {"sft": "chat", "kto": "pairs"}.get(stage, "prompts" if stage in REWARDED else "pairs")
    train = {"per_device_train_batch_size": rows, "max_length": 512, "max_steps": 2, "eval_strategy": "no"}
    train |= {"gradient_checkpointing": checkpointing, "save_strategy": "no", "logging_steps": 1}
    if stage in REWARDED:
        train |= {"response_length": 64} if stage == "ppo" else {"max_completion_length": 64, "num_generations": rows}
        train = {key: value for key, value in train.items() if key not in ("max_length", "max_steps")} | (
            {"total_episodes": 2 * rows, "num_ppo_epochs": 1} if stage == "ppo" else {"max_steps": 2}
        )
    section = {
        "data": {"path": f"{file}.jsonl", "held_out": 0.0} | ({"shape": "pairs"} if stage == "kto" else {}),
        "train": train,
    }
    if stage in REWARDED:
        section["reward_functions"] = {"brief": {"function": "length", "at_most": 8}}
    adapter = {"method": method} | ({"r": 16} if method == "lora" else {})
    recipe = {"name": "small", "threads": 1, "model": {"id": "./base"}, "adapter": adapter, "evaluation": FREE}
    Path("small.yaml").write_text(json.dumps(recipe | {"stages": {stage: section}}))
    loaded = load_recipe("small.yaml", [])
    step = Planner(loaded, Path("runs")).plan([stage])[-1]
    folder = Path(f"out/{stage}-{method}-{checkpointing}")
    folder.mkdir(parents=True)
    job = Job("small.yaml", [], "runs", stage, str(folder), step.fingerprint, "run")
    run = StageRun(check(job, Attempt(folder)), lambda *_, **__: None, Interruption())
    run.rows.prepare()
    trainer = run.trainer(run.models.at_the_start())
    live, longest, train_on = LiveStorages(), [0], trainer.training_step

    def noting(model, inputs, *others):
        if isinstance(inputs, list):  # prompts, which are still to be answered
            return train_on(model, inputs, *others)
        sizes = [one.shape[1] for key, one in inputs.items() if key.endswith("input_ids") and "KL" not in key]
        longest[0] = max([longest[0], *sizes])
        return train_on(model, inputs, *others)

    trainer.training_step = noting
    if stage == "grpo":
        score = trainer._compute_loss

        def scoring(model, inputs):
            longest[0] = max(longest[0], inputs["prompt_ids"].shape[1] + inputs["completion_ids"].shape[1])
            return score(model, inputs)

        trainer._compute_loss = scoring
    if stage == "ppo":  # whose inputs are numbers
        learn = trainer._learn

        def learning(model, batch, *others, **more):
            longest[0] = max(longest[0], batch.ids.shape[1])
            return learn(model, batch, *others, **more)

        trainer._learn = learning
    with live:
        for one in [*trainer.model.parameters(), *trainer.model.buffers()]:
            live.count(one)
        standing = live.now
        trainer.train()
    planner = Planner(loaded, Path("runs"))
    known = lengths.known(planner, stage)
    setting = of_recipe.setting_of(loaded, step, planner.parents.named_base(), known)
    # Two steps need not meet the longest rows: the plan is asked about those that they met.
    setting = replace(setting, gpu=False, length=longest[0] or setting.length)
    need = stage_need.need_of(setting)
    return live.peak, (need.of_training(evaluates=False).allocated, setting.step.length), standing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("fake", "real"))
    parser.add_argument("--models", nargs="*", help="of the fake steps, or with --only real of the real ones")
    parser.add_argument("--cases", nargs="*", type=int, help="numbers of CASES, or with --only real of REAL")
    parser.add_argument("--dtypes", nargs="*", default=("bfloat16",))
    parser.add_argument("--out", type=Path, default=RESULTS / "memory.json")
    chosen = parser.parse_args()
    out = chosen.out.resolve()
    found: dict[str, list[dict]] = json.loads(out.read_text()) if out.is_file() else {}

    def keep(kind: str, row: dict) -> None:
        """Written as it comes; what was seen of the same before is replaced."""
        same = ("model", "stage", "tuning", "checkpointing", "rows", "dtype")
        rest = [one for one in found.get(kind, []) if any(one[key] != row[key] for key in same)]
        found[kind] = [*rest, row]
        out.write_text(json.dumps(found, indent=1) + "\n")
        print(
            f"{kind} {row['model']:13} {row['dtype']:8} {row['stage']:6} {row['tuning']:10} checkpointing "
            f"{row['checkpointing']!s:5} {row['rows']} x {row['length']:4}  seen {row['seen'] / GIB:7.2f}  planned "
            f"{row['planned'] / GIB:7.2f}  {row['off']:+6.1%}  without weights {row['off_without_weights']:+6.1%}  "
            f"{row['seconds']} s",
            flush=True,
        )

    cases = {kind: some for kind, some in (("fake", CASES), ("real", REAL)) if chosen.only in (None, kind)}
    cases = {kind: [some[number] for number in chosen.cases] if chosen.cases else some for kind, some in cases.items()}
    if chosen.only != "real":
        fakes(chosen.models or TRACED, cases["fake"], chosen.dtypes, partial(keep, "fake"))
    if chosen.only != "fake":
        real_steps((chosen.only and chosen.models) or SMALL, cases["real"], 4, 48, partial(keep, "real"))


if __name__ == "__main__":
    main()
