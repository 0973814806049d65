"""The figures of a stage as rows of a table, and as parts of a line."""

from rich.text import Text

from pipeline.recipe.gates import LOWER_IS_BETTER

# What needs no trained model: shown beside the model's figure, so that it can be told from luck.
BASELINES = {
    "nearest_question": "looking up the nearest training question",
    "guess_by_length": "guessing by length",
    "most_frequent_label": "always the most frequent label",
    "few_shot_exact_match": "the untrained policy, few-shot without the template",
}
BEATEN_BY = {  # what needs no trained model, and the figures that it is to be held against
    "nearest_question": ("exact_match", "accuracy"),
    "few_shot_exact_match": ("exact_match", "accuracy"),
    "most_frequent_label": ("accuracy",),
    "guess_by_length": ("preference_accuracy", "reward_accuracy"),
}
NAMES = {
    "macro_f1": "macro F1",
    "no_label": "answers that are no label",
    "chrf": "chrF",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
}  # others are shown as they are called
SAME_AS = {"perplexity": "loss"}  # says what another figure says, whose rows' numbers are kept
OWN_COLUMN = {"n", "n_tokens", "n_wanted", "reward_deviation"}  # figures of the evaluation itself, not of the model
OF_A_ROLLOUT = {"kl": "KL of a response"}  # figures of the last one that was trained on, and of no held-out row
MEANING = {  # for readers who never saw this program
    "loss": "of the stage's own training objective, on held-out rows; lower is better",
    "perplexity": "e to the loss; lower is better",
    "exact_match": "share of greedy answers whose checked part equals the reference's",
    "accuracy": "share of greedy answers that are the right label",
    "macro_f1": "mean of the labels' own F1, so that a rare label counts as much as a frequent one; from 0 to 1",
    "no_label": "share of greedy answers that are none of the labels; lower is better",
    "chrf": "likeness of the answers to the references by runs of one to six characters, from 0 to 100",
    "bleu": "likeness of the answers to the references by runs of one to four words, from 0 to 100",
    "rouge_l": "mean F1 of the longest common row of words of answer and reference, from 0 to 1",
    "preference_accuracy": "share of pairs of a better and a worse answer in which the better has the higher mean log-probability a token",
    "reward_accuracy": "share of pairs whose chosen answer has the higher score",
    "mean_score": "mean of the author's own score of the greedy answers",
    "win_rate": "share of answers that score higher than those before the stage, ties counting half",
    "judged_win_rate": "share of answers that the judge prefers to those before the stage, ties counting half",
    "win_rate_over_reference": "share of answers that the judge prefers to the reference answers, ties counting half",
    "mean_reward": "mean of the reward that this stage trains for",
    "kl": "distance from the policy that the stage began with, in nats; lower is closer",
}
MANY_STEPS = 10  # that are named in a line
FEW_ROWS = 30  # below it one row more or less moves a share by more than 3%


def figure_rows(manifest: dict):
    before, after = manifest["metrics"]["before"], manifest["metrics"]["after"]
    if not after:
        yield "nothing measured" if asks_for_none(manifest) else "no held-out rows", "", "", "0", ""
    n, few = str(_held_out(manifest)), are_few(manifest)
    for name in dict.fromkeys([*after, *before]):
        if name in OWN_COLUMN or name in BASELINES:
            continue
        was, now = before.get(name), after.get(name)
        worse = not reads_alike(was, now) and None not in (was, now) and (now > was) == (name in LOWER_IS_BETTER)
        found = (("worse", worse), ("few rows", few), (_tokenizer(manifest, name), True))
        remark = ", ".join(word for word, said in found if word and said)
        of, label = n, name_of(name)
        if name in OF_A_ROLLOUT:
            of, label, remark = "", OF_A_ROLLOUT[name], "in the last rollout"
        yield label, number(was), Text(number(now), style="red" if worse else "bold"), of, remark
    for name, words in BASELINES.items():
        value = after.get(name, before.get(name))
        if value is not None:
            yield f"  {words}", "", number(value), n, "for comparison"
    yield from _earlier_rows(manifest)


def _tokenizer(manifest: dict, name: str) -> str:
    """That of sacrebleu's which the references' script asked for."""
    options = manifest.get("how", {}).get(name, "").split("|")
    return next((f"tokenizer {one.removeprefix('tok:')}" for one in options if one.startswith("tok:")), "")


