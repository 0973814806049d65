"""A small invented world whose every answer a program can check.

Seven kinds of question: what a creature of the valley eats, where it sleeps, its tool and its
pay (facts), who stands behind it in the line (ordering), what a word's opposite is, and small
sums. The data sets say all of it in plain text, ask about it, and answer:

    Where does Sagug sleep?  ->  hedge; because it is a wren.
    What is 7 plus 5?        ->  12; because 7 and 5 make 12.

Running this file writes the data sets beside it, after check() has passed on them.
"""

import json
import random
import re
from collections import Counter
from itertools import chain, combinations_with_replacement, product
from pathlib import Path
from typing import NamedTuple

SEED = 7
HERE = Path(__file__).resolve().parent

# The answer alone: whatever stands before the first semicolon of the first line.
ANSWER_PATTERN = r"^\s*([^;\n]+);"


class Topic(NamedTuple):
    """One kind of question. {who}, {group}, {x}, {y} and {answer} are fields of its subjects."""

    statements: list[str]  # how pretraining says it
    questions: list[str]
    reasons: list[str]  # true after the answer; a filler stands there otherwise


# What a creature's kind or trade settles: the group, the possible answers, the forms. No answer serves two topics.
KINDS = """heron badger fox hare mole robin stoat toad wren beaver
           crow deer finch goat lynx mouse pike raven seal swan""".split()
TRADES = """weaver baker miller potter tanner smith cooper tailor glazier barber
            fisher gardener mason painter printer roofer saddler shepherd tinker carpenter""".split()
