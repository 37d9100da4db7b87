"""The benchmark's tasks as configurations: public data sets in a folder of the caller's, and the quickstart.

A data set is a folder with `train.jsonl`, `val.jsonl`, `test.jsonl` (rows `input` and `label`, or `question` and
`answer`) and a `task.json` that names `labels`, if there are any, and `seed_prompts`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from optimizer.config.keys import Config

ROOT = Path(__file__).parent.parent.parent
QUICKSTART = "quickstart"
TASKS = (
    QUICKSTART, "snips", "ii_first_letter", "ii_larger_animal", "ii_negation", "restaurant8k", "sms_spam"
)  # fmt: skip
MAX_TOKENS = {"label": 16, "text": 32}


def open_task(name: str, *, data: Path, n_dev: int, n_test: int) -> tuple[Config, Path]:
    """Return the configuration of a task, and the folder that its paths are relative to."""
    if name == QUICKSTART:
        path = ROOT / "configs/quickstart.yaml"
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        given["budget"] = {}
        folder = path.parent
    else:
        folder = data.resolve() / name
        given = _config_of(name, json.loads((folder / "task.json").read_text(encoding="utf-8")))
    given["data"]["max_rows"] = {"dev": n_dev, "test": n_test}
    given["tracking"] = {"enabled": False}
    return Config.model_validate(given), folder


def _config_of(name: str, described: dict[str, Any]) -> dict[str, Any]:
    labels = described.get("labels")
    answer: dict[str, Any] = {"kind": "label", "choices": labels} if labels else {"kind": "text"}
    source, target = ("input", "label") if labels else ("question", "answer")
    prompt = described["seed_prompts"][0]
    return {
        "name": name.replace("_", "-"),
        "task": {"goal": prompt, "inputs": {source: ""}, "outputs": {target: answer}},
        "prompt": prompt,
        "data": {"files": {"train": "train.jsonl", "dev": "val.jsonl", "test": "test.jsonl"}},
        "metric": "accuracy" if labels else "exact_match",
        "lm": {
            "task": {"model": "embedded", "max_tokens": MAX_TOKENS[str(answer["kind"])]},
            "proposer": {"model": "embedded", "temperature": 0.9, "max_tokens": 60},
        },
    }
