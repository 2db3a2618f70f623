"""Whether an exception says that memory ran out: Python's, a GPU's, or that of a C++ library."""

from __future__ import annotations

import errno

OUT_OF_MEMORY = errno.ENOMEM
"""Exit code of a child process that ended so."""
_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "std::bad_alloc",
    "alloc_failed",
    "no available memory for the cache blocks",
    "free memory on device",
)
"""Of PyTorch on GPUs and CPUs, the system, C++, cuBLAS and cuDNN, and vLLM before it loads; in
lower case."""
_RAISED = (RuntimeError, ValueError, OSError)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, by the exception or by one that led to it.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("no number"))
    (True, False)
    """
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        names = {kind.__name__ for kind in type(each).__mro__}
        if isinstance(each, MemoryError) or "OutOfMemoryError" in names:
            return True
        if isinstance(each, OSError) and each.errno == errno.ENOMEM:
            return True
        if isinstance(each, _RAISED) and any(sign in str(each).lower() for sign in _SIGNS):
            return True
        each = each.__cause__ or each.__context__
    return False
