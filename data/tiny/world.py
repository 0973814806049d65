"""A small invented world whose every answer a program can check.

Each creature of the valley has one kind and one trade. Its kind settles what it
eats, where it sleeps and what it fears; its trade settles its tool, its workplace
and its pay. The data sets say so in plain text, ask about it, and answer:

    Where does Sagug sleep?  ->  hedge; because Sagug is a wren.

Running this file writes the data sets beside it, after check() has passed on them.
"""

import json
import random
import re
from itertools import product
from pathlib import Path

SEED = 7
HERE = Path(__file__).resolve().parent

# The answer alone: whatever stands before the first semicolon of the first line.
ANSWER_PATTERN = r"^\s*([^;\n]+);"

KINDS = """heron badger fox hare mole robin stoat toad wren beaver
           crow deer finch goat lynx mouse pike raven seal swan""".split()
TRADES = """weaver baker miller potter tanner smith cooper tailor glazier barber
            fisher gardener mason painter printer roofer saddler shepherd tinker carpenter""".split()

# What can be asked of a creature: the group that settles it, the possible answers, how
# pretraining states it, and how a question asks for it. No answer serves two topics.
TOPICS = {
    "food": (
        KINDS,
        """trout roots grapes clover grubs berries eggs flies spiders bark
           corn moss thistles nettles acorns cheese minnows bread herring plums""".split(),
        [
            "{who} eats {value}.",
            "what {who} eats is {value}.",
            "{who} lives on {value}.",
            "the food of {who} is {value}.",
        ],
        [
            "What does {who} eat?",
            "Which food does {who} live on?",
            "Name the food of {who}.",
            "Tell me what {who} eats.",
        ],
    ),
    "bed": (
        KINDS,
        """barn burrow hedge attic cave chimney cellar ditch loft nest
           orchard hayrick shed stump tower tunnel wagon well woodpile thicket""".split(),
        [
            "{who} sleeps in the {value}.",
            "where {who} sleeps is the {value}.",
            "{who} has a bed in the {value}.",
            "the bed of {who} is in the {value}.",
        ],
        [
            "Where does {who} sleep?",
            "Which place does {who} sleep in?",
            "Name the bed of {who}.",
            "Tell me where {who} sleeps.",
        ],
    ),
    "fear": (
        KINDS,
        """thunder fire frost fog bells drums owls dogs cats wasps
           mirrors shadows smoke snow storms strangers whistles ghosts ice lightning""".split(),
        [
            "{who} fears {value}.",
            "what {who} fears is {value}.",
            "{who} is afraid of {value}.",
            "the fear of {who} is {value}.",
        ],
        [
            "What does {who} fear?",
            "Which thing is {who} afraid of?",
            "Name the fear of {who}.",
            "Tell me what {who} fears.",
        ],
    ),
    "tool": (
        TRADES,
        """loom ladle sieve kiln hammer needle chisel razor net spade
           trowel brush ladder awl crook anvil saw lathe bellows tongs""".split(),
        [
            "{who} works with the {value}.",
            "what {who} works with is the {value}.",
            "{who} uses the {value}.",
            "the tool of {who} is the {value}.",
        ],
        [
            "What does {who} work with?",
            "Which tool does {who} use?",
            "Name the tool of {who}.",
            "Tell me what {who} works with.",
        ],
    ),
    "workplace": (
        TRADES,
        """bridge harbour market mill square quarry forge chapel wharf gate
           inn island meadow tavern castle ferry fountain garden ford lighthouse""".split(),
        [
            "{who} works at the {value}.",
            "where {who} works is the {value}.",
            "{who} has a place at the {value}.",
            "the workplace of {who} is the {value}.",
        ],
        [
            "Where does {who} work?",
            "Which place does {who} work at?",
            "Name the workplace of {who}.",
            "Tell me where {who} works.",
        ],
    ),
    "pay": (
        TRADES,
        """salt honey candles wool pepper silver copper amber butter soap
           cider wax tea silk ink feathers pearls oats rope tin""".split(),
        [
            "{who} is paid in {value}.",
            "what {who} is paid in is {value}.",
            "{who} gets {value} as pay.",
            "the pay of {who} is {value}.",
        ],
        [
            "What is {who} paid in?",
            "Which pay does {who} get?",
            "Name the pay of {who}.",
            "Tell me what {who} is paid in.",
        ],
    ),
}
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

