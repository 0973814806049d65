"""Which column is which, by names that people give them in English and Chinese. A guess is proposed, never followed in silence."""

from collections.abc import Iterable, Iterator

from pipeline.data.shapes.kinds import KINDS
from pipeline.data.shapes.shape import SHAPES, Shape

# By the name that a shape has, others for the same, in their barest form. Those that mean two things are left out.
_OTHERS = {
    "prompt": "query input source 提示 提示词 提示詞 输入 輸入",
    "completion": "output answer reply target 输出 輸出 回答 答案 回复 回覆",
    "question": "q query user human problem 问 问题 提问 题目 用户 問 問題 提問 題目",
    "answer": "a reply response output assistant bot solution target 解答 答 答案 回答 回复 回覆 助手",
    "instruction": "task 指令 说明 任务 說明 任務",
    "input": "context 上下文 输入 輸入 背景",
    "output": "response answer completion reply target 输出 輸出 回答 答案 回复 回覆 结果",
    "chosen": "better good preferred accepted winner chosenresponse responsechosen 选中 首选 首選 优选 更好 好",
    "rejected": "worse bad reject dispreferred loser rejectedresponse responserejected 拒绝 拒絕 被拒 次选 次選 更差 坏 差",
    "messages": "dialogue dialog chat turns 对话 對話 消息",
    "system": "systemprompt systemmessage 系统 系统提示 系统提示词 系統 系統提示",
    "review": "comment 评论 评价 評論 評價",
    "sentiment": "情感 情绪 情緒",
    "text": "body article passage 文本 内容 內容 正文 文章",
    "history": "chathistory 历史 历史对话 歷史 歷史對話",
}


def guessed(fields: Iterable[str], kind: str) -> dict[str, str]:
    """{expected name: the file's name} that makes rows with these fields rows of the kind; empty where they are that already, or
    nothing comes to mind.

    Of several shapes that one is taken of which they have the most, then the one that needs the fewest guesses.
    """
    there = [field for field in fields if isinstance(field, str)]
    names = [name for name in SHAPES if name in KINDS[kind].WRITTEN_AS and not SHAPES[name].only_named]
    found = [mapped for name in names for mapped in _mapped(there, kind, SHAPES[name])]
    if not found:
        return {}
    needed, best = min(found, key=lambda mapped: (-len(mapped[0]), _guesses(mapped[0]), -len(mapped[1])))
    if not _guesses(needed):
        return {}
    return {ours: theirs for ours, theirs in best.items() if ours != theirs}


def _guesses(columns: dict[str, str]) -> int:
    return sum(ours != theirs for ours, theirs in columns.items())


def as_columns(columns: dict[str, str]) -> str:
    """As it stands in a recipe."""
    return f"{{{', '.join(f'{ours}: {_quoted(theirs)}' for ours, theirs in columns.items())}}}"


def _quoted(name: str) -> str:
    plain = name and not name[0].isdigit() and all(letter.isalnum() or letter in "_-" for letter in name)
    return name if plain else '"{}"'.format(name.replace("\\", "\\\\").replace('"', '\\"'))


def _mapped(fields: list[str], kind: str, shape: Shape) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """For each way in which a row of the shape may be written, what each field that it needs is called here; and each that it has."""
    for group in KINDS[kind].groups(shape):
        taken: dict[str, str] = {}
        for alternatives in group:
            if (one := _called(alternatives, fields, taken)) is None:
                break
            taken |= dict([one])
        else:
            needed = dict(taken)
            for beside in (*shape.beside, "system"):
                taken |= dict(filter(None, [_called((beside,), fields, taken)]))
            yield needed, taken


def _called(alternatives: tuple[str, ...], fields: list[str], taken: dict[str, str]) -> tuple[str, str] | None:
    """(the expected name, the file's) of the first of some alternative names that is there, as it is or by another name."""
    left = [field for field in fields if field not in taken.values()]
    for name in alternatives:
        if name in left:
            return name, name
    for name in alternatives:
        known = {_bare(name), *_OTHERS.get(name, "").split()}
        if there := next((field for field in left if _bare(field) in known), None):
            return name, there
    return None


def _bare(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
