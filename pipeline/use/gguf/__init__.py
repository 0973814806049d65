"""One file for llama.cpp, Ollama and what else reads GGUF: weights, tokenizer, chat template and stop.

`shapes` knows the architectures, `vocabulary` the tokenizers, `writer` writes a model, `adapter` a LoRA, `modelfile` what
Ollama wants beside it; `runtime` runs the file for the proof. What is not known is refused by its name.
"""
