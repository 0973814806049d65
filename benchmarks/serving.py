"""Tokens a second for one client and for many: `align serve` and `transformers serve`. See README.md."""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import IO

from against_trl import CORES, PROJECT, RESULTS, console, in_own_process, install

ENVIRONMENT = PROJECT / ".venv-transformers-serve"
PACKAGES = ["transformers[serving]==5.17.0", "requests", "torch==2.13.0", "accelerate==1.15.0"]
SHAPE = {
    "hidden_size": 640, "intermediate_size": 1728, "num_hidden_layers": 12, "num_attention_heads": 10,
    "num_key_value_heads": 10, "max_position_embeddings": 1024, "tie_word_embeddings": False,
}  # fmt: skip
VOCABULARY = 16_000  # more than the tokenizer has, as vocabularies come padded
CLIENTS = (1, 16)
GOALS = {1: 1.0, 16: 3.0}
FIRST_ANSWER = 1.3
SCRIPT = """
import sys, torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
folder, question = sys.argv[1:]
model = AutoPeftModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
asked = [{"role": "user", "content": question}]
ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**ids, max_new_tokens=8, eos_token_id=tokenizer.eos_token_id)[0, ids["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--only", choices=("tiny", "80m"), help="one of the models")
    parser.add_argument("--threads", type=int, default=CORES, help="of either server; fewer on a machine that is busy")
    parser.add_argument("--runs", default="runs", help="where the tiny recipe's dpo has been trained")
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT, help="one with transformers[serving]")
    options = parser.parse_args()
    if options.environment == ENVIRONMENT:
        install(ENVIRONMENT, *PACKAGES)
    trained = (PROJECT / options.runs / "tiny/dpo/latest").resolve() / "adapter"
    if not trained.is_dir():
        sys.exit("Train the tiny recipe first: make sft dpo")
    found: dict = {
        "cores": CORES,
        "threads": options.threads,
        "load": os.getloadavg()[0],
        "tokens": options.tokens,
        "servers": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name in [options.only] if options.only else ["tiny", "80m"]:
            adapter, merged = Path(scratch) / f"{name}-adapter", Path(scratch) / f"{name}-merged"
            millions = in_own_process(prepare, trained, adapter, merged, name == "80m")
            console.print(f"{name}: {millions:.1f} million parameters, fp32, {options.threads} thread(s)")
            found["servers"] += compared(name, adapter, merged, options)
        found["first_answer"] = first_answers(trained, options.repeats)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"serving-{options.only or 'all'}-{datetime.now():%Y-%m-%d}.json"
    file.write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"{file.relative_to(PROJECT)}")


def prepare(trained: Path, adapter: Path, merged: Path, random: bool) -> float:
    """An adapter on its base, and both as one folder; millions of parameters. Of the random model no answer ends by itself."""
    import torch
    from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(trained)
    if random:
        torch.manual_seed(0)
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        base = LlamaForCausalLM(LlamaConfig(**SHAPE, **ids, vocab_size=VOCABULARY))
        base.lm_head.weight.data[[*range(4), *range(len(tokenizer), VOCABULARY)]] = (
            0  # special ones and no tokens at all
        )
        base.save_pretrained(adapter.with_name("base"))
        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(base, config)
        model.peft_config["default"].base_model_name_or_path = str(adapter.with_name("base"))
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.01)
    else:
        model = AutoPeftModelForCausalLM.from_pretrained(trained)
    model.save_pretrained(adapter)
    tokenizer.save_pretrained(adapter)
    whole = model.merge_and_unload()
    whole.save_pretrained(merged)
    tokenizer.save_pretrained(merged)
    return sum(one.numel() for one in whole.parameters()) / 1e6


def compared(name: str, adapter: Path, merged: Path, options: argparse.Namespace) -> list[dict]:
    """All servers at the same time, asked in turn, so that a machine that slows down wrongs none."""
    ours = [sys.executable, "-m", "pipeline.cli", "serve"]
    theirs = [str(options.environment / "bin/transformers"), "serve"]
    commands = {"adapter": (ours, adapter), "merged": (ours, merged), "transformers": (theirs, merged)}
    rows = []
    with ExitStack() as running:
        places = {
            side: running.enter_context(server([*command, str(folder), "--port"], str(folder), options.threads))
            for side, (command, folder) in commands.items()
        }
        for clients in CLIENTS:
            speeds: dict[str, list[float]] = {side: [] for side in places}
            firsts: dict[str, list[float]] = {side: [] for side in places}
            for repeat in range(options.repeats):
                for side in sorted(places, reverse=bool(repeat % 2)):
                    speeds[side].append(speed(*places[side], clients, options.tokens))
                    firsts[side].append(first_token(*places[side]))
            rows.append({"model": name, "clients": clients, "speeds": speeds, "first_token": firsts})
            tell(rows[-1])
    return rows


def tell(row: dict) -> None:
    theirs, goal = row["speeds"]["transformers"], GOALS[row["clients"]]
    row["ratios"] = {}
    for side, speeds in row["speeds"].items():
        row["ratios"][side] = ratio = median(one / other for one, other in zip(speeds, theirs, strict=True))
        verdict = "" if side == "transformers" else f" (goal {goal:g}, {'reached' if ratio >= goal else 'missed'})"
        console.print(
            f"  {row['clients']:>2} client(s)  {side:<12} {median(speeds):7,.0f} tokens/s  {ratio:.2f} times{verdict}"
            f"  first token after {median(row['first_token'][side]) * 1000:.0f} ms"
        )


@contextmanager
def server(command: list[str], model: str, threads: int) -> Iterator[tuple[int, str]]:
    """(port, model) of a server that answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([*command, str(port)], cwd=PROJECT, env=environment, stdout=log, stderr=log)
        try:
            wait_for(process, port, model, log)
            yield port, model
        finally:
            process.terminate()
            process.wait(30)


