"""Models with random weights, small enough to be made in a test, in the shapes of those that people use."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from pipeline.data.tokens.template_files import named
from pipeline.model.tokenizer import train

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
TEXTS = ["What does it eat? It eats 12 apples, doesn't it?", "Wer ist das? Übermorgen kommt sie.", "你好,世界"] * 4


def tokenizer(template: str = "chatml", vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level one with the template's own stop."""
    made = train(TEXTS, vocab_size)
    made.chat_template = named(template)
    if template == "chatml":
        made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        made.eos_token = "<|im_end|>"
    return made


def base(
    folder: Path, model_type: str = "qwen3", *, words=None, head: str = "causal", dtype="float32", **shape
) -> Path:
    """A model with its tokenizer. The weights are large enough that it prefers some tokens to others."""
    words = words or tokenizer()
    torch.manual_seed(0)
    ids = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    size = shape.pop("shard_size", "5GB")
    config = AutoConfig.for_model(model_type, **{"vocab_size": len(words)} | SHAPE | ids | shape)
    if head == "score":
        config.num_labels = 1
    factory = AutoModelForSequenceClassification if head == "score" else AutoModelForCausalLM
    model = factory.from_config(config, dtype=getattr(torch, dtype))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(4).add_(torch.randn_like(weight) * 0.05) if "norm" not in name else weight.add_(
                torch.randn_like(weight) * 0.1
            )
    model.save_pretrained(folder, max_shard_size=size)
    words.save_pretrained(folder)
    return folder


def adapter(folder: Path, on: Path, *, words=None, new_tokens: tuple[str, ...] = (), seed: int = 1, **lora) -> Path:
    """A LoRA that changes the model a good deal, beside a tokenizer that may have new tokens."""
    words = words or PreTrainedTokenizerFast.from_pretrained(on)
    model = AutoModelForCausalLM.from_pretrained(on)
    if new_tokens:
        words.add_special_tokens({"additional_special_tokens": list(new_tokens)}, replace_extra_special_tokens=False)
        model.resize_token_embeddings(len(words))
        ids = words.convert_tokens_to_ids(list(new_tokens))
        lora["trainable_token_indices"] = {"embed_tokens": ids}
        if not model.config.tie_word_embeddings:
            lora["trainable_token_indices"] |= {"lm_head": ids}
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | lora
    torch.manual_seed(seed)
    adapted = get_peft_model(model, LoraConfig(**options))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * (0.2 if "lora_" in name else 0.1))
    adapted.peft_config["default"].base_model_name_or_path = str(on)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    words.save_pretrained(folder)
    return folder


def weights(folder: Path) -> list[torch.Tensor]:
    """What is stored of a model."""
    return [tensor for file in folder.glob("*.safetensors") for tensor in load_file(file).values()]


def onto_the_quantized(model, folder: Path, name: str) -> torch.Tensor:
    """The weight of a module in fp32 with the adapter in `folder` (see `adapter`) on what remains of it in 4 or 8 bits."""
    remains = model.base_model.model.dequantize(dtype=torch.bfloat16).state_dict()
    lora = load_file(folder / "adapter_model.safetensors")
    a, b = (lora[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    return remains[f"{name}.base_layer.weight"].float() + b @ a * 2
