"""What the trackers were told, read back with what they bring for it."""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.integrations.integration_utils import rewrite_logs
from wandb.proto.wandb_internal_pb2 import Record

Points = list[tuple[str, int, float]]  # name, step, value; in order, each as often as it is there
BLOCK, HEADER = (
    32768,
    7,
)  # of W&B's file, a log as LevelDB has it, of records in Protocol Buffers; and of what each starts with
WHOLE_OR_LAST = (1, 4)


def in_tensorboard(folder: Path) -> tuple[Points, dict[str, str]]:
    """The points of a run, and its texts."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}, purge_orphaned_data=False)
    events.Reload()
    points = [(tag, one.step, one.value) for tag in events.Tags()["scalars"] for one in events.Scalars(tag)]
    texts = {
        tag.removesuffix("/text_summary"): events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
        for tag in events.Tags()["tensors"]
    }
    return sorted(points), texts


def in_wandb(folder: Path, name: str) -> tuple[Points, dict[str, object], list[Record]]:
    """The points of a run that was kept on this machine, all folders of it together; its summary; its records."""
    records = [record for file in sorted(folder.glob(f"*-{name}/run-*.wandb")) for record in _records(file)]
    points, summary = [], {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            row = {".".join(one.nested_key) or one.key: json.loads(one.value_json) for one in record.history.item}
            points += [(key, row["_step"], value) for key, value in row.items() if not key.startswith("_")]
        for one in record.summary.update:
            summary[".".join(one.nested_key) or one.key] = json.loads(one.value_json)
    return sorted(points), summary, records


def expected(attempt: Path, before: Mapping[str, float], after: Mapping[str, float]) -> Points:
    """The points that an attempt's log and figures make."""
    lines = [json.loads(line) for line in (attempt / "log.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "train_loss" not in line]
    last = lines[-1]["step"]
    ends = [{"step": step} | {f"eval_{k}": v for k, v in said.items()} for step, said in ((0, before), (last, after))]
    points = {
        (name, line["step"]): value
        for line in (*lines, *ends)
        for name, value in rewrite_logs({key: value for key, value in line.items() if key != "step"}).items()
    }
    return sorted((*key, value) for key, value in points.items())


def _records(file: Path) -> Iterator[Record]:
    """A half record at the end of what was killed is none."""
    data, at, whole = file.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B"
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + HEADER])
        whole += data[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in WHOLE_OR_LAST and at <= len(data):
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record
