"""What was trained, in other forms: each is run beside it before it is called done."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from pipeline.artifact.attempt import Attempt
from pipeline.cli.heavy import import_quietly
from pipeline.cli.options import DEFAULT_RECIPE, JsonOption, RecipeOption, RunsOption, SetOption
from pipeline.console.for_programs import show_json
from pipeline.console.screen import Screen, make_console
from pipeline.errors import PipelineError
from pipeline.recipe.reading import load_recipe
from pipeline.use.export import Export, exports_of
from pipeline.use.export import export as make
from pipeline.use.subject import Subject, find, last_policy
from pipeline.wording import not_among

if TYPE_CHECKING:
    from pipeline.use.export import Format
    from pipeline.use.questions import Questions

FORMATS = ("gguf", "onnx")
Of = Annotated[
    str | None,
    typer.Argument(
        help="A stage of the recipe, or an adapter's or a model's folder; else the last policy that is trained."
    ),
]
ToOption = Annotated[
    Path | None, typer.Option("--to", help="A folder that is not there yet; else exports/ beside what was trained.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Keep it, marked, even where its proof fails.")]


def merge(
    subject: Of = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    dtype: Annotated[
        str | None, typer.Option(help="bfloat16, float16 or float32; else the one that was trained in.")
    ] = None,
    to: ToOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Adapter and base as one plain folder, which transformers and vLLM load."""

    def form(one: Subject, questions: "Questions") -> "Format":
        from pipeline.use.merge import Merged

        return Merged(one, questions, dtype)

    _export(subject, recipe, runs, overrides, form, to, force, as_json)


def export(
    subject: Of = None,
    format: Annotated[str, typer.Option(help="gguf or onnx; `align merge` writes a plain folder.")] = "gguf",
    kind: Annotated[
        str | None, typer.Option("--type", help="Of gguf: f32, f16 (the default), bf16, q8_0, q5_1, q5_0, q4_1, q4_0.")
    ] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Of gguf: the LoRA by itself, for a base that is one.")
    ] = False,
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    to: ToOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """What was trained for llama.cpp and Ollama (gguf) or onnxruntime (onnx)."""
    if format not in FORMATS:
        raise PipelineError(f"--format: {not_among(format, FORMATS)}.", "A plain folder is written by `align merge`.")
    if format != "gguf" and (kind or adapter):
        raise PipelineError(f"--{'type' if kind else 'adapter'}: is of gguf alone.", "Leave it out.")

    def form(one: Subject, questions: "Questions") -> "Format":
        if format == "gguf":
            return _gguf(one, questions, kind, adapter)
        from pipeline.use.onnx import Onnx

        return Onnx(one, questions)

    _export(subject, recipe, runs, overrides, form, to, force, as_json)


def _gguf(one: Subject, questions: "Questions", kind: str | None, adapter: bool) -> "Format":
    from pipeline.use.gguf.adapter import GgufAdapter
    from pipeline.use.gguf.llama_cpp import LlamaCpp, checkout
    from pipeline.use.gguf.writer import Gguf

    if adapter:
        return GgufAdapter(one, questions, kind)
    if folder := checkout():
        return LlamaCpp(one, questions, kind, folder)
    return Gguf(one, questions, kind)


