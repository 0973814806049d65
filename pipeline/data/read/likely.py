"""Which encoding is a text that is not UTF-8 most likely in? The one in which it reads like some language."""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

SAMPLE = 1 << 16  # bytes of a file that are looked at
_LETTERS = 4000  # of them that are weighed
_ENOUGH = 0.4  # what a reading must be worth to be believed
_TYPESET = frozenset("‘’‚“”„–—…•€£«»‹›°·¿¡™\xa0，。、：；？！（）「」『』《》【】・ー～　")
_SIGNS = frozenset("©®§×÷²³¹±µºª½¼¾´¨¢¥§¶¬")


@dataclass(frozen=True)
class Language:
    """How a language that is not written in ASCII alone is recognized.

    `common` are letters of which its texts mostly consist, as far as they are not ASCII; `others` come up, and so do
    those whose first byte in a table of characters is in a range: (table, first, last). `worth` is below 1 where an
    encoding or a language is so much rarer that others come first if they explain a text as well.
    """

    encodings: tuple[str, ...]
    common: str
    others: str = ""
    table: tuple[str, int, int] | None = None
    worth: float = 1.0

    @cached_property
    def is_latin(self) -> bool:
        return self.common[0] < "\u0250"

    def weigh(self, letter: str, before: str, after: str) -> float:
        """What a letter that is not ASCII is worth between its neighbors: nothing if no text of the language has it."""
        if letter in _TYPESET:
            return 1.0 if self.is_latin or self.table else 0.8
        if letter in _SIGNS:
            return 0.0 if not self.is_latin else 0.5 if before.isalpha() or after.isalpha() else 1.0
        lower = letter.lower()
        if letter in self.common or lower in self.common:
            worth = 1.0
        else:
            worth = 0.6 if lower in self.others else 0.6 if self.table and _first_byte(letter, self.table) else 0.0
        # In the middle of a word hardly any is a capital: what reads so is another encoding's small letter. Nor does
        # one word have letters of two scripts, or a sign that stands on a letter stand on none.
        capital = (0.25 if before.islower() else 0.7) if letter != lower and before.isalpha() else 1.0
        mixed = not self.is_latin and not self.table and any(one.isascii() and one.isalpha() for one in (before, after))
        alone = unicodedata.category(letter) == "Mn" and not unicodedata.category(before).startswith(("L", "M"))
        return 0.0 if mixed or alone else worth * capital


