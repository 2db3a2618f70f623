"""Recipes and settings: every shipped one loads, every mistake names its key and file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field
from workspaces import ROOT, make_workspace

from factory.domain.failures import ContentError, InputError, RecipeError
from factory.train.curriculum import train_setup
from factory.train.stages import stages_of
from factory.workspace.checking import want_list
from factory.workspace.folder import Workspace
from factory.workspace.recipe import Section, load_recipe, load_stored_recipe, mend, vary
from factory.workspace.settings import load_settings, name_model

RECIPES = sorted(path.stem for path in (ROOT / "rounds").glob("*.toml"))


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_recipe_loads_and_opens_with_its_command(name: str) -> None:
    load_recipe(Workspace(ROOT), name, {})
    first = (ROOT / "rounds" / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(f"# factory round --recipe {name}")


@pytest.mark.parametrize("name", ["toolgen", "sgtc", "toolweaver"])
def test_recipes_of_papers_train_as_published(name: str) -> None:
    """Algorithms §2.5, §3.3, §4.7: 3 % warm-up, a plain loss, trajectories of 6,144 tokens."""
    train = train_setup(load_recipe(Workspace(ROOT), name, {}).recipe, 1, "auto", 1).train
    assert (train.warmup_ratio, train.code_share, train.max_length) == (0.03, 0, 6144)


@pytest.mark.parametrize("name", ["toolgen", "sgtc", "toolweaver"])
def test_a_papers_recipe_has_a_variant_for_one_gpu(name: str) -> None:
    """Adapters at the rates of base; all else is the paper's, its stages too."""
    own, base, whole = (
        load_recipe(Workspace(ROOT), recipe, {}).recipe for recipe in (f"{name}-lora", "base", name)
    )
    keys = ("method", "learning_rate", "lora_rank", "lora_alpha")
    assert [getattr(own.train, key) for key in keys] == [getattr(base.train, key) for key in keys]
    published = {key: getattr(whole.train, key) for key in keys}
    assert vary(own, extends="base", train=vary(own.train, **published)) == whole


