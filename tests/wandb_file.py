"""Reads a W&B offline run's own file: LevelDB's log format (32 KiB blocks, records in parts) of protobuf messages."""

import json
import struct
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7  # bytes; a part's header is its checksum (4), length (2) and kind (1)
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def messages(path: Path):
    """The messages in the file, in order."""
    data, position, parts = path.read_bytes(), HEADER, b""
    while position + HEADER <= len(data):
        rest = BLOCK - position % BLOCK
        if rest < HEADER:  # padding
            position += rest
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEADER])
        if kind not in (WHOLE, FIRST, MIDDLE, LAST):
            position += rest
            continue
        part = data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        parts = part if kind in (WHOLE, FIRST) else parts + part
        if kind in (WHOLE, LAST):
            message = wandb_internal_pb2.Record()
            message.ParseFromString(parts)
            yield message


def records(path: Path) -> dict[str, Any]:
    """The run's identity, configuration (JSON by key), history, summary, definitions of metrics and exit code."""
    kept: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "exit_code": None, "run": None, "metrics": []}
    for message in messages(path):
        kind = message.WhichOneof("record_type")
        if kind == "run":
            kept["run"] = message.run
            kept["config"] |= {item.key: item.value_json for item in message.run.config.update}
        elif kind == "config":
            kept["config"] |= {_key(item): item.value_json for item in message.config.update}
        elif kind == "history":
            kept["history"].append({_key(item): json.loads(item.value_json) for item in message.history.item})
        elif kind == "summary":
            kept["summary"] |= {_key(item): json.loads(item.value_json) for item in message.summary.update}
        elif kind == "metric":
            kept["metrics"].append(message.metric)
        elif kind == "exit":
            kept["exit_code"] = message.exit.exit_code
    return kept


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)
