"""What stands in a manifest.json. A test holds it to those that stages write."""

from typing import Any, NotRequired

from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

Metrics = dict[str, float]


class Interval(TypedDict):
    """How far a figure moved, and where 95% of the difference would lie if chance had drawn other rows."""

    value: float
    low: float
    high: float


class Rows(TypedDict):
    """The row account; read = trained + held_out + dropped."""

    read: int
    trained: int
    held_out: int
    dropped: int
    dropped_by_reason: dict[str, int]
    duplicates_kept: int
    """Rows that say the same as an earlier one and were kept."""
    contradictions: int
    """Pairs that prefer what an earlier pair rejects."""
    held_out_asked: NotRequired[int]
    """How many rows the share asked for, where whole prompts came no closer."""
    truncated: int
    """Rows that were cut to `max_length`."""
    answers_cut: int
    """Of them those whose answer was cut, too."""
    tokens_cut: int
    reasoning_left_out: NotRequired[int]
    """Answers whose reasoning the template does not show."""
    garbled: NotRequired[int]
    """Rows with characters that no decoder could read."""
    first_garbled: NotRequired[str]
    scored_against: NotRequired[int]
    """Pairs whose own scores say the opposite."""
    first_scored_against: NotRequired[str]
    partial: NotRequired[bool]
    """Streamed: not all rows were read."""


class Data(TypedDict):
    """Which rows it was trained on."""

    files: dict[str, str]
    """The SHA-256 of each file; of a data set of the hub its commit."""
    rows: Rows
    prepared: str
    """The folder of the prepared rows in `runs/.data/`."""


class Parent(TypedDict):
    """A policy or a reward model that it stands on."""

    stage: str | None
    """Null for an adapter from elsewhere."""
    folder: str
    sha256: str
    """Of its weights."""


class Base(TypedDict):
    """The model below the adapter."""

    identity: dict[str, Any] | None
    """`id` and `commit` of a model of the hub, `sha256` of a local one, or the `config` that it was made from."""
    source: str | None
    commit: str | None


class Share(TypedDict):
    """The steps after those of the share before it."""

    until: int
    """The last of them."""
    processes: int
    nodes: int
    """Machines."""
    strategy: NotRequired[str]
    """Of several processes."""


class Run(TypedDict):
    """How it was run. None of it is in the fingerprint."""

    backend: str
    """`transformers` or `unsloth`."""
    why: str
    device: str
    processes: int
    strategy: NotRequired[str]
    """What several processes had in common."""
    nodes: NotRequired[int]
    """Of several machines how many."""
    earlier: NotRequired[list[Share]]
    """Where it was stopped and another number went on: those before, in their order."""
    threads: int
    attention: str
    gpu: NotRequired[str]
    driver: NotRequired[str | None]
    shrunk: NotRequired[list[dict[str, Any]]]
    """Each time that memory ran out: which key, from and to how many rows, while what was done."""


class Kept(TypedDict):
    """Which step was kept, where a figure chose it."""

    best: str
    step: int
    value: float
    last: int
    candidates: list[dict[str, Any]]


class Earlier(TypedDict):
    """What became of that which an earlier stage taught."""

    fingerprint: str
    before: Metrics
    after: Metrics
    differences: dict[str, Interval]


class Asked(TypedDict):
    """How it was measured."""

    sha256: str
    """Of all that the figures depend on: another one, and the stage is measured again."""
    settings: dict[str, Any]
    """The recipe's `evaluation`, as it stands for this stage."""


class File(TypedDict):
    """One file of the output."""

    size: int
    sha256: str


class Manifest(TypedDict):
    """Written last, at once or not at all: a folder without one is unfinished."""

    schema: int
    """The version of this format: 1."""
    stage: str
    fingerprint: str
    """Twelve hex digits of the SHA-256 of `inputs`: the artifact's folder."""
    inputs: dict[str, Any]
    """Everything that says what is trained; `inputs.json` has the same."""
    data: Data
    parents: dict[str, Parent]
    """By role: `policy`, `reward`."""
    base: Base
    head: str
    """`causal`, or `score` of a reward model."""
    output: str
    """`adapter`, or `model` where every weight is trained."""
    weights_sha256: str
    """What the output is: its tensors, tokenizer and template, wherever it lies."""
    run: Run
    parameters: NotRequired[dict[str, int]]
    """`trained`, and `in all`: those of the model and what is trained beside them."""
    steps: int
    tokens: int
    """Of prompts and answers, each time that they are trained on; padding is not counted."""
    kept: NotRequired[Kept]
    figures: Metrics
    """Of training itself, not of held-out rows; they also stand in `metrics.after`."""
    seconds: dict[str, float]
    """`training`, evaluations and checkpoints between its steps included; and `in all`, with what the last process did around it."""
    peak_bytes: dict[str, int]
    """`host`; on a GPU also `gpu` (allocated) and `gpu_reserved`."""
    memory: NotRequired[dict[str, Any]]
    """Bytes: what the plan said it takes on a GPU (`planned`, `in` which phase), beside what a GPU `measured`."""
    versions: dict[str, str]
    metrics: dict[str, Metrics]
    """`before` and `after` the stage, on held-out rows; `n` is how many."""
    differences: dict[str, Interval]
    """Of the figures that chance can be told of."""
    judge: NotRequired[dict[str, Any]]
    """Who judged, against what, and what it said."""
    confusion: NotRequired[dict[str, Any]]
    """`before` and `after`: how often each label was said for each."""
    how: NotRequired[dict[str, str]]
    """By which tool and options a figure of texts was computed."""
    earlier: dict[str, Earlier]
    """By the stage that taught it."""
    samples: list[dict[str, Any]]
    """Answers before and after, to be read."""
    evaluation: Asked
    trackers: NotRequired[dict[str, Any]]
    finished: str
    """When: ISO 8601."""
    files: dict[str, File]
    sha256: str
    """Of this file without this line: an edited manifest is refused."""
