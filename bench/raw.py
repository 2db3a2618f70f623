"""Raw vLLM on the requests of a file, all at once by `LLM.generate`: a child of bench.round.

It answers with the seconds that took, without those of starting and of turning messages into
tokens, and with the tokens of every answer.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from factory.domain.records import Request
from factory.engines.constrain import constraint_to_wire
from factory.engines.vllm import engine_options
from factory.engines.wire import request_from_wire
from factory.workspace.settings import EngineSection

# isort: split
from vllm import LLM, SamplingParams

from factory.engines.chat import Chat
from factory.engines.processors import TrieProcessor


def params_of(request: Request, chat: Chat) -> SamplingParams:
    """The same sampling, and the same trie where one binds the answer."""
    sampling, constraint = request.sampling, request.constraint
    return SamplingParams(
        n=sampling.n,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed,
        stop_token_ids=sorted(chat.end_ids),
        logprobs=0,
        extra_args=constraint and constraint_to_wire(constraint, chat, native=request.is_native),
    )


def measure(question: dict[str, Any]) -> dict[str, Any]:
    folder, settings = Path(question["folder"]), EngineSection(**question["settings"])
    requests = [request_from_wire(wire) for wire in question["requests"]]
    is_bound = any(request.constraint for request in requests)
    llm = LLM(
        **engine_options(folder, settings), logits_processors=[TrieProcessor] if is_bound else None
    )
    chat = Chat(folder)
    prompts = [{"prompt_token_ids": chat.encode(request)} for request in requests]
    params = [params_of(request, chat) for request in requests]
    warm = [each.clone() for each in params[:8]]
    llm.generate(prompts[:8], warm, use_tqdm=False)
    llm.reset_prefix_cache()
    wall, cpu = time.perf_counter(), time.process_time()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    answers = [[list(one.token_ids) for one in output.outputs] for output in outputs]
    return {"wall": wall, "cpu": cpu, "answers": answers}


if __name__ == "__main__":
    asked, answered = map(Path, sys.argv[1:])
    told = measure(json.loads(asked.read_text("utf-8")))
    answered.write_text(json.dumps(told), encoding="utf-8")
