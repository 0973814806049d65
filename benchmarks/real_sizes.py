"""The sizes of models that are known, for what is reckoned or made of them without their weights."""

# As their config.json have them, from the models' own pages.
_LLAMA3 = {"model_type": "llama", "vocab_size": 128256, "num_key_value_heads": 8, "max_position_embeddings": 131072}
_QWEN3 = {"model_type": "qwen3", "vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128}
_QWEN3 |= {"max_position_embeddings": 32768}
_QWEN2 = {"model_type": "qwen2", "vocab_size": 151936, "max_position_embeddings": 32768}


def sizes(width: int, inner: int, layers: int, heads: int, **more: object) -> dict:
    said = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    return said | {"num_attention_heads": heads} | more


CONFIGS = {
    "Llama-3.2-1B": _LLAMA3 | sizes(2048, 8192, 16, 32, head_dim=64, tie_word_embeddings=True),
    "Llama-3.2-3B": _LLAMA3 | sizes(3072, 8192, 28, 24, head_dim=128, tie_word_embeddings=True),
    "Llama-3.1-8B": _LLAMA3 | sizes(4096, 14336, 32, 32, tie_word_embeddings=False),
    "Llama-3.1-70B": _LLAMA3 | sizes(8192, 28672, 80, 64, tie_word_embeddings=False),
    "Qwen3-0.6B": _QWEN3 | sizes(1024, 3072, 28, 16, tie_word_embeddings=True),
    "Qwen3-4B": _QWEN3 | sizes(2560, 9728, 36, 32, tie_word_embeddings=True),
    "Qwen3-8B": _QWEN3 | sizes(4096, 12288, 36, 32, tie_word_embeddings=False),
    "Qwen3-14B": _QWEN3 | sizes(5120, 17408, 40, 40, tie_word_embeddings=False),
    "Qwen2.5-0.5B": _QWEN2 | sizes(896, 4864, 24, 14, num_key_value_heads=2, tie_word_embeddings=True),
    "Qwen2.5-7B": _QWEN2
    | sizes(3584, 18944, 28, 28, num_key_value_heads=4, tie_word_embeddings=False, vocab_size=152064),
    "gemma-2-2b": {"model_type": "gemma2", "vocab_size": 256000, "max_position_embeddings": 8192}
    | sizes(2304, 9216, 26, 8, num_key_value_heads=4, head_dim=256, attn_logit_softcapping=50.0),
    "gemma-2-9b": {"model_type": "gemma2", "vocab_size": 256000, "max_position_embeddings": 8192}
    | sizes(3584, 14336, 42, 16, num_key_value_heads=8, head_dim=256, attn_logit_softcapping=50.0),
}