def _export(
    name: str | None,
    recipe: Path,
    runs: Path,
    overrides: list[str] | None,
    form: Callable[[Subject, "Questions"], "Format"],
    to: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    screen = Screen(make_console(stderr=as_json))
    loaded = load_recipe(recipe, overrides or [])
    subject = find(name or last_policy(loaded, runs), loaded, runs)
    if subject.note:
        screen.say(subject.where)
    import_quietly(subject.model.bits is not None)
    from pipeline.use import questions
    from pipeline.use.loaded import tokenizer_of

    asked = questions.of(subject, tokenizer_of(subject), loaded)
    said: list[str] = []
    made = make(
        subject, form(subject, asked), to=to, force=force, tell=lambda text: (said.append(text), screen.say(text))
    )
    if as_json:
        show_json(_told(made))
        return
    if not said:
        screen.say(f"{subject.name}: {made.said['format']} is up to date")
    for line in summary(made):
        screen.say(f"  {line}")
    screen.message(f"[bold]{escape(str(made.folder))}[/bold]")


def summary(made: Export) -> list[str]:
    """An export in words: its size, and what its proof found."""
    proof, size = made.proof, made.size
    lines = [f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.2f} MB"]
    if not proof["prompts"]:
        return [*lines, *(line for one in proof["differs"] for line in one.splitlines())]
    lines.append(f"asked {proof['prompts']} prompts ({proof['of']}), run by {proof['runtime']['exported']}")
    if cut := proof.get("prompts_cut"):  # older proofs do not say it
        lines.append(f"{cut} of them lost their beginning: with the answer they were longer than the model's context")
    lines.append(
        f"the template writes {_of(proof['templates'])} of them alike, the tokenizer splits {_of(proof['texts'])} texts alike"
    )
    if scores := proof.get("scores"):
        lines.append(
            f"scores are at most {scores['largest_difference']:.1e} off, where they vary by {scores['deviation']:.2g}"
        )
    elif proof["tokens"]:
        lines.append(
            f"next tokens: KL {proof['kl']:.1e} nats over {proof['tokens']}, {proof['agreement']:.1%} the same; "
            f"{_of(proof['answers'])} greedy answers the same"
        )
        lines.append(_allowed(proof["limits"], proof.get("kl_allowed")))
    for name in ("exact_match", "mean_score", "reward_accuracy"):
        if name in proof:
            lines.append(
                f"{name.replace('_', ' ')}: {proof[name]['trained']:.3f} trained, {proof[name]['exported']:.3f} exported"
            )
    if modelfile := made.said.get("modelfile"):
        lines.append(f"Modelfile for Ollama: {modelfile}")
    if not made.proven:
        lines += ["NOT PROVEN, and kept by --force:", *(line for one in proof["differs"] for line in one.splitlines())]
    return lines


def _allowed(limits: Mapping[str, float], kl: float | None) -> str:
    """How far next tokens and answers may be off, so that what is proven sounds like no more than it is.

    `kl` is None in a proof that was kept before it was said; it is below the limit where the adapter changed little.
    """
    return (
        f"allowed: KL {kl or limits['kl']:.1e}; another token, and an answer that parts at it, where the trained model preferred its "
        f"own by less than {limits['gap']:g} nats; {1 - limits['sure']:.1%} of them further off"
    )


def show(screen: Screen, attempts: Sequence[tuple[str, Attempt]]) -> None:
    """A line an export, below what they are exports of."""
    for stage, attempt in attempts:
        for one in exports_of(attempt):
            try:
                state = "damaged" if one.damage() else "proven" if one.proven else "not proven"
                kind = f"{one.said['options']['type']}, " if "type" in one.said["options"] else ""
                size = f"{kind}{one.size / 1e6:,.1f} MB"
            except PipelineError as error:
                state, size = "damaged", error.what
            style = {"proven": "green"}.get(state, "red")
            screen.console.print(
                f"[bold]{stage:<8}[/bold]  {escape(str(one.folder))}  [{style}]{state}[/{style}], {escape(size)}",
                soft_wrap=True,
            )


def told(attempt: Attempt) -> list[dict]:
    """The exports of an attempt for a program to read."""
    return [_told(one) for one in exports_of(attempt)]


def _told(one: Export) -> dict:
    try:
        return {"folder": str(one.folder), "damage": one.damage()} | one.said | {"proof": one.proof}
    except PipelineError as error:
        return {"folder": str(one.folder), "damage": error.what}


def _of(counted: dict) -> str:
    return f"{counted['equal']} of {counted['n']}"
