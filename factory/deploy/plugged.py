"""What of ours vLLM's server loads by name: its tool parser and its logits processor.

`--tool-parser-plugin` takes this file. vLLM calls both interfaces unstable: they, and
factory.engines.processors, are all that knows of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vllm import SamplingParams
from vllm.entrypoints.generate.base.protocol import (
    ExtractedToolCallInformation,
    FunctionCall,
    ToolCall,
)
from vllm.tool_parsers.abstract_tool_parser import ToolParserManager
from vllm.tool_parsers.hermes_tool_parser import Hermes2ProToolParser

from factory.deploy.binding import check_bound
from factory.deploy.served import Served
from factory.domain.canon import to_json
from factory.domain.limits import die_with_parent
from factory.engines.processors import TrieProcessor
from factory.judge.reading import SYNTAX, parse_calls
from factory.judge.writings import OPEN
from factory.workspace.models import form_of

PARSER = "factory"
"""Its name for `--tool-call-parser`."""


class ServedProcessor(TrieProcessor):
    """The processor of sampling, which here meets requests of anybody."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # The engine is a process of its own, and outlives a server that is killed.
        die_with_parent(os.getppid())

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse, before the engine has it, what could not be bound there. Raises ValueError."""
        check_bound(sampling_params.extra_args, Served.from_environment())


@ToolParserManager.register_module(PARSER)
class OwnCallsParser(Hermes2ProToolParser):  # type: ignore[misc]
    """Calls in the tags that our models write, read as benchmarks and rules read them.

    Streams are read by vLLM's parser of the same tags. What has to be called is bound by our
    grammar (factory.deploy.gateway), not by vLLM's.
    """

    structural_tag_model = None
    supports_required_and_named = False

    def adjust_request(self, request: Any) -> Any:
        """Tags that are special tokens stay in the answer."""
        if request.tools and request.tool_choice != "none":
            request.skip_special_tokens = False
        return request

    def extract_tool_calls(self, model_output: str, request: Any) -> ExtractedToolCallInformation:
        """The calls of a whole answer; where they cannot be read, the answer as it is."""
        form = form_of(Path(Served.from_environment().folder))
        read = parse_calls(model_output, syntax=SYNTAX[form])
        calls = [] if read.failure else read.calls or ()
        return ExtractedToolCallInformation(
            tools_called=bool(calls),
            tool_calls=[
                ToolCall(
                    type="function",
                    function=FunctionCall(name=call.name, arguments=to_json(call.arguments)),
                )
                for call in calls
            ],
            content=(model_output.partition(OPEN)[0].strip() or None) if calls else model_output,
        )