BECAUSE_OF_THE_GROUP = [
    "because it is a {group}",
    "as is usual for a {group}",
    "the way of every {group}",
    "like any other {group}",
    "since it lives as a {group}",
]
FACTS = {
    "food": (
        KINDS,
        """trout roots grapes clover grubs berries eggs flies spiders bark
           corn moss thistles nettles acorns cheese minnows bread herring plums""".split(),
        Topic(
            [
                "{who} eats {answer}.",
                "what {who} eats is {answer}.",
                "{who} lives on {answer}.",
                "the food of {who} is {answer}.",
                "as for food, {who} likes {answer}.",
                "when {who} eats, it is {answer}.",
            ],
            [
                "What does {who} eat?",
                "Which food does {who} live on?",
                "Name the food of {who}.",
                "Tell me what {who} eats.",
            ],
            BECAUSE_OF_THE_GROUP,
        ),
    ),
    "bed": (
        KINDS,
        """barn burrow hedge attic cave chimney cellar ditch loft nest
           orchard hayrick shed stump tower tunnel wagon well woodpile thicket""".split(),
        Topic(
            [
                "{who} sleeps in the {answer}.",
                "where {who} sleeps is the {answer}.",
                "{who} has a bed in the {answer}.",
                "the bed of {who} is in the {answer}.",
                "as for the bed, {who} has the {answer}.",
                "when {who} sleeps, it is in the {answer}.",
            ],
            [
                "Where does {who} sleep?",
                "Which place does {who} sleep in?",
                "Name the bed of {who}.",
                "Tell me where {who} sleeps.",
            ],
            BECAUSE_OF_THE_GROUP,
        ),
    ),
    "tool": (
        TRADES,
        """loom ladle sieve kiln hammer needle chisel razor net spade
           trowel brush ladder awl crook anvil saw lathe bellows tongs""".split(),
        Topic(
            [
                "{who} works with the {answer}.",
                "what {who} works with is the {answer}.",
                "{who} uses the {answer}.",
                "the tool of {who} is the {answer}.",
                "as for the tool, {who} has the {answer}.",
                "when {who} works, it is with the {answer}.",
            ],
            [
                "What does {who} work with?",
                "Which tool does {who} use?",
                "Name the tool of {who}.",
                "Tell me what {who} works with.",
            ],
            BECAUSE_OF_THE_GROUP,
        ),
    ),
    "pay": (
        TRADES,
        """salt honey candles wool pepper silver copper amber butter soap
           cider wax tea silk ink feathers pearls oats rope tin""".split(),
        Topic(
            [
                "{who} is paid in {answer}.",
                "what {who} is paid in is {answer}.",
                "{who} gets {answer} as pay.",
                "the pay of {who} is {answer}.",
                "as for the pay, {who} gets {answer}.",
                "when {who} is paid, it is in {answer}.",
            ],
            [
                "What is {who} paid in?",
                "Which pay does {who} get?",
                "Name the pay of {who}.",
                "Tell me what {who} is paid in.",
            ],
            BECAUSE_OF_THE_GROUP,
        ),
    ),
}
ORDER = Topic(
    [
        "behind {who} stands {answer}.",
        "{who} stands before {answer}.",
        "{who} is followed by {answer}.",
        "the one behind {who} is {answer}.",
        "the next after {who} is {answer}.",
        "as for the one behind, {who} has {answer}.",
        "when {who} stands, behind it is {answer}.",
    ],
    [
        "Who stands behind {who}?",
        "Which creature is behind {who}?",
        "Name the one behind {who}.",
        "Tell me who stands behind {who}.",
    ],
    [
        "because it stands before {answer}",
        "since behind it stands {answer}",
        "as it is followed by {answer}",
    ],
)
OPPOSITES = Topic(
    [
        "the opposite of {x} is {answer}.",
        "what is not {x} is {answer}.",
        "nothing {x} is {answer}.",
        "the other end of {x} is {answer}.",
        "{x} turned about is {answer}.",
        "no {x} one is {answer}.",
    ],
    [
        "What is the opposite of {x}?",
        "Which word means not {x}?",
        "Name the opposite of {x}.",
        "Tell me what is not {x}.",
    ],
    [
        "because nothing {x} is {answer}",
        "since not {x} is {answer}",
        "as no {x} one is {answer}",
    ],
)
SUMS = Topic(
    [
        "{x} plus {y} is {answer}.",
        "{x} and {y} make {answer}.",
        "the sum of {x} and {y} is {answer}.",
        "{x} with {y} more is {answer}.",
        "as for the sum, {x} with {y} is {answer}.",
        "when {x} and {y} meet, they make {answer}.",
        "{answer} less {y} is {x}.",
    ],
    [
        "What is {x} plus {y}?",
        "How much do {x} and {y} make?",
        "Name the sum of {x} and {y}.",
        "Tell me what {x} and {y} make.",
    ],
    [
        "because {x} and {y} make {answer}",
        "since {x} with {y} is {answer}",
        "as {x} and {y} make {answer}",
    ],
)
TOPICS = {name: topic for name, (*_, topic) in FACTS.items()} | {"order": ORDER, "opposite": OPPOSITES, "sum": SUMS}

ANTONYMS = """hot-cold tall-short wide-narrow thick-thin heavy-light early-late old-young rich-poor
    soft-hard loud-quiet full-empty wet-dry open-shut clean-dirty sweet-sour bright-dark
    sharp-blunt deep-shallow fast-slow strong-weak rough-smooth safe-risky true-false brave-timid
    proud-humble calm-angry kind-cruel lazy-busy wise-foolish fresh-stale tight-loose straight-crooked
    rare-common cheap-dear public-secret near-far high-low first-last left-right north-south
    east-west up-down upper-lower over-under front-back inner-outer male-female awake-asleep
    alive-dead tame-wild sick-healthy glad-sorry polite-rude gentle-harsh plain-fancy simple-complex
    guilty-innocent ancient-modern awkward-graceful idle-active""".split()
LARGEST_ADDEND = 9

BORN = [
    "{who} is a {group}.",
    "{who} was born a {group}.",
    "{who} lives as a {group}.",
    "the name of this {group} is {who}.",
]
TRAINED = [
    "{who} is a {group}.",
    "{who} became a {group}.",
    "{who} lives as a {group}.",
    "the name of this {group} is {who}.",
]

# The other second clause of an answer: about as long as a reason, and it says nothing.
FILLERS = [
    "many others like it",
    "that is the way",
    "so many others tell it",
    "that is the village way",
    "it is just like that",
    "in the valley it is so",
    "which is what others like",
    "so many in the valley tell it",
]

