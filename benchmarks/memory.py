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
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ.setdefault("OMP_NUM_THREADS", "1")
RESULTS = Path(__file__).parent / "results"
GIB = 2**30

# As their config.json have them, from the models' own pages.
_LLAMA3 = {"model_type": "llama", "vocab_size": 128256, "num_key_value_heads": 8, "max_position_embeddings": 131072}
_QWEN3 = {"model_type": "qwen3", "vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128}
_QWEN3 |= {"max_position_embeddings": 32768}
_QWEN2 = {"model_type": "qwen2", "vocab_size": 151936, "max_position_embeddings": 32768}


def _sizes(width: int, inner: int, layers: int, heads: int, **more: object) -> dict:
    said = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    return said | {"num_attention_heads": heads} | more


CONFIGS = {
    "Llama-3.2-1B": _LLAMA3 | _sizes(2048, 8192, 16, 32, head_dim=64, tie_word_embeddings=True),
    "Llama-3.2-3B": _LLAMA3 | _sizes(3072, 8192, 28, 24, head_dim=128, tie_word_embeddings=True),
    "Llama-3.1-8B": _LLAMA3 | _sizes(4096, 14336, 32, 32, tie_word_embeddings=False),
    "Llama-3.1-70B": _LLAMA3 | _sizes(8192, 28672, 80, 64, tie_word_embeddings=False),
    "Qwen3-0.6B": _QWEN3 | _sizes(1024, 3072, 28, 16, tie_word_embeddings=True),
    "Qwen3-4B": _QWEN3 | _sizes(2560, 9728, 36, 32, tie_word_embeddings=True),
    "Qwen3-8B": _QWEN3 | _sizes(4096, 12288, 36, 32, tie_word_embeddings=False),
    "Qwen3-14B": _QWEN3 | _sizes(5120, 17408, 40, 40, tie_word_embeddings=False),
    "Qwen2.5-0.5B": _QWEN2 | _sizes(896, 4864, 24, 14, num_key_value_heads=2, tie_word_embeddings=True),
    "Qwen2.5-7B": _QWEN2
    | _sizes(3584, 18944, 28, 28, num_key_value_heads=4, tie_word_embeddings=False, vocab_size=152064),
    "gemma-2-2b": {"model_type": "gemma2", "vocab_size": 256000, "max_position_embeddings": 8192}
    | _sizes(2304, 9216, 26, 8, num_key_value_heads=4, head_dim=256, attn_logit_softcapping=50.0),
    "gemma-2-9b": {"model_type": "gemma2", "vocab_size": 256000, "max_position_embeddings": 8192}
    | _sizes(3584, 14336, 42, 16, num_key_value_heads=8, head_dim=256, attn_logit_softcapping=50.0),
}
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
]


def planned(config: dict, stage: str, method: str, checkpointing: bool, rows: int, length: int, dtype: str, **more):
    """The plan's phase of a training step, without its margin."""
    from pipeline.plan.memory import stage_need
    from pipeline.plan.memory.shape import shape_of
    from pipeline.plan.memory.tuned import tuned
    from pipeline.plan.memory.weights import BYTES
    from pipeline.recipe.fields import effective
    from pipeline.stage import specs

    spec, shape = specs()[stage], shape_of(config)
    if spec.head == "score":
        shape = shape.without_head()
    fields = {"r": 16, "target_modules": "all-linear"} | more.pop("fields", {})
    given = {"per_device_train_batch_size": rows, "gradient_checkpointing": checkpointing, "max_length": length}
    setting = stage_need.Setting(
        spec=spec,
        shape=shape,
        tuned=tuned(method, fields, shape, BYTES[dtype], score=spec.head == "score"),
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

    kind = getattr(torch, dtype)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=kind, attn_implementation="sdpa")
        if method == "lora":
            settings = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
            model = get_peft_model(model, settings)
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
            plain = model.base_model.model if method == "lora" else model
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
    for start in range(0, len(labels), 256):
        parts = torch.utils.checkpoint.checkpoint(
            _chunk,
            hidden[start : start + 256],
            model.lm_head.weight,
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


def fakes(models, cases, dtypes) -> list[dict]:
    found = []
    for name in models:
        for dtype in dtypes:
            for case in cases:
                begun = time.monotonic()
                seen = fake_step(CONFIGS[name], *case, dtype)
                need, _ = planned(CONFIGS[name], *case, dtype)
                phase = need.phases[0]
                states = phase.parts["optimizer"]
                said = phase.allocated - states  # a first step has none
                row = {"model": name, "dtype": dtype} | dict(
                    zip(("stage", "tuning", "checkpointing", "rows", "length"), case, strict=True)
                )
                row |= {"traced": seen["peak"], "planned": said, "off": round(said / seen["peak"] - 1, 4)}
                row |= {"weights": seen["standing"], "seconds": round(time.monotonic() - begun, 1), "at": seen["at"]}
                row |= {
                    "off_without_weights": round((said - seen["standing"]) / (seen["peak"] - seen["standing"]) - 1, 4)
                }
                print(
                    f"{name:13} {dtype:8} {case[0]:4} {case[1]:4} checkpointing {case[2]!s:5} {case[3]} x {case[4]:4}  "
                    f"traced {row['traced'] / GIB:7.2f}  planned {said / GIB:7.2f}  {row['off']:+6.1%}  without weights "
                    f"{row['off_without_weights']:+6.1%}  {row['seconds']} s",
                    flush=True,
                )
                found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("fake", "real"))
    parser.add_argument("--models", nargs="*", default=TRACED)
    parser.add_argument("--dtypes", nargs="*", default=("bfloat16",))
    parser.add_argument("--out", type=Path, default=RESULTS / "memory.json")
    chosen = parser.parse_args()
    found = {}
    if chosen.only != "real":
        found["fake"] = fakes(chosen.models, CASES, chosen.dtypes)
    chosen.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