ENDING = ("trajectory", "invoke", "gen", "adapt")
THREE = [(("code",), 8, 1024, 1024), (("retrieve",), 1, 1024, 1024), (ENDING, 1, 512, 6144)]
PUBLISHED = {
    "tooldev": [(("adapt",), 1, 64, 4096), (("gen", "invoke"), 1, 64, 4096)],
    "toolgen": THREE,
    "toolweaver": THREE,
    "sgtc": [(("retrieve", "code"), 5, 64, 6144), (ENDING, 2, 64, 6144)],
}
"""Kinds, epochs, examples a step, longest example of each stage (algorithms §1.2, §2.5, §3.3)."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_of_papers_have_their_stages(name: str) -> None:
    setup = train_setup(load_recipe(Workspace(ROOT), name, {}).recipe, 1, "auto", 1)
    stages = [(s.kinds, s.train.epochs, s.train) for s in stages_of(setup)]
    found = [(kinds, epochs, t.batch_size, t.max_length) for kinds, epochs, t in stages]
    assert found == PUBLISHED[name]
    weights = {"gen": 1.0, "invoke": 1.0} if name == "tooldev" else {}
    assert stages_of(setup)[1].weights == weights
    taught = {kind for kinds, *_ in found for kind in kinds}
    assert taught >= {"gen", "invoke"} and ("code" in taught) == setup.codes.are_made


def test_sgtc_is_whole_and_its_ablations_are_flags() -> None:
    whole = load_recipe(Workspace(ROOT), "sgtc", {}).recipe.codes
    assert (whole.iterations, whole.gist.merge, whole.reframe) == (2, True, True)
    flags = {"codes.iterations": "1", "codes.gist.merge": "false", "codes.reframe": "false"}
    bare = load_recipe(Workspace(ROOT), "sgtc", flags).recipe.codes
    assert (bare.iterations, bare.gist.merge, bare.reframe) == (1, False, False)
    for others in ({"codes.coder": "atomic", "codes.gist.views": "0"}, {"codes.coder": "numeric"}):
        with pytest.raises(RecipeError):
            load_recipe(Workspace(ROOT), "sgtc", others)


NAMED = (
    (
        'queries = []\n model="old"  # mine\n[engine]\n',
        "queries = []\n model={}  # mine\n[engine]\n",
    ),
    ("model = 'o\\ld'\r\nrecipe = 'cpu'\r\n", "model = {}\r\nrecipe = 'cpu'\r\n"),
    ("# only\n[engine]\nthreads = 1\n", "# only\nmodel = {}\n\n[engine]\nthreads = 1\n"),
    ('"model" = """\nold"""\n', '"model" = {}\n'),
    ("", "model = {}\n"),
)
"""Settings before, and after a model is written in place of `{}`."""


@pytest.mark.parametrize(("before", "after"), NAMED)
def test_a_model_is_written_into_the_settings(tmp_path: Path, before: str, after: str) -> None:
    workspace = make_workspace(tmp_path / "ws")
    workspace.marker.write_bytes(before.encode())
    for model in ("/models/Qwen", '/models/é "q" \\1'):
        assert name_model(workspace, model)
        written = json.dumps(model, ensure_ascii=False)
        assert workspace.marker.read_bytes().decode() == after.format(written)
        assert load_settings(workspace).model == model
        assert not name_model(workspace, model)


def test_a_model_that_cannot_be_kept_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(tmp_path / "ws")
    workspace.marker.write_text('model = "old"\n', encoding="utf-8")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(InputError, match=r"cannot be kept.*Permission denied") as caught:
        name_model(workspace, "/models/Qwen")
    assert 'model = "/models/Qwen"' in caught.value.remedy
    assert not name_model(workspace, "old")


def test_values_have_origins(tmp_path: Path) -> None:
    workspace = make_workspace(
        tmp_path / "ws", {"rounds/mine.toml": 'extends = "cpu"\n[calls]\nn = 7\n'}
    )
    resolved = load_recipe(workspace, "mine", {"train.epochs": "3"})
    lines = {key: (value, origin) for key, value, origin in resolved.lines()}
    assert lines["calls.n"] == ("7", "rounds/mine.toml")
    assert lines["train.epochs"] == ("3.0", "flag")
    assert lines["train.method"] == ('"full"', "rounds/cpu.toml")
    assert lines["calls.top_k"] == ("40", "rounds/base.toml")


def test_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", {"rounds/mine.toml": "[calls]\ntemprature = 0.5\n"})
    with pytest.raises(RecipeError) as caught:
        load_recipe(workspace, "mine", {})
    assert "calls.temprature" in caught.value.what
    assert "calls.temperature" in caught.value.remedy
    assert "rounds/mine.toml" in caught.value.where


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[calls]\nn = 0\n", "calls.n"),
        ('[calls]\nn = "many"\n', "calls.n"),
        ('[train]\nmethod = "qlora"\n', "train.method"),
        ("[vote]\nminimum = -1\n", "vote.minimum"),
        ("[train]\nlearning_rate = inf\n", "train.learning_rate"),
    ],
)
def test_wrong_values_name_their_key(tmp_path: Path, text: str, key: str) -> None:
    workspace = make_workspace(tmp_path / "ws", {"rounds/mine.toml": text})
    with pytest.raises(RecipeError, match=key.replace(".", r"\.")):
        load_recipe(workspace, "mine", {})


def test_a_word_in_place_of_a_list_is_shown_as_one(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    with pytest.raises(RecipeError, match=r"^score\.benchmarks: a list is wanted") as caught:
        load_recipe(workspace, "cpu", {"score.benchmarks": "home"})
    assert caught.value.remedy == """--set 'score.benchmarks=["home"]'"""
    example = caught.value.remedy.removeprefix("--set '").removesuffix("'").partition("=")[2]
    found = load_recipe(workspace, "cpu", {"score.benchmarks": example}).recipe
    assert found.score.benchmarks == ("home",)
    with pytest.raises(RecipeError, match=r"write codes\.quantized\.hidden=\[64\]"):
        load_recipe(
            make_workspace(tmp_path / "w2", {"rounds/mine.toml": "[codes.quantized]\nhidden = 64"}),
            "mine",
            {},
        )


@pytest.mark.parametrize(
    ("key", "given", "meant"),
    [
        ("benchmarks", "home,", '["home"]'),
        ("benchmarks", " , ", "[]"),
        ("benchmarks", "", "[]"),
        ("benchmarks", None, "[]"),
        ("benchmarks", "1, bfcl", '["1", "bfcl"]'),
        ("sizes", "256, 512,", "[256, 512]"),
        ("sizes", "many", '["many"]'),
        ("sizes", 64, "[64]"),
        ("shares", "0.5,1", "[0.5, 1.0]"),
    ],
)
def test_the_list_that_is_meant_has_items_of_its_kind(key: str, given: object, meant: str) -> None:
    class Lists(Section):
        benchmarks: tuple[str, ...] = ()
        sizes: tuple[Annotated[int, Field(gt=0)], ...] = ()
        shares: tuple[float, ...] = ()

    class Outer(Section):
        inner: Lists = Lists()

    assert want_list(Outer, ("inner", key), given)[1] == f"inner.{key}={meant}"


def test_broken_toml_and_circles(tmp_path: Path) -> None:
    workspace = make_workspace(
        tmp_path / "ws",
        {
            "rounds/broken.toml": "[calls\n",
            "rounds/a.toml": 'extends = "b"\n',
            "rounds/b.toml": 'extends = "a"\n',
        },
    )
    with pytest.raises(RecipeError, match="TOML"):
        load_recipe(workspace, "broken", {})
    with pytest.raises(RecipeError, match="extends itself"):
        load_recipe(workspace, "a", {})
    with pytest.raises(ContentError, match="nowhere"):
        load_recipe(workspace, "nowhere", {})


def test_settings(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    assert load_settings(workspace).recipe == "cpu"
    workspace.marker.write_text('modle = "x"\n', encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_settings(workspace)
    assert caught.value.remedy == "did you mean model?"


def test_same_recipe_same_sha(tmp_path: Path) -> None:
    workspace = Workspace(ROOT)
    one, two = (load_recipe(workspace, "cpu", {}).recipe for _ in range(2))
    assert one.sha == two.sha
    assert load_recipe(workspace, "cpu", {"calls.n": "6"}).recipe.sha != one.sha


def test_a_later_key_is_known_only_where_it_is_set() -> None:
    class Grown(Section):
        LATER = frozenset({"more"})
        size: int = 1
        more: int = 0

    class Whole(Section):
        part: Grown = Grown()

    assert Whole().known_by() == {"part": {"size": 1}}
    assert Whole(part=Grown(more=2)).known_by() == {"part": {"size": 1, "more": 2}}


STAGES = """
[[stage]]
name = "documents"
kinds = ["code"]
epochs = 8

