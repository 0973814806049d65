"""What the columns of a table might be, by the names that people give them."""

import pytest
from conftest import align, write_rows

from pipeline.data.shapes.examples import example_of
from pipeline.data.shapes.guessed import as_columns, guessed
from pipeline.recipe import yaml_lines


@pytest.mark.parametrize(
    ("fields", "kind", "columns"),
    [
        ("Question,Answer", "conversation", {"question": "Question", "answer": "Answer"}),
        ("问题,答案,备注", "conversation", {"question": "问题", "answer": "答案"}),
        ("指令,输入,输出", "conversation", {"instruction": "指令", "input": "输入", "output": "输出"}),
        ("instruction,context,response,category", "conversation", {"input": "context", "output": "response"}),
        ("input,output", "conversation", {"prompt": "input", "completion": "output"}),
        ("query,response", "conversation", {"prompt": "query"}),
        ("System Prompt,q,a", "conversation", {"question": "q", "answer": "a", "system": "System Prompt"}),
        ("提示,首选,拒绝", "preference", {"prompt": "提示", "chosen": "首选", "rejected": "拒绝"}),
        ("问题,chosen,rejected", "preference", {"question": "问题"}),
        ("问题,好,坏", "preference", {"question": "问题", "chosen": "好", "rejected": "坏"}),
        ("指令,回答,历史", "conversation", {"instruction": "指令", "output": "回答", "history": "历史"}),
        ("問題,答案", "conversation", {"question": "問題", "answer": "答案"}),
        ("问题,答案,评价", "labeled", {"question": "问题", "answer": "答案"}),  # whose label is known
        ("prompt,good,bad", "preference", {"chosen": "good", "rejected": "bad"}),
        ("prompt,chosen,worse", "preference", {"rejected": "worse"}),
        ("问题", "prompt", {"question": "问题"}),
        ("内容", "text", {"text": "内容"}),
        ("prompt,completion,系统", "conversation", {}),  # what is known already is not guessed at
        ("red,green", "conversation", {}),
        ("问题", "conversation", {}),
        ("question,prompt", "conversation", {}),
    ],
)
def test_the_names_that_people_give_tell_which_is_which(fields, kind, columns):
    assert guessed(fields.split(","), kind) == columns
    if columns:
        row = {
            name: [["q", "a"]] if name == "历史" else "true" if name == "评价" else name for name in fields.split(",")
        }
        example_of(row, kind, columns=columns)  # raises BadRow where it is none
        assert yaml_lines.load(f"columns: {as_columns(columns)}\n", "recipe").value == {"columns": columns}


def test_the_hint_is_what_goes_into_the_recipe(tmp_path):
    write_rows(tmp_path / "qa.jsonl", [{"Die Frage": "x", "问题": f"{n}?", "答案": f"{n}."} for n in range(40)])
    columns = "{question: 问题, answer: 答案}"
    said = align("data", "check", "qa.jsonl", cwd=tmp_path, check=False)
    options = "--column question=问题 --column answer=答案"
    assert f"Say which is which: data.columns: {columns}" in said.stdout and options in said.stdout.replace("'", "")
    for_stage = align("data", "check", "qa.jsonl", "--stage", "sft", cwd=tmp_path, check=False).stdout
    assert columns in for_stage and options in for_stage.replace("'", "")
    done = align("data", "check", "qa.jsonl", *options.split(), "--stage", "sft", cwd=tmp_path)
    assert "40 rows" in done.stdout or "40 read" in done.stdout
