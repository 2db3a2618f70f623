"""The trie equals a dict of codes, whatever was built, inserted, removed, saved and loaded."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from factory.codes.trie import DEAD, FINISH, ROOT, Trie
from factory.domain.failures import ModelError

END = 2
TOKENS = st.integers(3, 9)
CODES = st.lists(TOKENS, min_size=1, max_size=4).map(tuple)
CATALOGUES = st.dictionaries(CODES, st.text(max_size=6), max_size=40)
NAMES = ("first", "count", "leaf", "tokens", "following", "ids", "end")


def build(catalogue: dict[tuple[int, ...], str]) -> Trie:
    return Trie.build(list(catalogue), list(catalogue.values()), END)


def assert_equal(trie: Trie, catalogue: dict[tuple[int, ...], str]) -> None:
    assert dict(trie.codes()) == catalogue
    assert [code for code, _ in trie.codes()] == sorted(catalogue)
    assert len(trie) == len(catalogue)
    for prefix in {code[:end] for code in catalogue for end in range(len(code) + 1)}:
        node = trie.walk(prefix)
        assert node is not None
        following = {c[len(prefix)] for c in catalogue if c[: len(prefix)] == prefix != c}
        assert trie.children(node).tolist() == sorted(following)
        ends = prefix in catalogue
        assert trie.is_leaf(node) == ends
        assert set(trie.allowed(node).tolist()) == following | ({END} if ends else set())
        assert trie.lookup(prefix) == catalogue.get(prefix)


def assert_same_arrays(a: Trie, b: Trie) -> None:
    """Equal codes give equal arrays once they are compact, whatever their history."""
    a, b = a.compact(), b.compact()
    for name in NAMES:
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


@given(CATALOGUES)
def test_build_equals_the_codes(catalogue: dict[tuple[int, ...], str]) -> None:
    assert_equal(build(catalogue), catalogue)


@given(CATALOGUES, CODES)
def test_walk_and_lookup_agree_with_a_dict(
    catalogue: dict[tuple[int, ...], str], code: tuple[int, ...]
) -> None:
    trie = build(catalogue)
    assert trie.lookup(code) == catalogue.get(code)
    assert (code in trie) == (code in catalogue)
    is_prefix = any(known[: len(code)] == code for known in catalogue)
    assert (trie.walk(code) is not None) == is_prefix


@given(CATALOGUES, st.randoms())
def test_build_does_not_depend_on_the_order(catalogue: dict[tuple[int, ...], str], random) -> None:
    rows = list(catalogue.items())
    random.shuffle(rows)
    assert_same_arrays(build(dict(rows)), build(catalogue))


@given(CATALOGUES, CATALOGUES)
def test_compact_after_changes_equals_build(
    before: dict[tuple[int, ...], str], after: dict[tuple[int, ...], str]
) -> None:
    trie = build(before)
    for code in before:
        assert trie.remove(code) == before[code]
    for code, tool_id in after.items():
        trie.insert(code, tool_id)
    assert_equal(trie, after)
    assert_same_arrays(trie.compact(), build(after))


class Growing(RuleBasedStateMachine):
    """Any order of inserts and removes."""

    @initialize(catalogue=CATALOGUES)
    def start(self, catalogue: dict[tuple[int, ...], str]) -> None:
        self.catalogue = dict(catalogue)
        self.trie = build(catalogue)

    @rule(code=CODES, tool_id=st.text(max_size=4))
    def insert(self, code: tuple[int, ...], tool_id: str) -> None:
        if code in self.catalogue:
            with pytest.raises(ValueError, match="taken"):
                self.trie.insert(code, tool_id)
        else:
            self.trie.insert(code, tool_id)
            self.catalogue[code] = tool_id

    @rule(code=CODES)
    def remove_any(self, code: tuple[int, ...]) -> None:
        if code in self.catalogue:
            assert self.trie.remove(code) == self.catalogue.pop(code)
        else:
            with pytest.raises(KeyError):
                self.trie.remove(code)

    @rule(data=st.data())
    def narrow(self, data: st.DataObject) -> None:
        names = data.draw(st.sets(st.sampled_from(sorted({"", *self.catalogue.values()}))))
        known = names & set(self.catalogue.values())
        if names != known:
            with pytest.raises(ValueError, match="no code"):
                self.trie.only(names)
        expected = {code: name for code, name in self.catalogue.items() if name in known}
        assert_equal(self.trie.only(known), expected)

    @rule(data=st.data())
    def remove_known(self, data: st.DataObject) -> None:
        if self.catalogue:
            code = data.draw(st.sampled_from(sorted(self.catalogue)))
            assert self.trie.remove(code) == self.catalogue.pop(code)

    @invariant()
    def equals(self) -> None:
        assert_equal(self.trie, self.catalogue)


TestGrowing = Growing.TestCase
TestGrowing.settings = settings(max_examples=60, stateful_step_count=30)


@given(st.lists(st.lists(TOKENS, min_size=1, max_size=4), max_size=4), CODES)
def test_grammar_takes_one_token_of_each_level(
    levels: list[list[int]], code: tuple[int, ...]
) -> None:
    grammar = Trie.grammar(levels, END)
    fits = len(code) == len(levels) and all(code[i] in level for i, level in enumerate(levels))
    assert (code in grammar) == fits
    assert len(grammar.first) == len(levels) + 1
    first = sorted(set(levels[0])) if levels else [END]
    assert grammar.allowed(ROOT).tolist() == first


def test_a_sub_trie_keeps_the_finish_code_and_leaves_the_rest_alone() -> None:
    codes = {(5, 6): "t_1", (5, 7): "t_2", (8,): FINISH, (5,): "t_3"}
    trie = build(codes)
    truth = trie.only(["t_2"])
    assert dict(truth.codes()) == {(5, 7): "t_2", (8,): FINISH}
    assert truth.allowed(ROOT).tolist() == [5, 8]
    trie.insert((9, 9), "t_4")
    assert dict(trie.only({"t_3", "t_4"}).codes()) == {(5,): "t_3", (8,): FINISH, (9, 9): "t_4"}
    assert dict(truth.codes()) == {(5, 7): "t_2", (8,): FINISH}


def test_a_grammar_cannot_change() -> None:
    grammar = Trie.grammar([[5, 6], [7]], END)
    with pytest.raises(ValueError, match="grammar"):
        grammar.only([])
    with pytest.raises(ValueError, match="grammar"):
        grammar.insert((5, 8), "t")
    with pytest.raises(ValueError, match="grammar"):
        grammar.remove((5, 7))
    with pytest.raises(ValueError, match="empty"):
        Trie.grammar([[5], []], END)


def test_only_end_is_allowed_after_the_end_and_outside() -> None:
    trie = Trie.build([(5, 6), (5, 7)], ["t_1", "t_2"], END)
    leaf = trie.walk((5, 6))
    assert leaf is not None
    assert trie.allowed(leaf).tolist() == [END]
    assert trie.step(leaf, END) == DEAD
    assert trie.step(ROOT, 6) == DEAD
    assert trie.step(DEAD, 5) == DEAD
    assert trie.allowed(DEAD).tolist() == [END]
    assert not trie.is_leaf(DEAD)


def test_an_empty_trie_allows_the_end_only() -> None:
    trie = Trie.build([], [], END)
    assert trie.allowed(ROOT).tolist() == [END]
    assert len(trie) == 0
    trie.insert((7,), "t")
    assert trie.lookup((7,)) == "t"


def test_a_prefix_of_another_code_may_end_or_go_on() -> None:
    trie = Trie.build([(5,), (5, 6)], ["short", "long"], END)
    node = trie.walk((5,))
    assert node is not None
    assert trie.allowed(node).tolist() == [6, END]
    trie.remove((5,))
    assert trie.lookup((5,)) is None
    assert trie.lookup((5, 6)) == "long"


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([(5, 6), (5, 6)], "share the code"),
        ([(5, END)], "end token"),
        ([(5,), ()], "empty"),
        ([(5, -1)], "negative"),
        (np.array([[5, -1]]), "token ids"),
    ],
)
def test_build_refuses_what_is_no_code(codes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trie.build(codes, [f"t_{i}" for i in range(len(codes))], END)


@given(catalogue=CATALOGUES)
def test_save_and_load(tmp_path_factory, catalogue: dict[tuple[int, ...], str]) -> None:
    path = tmp_path_factory.mktemp("trie") / "trie.npz"
    trie = build(catalogue)
    trie.save(path)
    loaded = Trie.load(path)
    assert_same_arrays(loaded, trie)
    loaded.insert((9, 9, 9, 9, 9), "new")
    assert_equal(loaded, catalogue | {(9, 9, 9, 9, 9): "new"})


def test_equal_codes_give_equal_bytes(tmp_path: Path) -> None:
    catalogue = {(5, 6): "t_1", (5, 7): "t_2", (6, 6): "t_3"}
    build(catalogue).save(tmp_path / "a.npz")
    grown = build({(8, 8): "t_0"})
    for code, tool_id in reversed(catalogue.items()):
        grown.insert(code, tool_id)
    grown.remove((8, 8))
    grown.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_a_saved_grammar_stays_one(tmp_path: Path) -> None:
    Trie.grammar([[5, 6], [7, 8]], END).save(tmp_path / "grammar.npz")
    loaded = Trie.load(tmp_path / "grammar.npz")
    assert loaded.frozen
    assert (6, 7) in loaded


@pytest.mark.parametrize("content", [b"", b"no trie", None])
def test_load_says_what_is_wrong(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "trie.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError) as error:
        Trie.load(path)
    assert error.value.where == str(path)
    assert error.value.remedy


def test_every_random_walk_ends_at_a_tool_and_never_at_a_removed_one() -> None:
    """10,000 draws under the trie: all leaves, none of them the removed tool (check 21)."""
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(3, 20, (300, 3)), axis=0)
    trie = Trie.build(codes, [f"t_{i}" for i in range(len(codes))], END)
    removed = tuple(codes[17].tolist())
    trie.remove(removed)
    seen = set()
    for _ in range(10_000):
        node, path = ROOT, []
        while (token := int(rng.choice(trie.allowed(node)))) != END:
            path.append(token)
            node = trie.step(node, token)
        assert tuple(path) in trie
        seen.add(tuple(path))
    assert removed not in seen
    assert seen == {code for code, _ in trie.codes()}


def test_building_and_changing_a_large_trie_is_quick() -> None:
    """Bounds with a wide margin for a busy machine; `bench` measures."""
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(0, 512, (47_933, 3)), axis=0) + np.array([10, 522, 1034])
    ids = [f"t_{i:012x}" for i in range(len(codes))]
    shuffled = codes[rng.permutation(len(codes))]
    started = time.perf_counter()
    trie = Trie.build(shuffled, ids, END)
    assert time.perf_counter() - started < 1.0
    fresh = [(10 + i % 512, 522 + i // 512, 2000 + i) for i in range(1000)]
    started = time.perf_counter()
    for code in fresh:
        trie.insert(code, "new")
    for code in fresh:
        trie.remove(code)
    assert time.perf_counter() - started < 1.0
    assert_same_arrays(trie.compact(), Trie.build(shuffled, ids, END))