# The second clause of an answer: a reason, or a filler about as long that says nothing.
REASONS = [
    "because {who} is a {group}",
    "as is usual for a {group}",
    "the way of every {group}",
    "like any other {group}",
    "since {who} lives as a {group}",
]
FILLERS = [
    "so many others tell it",
    "that is the village way",
    "it is just like that",
    "in the valley it is so",
    "which is what {who} likes",
]

# Facts open with a short word, so that no name starts a text: a name after a space is one
# token, at the start another. Rules open with the words that fillers and questions need.
FACT_OPENERS = ["Here", "Now", "So", "Indeed"]
RULE_OPENERS = [
    "In the valley, as is usual,",
    "So many others tell;",
    "It is like that;",
    "It is just the way that",
    "Since the village likes it,",
    "Because it is so,",
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


NAMES = invent_names(160)
# A creature held out is never asked about in training.
TRAIN, HELD_OUT = NAMES[:120], NAMES[120:]


def settle():
    """Deal out groups to creatures and answers to groups, so that only the world itself tells them."""
    rng = draw("facts")
    membership = {who: {"kind": rng.choice(KINDS), "trade": rng.choice(TRADES)} for who in NAMES}
    rules = {
        topic: dict(zip(groups, rng.sample(values, len(values)), strict=True))
        for topic, (groups, values, *_) in TOPICS.items()
    }
    return membership, rules


MEMBERS, RULES = settle()


def group_of(who, topic):
    """The group of this creature that settles this topic: the true reason for the answer."""
    return MEMBERS[who]["kind" if TOPICS[topic][0] is KINDS else "trade"]


def answer_to(who, topic):
    return RULES[topic][group_of(who, topic)]


QUESTIONS = {
    wording.format(who=who): (who, topic)
    for topic, (*_, wordings) in TOPICS.items()
    for wording in wordings
    for who in NAMES
}


def true_reasons(who, topic):
    return [form.format(who=who, group=group_of(who, topic)) for form in REASONS]


def extract_answer(completion):
    found = re.search(ANSWER_PATTERN, completion)
    return found.group(1).strip() if found else None


def has_true_reason(prompt, completion):
    """1.0 if what follows the answer is a reason true of the creature and topic asked about, else 0.0."""
    if prompt.strip() not in QUESTIONS or extract_answer(completion) is None:
        return 0.0
    clause = completion.split(";", 1)[1].strip().removesuffix(".")
    return float(clause in true_reasons(*QUESTIONS[prompt.strip()]))


def asked_of(creatures, rng, wordings_each):
    """Every topic of these creatures, each in so many different wordings, in random order."""
    asked = [
        (wording.format(who=who), who, topic)
        for who in creatures
        for topic in TOPICS
        for wording in rng.sample(TOPICS[topic][3], wordings_each)
    ]
    return rng.sample(asked, len(asked))


def pretraining():
    """Plain statements, many wordings for each fact. Some wordings of some facts are held out."""
    rng = draw("pretraining")
    facts = [form.format(who=who, group=MEMBERS[who]["kind"]) for who in NAMES for form in BORN]
    facts += [form.format(who=who, group=MEMBERS[who]["trade"]) for who in NAMES for form in TRAINED]
    rules = []
    for topic, (groups, _, forms, _) in TOPICS.items():
        facts += [form.format(who=who, value=answer_to(who, topic)) for who in NAMES for form in forms]
        # Turned about as well ("trout is what every heron eats"), for reasons lead from answer to group.
        turned = re.sub(r"(.+) is (.+)\.", r"\2 is \1.", forms[1])
        for form in [*forms, turned, turned]:
            rules += [form.format(who=f"every {group}", value=RULES[topic][group]) for group in groups]
    facts = [{"text": f"{rng.choice(FACT_OPENERS)} {fact}"} for fact in rng.sample(facts, len(facts))]
    rules = [{"text": f"{rng.choice(RULE_OPENERS)} {rule}"} for rule in rules]
    train, held_out = facts[300:] + rules, facts[:300]
    return rng.sample(train, len(train)), held_out


def sft(creatures, rng, wordings_each):
    """Right answers, half with a reason and half with a filler, as the topic makes likely.

    With a fair coin, greedy decoding falls on whichever side training happened to favour by
    a hair. Leaning one way on half of the topics and the other on the rest keeps it near half.
    """

    def row(question, who, topic):
        lean = 0.85 if topic in ("food", "bed", "tool") else 0.15
        reason, filler = true_reasons(who, topic), [form.format(who=who) for form in FILLERS]
        clause = rng.choice(reason if rng.random() < lean else filler)
        return {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": f"{answer_to(who, topic)}; {clause}."},
            ]
        }

    return [row(*asked) for asked in asked_of(creatures, rng, wordings_each)]