def _earlier_rows(manifest: dict):
    """What became of that which earlier stages taught."""
    for stage, said in manifest.get("earlier", {}).items():
        if (name := ability(said["after"])) is None:
            continue
        was, now, moved = said["before"][name], said["after"][name], said["differences"].get(SAME_AS.get(name, name))
        moved = None if reads_alike(was, now) else moved
        lost = moved is not None and (moved["low"] > 0 if name in LOWER_IS_BETTER else moved["high"] < 0)
        few = 0 < said["after"]["n"] < FEW_ROWS
        remark = "few rows" if few else "worse beyond chance" if lost else ""  # of few rows not even that can be told
        label = f"{name_of(name)} on the rows of {stage}"
        yield label, number(was), Text(number(now), style="red" if lost else ""), str(said["after"]["n"]), remark


def ability(metrics: dict) -> str | None:
    """The figure that says best what a stage taught: whether answers are right, else which is preferred, else perplexity."""
    return next(
        (name for name in ("accuracy", "exact_match", "preference_accuracy", "perplexity") if name in metrics), None
    )


def _held_out(manifest: dict) -> int:
    """How many held-out rows the figures are of."""
    metrics = manifest["metrics"]
    return metrics["after"].get("n", metrics["before"].get("n", 0))


def asks_for_none(manifest: dict) -> bool:
    """Whether rows are held out and `evaluation.max_rows: 0` has none of them measured."""
    rows, asked = manifest["data"]["rows"], manifest.get("evaluation", {}).get("settings", {})
    return bool(rows["held_out"]) and asked.get("max_rows") == 0


def are_few(manifest: dict) -> bool:
    return 0 < _held_out(manifest) < FEW_ROWS


def in_a_line(metrics: dict) -> str:
    """Figures of the model as they are shown while a stage runs, in the words of the table at its end."""
    left_out = OWN_COLUMN | BASELINES.keys() | {"perplexity"}  # it says the same as the loss
    return "  ".join(f"{name_of(name)} {number(value)}" for name, value in metrics.items() if name not in left_out)


def kept(choice: dict) -> str:
    """Which step a stage has left, where a held-out figure chose it; `choice` as its manifest has it."""
    shown = [f"{one['step']}: {number(one['value'])}" for one in choice["candidates"]]
    few = shown if len(shown) <= MANY_STEPS else [*shown[: MANY_STEPS - 1], "...", shown[-1]]
    return (
        f"step {choice['step']} of {choice['last']}, {name_of(choice['best'])} {number(choice['value'])}, the best of "
        f"{len(shown)} ({', '.join(few)})"
    )


def verdicts(judge: dict) -> str:
    """What a judge said, in a sentence; `judge` as a manifest has it."""
    found, against = judge["after"], {"before": "the answers before it", "reference": "the reference answers"}
    said = [f"{found.get(key, 0)} {key}" for key in ("won", "lost", "even")]
    ties = [
        words.format(found[key])
        for key, words in (("by place", "{} decided by where the answer stood"), ("same", "{} with equal answers"))
        if found.get(key)
    ]
    told = f"{judge['by']} judged {found['pairs']} answers against {against[judge['against']]}: {', '.join(said)}"
    told += f"; {' and '.join(ties)} count as ties" if ties else ""
    if none := found.get("none"):
        why = ", ".join(f"{count} {reason}" for reason, count in found["why"].items())
        told += f"; {none} without a verdict ({why}) count for nothing"
    return told


def short(value: float) -> str:
    """Four digits, for a line; 0 for what only rounding makes of it."""
    return "0" if abs(value) < 1e-6 else f"{value:.4g}"


def name_of(figure: str) -> str:
    """As people write it."""
    return NAMES.get(figure, figure.replace("_", " "))


def reads_alike(was: float | None, now: float | None) -> bool:
    """Whether two figures are shown as the same: then neither is called better or worse."""
    return number(was) == number(now)


def told_apart(was: float, now: float) -> tuple[str, str]:
    """Two figures with as many digits as they need to read otherwise."""
    both = number(was), number(now)
    for digits in range(4, 10):
        both = both if both[0] != both[1] else (f"{was:.{digits}f}", f"{now:.{digits}f}")
    return both


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
