"""What codes can still tell apart, on points whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from factory.codes.apart import Lookups, find_first, tell_apart
from factory.codes.arrays import Code, Floats
from factory.codes.base import Coder, Seen, Taken
from factory.codes.config import AUTO_DIMS, make_coder
from factory.codes.flat import NumericCoder
from factory.workspace.recipe import CodesSection, QuantizedSection

QUICK = QuantizedSection(hidden=(24,), latent=12, epochs=20)


def test_the_nearest_tool_counts_and_equal_ones_share() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    queries = np.array([[0.1, 0.1], [0.9, 0.0], [0.0, 2.0], [0.0, 2.0]])
    found = find_first(points, queries, [{0}, {2}, {0}, {1, 3}])
    assert found == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert find_first(points, queries[1:2], [{1, 2}]) == 1


def make_asked(num: int, dims: int, views: int) -> tuple[Floats, Lookups]:
    """Tools around a few centres, and a request near each."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(8, views, dims))
    tools = centres[rng.integers(0, 8, num)] + 0.4 * rng.normal(size=(num, views, dims)) + 3
    queries = tools + 0.1 * rng.normal(size=tools.shape)
    return tools, Lookups(embeddings_QVD=queries, wanted=[{row} for row in range(num)])


def assigned(coder: Coder, documents: Floats) -> tuple[Code, ...]:
    coder.fit(Seen(documents))
    return coder.assign(Seen(documents), Taken()).codes


@pytest.mark.parametrize(("coder", "views"), [("residual", 1), ("residual", 2), ("quantized", 2)])
def test_the_curve_goes_from_whole_embeddings_to_short_codes(coder: str, views: int) -> None:
    documents, asked = make_asked(160, 48, views)
    codes = CodesSection(coder=coder, size=16, levels=2, quantized=QUICK)  # type: ignore[arg-type]
    fitted = make_coder(codes, len(documents), views)
    heard: list[int] = []
    whole, these, *others = tell_apart(
        fitted,
        assigned(fitted, documents),
        documents,
        asked,
        size=16,
        on_progress=lambda done, detail, total: heard.append(done),
    )
    assert (whole.what, whole.dims, whole.found) == ("whole", 48 * views, 1.0)
    assert these[:4] == ("these", 12 if coder == "quantized" else 32, 2, 16)
    assert 1 / 160 < these.found < 1
    found = {kept[:4]: kept.found for kept in others}
    assert {kept.dims for kept in others} == {32, 48} and heard == [0, 1, 2]
    assert found["pca", 32, 0, 0] <= found["pca", 48, 0, 0] == 1.0
    assert found["codes", 32, 2, 4] < found["codes", 32, 4, 16], "deeper and larger tells more"
    if coder == "residual":  # the curve's own codes of the same shape are fitted faster
        assert these.found == pytest.approx(found["codes", 32, 2, 16], abs=0.2)


def test_codes_that_say_nothing_of_documents_have_no_curve() -> None:
    documents, asked = make_asked(20, 8, 1)
    coder = NumericCoder(3)
    assert tell_apart(coder, assigned(coder, documents), documents, asked, size=8) == []


def test_dims_of_none_are_as_many_as_pay() -> None:
    documents, _ = make_asked(200, AUTO_DIMS + 20, 1)
    coder = make_coder(CodesSection(dims=0, size=8), 200, 1)
    coder.fit(Seen(documents))
    assert coder.project_all(documents).shape == (200, AUTO_DIMS)  # type: ignore[attr-defined]
