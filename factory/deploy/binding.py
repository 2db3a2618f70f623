"""What may bind a request to a server: refused, before the engine has it, where it may not.

The gateway asks first, in a thread of its own; vLLM's own check, which stands in its event loop,
then finds the grammar compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from factory.deploy.served import Served
from factory.domain.failures import FactoryError
from factory.domain.plaintext import shorten
from factory.engines.callform import Unsupported
from factory.engines.constrain import GRAMMAR, GUIDE, bind, guide_of, guide_to_wire


def check_bound(extra: Mapping[str, Any] | None, served: Served) -> None:
    """Raises ValueError, with the remedy, for extra arguments of a request that bind it to a trie
    which is not the server's, or to what no grammar can be made of.
    """
    grammar = (extra or {}).get(GRAMMAR, "")
    if not isinstance(grammar, str):
        raise ValueError(f"{GRAMMAR}: a text is wanted")
    try:
        guide = guide_of(extra)
        if guide is not None and not _is_own(guide, served.scratch):
            raise ValueError(f"a trie of codes is the server's to name: leave {GUIDE} out")
        bind(extra, served.folder, _vocabulary(served.folder))
    except Unsupported as error:
        raise ValueError(told_unbound(error)) from error
    except FactoryError as error:
        raise ValueError(error.what) from error
    except (AttributeError, LookupError, RecursionError, TypeError) as error:
        raise ValueError(f"{GUIDE} or {GRAMMAR} cannot be read: {error}; leave them out") from error


def told_unbound(error: Unsupported) -> str:
    """What a caller is told of tools that no grammar can be made of."""
    return (
        f"no grammar can be made of the tools' schemas: {shorten(str(error), 160)}; mend "
        'the schema, or ask with tool_choice "auto" and without strict: nothing is bound'
    )


def _is_own(guide: object, scratch: str) -> bool:
    """Whether a guide is one that the gateway writes: all of a trie of its own."""
    path = guide.get("path") if isinstance(guide, dict) else None
    if not isinstance(path, str) or Path(path).parent != Path(scratch):
        return False
    return bool(guide == guide_to_wire(path, (), (), None)[GUIDE])


@cache
def _vocabulary(folder: str) -> int:
    """Tokens of the model, as its engine counts them."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return int(config.get_text_config().vocab_size)
