"""Text that is not in the encoding that was named, or that nobody named: what it most likely is."""

import gzip
import json

import pytest

from pipeline.data.read.likely import likeliest
from pipeline.data.read.reader import read
from pipeline.errors import PipelineError

SAID = {
    "cp1252": [
        "Nous étions à côté du théâtre.",
        "Schließe das Fenster, bitte, es ist kühl.",
        "¿Cómo podemos reducir la contaminación?",
        "Não há razão para pânico.",
        "La libertà di stampa è un diritto.",
        "Hon köpte smör och bröd.",
        "Hun kjøpte smør og brød.",
        "“Yes,” she said – and smiled at the naïve façade, 5 × 3.",
    ],
    "cp1250": [
        "Kupiłem chleb i masło, dziękuję.",
        "Tři výhody cvičení, prosím, děkuji.",
        "Hűvös őszi idő volt.",
        "Življenje je lepo, še vedno.",
    ],
    "iso8859_2": ["Żółw śpi na łące."],
    "cp1254": ["Sağlıklı kalmak için üç ipucu ver.", "Şimdi İstanbul'a gidiyoruz."],
    "cp1251": ["Поезд опаздывает на час.", "Їжак живе у лісі, дякую."],
    "koi8_r": ["Назови три совета для здоровья."],
    "cp1253": ["Το τρένο έχει καθυστέρηση."],
    "cp1255": ["תן שלוש עצות לבריאות."],
    "cp1256": ["أعط ثلاث نصائح للصحة."],
    "cp874": ["บอกเคล็ดลับสุขภาพสามข้อ"],
    "gb18030": ["列出三条保持健康的建议。", "火车晚点了。"],
    "big5": ["列出三條保持健康的建議。", "台北是台灣的首都。"],
    "cp932": ["電車が遅れています。"],
    "euc_jp": ["空はなぜ青いのですか？"],
    "cp949": ["기차가 늦었습니다.", "감사합니다."],
    "mac_roman": ["Décrivez la structure d'un atome."],
}


@pytest.mark.parametrize("encoding, said", [(encoding, one) for encoding, some in SAID.items() for one in some])
def test_a_sentence_is_enough_to_suggest_its_encoding(encoding, said):
    row = json.dumps({"prompt": "What does it say?", "completion": said}, ensure_ascii=False)
    found, text = likeliest(f"{row}\n".encode(encoding))
    assert text == f"{row}\n" and found == encoding


def refusal(path, encoding):
    with pytest.raises(PipelineError) as error:
        list(read(str(path), encoding=encoding))
    return str(error.value)


@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "cp1251", "gb18030", "big5", "utf-16", "utf-16-le", "utf-32"]
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["", "gz"])
def test_a_file_that_is_utf_8_is_not_read_as_anything_else(tmp_path, encoding, pack):
    file = tmp_path / "rows.jsonl"
    rows = [{"text": "plain"}, {"text": "Über den Käse – größer 什么"}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for said in (lines, lines + "\n"):  # of an even and of an odd number of bytes
        file.write_bytes(pack(said.encode()))
        told = refusal(file, encoding)
        assert "rows.jsonl:2: not " in told and "it is UTF-8" in told and "Leave data.encoding" in told
    assert [row.value for row in read(str(file))] == rows


def test_a_file_of_plain_letters_is_in_any_encoding_that_has_them(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "plain"}\n')
    for encoding in ("latin-1", "gb18030", "cp1251"):
        assert [row.value for row in read(str(tmp_path / "rows.jsonl"), encoding=encoding)] == [{"text": "plain"}]
    assert "it is UTF-8" in refusal(tmp_path / "rows.jsonl", "utf-16-le")


@pytest.mark.parametrize("encoding, some", [*SAID.items()])
def test_a_file_in_the_encoding_that_is_named_is_read(tmp_path, encoding, some):
    file = tmp_path / "rows.jsonl"
    file.write_bytes("".join(json.dumps({"text": one}, ensure_ascii=False) + "\n" for one in some).encode(encoding))
    assert [row.value["text"] for row in read(str(file), encoding=encoding)] == some


@pytest.mark.parametrize("named", ["utf-16", "utf-16-le", "utf-8", "euc_kr"])
def test_what_a_file_is_is_told_whatever_was_named(tmp_path, named):
    file = tmp_path / "rows.jsonl"
    row = json.dumps({"prompt": "天空为什么是蓝色的？", "completion": "因为阳光。"}, ensure_ascii=False)
    file.write_bytes(f"{row}\n".encode("gb18030"))
    told = refusal(file, named)
    assert "data.encoding: gb18030" in told and "天空为什么是蓝色的" in told
    file.write_bytes(row.encode("utf-16"))
    assert "it begins with the mark of utf-16" in refusal(file, "latin-1")


@pytest.mark.parametrize("start", [b"PK\x03\x04\x14\x00\x06\x00", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"])
def test_a_workbook_is_called_one(tmp_path, start):
    (tmp_path / "table.xlsx").write_bytes(start + bytes(range(256)))
    with pytest.raises(PipelineError, match="is a workbook") as refused:
        list(read(str(tmp_path / "table.xlsx")))
    assert "as CSV in UTF-8" in refused.value.fix
