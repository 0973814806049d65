"""The model card: what a stranger on the hub has to know of a model, told from its lineage.

The form is the hub's (https://huggingface.co/docs/hub/model-cards): metadata in YAML, then text. Since a lineage holds
no path of this machine and no row of the data, neither does the card.
"""

from collections.abc import Iterator

from pipeline.console.figures import BASELINES, OWN_COLUMN, name_of
from pipeline.use import card_text as text
from pipeline.use.card_limits import limits
from pipeline.use.known import Known
from pipeline.use.usage import ADAPTER, GGUF, GGUF_ADAPTER, MERGED, MODEL, NEED_A_BASE, ONNX, usage

TAG = "align-pipeline"
_LIBRARIES = {ADAPTER: "peft", MODEL: "transformers", MERGED: "transformers", GGUF_ADAPTER: GGUF}
_FORM_TAGS = {ADAPTER: ["lora"], GGUF_ADAPTER: ["lora", "gguf"], GGUF: ["gguf"], ONNX: ["onnx"]}
_METRICS = {"preference_accuracy": "accuracy", "reward_accuracy": "accuracy"}  # the hub's names, where they differ


def card(lineage: dict, known: Known) -> str:
    """README.md of a repository."""
    from huggingface_hub import ModelCard

    name = known.repository.rpartition("/")[2]
    parts = [f"---\n{_metadata(lineage, known).to_yaml()}\n---", f"# {name}", *text.summary(lineage)]
    sections = {
        "Use it": usage(lineage, known.repository),
        "What it learned": text.learned(lineage),
        "How it was made": text.made(lineage),
        "Data": text.data(lineage, known.licenses),
        "Proof that this form is what was trained": text.proof(lineage),
        "Limits": ["\n".join(f"- {line}" for line in limits(lineage, known.licenses))],
        "Where it comes from": text.descent(lineage, known.repository),
    }
    for heading, paragraphs in sections.items():
        parts += [f"## {heading}", *paragraphs] if paragraphs else []
    return str(ModelCard("\n\n".join(parts) + "\n"))


def marks(lineage: dict) -> dict:
    """By what a repository is known to hold an earlier state of the same: other attempts at it replace it."""
    return {"stage": lineage["stage"], "what": lineage["what"], "base": text.first_base(lineage)["sha256"]}


def _metadata(lineage: dict, known: Known):
    from huggingface_hub import ModelCardData

    base, adapter = lineage["base"]["repository"], lineage["what"] in NEED_A_BASE
    license = known.license or known.licenses.get(base)
    sets = list(dict.fromkeys(text.data_sets(lineage)))
    figures = list(results(lineage))
    return ModelCardData(
        base_model=base,
        base_model_relation=("adapter" if adapter else "finetune") if base else None,
        datasets=sets or None,
        language=list(known.languages) or None,
        library_name=_LIBRARIES.get(lineage["what"], lineage["what"]),
        license=None if license == "other" else license,
        pipeline_tag=_task(lineage),
        tags=[
            TAG,
            *(["lora"] if adapter else []),
            *_FORM_TAGS.get(lineage["what"], ()),
            "trl",
            *dict.fromkeys(one["stage"] for one in lineage["stages"]),
        ],
        model_name=known.repository.rpartition("/")[2] if figures else None,
        eval_results=figures or None,
        align=marks(lineage),
    )


def _task(lineage: dict) -> str:
    return "text-classification" if lineage["head"] == "score" else "text-generation"


def results(lineage: dict) -> Iterator[object]:
    """The figures of the last stage, as the hub's model-index has them."""
    from huggingface_hub import EvalResult

    last = lineage["stages"][-1]
    files = last["data"]["files"]
    what = files[-1]["name"].removeprefix("hub:").partition("@")[0] if files else "held-out"
    after = last["metrics"]["after"]
    for name, value in after.items():
        if name not in OWN_COLUMN and name not in BASELINES and value is not None:
            yield EvalResult(
                task_type=_task(lineage),
                dataset_type=what,
                dataset_name=f"{after.get('n', 0)} held-out rows of {what}",
                metric_type=_METRICS.get(name, name),
                metric_name=name_of(name),
                metric_value=round(value, 4),
            )
