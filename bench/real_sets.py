"""`python -m bench.real_sets DATA OUT`: real labelled data as files that our commands read.

DATA has folders `metatool`, `stabletoolbench`, `seal_tools`, `sgd` and `taskbench`, as their
authors publish them; one that is absent is skipped. What is drawn is drawn by a seed, so the same
files come out again.

- `metatool/`: all tools, at most `--per-tool` requests of each to learn and two others to ask.
  Every tenth tool has no requests to learn: its document alone is learnt.
- `stabletoolbench/`: the documents of `--tools` APIs, first those that the asked requests need.
- `seal_tools/`: a quarter of the requests with all their tools held out as a benchmark
  (`factory eval new`), labelled requests and documents of other tools to teach, and the requests
  that are left without their labels, for rounds. With each request go the published retriever's
  first other tools, `--distractors` of them.
- `sgd/requests.jsonl`: what a dialogue begins with, and the intents of its services as tools.
- `taskbench/requests.jsonl`: of its daily life APIs, each with the four that BM25 finds first.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from bench.table import Cell, print_table
from factory.lessons.conversations import read_documents
from factory.score.toolbench.ranking import WordIndex

NAMES = re.compile(r"'api_name': '(\w+)'")
REFERENCE = "API_call_"
OFFERED = 4
"""Tools of TaskBench beside a request."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("out", type=Path, nargs="?", default=Path(".factory/real-sets"))
    parser.add_argument("--per-tool", type=int, default=5, help="requests of a tool to learn")
    parser.add_argument("--tools", type=int, default=500, help="documents of StableToolBench")
    parser.add_argument("--labelled", type=int, default=170, help="requests of Seal-Tools to teach")
    parser.add_argument("--documents", type=int, default=160, help="of its documents to teach")
    parser.add_argument("--distractors", type=int, default=2, help="offered beside what is called")
    parser.add_argument("--most-calls", type=int, default=3, help="of a request of Seal-Tools")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows: list[Sequence[Cell]] = []
    for name, make in (
        ("metatool", make_metatool),
        ("stabletoolbench", make_stabletoolbench),
        ("seal_tools", make_seal_tools),
        ("sgd", make_sgd),
        ("taskbench", make_taskbench),
    ):
        if not (options.data / name).is_dir():
            print(f"skipped: {options.data / name} is not there")
            continue
        files = make(options.data / name, random.Random(options.seed), options)
        for file, lines in files.items():
            rows.append((f"{name}/{file}", write(options.out / name / file, lines)))
    print_table(f"written below {options.out}", ("file", "rows"), rows)


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write JSON lines; returns how many."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def make_metatool(
    folder: Path, draw: random.Random, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """`tools.jsonl`, `train.jsonl` and `test.jsonl`."""
    told = json.loads((folder / "dataset" / "plugin_des.json").read_text(encoding="utf-8"))
    by_tool: dict[str, list[str]] = {name: [] for name in told}
    table = folder / "dataset" / "data" / "all_clean_data.csv"
    with table.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["Tool"] in by_tool:
                by_tool[row["Tool"]].append(row["Query"])
    train, test = [], []
    for number, (name, queries) in enumerate(by_tool.items()):
        queries = list(dict.fromkeys(queries))
        draw.shuffle(queries)
        labelled = [{"query": query, "tools": [name]} for query in queries]
        test += labelled[:2]
        train += labelled[2 : 2 + options.per_tool] if number % 10 else []
    draw.shuffle(train)
    tools = [{"name": name, "description": text, "parameters": {}} for name, text in told.items()]
    return {"tools.jsonl": tools, "train.jsonl": train, "test.jsonl": test}


