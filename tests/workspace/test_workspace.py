"""The overlay: a workspace's file hides the shipped one, path by path."""

from __future__ import annotations

from pathlib import Path

import pytest
from workspaces import make_workspace

from factory.domain.failures import ContentError, InputError
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.prompts import Prompts
from factory.workspace.scaffold import diff, eject, init_workspace


def test_locate_walks_up(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    deep = tmp_path / "ws" / "a" / "b"
    deep.mkdir(parents=True)
    assert Workspace.locate(deep) == workspace


def test_locate_without_workspace_names_init(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        Workspace.locate(tmp_path)
    assert "factory init" in caught.value.remedy


def test_own_file_hides_shipped_one(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", {"prompts/calls/invoke.j2": "Q: {{ query }}"})
    assert workspace.find("prompts/calls/invoke.j2").parent.parent.parent == workspace.root
    assert workspace.find("prompts/calls/system.j2").is_relative_to(shipped_root())
    assert (workspace.root / "prompts/calls/invoke.j2").exists()
    paths = [path for path, _ in workspace.walk("prompts", ".j2")]
    assert paths == sorted(set(paths)) and "prompts/calls/invoke.j2" in paths


def test_own_prompt_is_rendered_and_changes_the_hash(tmp_path: Path) -> None:
    plain = Prompts.load(make_workspace(tmp_path / "a"))
    own = Prompts.load(
        make_workspace(tmp_path / "b", {"prompts/calls/invoke.j2": "Q: {{ query }}"})
    )
    assert own.render("calls/invoke", query="hi") == "Q: hi"
    assert own.sha("calls/invoke") != plain.sha("calls/invoke")
    assert own.sha("calls/system") == plain.sha("calls/system")
    assert own.set_sha() != plain.set_sha()


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "prompts/../../x"])
def test_paths_stay_inside(tmp_path: Path, path: str) -> None:
    with pytest.raises(ContentError):
        make_workspace(tmp_path / "ws").find(path)


def test_missing_variable_names_the_prompt(tmp_path: Path) -> None:
    prompts = Prompts.load(make_workspace(tmp_path / "ws"))
    with pytest.raises(ContentError, match="query"):
        prompts.render("calls/invoke")


def test_broken_prompt_stops_at_load_with_its_line(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", {"prompts/calls/invoke.j2": "a\n{{ query"})
    with pytest.raises(ContentError) as caught:
        Prompts.load(workspace)
    assert caught.value.where == "prompts/calls/invoke.j2:2"


def test_prompts_are_sandboxed(tmp_path: Path) -> None:
    text = "{{ query.__class__.__mro__ }}"
    prompts = Prompts.load(make_workspace(tmp_path / "ws", {"prompts/calls/invoke.j2": text}))
    with pytest.raises(ContentError):
        prompts.render("calls/invoke", query="x")


def test_eject_then_diff(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    path = "prompts/calls/invoke.j2"
    copy = eject(workspace, path)
    assert diff(workspace, path) == ""
    copy.write_text("mine {{ query }}", encoding="utf-8")
    assert "+mine" in diff(workspace, path)
    with pytest.raises(InputError):
        eject(workspace, path)


def test_init_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep", encoding="utf-8")
    init_workspace(tmp_path)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "keep"
    with pytest.raises(InputError, match="already"):
        init_workspace(tmp_path)


@pytest.mark.parametrize("path", ["pyproject.toml", "factory/cli/main.py", "docs"])
def test_what_is_no_content_is_not_ejected(tmp_path: Path, path: str) -> None:
    workspace = make_workspace(tmp_path / "ws")
    if not (shipped_root() / path).exists():
        pytest.skip("an installed package ships nothing else")
    with pytest.raises(InputError, match="no content to edit"):
        eject(workspace, path)
    assert not (workspace.root / path).exists()
