"""Text to tokens and back inside a child, the same for every backend.

Messages are rendered with the model's own chat template. The prompt is that with the generation
prompt and the template's lead-in (factory.engines.turn); what follows up to one of the end tokens
is the answer. Control tokens are the template's alone (factory.codes.literal): in messages and
tools they are letters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from factory.codes.arrays import Code
from factory.codes.literal import encoder_of
from factory.domain.bounded import parse_json, read_text
from factory.domain.exhausted import is_out_of_memory
from factory.domain.failures import InputError, ModelError
from factory.domain.plaintext import encodable
from factory.domain.records import (
    CONTEXT_FULL,
    SCHEMA_UNSUPPORTED,
    Completion,
    Constraint,
    FinishReason,
    Reply,
    Request,
)
from factory.engines.callform import CallForm, native_form, own_form
from factory.engines.turn import (
    as_template,
    end_ids,
    fit_roles,
    leads_to_calls,
    read_turn,
    written_ids,
)
from factory.workspace.chat_template import shows_tools
from factory.workspace.templates import BoundedEnvironment

# transformers renders a model's own template with no bound of time or memory.
chat_template_utils.ImmutableSandboxedEnvironment = BoundedEnvironment


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers has no class of its own
        if isinstance(error, ImportError) or is_out_of_memory(error):
            raise
        raise ModelError(
            f"The tokenizer cannot be loaded: {error}",
            where=str(folder),
            remedy="save it again with save_pretrained of a current transformers",
        ) from error


class Chat:
    """A model folder's tokenizer, chat template and end tokens."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.tokenizer = load_tokenizer(folder)
        ends = end_ids(self.tokenizer.eos_token_id, _listed_ends(folder))
        if not ends:
            raise ModelError(
                "The model names no end-of-turn token",
                where=str(folder),
                remedy="set eos_token in tokenizer_config.json",
            )
        self._turn = read_turn(self.tokenizer, ends)
        self.end_ids = self._turn.ends
        """Tokens that end an answer."""
        self.fault = self._turn.fault
        """Why no answer can be learnt in the template; None where it can."""
        self._encoder = encoder_of(self.tokenizer, self.end_ids)

    def encode(self, request: Request) -> list[int]:
        """Token ids of the prompt and, of a chat, the lead-in; lone surrogates become `?`.

        Raises ModelError where the chat template refuses the messages or ignores the tools.
        """
        if request.prompt is not None:
            text = encodable(request.prompt)
            return self._encoder.read(text, special=True) or [min(self.end_ids)]
        messages, tools = as_template(request.messages, self._encoder)
        messages = fit_roles(self.tokenizer, messages)
        tools += self._encoder.mark_tools(request.tools)
        if tools and not shows_tools(
            self.tokenizer.chat_template, messages, tools, where=str(self._folder)
        ):
            raise ModelError(
                f"The model's chat template leaves out the tools of {request.id}",
                where=str(self._folder),
                remedy="ask in the factory's own prompt (--prompt own), or another chat template",
            )
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tools=tools or None, add_generation_prompt=True, tokenize=False
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise ModelError(
                f"The model's chat template refuses the messages of {request.id}: {error}",
                where=str(self._folder),
                remedy="use only roles the model knows in prompts/, or another chat template",
            ) from error
        lead_ids = self._turn.lead_ids if not tools or self._leads_to_calls else ()
        return [*self._encoder.ids(text), *lead_ids]

    @cached_property
    def _leads_to_calls(self) -> bool:
        return leads_to_calls(self.tokenizer, self._turn)

    @cached_property
    def own_form(self) -> CallForm:
        """How calls are written in the factory's form."""
        return own_form(self.tokenizer)

    @cached_property
    def native_form(self) -> CallForm:
        """How the chat template writes them. Unsupported where no grammar can be made of that."""
        return native_form(self.tokenizer, self._turn)

    def bounds(self, constraint: Constraint) -> dict[str, Any]:
        """The tokens that open and close a code span: `marker` and `until` of a guide. Raises
        InputError where the closing text is not one token of this model.
        """
        marker, closing = map(self._encoder.read, (constraint.after, constraint.until))
        if len(closing) > 1:
            raise InputError(
                f"{constraint.until!r}, which is to close a code, is {len(closing)} tokens",
                where=str(self._folder),
                remedy="close it with one token of the model, such as a newline",
            )
        return {"marker": marker, "until": closing[0] if closing else None}

    def decode(self, token_ids: Sequence[int], *, marked: bool = False) -> str:
        """Text of an answer: without its end token and the tokens of turns, code tokens are kept.

        So is a tag such as <tools> that is a special token of some model. With `marked` only the
        end goes: many models mark their calls with what else the template writes.
        """
        ended = bool(token_ids) and token_ids[-1] in self.end_ids
        told = token_ids[:-1] if ended else token_ids
        text: str = self.tokenizer.decode(
            [token for token in told if marked or token not in self._unsaid],
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        return text

    @cached_property
    def _unsaid(self) -> frozenset[int]:
        """Special tokens that are no text of an answer: of turns, ends, padding and the like."""
        named = set(self.tokenizer.special_tokens_map.values())
        ids = self.tokenizer.convert_tokens_to_ids(
            [text for text in named if isinstance(text, str)]
        )
        special = {token for token, it in self.tokenizer.added_tokens_decoder.items() if it.special}
        return frozenset(ids) | self.end_ids | (special & written_ids(self.tokenizer))

    def completion(
        self,
        request: Request,
        token_ids: Sequence[int],
        finish_reason: FinishReason,
        logprob: float,
    ) -> Completion:
        """One answer as a record; `length` before `max_tokens` means that the window is full.

        A code without the arguments it asks for means that no grammar could be made for them.
        """
        if finish_reason == "length" and len(token_ids) < request.sampling.max_tokens:
            finish_reason = CONTEXT_FULL
        constraint = request.constraint
        if (
            finish_reason == "stop"
            and constraint is not None
            and constraint.documents
            and self.bounds(constraint)["until"] in token_ids[-2:-1]
        ):
            finish_reason = SCHEMA_UNSUPPORTED
        return Completion(
            text=self.decode(token_ids, marked=request.is_native),
            token_ids=tuple(token_ids),
            finish_reason=finish_reason,
            logprob=logprob if request.logprob else 0.0,
        )

    def found(
        self, request: Request, codes: Iterable[tuple[Code, float]], num_prompt_tokens: int
    ) -> Reply:
        """The reply to a search: codes with their ends and log-probabilities, in this order."""
        completions = (self.completion(request, code, "stop", score) for code, score in codes)
        return Reply(
            request_id=request.id,
            completions=tuple(completions),
            num_prompt_tokens=num_prompt_tokens,
        )


def _listed_ends(folder: Path) -> int | list[int] | None:
    """The end tokens of generation_config.json, or config.json without it: one, a list, or none."""
    listed: int | list[int] | None = None
    for name in ("config.json", "generation_config.json"):
        if (path := folder / name).exists():
            config = parse_json(read_text(path, error=ModelError), str(path), ModelError)
            listed = config.get("eos_token_id", config.get("text_config", {}).get("eos_token_id"))
    return listed