def wait_for(process: subprocess.Popen, port: int, model: str, log: IO) -> None:
    """Until it answers, which it has then done once."""
    end = time.monotonic() + 300
    while True:
        try:
            ask(port, model, 2)
            return
        except OSError as error:
            if time.monotonic() > end or process.poll() is not None:
                log.seek(0)
                sys.exit(f"a server does not answer: {error}\n{log.read()[-3000:]}")
            time.sleep(0.5)


def body_of(model: str, tokens: int, stream: bool) -> bytes:
    messages = [{"role": "user", "content": "What does Ropog eat, and which pay does Zudud get?"}]
    return json.dumps({"model": model, "messages": messages, "max_tokens": tokens, "stream": stream}).encode()


def request(port: int, body: bytes):
    headers = {"Content-Type": "application/json"}
    return urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, headers)


def ask(port: int, model: str, tokens: int) -> int:
    """How many tokens came."""
    with urllib.request.urlopen(request(port, body_of(model, tokens, False)), timeout=300) as reply:
        return json.load(reply)["usage"]["completion_tokens"]


def speed(port: int, model: str, clients: int, tokens: int) -> float:
    """Tokens a second of `clients` that ask, two times each, as soon as they are answered."""
    each = 2 if clients > 1 else 6
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        told = list(pool.map(lambda _: [ask(port, model, tokens) for _ in range(each)], range(clients)))
    return sum(map(sum, told)) / (time.perf_counter() - started)


def first_token(port: int, model: str) -> float:
    """Seconds until the first words of a stream are there."""
    started = time.perf_counter()
    with urllib.request.urlopen(request(port, body_of(model, 8, True)), timeout=300) as reply:
        for line in reply:
            choices = json.loads(line[6:])["choices"] if line.startswith(b"data: {") else []
            if choices and choices[0]["delta"].get("content"):
                return time.perf_counter() - started
    return float("nan")


def first_answers(adapter: Path, repeats: int) -> dict:
    """Seconds from the command to the end of the first answer."""
    question = "What does Ropog eat?"
    ours = [sys.executable, "-m", "pipeline.cli", "chat", str(adapter), "--max-new-tokens", "8"]
    bare = [sys.executable, "-c", SCRIPT, str(adapter), question]
    seconds: dict[str, list[float]] = {"align": [], "script": []}
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    for repeat in range(repeats):
        for side, command in sorted({"align": ours, "script": bare}.items(), reverse=bool(repeat % 2)):
            started = time.perf_counter()
            options = {"cwd": PROJECT, "env": environment, "text": True, "capture_output": True, "check": True}
            subprocess.run(command, input=f"{question}\n", **options)
            seconds[side].append(time.perf_counter() - started)
    ratio = median(one / other for one, other in zip(*seconds.values(), strict=True))
    verdict = "reached" if ratio <= FIRST_ANSWER else "missed"
    told = {side: median(values) for side, values in seconds.items()}
    console.print(
        f"chat's first answer: {told['align']:.1f} s, a bare script's {told['script']:.1f} s, "
        f"{ratio:.2f} times (goal {FIRST_ANSWER:g}, {verdict})"
    )
    return {"ratio": ratio, "seconds": seconds}


if __name__ == "__main__":
    main()
