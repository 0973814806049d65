"""How near answers are to the reference answers, by their characters and words: chrF, BLEU and ROUGE-L.

chrF (M. Popović, WMT 2015, 392-395, https://aclanthology.org/W15-3049) and BLEU (K. Papineni et al., ACL 2002, 311-318) are
sacrebleu's, from 0 to 100 and of all rows together: what each row adds to their counts is kept, so that rows can be drawn
anew. ROUGE-L (C.-Y. Lin, 2004, 74-81, https://aclanthology.org/W04-1013) is rouge_score's F1, from 0 to 1, the mean of the rows'.
The packages are those of the extra `text`, and are imported where they are needed.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

from pipeline.evaluate.figures import Figures

CHINESE, CHARACTERS, WORDS = "zh", "char", "13a"  # sacrebleu's tokenizers
MUCH = 0.3  # of the letters: from this share on a script decides, as Chinese texts have Latin names in them
# Scripts that part no words by spaces, by how Unicode names their letters: Japanese, Thai, Lao, Khmer, Burmese.
UNPARTED = ("HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
HAN = "CJK"
_TOKEN = re.compile(r"[^\W_]+")


def measure(names: Sequence[str], texts: Sequence[str], references: Sequence[str], figures: Figures) -> None:
    """Put the figures `names` of the answers `texts`, each with its reference, into `figures`."""
    if "rouge_l" in names:
        scorer = _rouge()
        each = [scorer.score(right, text)["rougeL"].fmeasure for text, right in zip(texts, references, strict=True)]
        figures.mean_of("rouge_l", each)
        figures.how["rouge_l"] = "rouge_score, F1, no stemming, a character of an unparted script is a word"
    for name in [one for one in names if one != "rouge_l"]:
        tokenizer = tokenizer_for(references) if name == "bleu" else ""
        metric = corpus_metric(name, tokenizer)
        parts = metric._extract_corpus_statistics(list(texts), [list(references)])
        figures.sum_of(name, parts, metric._aggregate_and_compute(parts).score)
        figures.how[name] = str(metric.get_signature())


@cache
def corpus_metric(name: str, tokenizer: str = ""):
    """sacrebleu's, which is a function of sums over the rows."""
    from sacrebleu.metrics import BLEU, CHRF

    return CHRF() if name == "chrf" else BLEU(tokenize=tokenizer or WORDS)


def tokenizer_for(references: Sequence[str]) -> str:
    """sacrebleu's tokenizer for texts in the script of these."""
    counted = {HAN: 0, "": 0, "unparted": 0}
    for letter in (one for text in references for one in text if one.isalpha()):
        counted[_script(letter)] += 1
    letters = sum(counted.values()) or 1
    if counted["unparted"] + counted[HAN] < MUCH * letters:
        return WORDS
    # Japanese has Chinese characters among its own.
    return CHARACTERS if counted["unparted"] > counted[HAN] / 10 else CHINESE


@cache
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "")
    return HAN if name.startswith(HAN) else "unparted" if name.startswith(UNPARTED) else ""


class ByWord:
    """rouge_score's own tokenizer with other letters than a to z, which it throws away: of a Chinese answer nothing is left.

    Lower case; words are runs of letters and digits; where a script parts no words each character is one.
    """

    def tokenize(self, text: str) -> list[str]:
        found = []
        for run in _TOKEN.findall(text.lower()):
            word = ""
            for letter in run:
                if letter.isalpha() and _script(letter):
                    found += [word, letter] if word else [letter]
                    word = ""
                else:
                    word += letter
            found += [word] if word else []
        return found


@cache
def _rouge():
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=ByWord())
