"""The shortest conversations, in two spellings and with a tool, for the tests of shapes and tokens."""

import json

ASK = [{"role": "user", "content": "Hi"}]
TALK = [*ASK, {"role": "assistant", "content": "Ho"}]
HUMAN, GPT, BAD_GPT = [
    {"from": speaker, "value": said} for speaker, said in (("human", "Hi"), ("gpt", "Ho"), ("gpt", "No"))
]
TOOLS = [{"name": "weigh", "description": "Weighs.", "parameters": {"type": "object", "properties": {}}}]
CALL = {"from": "function_call", "value": '{"name": "weigh", "arguments": {"what": "tea"}}'}
CALLING = {
    "conversations": [HUMAN, CALL, {"from": "observation", "value": '{"grams": 3}'}, GPT],
    "tools": json.dumps(TOOLS),
}
