"""Models with random weights in the shapes of real ones, with a small tokenizer, and rows of random words of a length."""

import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(PROJECT))
SHAPES = {
    "llama-3.2-1b": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256,
        "max_position_embeddings": 131_072, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    },
    "qwen3-4b": {
        "model_type": "qwen3", "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936,
        "max_position_embeddings": 32_768, "rope_theta": 1_000_000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    },
    "llama-3.1-8b": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128_256,
        "max_position_embeddings": 131_072, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    },
}  # fmt: skip
SMOKE = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 1200,
}  # fmt: skip


def write_rows(folder: Path, length: int, number: int = 200) -> None:
    """chat, pairs and prompts, each row with at least so many tokens, so that a stage cuts it to its max_length."""
    rng, words = random.Random(0), sorted({word for text in _texts() for word in text.split()})

    def text(tokens: int) -> str:
        return " ".join(rng.choice(words) for _ in range(tokens))

    rows = [
        {"prompt": text(length // 8), "completion": text(length), "chosen": text(length), "rejected": text(length)}
        for _ in range(number)
    ]
    asked = [{"prompt": text(length // 4)} for _ in range(number)]
    keys = {"chat": ("prompt", "completion"), "pairs": ("prompt", "chosen", "rejected")}
    files = {name: [{key: row[key] for key in wanted} for row in rows] for name, wanted in keys.items()}
    files |= {"prompts": asked, "text": [{"text": row["completion"]} for row in rows]}
    for name, some in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))


def _texts() -> Iterator[str]:
    for line in (PROJECT / "data/tiny/prompts.jsonl").read_text().splitlines():
        yield json.loads(line)["prompt"]


def write_model(shape: dict, folder: str) -> None:
    """Random weights of a shape, in bf16, with a small tokenizer beside them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    from pipeline.model import tokenizer

    words = tokenizer.train(_texts(), 1000)
    words.add_special_tokens({"pad_token": "<pad>"})
    words.chat_template = (PROJECT / "pipeline/data/tokens/templates/plain.jinja").read_text()
    ids = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    set_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape, **ids), dtype=torch.bfloat16)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
