"""The few lines with which somebody else uses what is published, as the card quotes them. They run as they stand."""

from pipeline.stage import specs

ADAPTER, MODEL, MERGED, GGUF, GGUF_ADAPTER = "adapter", "model", "merged", "gguf", "gguf-adapter"
ONNX = "onnx"
NEED_A_BASE = (ADAPTER, GGUF_ADAPTER)
_ASKED = '[{"role": "user", "content": "Who are you?"}]'
_SAID = '[{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A model."}]'
_QUANTIZED = {
    "load_in_4bit": 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True',
    "load_in_8bit": "load_in_8bit=True",
}
_NO_BASE = "path/to/the/base"  # where it is on no hub


def usage(lineage: dict, repository: str) -> list[str]:
    """Paragraphs of Markdown. `repository` is owner/name, or a folder."""
    if lineage["what"] in (ADAPTER, MODEL, MERGED):
        return [f"```python\n{python(lineage, repository)}\n```"]
    if lineage["what"] in (GGUF, GGUF_ADAPTER):
        return _gguf(lineage, repository)
    if lineage["what"] == ONNX:
        return [f"```python\n{_onnx(lineage, repository)}\n```"]
    return [f"```sh\nhf download {repository} --local-dir model\n```"]


def _onnx(lineage: dict, repository: str) -> str:
    file = next((name for name in lineage["files"] if name.endswith(".onnx")), "model.onnx")
    return "\n".join(
        [
            "from huggingface_hub import snapshot_download",
            "from onnxruntime import InferenceSession",
            "from transformers import AutoTokenizer",
            "",
            f'folder = snapshot_download("{repository}")',
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
            f'session = InferenceSession(f"{{folder}}/{file}")',
            "print([one.name for one in session.get_inputs()])",
        ]
    )


def _gguf(lineage: dict, repository: str) -> list[str]:
    """The file as llama.cpp and Ollama take it; a Modelfile has the template and the stop that were trained."""
    file = next((name for name in lineage["files"] if name.endswith(".gguf")), "model.gguf")
    model = f"{_NO_BASE}.gguf --lora model/{file}" if lineage["what"] == GGUF_ADAPTER else f"model/{file}"
    lines = [f"hf download {repository} --local-dir model", f"llama-cli -m {model} --jinja"]
    words = "With llama.cpp:"
    if "Modelfile" in lineage["files"]:
        words, name = "With llama.cpp, or with Ollama:", repository.rpartition("/")[2].lower()
        lines += ["", "cd model", f"ollama create {name} -f Modelfile", f"ollama run {name}"]
    text = "\n".join(lines)
    return [words, f"```sh\n{text}\n```"]


def python(lineage: dict, repository: str) -> str:
    """Python that loads and asks, or scores."""
    scores, adapter = lineage["head"] == "score", lineage["what"] == ADAPTER
    kind = "SequenceClassification" if scores else "CausalLM"
    ids = [f'tokenizer = AutoTokenizer.from_pretrained("{repository}")', *_ids(lineage, scores)]
    options = ["num_labels=1", "pad_token_id=tokenizer.pad_token_id"] if scores and adapter else []
    quantized = adapter and next((made for key, made in _QUANTIZED.items() if lineage["base"].get(key)), None)
    options += ["quantization_config=quantized"] if quantized else []
    said = "".join(f", {one}" for one in options)
    names, imports = ["AutoTokenizer"], []
    if adapter and lineage["base"]["repository"]:
        imports = [f"from peft import AutoPeftModelFor{kind}"]
        load = [f'model = AutoPeftModelFor{kind}.from_pretrained("{repository}"{said})']
    elif adapter:
        imports, names = ["from peft import PeftModel"], [*names, f"AutoModelFor{kind}"]
        load = [f'base = AutoModelFor{kind}.from_pretrained("{_NO_BASE}"{said})']
        load += ["base.resize_token_embeddings(len(tokenizer))"] if lineage["adapter"]["new_tokens"] else []
        load += [f'model = PeftModel.from_pretrained(base, "{repository}")']
    else:
        names = [*names, f"AutoModelFor{kind}"]
        load = [f'model = AutoModelFor{kind}.from_pretrained("{repository}")']
    if quantized:
        names = [*names, "BitsAndBytesConfig"]
        load = [
            f"quantized = BitsAndBytesConfig({quantized})",
            *load,
        ]
    if needed := adapter and lineage["adapter"].get("needs"):
        imports = [f"import {needed}  # of the project that trained it: PEFT has no such adapters by itself", *imports]
    imports = [*imports, f"from transformers import {', '.join(sorted(names))}"]
    return "\n".join([*imports, "", ids[0], *load, "", *ids[1:], *_answer(scores)])


def _ids(lineage: dict, scores: bool) -> list[str]:
    spec = specs().get(lineage["stage"])
    if spec and spec.row_kind == "text":  # it knows no conversation
        return ['ids = tokenizer("Once", return_tensors="pt")']
    said = _SAID if scores else _ASKED
    more = "" if scores else "add_generation_prompt=True, "
    name = "said" if scores else "asked"
    return [
        f"{name} = {said}",
        f'ids = tokenizer.apply_chat_template({name}, {more}return_tensors="pt", return_dict=True)',
    ]


def _answer(scores: bool) -> list[str]:
    if scores:
        return ["print(model.eval()(**ids).logits.item())"]
    return [
        "answer = model.generate(**ids, max_new_tokens=100, eos_token_id=tokenizer.eos_token_id)",
        'print(tokenizer.decode(answer[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
