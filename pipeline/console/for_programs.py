"""What a command prints for a program, and a person may read, too."""

import json
import sys


def show_json(value: object, indent: int | None = 1) -> None:
    """Print it as JSON: words of any language as they are, or escaped where the output has no such characters."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # of a terminal in GBK, or half a character in a file
        text = json.dumps(value, indent=indent)
    print(text, flush=True)