[[stage]]
kinds = ["gen", "invoke"]
weights = { gen = 1.0 }
"""


def test_a_key_that_recipes_had_before_decides_nothing(tmp_path: Path) -> None:
    text = 'extends = "cpu"\n[score]\nmax_tokens = 9\ntolerance = 2.0\n'
    workspace = make_workspace(tmp_path, {"rounds/old.toml": text})
    found = load_recipe(workspace, "old", {})
    assert found.recipe.score.tolerance == 2
    (sentence,) = found.retired
    assert "rounds/old.toml" in sentence and "max_tokens of eval/NAME.toml" in sentence
    stored = json.dumps({"score": {"max_tokens": 9, "tolerance": 3.0}})
    assert load_stored_recipe("old", stored).recipe.score.tolerance == 3
    with pytest.raises(RecipeError, match="decides nothing"):
        load_recipe(workspace, "cpu", {"score.max_tokens": "9"})


def test_stages_are_read_shown_and_set_by_name_or_number(tmp_path: Path) -> None:
    files = {"rounds/mine.toml": STAGES, "rounds/other.toml": 'extends = "mine"\n'}
    workspace = make_workspace(tmp_path / "ws", files)
    flags = {"stage.documents.epochs": "2", "stage.2.weights.invoke": "0.5"}
    resolved = load_recipe(workspace, "other", flags)
    documents, calls = resolved.recipe.stage
    assert (documents.kinds, documents.epochs) == (("code",), 2)
    assert calls.weights == {"gen": 1, "invoke": 0.5}
    lines = {key: (value, origin) for key, value, origin in resolved.lines()}
    assert lines["stage.1.epochs"] == ("2.0", "flag")
    assert lines["stage.2.kinds"] == ('["gen", "invoke"]', "rounds/mine.toml")
    assert "stage.2.epochs" not in lines
    plain = load_recipe(workspace, "other", {"stage": "[]"}).recipe
    assert plain.stage == () and "stage" not in plain.known_by()
    stored = load_stored_recipe("mine", load_recipe(workspace, "mine", {}).recipe.model_dump_json())
    assert stored.recipe.stage[0].epochs == 8
    assert mend(stored, resolved).recipe.stage == resolved.recipe.stage


@pytest.mark.parametrize(
    ("text", "flags", "says", "remedy"),
    [
        (STAGES.replace('"code"', '"poem"'), {}, r"stage\.0\.kinds\.0: .*not 'poem'", "edit"),
        (STAGES.replace("epochs", "epoch"), {}, r"stage\.0\.epoch: unknown", "stage.epochs"),
        (STAGES.replace('["code"]', '"code"'), {}, "a list is wanted", 'stage.0.kinds=["code"]'),
        (STAGES.replace('"gen", ', ""), {}, "weights of gen, which kinds does not name", "edit"),
        (STAGES.replace("gen = 1.0", "gen = 0"), {}, r"greater than 0", "edit"),
        (STAGES.replace('kinds = ["code"]', ""), {}, r"stage\.0\.kinds: Field required", "edit"),
        (STAGES + "batch_size = 6\n", {}, r"stage 2: batch_size \(6\) must be a multiple", "edit"),
        (STAGES, {"stage.codes.epochs": "1"}, "no stage 'codes'", "one of documents, 2"),
        (STAGES, {"stage.documents": "1"}, "is a table, not a value", ""),
        ("", {"stage.1.epochs": "1"}, "no stages", "[[stage]]"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(
    tmp_path: Path, text: str, flags: dict[str, str], says: str, remedy: str
) -> None:
    workspace = make_workspace(tmp_path / "ws", {"rounds/mine.toml": text})
    with pytest.raises(RecipeError, match=says) as caught:
        load_recipe(workspace, "mine", flags)
    assert remedy in caught.value.remedy