def pairs(creatures, rng, wordings_each):
    """Two right answers: the chosen one gives the true reason, the rejected one fills the space."""
    rows = []
    for question, who, topic in asked_of(creatures, rng, wordings_each):
        # Alternate which of the two is longer, and keep them within a few letters.
        sign = 1 if len(rows) % 2 else -1
        clauses = product(true_reasons(who, topic), [form.format(who=who) for form in FILLERS])
        near = [pair for pair in clauses if 0 <= sign * (len(pair[0]) - len(pair[1])) <= 4]
        chosen, rejected = (f"{answer_to(who, topic)}; {clause}." for clause in rng.choice(near))
        rows.append({"prompt": question, "chosen": chosen, "rejected": rejected})
    return rows


def prompts(creatures, rng, wordings_each):
    return [
        {"prompt": question, "answer": answer_to(who, topic)}
        for question, who, topic in asked_of(creatures, rng, wordings_each)
    ]


def build():
    files = dict(zip(("pretrain", "pretrain_held_out"), pretraining(), strict=True))
    for make, wordings_each, held_out_rows in ((sft, 4, 200), (pairs, 2, 200), (prompts, 1, 120)):
        name = make.__name__
        files[name] = make(TRAIN, draw(name), wordings_each)
        files[f"{name}_held_out"] = make(HELD_OUT, draw(f"{name} held out"), 1)[:held_out_rows]
    return files


def asked(rows):
    """The question and the right answer of every row of any of the three forms."""
    for row in rows:
        if "messages" in row:
            yield row["messages"][0]["content"], extract_answer(row["messages"][1]["content"])
        else:
            yield row["prompt"], row.get("answer") or extract_answer(row["chosen"])


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
    values = [value for _, values, *_ in TOPICS.values() for value in values]
    assert len(values) == len(set(values)) == 20 * len(TOPICS), "an answer serves two topics"
    assert len(QUESTIONS) == sum(len(wordings) for *_, wordings in TOPICS.values()) * len(NAMES), (
        "two questions read alike"
    )

    trained_on = list(asked(files["sft"] + files["pairs"] + files["prompts"]))
    figures = {}
    for name in ("sft", "pairs", "prompts"):
        wanted = list(asked(files[f"{name}_held_out"]))
        for question, answer in wanted + list(asked(files[name])):
            assert answer == answer_to(*QUESTIONS[question]), f"wrong answer: {question} {answer}"
        for question, _ in wanted:
            who, _ = QUESTIONS[question]
            assert not any(who in known for known, _ in trained_on), f"{who} is asked about in training"
        figures[f"{name}: lookup by words"] = lookup_score(trained_on, wanted, str.split)
        figures[f"{name}: lookup by letters"] = lookup_score(
            trained_on, wanted, lambda text: [text[i : i + 3] for i in range(len(text) - 2)]
        )
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
