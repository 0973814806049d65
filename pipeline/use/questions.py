"""What a proof asks: held-out prompts of the stage that is exported, as far as there are any."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.artifact.attempt import ROWS
from pipeline.data.prepare import table
from pipeline.data.prepare.sides import HELD_OUT
from pipeline.data.shapes.kinds import KINDS, Kind, Prompt
from pipeline.data.shapes.kinds.kind import from_bytes
from pipeline.data.tokens.encoder import Encoder
from pipeline.data.tokens.template import Template
from pipeline.hub import asking
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.sections import Evaluation
from pipeline.stage import specs
from pipeline.use.gguf import shapes
from pipeline.use.subject import SCORE, Subject

MOST = 64  # prompts
LONGEST_ANSWER = 32  # tokens: of each answer so many are compared
SPARE = 8  # positions: llama.cpp's server ends an answer before the last one
_ANSWER = "I have thought about it, and this is my answer."
# For what comes without rows of its own, and for every tokenizer. They differ in script, digits, spaces and signs, which tokenizers split apart.
BUILT_IN = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Count from 1 to 10, then say 2024 and 3.14159.",
    "Übersetze ins Deutsche: “good morning”, naïve café.",
    "请用一句话介绍你自己。",
    "Fix this code:\n\n    def f(x):\n\treturn  x+1  # TODO\n",
    "I'm sure they're here; don't WE'LL say it's (mostly) fine?!  OK...",
    "🙂 Здравствуйте! مرحبا こんにちは",
)


@dataclass(frozen=True)
class Question:
    text: str  # as the trained template writes it; of a base it is plain text
    ids: list[int]  # what the trained model is asked, in tokens
    messages: list[dict] | None = None  # None: plain text, there is no template to compare
    tools: list[dict] | None = None
    scored: tuple[list[int], ...] = ()  # for a reward model: whole token sequences, the chosen first
    example: Kind | None = None  # what the answer can be judged by


@dataclass(frozen=True)
class Questions:
    rows: Sequence[Question]
    origin: str  # where they are from, for the proof to say
    max_new_tokens: int = LONGEST_ANSWER
    evaluation: Evaluation | None = None  # how the recipe judges an answer
    texts: Sequence[str] = ()  # more of them, which only the tokenizers are asked for
    cut: int = 0  # so many prompts lost their beginning, for with the answer they were longer than the model's context


def of(subject: Subject, tokenizer, recipe: Recipe | None) -> Questions:
    """Up to 64 held-out rows of the subject's stage, spread over all of them; else its samples; else the built-in ones.

    A prompt that leaves no room for its answer loses its beginning, as in an evaluation (evaluate/generate.py).
    """
    encoder = Encoder(tokenizer, through_suffix=subject.head == SCORE)
    built_in = [_asked(one, encoder, subject.head) for one in BUILT_IN]
    found = _of_stage(subject, encoder, recipe) if subject.attempt else None
    asked = replace(found or Questions(built_in, "built-in prompts"), texts=[one.text for one in built_in])
    most = _context(subject)
    if most is None or subject.head == SCORE:
        return asked
    room = max(most - asked.max_new_tokens - SPARE, 1)
    rows = [replace(one, ids=one.ids[-room:]) for one in asked.rows]
    return replace(asked, rows=rows, cut=sum(len(one.ids) > room for one in asked.rows))


def _context(subject: Subject) -> int | None:
    """Positions of every form that the subject is written in; None where its configuration names no end."""
    from transformers import AutoConfig

    remote, source = subject.model.trust_remote_code, subject.base.source or str(subject.folder)
    with asking(f"{subject.name}: {source}"):
        config = AutoConfig.from_pretrained(source, revision=subject.base.commit, trust_remote_code=remote)
    config = config.get_text_config()
    return shapes.context(config) if getattr(config, "max_position_embeddings", None) else None


def _of_stage(subject: Subject, encoder: Encoder, recipe: Recipe | None) -> Questions | None:
    """None where the stage's rows are gone, or none is held out, and its manifest has no samples."""
    stage = subject.manifest["stage"]
    if found := list(_held_out(subject, encoder)):
        settings = recipe.stage(stage).evaluation if recipe and stage in recipe.stages else None
        length = min(settings.max_new_tokens if settings else LONGEST_ANSWER, LONGEST_ANSWER)
        return Questions(found, f"held-out rows of {stage}", length, settings)
    samples = [one["prompt"] for one in subject.manifest["samples"]]
    if samples and subject.head != SCORE:
        return Questions([_asked(one, encoder) for one in samples], f"samples of {stage}")
    return None


def _held_out(subject: Subject, encoder: Encoder) -> Iterator[Question]:
    attempt, spec = subject.attempt, specs().get(subject.manifest["stage"])
    prepared = subject.manifest["data"].get("prepared")
    file = attempt.folder.parents[2] / ROWS / str(prepared) / HELD_OUT
    if spec is None or not prepared or not file.is_file():
        return
    rows = table.mapped(file)
    if not rows.num_rows:
        return
    some = rows.take([*range(0, rows.num_rows, max(-(-rows.num_rows // MOST), 1))]).to_pylist()
    for row in some:
        if KINDS[spec.row_kind].ASKS:
            yield _of_example(from_bytes(KINDS[spec.row_kind], row["example"]), row, encoder)
        else:
            yield _continued(row["input_ids"], encoder.tokenizer)


def _of_example(example: Kind, row: dict, encoder: Encoder) -> Question:
    messages, scored = example.question, ()
    if encoder.through_suffix:  # a reward model's rows: whole, through the end of the rendered conversation
        scored = tuple(row["prompt_ids"] + row[column] for column in example.COLUMNS[1:])
    template = Template(encoder.tokenizer)
    shown, _ = template.as_shown(messages, ask=True, tools=example.tools)
    text = template.render(shown, ask=True, tools=example.tools)
    return Question(text, encoder.prompt_ids(messages, example.tools), shown, example.tools, scored, example)


def _continued(ids: list[int], tokenizer) -> Question:
    """The first half of a text, at most 32 tokens of it."""
    half = ids[: max(min(len(ids) // 2, 32), 1)]
    return Question(tokenizer.decode(half), half)


def _asked(prompt: str, encoder: Encoder, head: str = "causal") -> Question:
    """A prompt of the user's; where the model has no chat template it is a plain text."""
    tokenizer = encoder.tokenizer
    if not tokenizer.chat_template:
        ids = tokenizer(prompt).input_ids
        return Question(prompt, ids, scored=(ids,) if head == SCORE else ())
    messages = [{"role": "user", "content": prompt}]
    text, scored = Template(tokenizer).render(messages, ask=True), ()
    if head == SCORE:
        talk = Template(tokenizer).render([*messages, {"role": "assistant", "content": _ANSWER}])
        scored = (tokenizer(talk, add_special_tokens=False).input_ids,)
    return Question(text, encoder.prompt_ids(messages), messages, scored=scored)


def reference(example: Kind | None) -> str | None:
    """The answer that a row holds to be right."""
    if isinstance(example, Prompt):
        answer = example.columns.get("answer")
        return None if answer is None else str(answer)
    return example.reference if example else None