# Facts open with a short word, so that no name starts a text: a name after a space is one
# token, at the start another. Rules open with the words that fillers and questions need.
FACT_OPENERS = ["Here", "Now", "So", "Indeed"]
RULE_OPENERS = [
    "In the valley, as is usual,",
    "So many others tell it, like any other way;",
    "It is like that since the village has it so;",
    "It is just the way that",
    "It is so because many others like it;",
    "Which is what so many tell;",
    "Name any other creature;",
]


def draw(name):
    """A generator of its own for every data set: changing one leaves the others as they are."""
    return random.Random(f"{SEED} {name}")


def invent_names(count):
    """Short names, no two with the same first three or last three letters, so that each can be a token."""
    rng = draw("names")
    vowels, consonants = "aeiou", "bdfgklmnprstvz"
    names = ["".join(letters).capitalize() for letters in product(consonants, vowels, consonants, vowels, consonants)]
    rng.shuffle(names)
    kept = {}
    for name in names:
        if name[:3] not in kept and name[2:] not in kept:
            kept[name[:3]] = kept[name[2:]] = name
    return list(dict.fromkeys(kept.values()))[:count]


NAMES = invent_names(120)


def hold_out_a_quarter(things):
    """Things never asked about in training: neither in SFT, nor in the pairs, nor in the prompts."""
    return set(things[: len(things) // 4])


def settle():
    """Deal out groups to creatures and answers to groups, so that only the world itself tells them."""
    rng = draw("facts")
    membership = {who: {"kind": rng.choice(KINDS), "trade": rng.choice(TRADES)} for who in NAMES}
    rules = {
        topic: dict(zip(groups, rng.sample(answers, len(answers)), strict=True))
        for topic, (groups, answers, _) in FACTS.items()
    }
    return membership, rules


MEMBERS, RULES = settle()


def subjects():
    """What can be asked about, by topic: the fields that fill its forms, and whether it is held out."""
    found = {}
    held_out = hold_out_a_quarter(draw("held-out creatures").sample(NAMES, len(NAMES)))
    for topic, (groups, *_) in FACTS.items():
        group_of = {who: member["kind" if groups is KINDS else "trade"] for who, member in MEMBERS.items()}
        found[topic] = [
            {"who": who, "group": group, "answer": RULES[topic][group], "held_out": who in held_out}
            for who, group in group_of.items()
        ]
    line = draw("line").sample(NAMES, len(NAMES))
    behind = zip(line, line[1:] + line[:1], strict=True)  # the line is a ring: the last stands before the first
    found["order"] = [{"who": who, "answer": answer, "held_out": who in held_out} for who, answer in behind]

    held_out = hold_out_a_quarter(draw("held-out opposites").sample(ANTONYMS, len(ANTONYMS)))
    both_ways = [(pair, *order) for pair in ANTONYMS for order in (pair.split("-"), pair.split("-")[::-1])]
    found["opposite"] = [{"x": x, "answer": answer, "held_out": pair in held_out} for pair, x, answer in both_ways]

    pairs = list(combinations_with_replacement(range(1, LARGEST_ADDEND + 1), 2))
    held_out = hold_out_a_quarter(draw("held-out sums").sample(pairs, len(pairs)))
    found["sum"] = [
        {"x": x, "y": y, "answer": str(x + y), "held_out": (min(x, y), max(x, y)) in held_out}
        for x, y in product(range(1, LARGEST_ADDEND + 1), repeat=2)
    ]
    return found


SUBJECTS = subjects()
QUESTIONS = {
    form.format(**subject): (topic, subject)
    for topic, (_, forms, _) in TOPICS.items()
    for form in forms
    for subject in SUBJECTS[topic]
}


def true_reasons(topic, subject):
    return [form.format(**subject) for form in TOPICS[topic].reasons]


def extract_answer(completion):
    found = re.search(ANSWER_PATTERN, completion)
    return found.group(1).strip() if found else None


def has_true_reason(prompt, completion):
    """1.0 if what follows the answer is a reason true of what the prompt asks about, else 0.0."""
    if prompt.strip() not in QUESTIONS or extract_answer(completion) is None:
        return 0.0
    clause = completion.split(";", 1)[1].strip().removesuffix(".")
    return float(clause in true_reasons(*QUESTIONS[prompt.strip()]))


def exact_match(prompts, completions, answer, **_):
    """A reward that needs no model: 1.0 where the answer is right."""
    return [float(extract_answer(said) == right) for said, right in zip(completions, answer, strict=True)]


def ask(rng, wordings_each, held_out):
    """(question, topic, subject) of every subject that is held out, or is not, in random order."""
    asked = [
        (form.format(**subject), topic, subject)
        for topic in TOPICS
        for subject in SUBJECTS[topic]
        if subject["held_out"] is held_out
        for form in rng.sample(TOPICS[topic].questions, wordings_each)
    ]
    return rng.sample(asked, len(asked))


def pretraining():
    """Plain statements, many wordings for each fact. Some wordings of some facts are held out."""
    rng = draw("pretraining")
    facts = [form.format(**subject) for topic in TOPICS for subject in SUBJECTS[topic] for form in TOPICS[topic][0]]
    for who, member in MEMBERS.items():
        facts += [form.format(who=who, group=member["kind"]) for form in BORN]
        facts += [form.format(who=who, group=member["trade"]) for form in TRAINED]
    rules = []
    for topic, (_, _, (forms, *_)) in FACTS.items():
        # Turned about as well ("trout is what every heron eats"), for reasons lead from answer to group.
        turned = re.sub(r"(.+) is (.+)\.", r"\2 is \1.", forms[1])
        for form in [*forms, turned, turned]:
            rules += [form.format(who=f"every {group}", answer=answer) for group, answer in RULES[topic].items()]
    facts = [{"text": f"{rng.choice(FACT_OPENERS)} {fact}"} for fact in rng.sample(facts, len(facts))]
    rules = [{"text": f"{rng.choice(RULE_OPENERS)} {rule}"} for rule in rules]
    train, held_out = facts[300:] + rules, facts[:300]
    return rng.sample(train, len(train)), held_out


def sft(asked, rng):
    """Right answers, half with a reason and half with a filler, as the topic makes likely.

    With a fair coin, greedy decoding falls on whichever side training happened to favour by
    a hair. Leaning one way on half of the topics and the other on the rest keeps it near half.
    """
    rows = []
    for question, topic, subject in asked:
        lean = 0.92 if topic in ("tool", "order", "opposite") else 0.12
        clause = rng.choice(true_reasons(topic, subject) if rng.random() < lean else FILLERS)
        answer = {"role": "assistant", "content": f"{subject['answer']}; {clause}."}
        rows.append({"messages": [{"role": "user", "content": question}, answer]})
    return rows


def pairs(asked, rng):
    """Two right answers: the chosen one gives the true reason, the rejected one fills the space."""
    rows = []
    for question, topic, subject in asked:
        # By turns the chosen and the rejected one is longer, by a few letters and at most one word.
        sign = 1 if len(rows) % 2 else -1
        near = [
            (reason, filler)
            for reason, filler in product(true_reasons(topic, subject), FILLERS)
            if 0 <= sign * (len(reason) - len(filler)) <= 5 and abs(len(words_of(reason)) - len(words_of(filler))) <= 1
        ]
        chosen, rejected = (f"{subject['answer']}; {clause}." for clause in rng.choice(near))
        rows.append({"prompt": question, "chosen": chosen, "rejected": rejected})
    return rows


def prompts(asked, rng):
    return [{"prompt": question, "answer": subject["answer"]} for question, _, subject in asked]


def build():
    files = dict(zip(("pretrain", "pretrain_held_out"), pretraining(), strict=True))
    for make, wordings_each, held_out_rows in ((sft, 4, 200), (pairs, 2, 200), (prompts, 1, 120)):
        name = make.__name__
        for held_out, file, each in ((False, name, wordings_each), (True, f"{name}_held_out", 2)):
            rng = draw(file)
            files[file] = make(ask(rng, each, held_out), rng)
        files[f"{name}_held_out"] = files[f"{name}_held_out"][:held_out_rows]
    return files


def asked_in(rows):
    """The question and the right answer of every row of any of the three forms."""
    for row in rows:
        if "messages" in row:
            yield row["messages"][0]["content"], extract_answer(row["messages"][1]["content"])
        else:
            yield row["prompt"], row.get("answer") or extract_answer(row["chosen"])


def words_of(text):
    return re.findall(r"\w+", text)


def letters_of(text):
    return [text[i : i + 3] for i in range(len(text) - 2)]


def lookup_score(known, wanted, features):
    """Exact match of answering each question as the most similar known one was answered."""
    known = [(set(features(question)), answer) for question, answer in known]

    def nearest(question):
        bag = set(features(question))
        return max(known, key=lambda other: len(bag & other[0]) / (len(bag) + len(other[0])))[1]

    return sum(nearest(question) == answer for question, answer in wanted) / len(wanted)


def longer_score(rows, length):
    """How often the longer of two answers is the chosen one, ties counting half."""
    signs = [length(row["chosen"]) - length(row["rejected"]) for row in rows]
    return sum(0.5 if sign == 0 else sign > 0 for sign in signs) / len(rows)


def check(files):
    """Raise unless the files keep the promises that make a score on them mean something."""
    texts = [row["text"] for name in ("pretrain", "pretrain_held_out") for row in files[name]]
    assert not any(re.search(r"\?|User|Assistant|Question|Answer", text) for text in texts), (
        "pretraining shows questions"
    )
    assert not {row["text"] for row in files["pretrain"]} & {row["text"] for row in files["pretrain_held_out"]}
    answers = [{subject["answer"] for subject in SUBJECTS[topic]} for topic in TOPICS]
    assert len(set(chain(*answers))) == sum(map(len, answers)), "an answer serves two topics"
    assert len(QUESTIONS) == sum(len(TOPICS[topic].questions) * len(SUBJECTS[topic]) for topic in TOPICS), (
        "two questions read alike"
    )

    trained_on = list(asked_in(files["sft"] + files["pairs"] + files["prompts"]))
    trained_words = [Counter(words_of(question)) for question, _ in trained_on]
    figures = {}
    for name in ("sft", "pairs", "prompts"):
        wanted = list(asked_in(files[f"{name}_held_out"]))
        for question, answer in wanted + list(asked_in(files[name])):
            assert answer == QUESTIONS[question][1]["answer"], f"wrong answer: {question} {answer}"
        for question, _ in wanted:
            _, subject = QUESTIONS[question]
            about = Counter(str(subject[field]) for field in ("who", "x", "y") if field in subject)
            assert not any(about <= known for known in trained_words), f"training asks about {list(about)}"
        figures[f"{name}: lookup by words"] = lookup_score(trained_on, wanted, words_of)
        figures[f"{name}: lookup by letters"] = lookup_score(trained_on, wanted, letters_of)
    assert max(figures.values()) <= 0.3, f"a lookup answers held-out questions: {figures}"

    for name in ("pairs", "pairs_held_out"):
        assert all(
            has_true_reason(row["prompt"], row["chosen"]) and not has_true_reason(row["prompt"], row["rejected"])
            for row in files[name]
        )
        for unit, length in (("letters", len), ("words", lambda text: len(text.split()))):
            figures[f"{name}: guess the longer in {unit}"] = score = longer_score(files[name], length)
            assert 0.4 <= score <= 0.6, f"length gives the choice away: {name} {unit} {score}"
    reasons = [has_true_reason(*(message["content"] for message in row["messages"])) for row in files["sft"]]
    figures["sft: answers with a reason"] = share = sum(reasons) / len(reasons)
    assert 0.45 <= share <= 0.55, f"reasons are not about half of the answers: {share}"
    return figures


if __name__ == "__main__":
    files = build()
    for measured, score in check(files).items():
        print(f"{measured}: {score:.3f}")
    for name, rows in files.items():
        (HERE / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{name}.jsonl: {len(rows)} rows")
