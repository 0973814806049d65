"""The sections of a model card, each a list of paragraphs in Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256

from pipeline.artifact.digests import canonical
from pipeline.console.figures import BASELINES, MEANING, figure_rows, name_of
from pipeline.model.adapters import METHODS
from pipeline.report import settings
from pipeline.stage import objective
from pipeline.use.usage import ADAPTER, GGUF_ADAPTER, MERGED, MODEL, NEED_A_BASE
from pipeline.wording import duration

_MANY_FILES = 6


def summary(lineage: dict) -> list[str]:
    names = [one["stage"] for one in lineage["stages"]]
    scores = lineage["head"] == "score"
    kind = "A reward model: it scores answers, and gives none." if scores else "A language model."
    base, adapter = _base(lineage), lineage.get("adapter", {})
    forms = {
        ADAPTER: f"a {adapter.get('method')} adapter{_rank(adapter)} for {base}",
        MODEL: f"{base}, with every weight trained",
        MERGED: f"{base}, with the trained adapter merged into it",
        GGUF_ADAPTER: f"the trained adapter alone, as a GGUF file, for {base}",
    }
    form = forms.get(lineage["what"], f"{base}, with what was trained, in the form {lineage['what'].upper()}")
    stages = f"{len(names)} stages: {', '.join(names)}" if len(names) > 1 else f"one stage: {names[0]}"
    found = [
        f"{kind} It is {form}. It was trained in {stages}. Every figure below is of rows that it was not trained on."
    ]
    if lineage["what"] in NEED_A_BASE and not lineage["base"]["repository"]:
        found += [
            "> **The base is not on the hub.** Nobody who does not have it can use this adapter "
            f"(its weights have the SHA-256 `{_short(lineage['base']['identity'])}`)."
        ]
    return found


def _rank(adapter: dict) -> str:
    return f" of rank {adapter['r']}" if adapter.get("r") else ""


def learned(lineage: dict) -> list[str]:
    rows, seen = [], {}
    for one in lineage["stages"]:
        for name, before, after, n, note in figure_rows(one):
            rows.append([one["stage"], name.strip(), before, str(after), n, note])
        seen |= one["metrics"]["after"]
    table = _table(["stage", "figure", "before", "after", "n", ""], _first_alone(rows), right=(2, 3, 4))
    meaning = [f"- *{name_of(name)}*: {words}" for name, words in MEANING.items() if name in seen]
    legend = [*meaning, *(["- *for comparison*: what can be had without the stage"] if seen.keys() & BASELINES else [])]
    return [table, "\n".join(legend)]


def made(lineage: dict) -> list[str]:
    rows = []
    for one in lineage["stages"]:
        run, peak = one["run"], one["peak_bytes"]
        memory = [
            f"{peak[key] / 2**30:.2f} GiB {word}" for key, word in (("gpu", "GPU"), ("host", "host")) if key in peak
        ]
        rows.append(
            [
                one["stage"],
                objective(one["stage"]),
                f"{one['steps']:,}",
                f"{one['tokens']:,}",
                duration(one["seconds"]["training"]),
                ", ".join(memory),
                run.get("gpu") or f"CPU, {run['threads']} thread{'s' if run['threads'] > 1 else ''}",
            ]
        )
    headings = ["stage", "what is done", "updates", "tokens", "time", "peak memory", "hardware"]
    table = _table(headings, rows, right=(2, 3, 4))
    settings = "\n".join(f"- **{one['stage']}**: {', '.join(_settings(one))}" for one in lineage["stages"])
    versions = lineage["stages"][-1]["versions"]
    return [
        table,
        "What differs from the defaults of the trainers and of PEFT:",
        settings,
        f"With {', '.join(f'{name} {number}' for name, number in versions.items())}.",
    ]


def data(lineage: dict, licenses: Mapping[str, str]) -> list[str]:
    rows = []
    for one in lineage["stages"]:
        account = one["data"]["rows"]
        counts = [account[key] for key in ("read", "trained", "held_out", "dropped")]
        rows.append([one["stage"], *map(shown, counts)])
    table = _table(["stage", "rows read", "= trained", "+ held out", "+ dropped"], rows, right=(1, 2, 3, 4))
    files = [f"- **{one['stage']}**: {_files(one['data']['files'], licenses)}" for one in lineage["stages"]]
    return [table, "\n".join([*_dropped(lineage), *files]), "The rows themselves are not part of this repository."]


def proof(lineage: dict) -> list[str]:
    """How an export was compared with what was trained; nothing where it is that itself."""
    if "export" not in lineage:
        return []
    said, found = lineage["export"], lineage["export"]["proof"]
    options = ", ".join(f"{key} {value}" for key, value in said["options"].items())
    rows = [
        ["prompts that the chat template writes alike", _counted(found.get("templates"))],
        ["texts that the tokenizer splits alike", _counted(found.get("texts"))],
        ["greedy answers that are the same", _counted(found.get("answers"))],
        ["next tokens that are the same", f"{found['agreement']:.2%}" if "agreement" in found else ""],
        [
            "KL of the next token, mean in nats",
            f"{found['kl']:.1e} of {found['tokens']:,} tokens" if "kl" in found else "",
        ],
    ]
    if scores := found.get("scores"):
        rows.append(
            [
                "scores: largest difference",
                f"{scores['largest_difference']:.1e}, where they vary by {scores['deviation']:.2g}",
            ]
        )
    for name in ("exact_match", "mean_score", "reward_accuracy"):
        if pair := found.get(name):
            rows.append([name.replace("_", " "), f"{pair['trained']:.3f} trained, {pair['exported']:.3f} here"])
    return [
        f"This is the form *{said['format']}* ({options}). Run by {found['runtime']['exported']}, it was asked "
        f"{found['prompts']} prompts ({found['of']}) beside what was trained, and says the same:",
        _table(["", "found"], [row for row in rows if row[1]]),
    ]


def _counted(said: Mapping | None) -> str:
    return f"{said['equal']} of {said['n']}" if said and said["n"] else ""


def descent(lineage: dict, repository: str) -> list[str]:
    first = first_base(lineage)
    rows = [["base", first["shown"], f"`{first['weights'][:16]}`" if first["weights"] else ""]]
    rows += [[one["stage"], f"`{one['fingerprint']}`", f"`{one['weights_sha256'][:16]}`"] for one in lineage["stages"]]
    return [
        "Each stage's inputs name the weights that it started from by their SHA-256, and their own hash is its fingerprint:",
        _table(["", "made from", "weights"], rows),
        f"`align verify hub:{repository}` checks these links, every file, and the tables of this card against `lineage.json`. "
        "Digests show that nothing was changed since; the figures and what is said of the data are the author's word.",
    ]


def first_base(lineage: dict) -> dict:
    """What the whole chain stands on: a digest that says which it is, and how it is shown."""
    identity = lineage["stages"][0]["inputs"]["base"]
    if "id" in identity:
        shown = _linked(identity["id"], identity["commit"])
    elif "config" in identity:
        shown = f"a model made from scratch ({identity['config'].get('model_type')})"
    else:
        shown = "a model that is on no hub"
    return {"sha256": sha256(canonical(identity)).hexdigest(), "weights": identity.get("sha256"), "shown": shown}


def data_sets(lineage: dict) -> Iterator[str]:
    """The names of those of the hub."""
    for one in lineage["stages"]:
        for file in one["data"]["files"]:
            if file["name"].startswith("hub:"):
                yield file["name"].removeprefix("hub:").partition("@")[0]


def _base(lineage: dict) -> str:
    base = lineage["base"]
    if base["repository"]:
        return _linked(base["repository"], base["commit"])
    return first_base(lineage)["shown"]


def _linked(name: str, commit: str | None) -> str:
    link = f"[{name}](https://huggingface.co/{name})"
    return f"{link} at commit `{commit[:12]}`" if commit else link


def _short(identity: Mapping) -> str:
    return str(identity.get("sha256", ""))[:16]


def _settings(one: dict) -> Iterator[str]:
    inputs, adapter = one["inputs"], one["inputs"]["adapter"]
    yield f"{inputs['train']['global_batch']} rows an update"
    for setting in settings.differing(one["stage"], inputs, always=("r", "lora_alpha")):
        yield f"`{setting.name}` {settings.shown(setting.value)}"
    if isinstance(adapter, dict) and METHODS[adapter["method"]].whole:
        yield ", ".join(
            [f"method {adapter['method']}", *(f"`{key}` {adapter[key]}" for key in adapter if key != "method")]
        )
    elif adapter == "the parent's":
        yield "on the parent's adapter"
    elif not isinstance(adapter, dict):
        yield "all weights"
    for name, value in inputs.get("adapter_learning", {}).items():
        yield f"`{name}` {settings.shown(value)}"
    if inputs["model"]["load_in_4bit"]:
        yield "base in 4 bits (NF4)"
    if inputs["model"].get("load_in_8bit"):
        yield "base in 8 bits (LLM.int8)"
    yield f"{inputs['model']['dtype']}, seed {inputs['seed']}"


def _files(files: Sequence[Mapping], licenses: Mapping[str, str]) -> str:
    told = []
    for file in files[:_MANY_FILES]:
        if file["name"].startswith("hub:"):
            name = file["name"].removeprefix("hub:").partition("@")[0]
            commit = file["sha256"].partition("@")[2]
            link = f"[{name}](https://huggingface.co/datasets/{name})"
            told.append(f"{link} at commit `{commit[:12]}` ({licenses.get(name, 'license not known')})")
        else:
            told.append(f"`{file['name']}` (SHA-256 `{file['sha256'][:16]}`)")
    more = len(files) - _MANY_FILES
    return ", ".join(told) + (f" and {more} more, see `lineage.json`" if more > 0 else "")


def _dropped(lineage: dict) -> Iterator[str]:
    for one in lineage["stages"]:
        account = one["data"]["rows"]
        for reason, count in (account.get("dropped_by_reason") or {}).items():
            yield f"- {one['stage']} dropped {count:,}: {reason}"
        if account.get("truncated"):
            yield f"- {one['stage']} cut {account['truncated']:,} rows to its `max_length`"


def shown(count: object) -> str:
    return f"{count:,}" if isinstance(count, int | float) else str(count)


def _first_alone(rows: list[list[str]]) -> list[list[str]]:
    """The stage is named in its first row alone."""
    return [
        [row[0] if number == 0 or rows[number - 1][0] != row[0] else "", *row[1:]] for number, row in enumerate(rows)
    ]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    lines = ["---:" if number in right else "---" for number in range(len(headings))]
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [headings, lines, *cells])