_WEST = ("cp1252",)
_EAST = ("cp1250", "iso8859_2")
_CHINESE = (
    "的一是不了在人有我他{}中{}上大{}和{}地到以{}{}要就出{}可也你{}生能而子那得{}{}下自之年{}{}{}作{}用道行所然家{}事成方多{}{}去法{}"
    "如都同{}{}{}{}面起看定天分{}{}好小部其些主{}理心她本前{}但因只{}想{}日者意{}力它{}{}把{}十民第公此已工使情明性知全三又{}{}正"
    "{}外{}高{}由{}很最重{}物手{}向{}文{}什春今京首都器助"
)
_SIMPLIFIED = "这个们来为国说时会对于着过发后里种经么学现当没动还进样开从实无与长机关点业将间问并应头请写谢气园"
_TRADITIONAL = "這個們來為國說時會對於著過發後裡種經麼學現當沒動還進樣開從實無與長機關點業將間問並應頭請寫謝氣園"
_ALIKE = _CHINESE.replace("{}", "")
_KANA = "".join(map(chr, [*range(0x3041, 0x3094), *range(0x30A1, 0x30FB)]))
LANGUAGES = (
    Language(_WEST, "éèàçêäöüßáíñóúåøæ", "âëîïôœùûÿìòãõ", worth=0.98),  # several of those that follow
    Language(_WEST, "éèàçêäöüß", "âæëîïôœùûÿ"),  # French, German
    Language(_WEST, "áéíñóú", "ü"),  # Spanish
    Language(_WEST, "áãçéêíóõ", "àâôúü"),  # Portuguese
    Language(_WEST, "àèéìòù", "íîóú"),  # Italian
    Language(_WEST, "åäö", "éàü"),  # Swedish, Finnish
    Language(_WEST, "åæø", "éòô"),  # Danish, Norwegian
    Language(_WEST, "áðéíóúýþæö", worth=0.9),  # Icelandic
    Language(_EAST, "ąćęłńóśźż", worth=0.97),  # Polish
    Language(_EAST, "áčéěířšůúýž", "ďňóťľĺŕôä", worth=0.97),  # Czech, Slovak
    Language(_EAST, "áéíóöőúüű", worth=0.97),  # Hungarian
    Language(_EAST, "čćđšž", worth=0.95),  # Croatian, Slovenian
    Language(_EAST, "ăâîşţ", worth=0.95),  # Romanian
    Language(("cp1254",), "çğıöşüİ", "âî", worth=0.97),  # Turkish
    Language(("cp1251", "koi8_r", "koi8_u"), "оеаинтсрвлкмі", "дпуягьызбчйхжшюцщэфъёїєґў"),
    Language(("cp1253",), "αοιετσνηυρπκμλςάίόέ", "γδβθξζχφψωήύώϊϋΐΰ"),
    Language(("cp1255",), "יוהלאמרתשנב", "חקדפעכטגצסזםןךףץ"),
    Language(("cp1256",), "اليمنرتبوةسعد", "هفكقحجشطخصضغثزذظءأإآؤئىپچگ،؟"),
    Language(("cp874",), "านรอกเงมยลวดั่้ีิทส", "ตะปบคหแจพชใไุูึื็์โขฉซญฎฏฐฑฒณถธผฝฟภศษฬฮำๆฯ", worth=0.95),
    Language(("gb18030",), _ALIKE + _SIMPLIFIED, table=("gb2312", 0xB0, 0xD7)),
    Language(("big5",), _ALIKE + _TRADITIONAL, table=("big5", 0xA4, 0xC6)),
    Language(("cp932", "euc_jp"), _KANA, table=("euc_jp", 0xB0, 0xCF)),
    Language(
        ("cp949",),
        "이는을다에의가고은하지로한를도사기어아시나서있해정그인리자여일대수부라과들게보전장제스상조만원구성주으년안우오면신요경동계국방연선것"
        "했화무트비관공유위습니까세울말란학습봄써감",
        table=("euc_kr", 0xB0, 0xC8),
    ),
    Language(("mac_roman",), "éèàçêäöüßáíñóú", "âæëîïôœùûÿãõìòåø", worth=0.85),
)


def likeliest(sample: bytes) -> tuple[str, str] | None:
    """The encoding that bytes which are not UTF-8 most likely are in, and how they read in it; None for no text."""
    if b"\0" in sample:
        return None
    read = dict(_readings(sample, {encoding: None for one in LANGUAGES for encoding in one.encodings}))
    worth = {
        (encoding, number): _worth(read[encoding], one)
        for number, one in enumerate(LANGUAGES)
        for encoding in one.encodings
        if encoding in read
    }
    best, number = max(worth, key=lambda one: worth[one], default=("", 0))
    if best and worth[best, number] >= _ENOUGH:
        return best, read[best]
    return _guessed(sample)


def _guessed(sample: bytes) -> tuple[str, str] | None:
    """By a library that knows more encodings, but wants longer texts."""
    from charset_normalizer import from_bytes

    best = from_bytes(sample).best()
    return (best.encoding, str(best)) if best else None


def _readings(sample: bytes, encodings: Iterable[str]) -> Iterator[tuple[str, str]]:
    for encoding in encodings:
        try:
            yield encoding, sample.decode(encoding)
        except UnicodeError:
            continue


def _worth(text: str, language: Language) -> float:
    """From 0 to 1: how much of what is not ASCII in a text is of a language."""
    worths = list(islice(_letters(text, language), _LETTERS))
    return language.worth * sum(worths) / len(worths) if worths else 0.0


def _letters(text: str, language: Language) -> Iterator[float]:
    """What each letter that is not ASCII is worth."""
    for at, letter in enumerate(text):
        if not letter.isascii():
            yield language.weigh(letter, text[at - 1 : at] or " ", text[at + 1 : at + 2] or " ")


def _first_byte(letter: str, table: tuple[str, int, int]) -> bool:
    """Whether it is in the range of a table."""
    encoding, first, last = table
    try:
        return first <= letter.encode(encoding)[0] <= last
    except UnicodeError:
        return False