def make_stabletoolbench(
    folder: Path, draw: random.Random, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """`corpus.jsonl` and `test.jsonl`."""
    corpus = [json.loads(line) for line in (folder / "corpus.jsonl").open(encoding="utf-8")]
    names = [f"{row['tool_name']}&&{row['api_name']}" for row in corpus]
    test = []
    for file in sorted((folder / "test_instruction").glob("*.json")):
        for row in json.loads(file.read_text(encoding="utf-8")):
            tools = [f"{tool}&&{api}" for tool, api in row["relevant APIs"]]
            if set(tools) <= set(names):
                test.append({"query": row["query"], "tools": tools, "split": file.stem})
    needed = {name for row in test for name in row["tools"]}
    others = [name for name in names if name not in needed]
    draw.shuffle(others)
    kept = needed | set(others[: max(0, options.tools - len(needed))])
    documents = [row for name, row in zip(names, corpus, strict=True) if name in kept]
    return {"corpus.jsonl": documents, "test.jsonl": test}


def make_seal_tools(
    folder: Path, draw: random.Random, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """`documents.jsonl`, `labelled.jsonl` and `held-out.jsonl`; `unseen.jsonl` are held-out ones.

    A call that takes another one's answer is no call yet, so its request is left out.
    """
    folder = folder / "Seal-Tools_Dataset"
    lines = (folder / "tool.jsonl").open(encoding="utf-8")
    documents = {row["api_name"]: row for row in map(json.loads, lines)}
    offered = {
        row["id"]: NAMES.findall(row["conversations"][0]["value"])
        for row in json.loads((folder / "dataset_for_finetune" / "dev.json").read_text("utf-8"))
    }
    requests = [
        row
        for row in map(json.loads, (folder / "dev.jsonl").open(encoding="utf-8"))
        if len(row["calling"]) <= options.most_calls
        and REFERENCE not in json.dumps([call["parameters"] for call in row["calling"]])
        and all(call["api"] in documents for call in row["calling"])
    ]
    draw.shuffle(requests)

    def tools_of(row: Mapping[str, Any], barred: Set[str]) -> list[str]:
        """Those that are called and the retriever's first others, in an order of no meaning."""
        called = list(dict.fromkeys(call["api"] for call in row["calling"]))
        others = [n for n in offered[row["id"]] if n in documents and n not in {*called, *barred}]
        names = called + others[: options.distractors]
        draw.shuffle(names)
        return names

    asked = [(row, tools_of(row, set())) for row in requests[: len(requests) // 4]]
    unseen = {name for _, names in asked for name in names}
    taught = [
        row
        for row in requests[len(requests) // 4 :]
        if not unseen & {call["api"] for call in row["calling"]}
    ]
    labelled = [
        {
            "query": row["query"],
            "tools": [documents[name] for name in tools_of(row, unseen)],
            "calls": [
                {"name": call["api"], "arguments": call["parameters"]} for call in row["calling"]
            ],
        }
        for row in taught
    ]
    questions = [
        {
            "question": row["query"],
            "function": [documents[name] for name in names],
            "ground_truth": [
                {call["api"]: {key: [value] for key, value in call["parameters"].items()}}
                for call in row["calling"]
            ],
        }
        for row, names in asked
    ]
    seen = [row for name, row in documents.items() if name not in unseen]
    draw.shuffle(seen)
    hidden = [row for name, row in documents.items() if name in unseen]
    return {
        "documents.jsonl": seen[: options.documents],
        "unseen.jsonl": hidden,
        "labelled.jsonl": labelled[: options.labelled],
        "requests.jsonl": [
            {"query": row["query"], "tools": row["tools"]} for row in labelled[options.labelled :]
        ],
        "held-out.jsonl": questions,
    }


def make_sgd(
    folder: Path, draw: random.Random, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """`requests.jsonl`."""
    services = json.loads((folder / "train" / "schema.json").read_text(encoding="utf-8"))
    tools = {service["service_name"]: read_documents(service) for service in services}
    requests: dict[str, dict[str, Any]] = {}
    for file in sorted((folder / "train").glob("dialogues_*.json")):
        for row in json.loads(file.read_text(encoding="utf-8")):
            query = row["turns"][0]["utterance"]
            offered = [tool for name in row["services"] for tool in tools[name]]
            by_name = {tool["name"]: tool for tool in offered}
            requests.setdefault(query, {"query": query, "tools": list(by_name.values())})
    rows = list(requests.values())
    draw.shuffle(rows)
    return {"requests.jsonl": rows}


def make_taskbench(
    folder: Path, draw: random.Random, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """`requests.jsonl`."""
    folder = folder / "taskbench" / "data_dailylifeapis"
    described = json.loads((folder / "tool_desc.json").read_text(encoding="utf-8"))
    tools = read_documents(described["nodes"])
    lines = (folder / "user_requests.json").open(encoding="utf-8")
    queries = list(dict.fromkeys(json.loads(line)["user_request"] for line in lines))
    draw.shuffle(queries)
    index = WordIndex([f"{tool['name']} {tool['description']}".replace("_", " ") for tool in tools])
    found = [scores_T.argsort()[::-1][:OFFERED] for scores_T in index.scores(queries)]
    rows = [
        {"query": query, "tools": [tools[number] for number in numbers]}
        for query, numbers in zip(queries, found, strict=True)
    ]
    return {"requests.jsonl": rows}


if __name__ == "__main__":
    main()
