"""ToolBench's data, as its two kinds of benchmark load them."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from factory.benchmark import Definition, Item, first_of_each
from factory.canon import digest
from factory.kinds.base import find_data
from factory.prompts import to_json
from factory.scorers.toolbench import ToolBench, load_toolbench
from factory.workspace import Workspace


class ToolBenchDefinition(Definition):
    """What definitions on ToolBench's data have in common."""

    data: str = ""
    """ToolBench's folder, or StableToolBench's."""
    splits: tuple[str, ...] = ()
    """The wanted ones; none is all that the folder has."""
    limit: int = Field(0, ge=0)
    """Requests of each split; 0 is all."""

    def load_data(self, workspace: Workspace, name: str) -> ToolBench:
        """The folder's requests and documents."""
        bench = load_toolbench(find_data(workspace, self.data, name), self.splits)
        queries = first_of_each(bench.queries, self.limit, lambda query: query.split)
        return ToolBench(
            queries=tuple(queries),
            documents=bench.documents,
            domains=bench.domains,
            notes=bench.notes,
        )


def name_categories(groups: Sequence[str], bench: ToolBench) -> tuple[str, ...]:
    """A category for each split in each group (a setting, or what is judged)."""
    return tuple(f"{group} {split}" for group in groups for split in bench.splits)


def make_items(groups: Sequence[str], bench: ToolBench) -> tuple[Item, ...]:
    """Every request once in each group."""
    return tuple(
        Item(
            id=f"{group}/{query.id}",
            category=f"{group} {query.split}",
            query=query.text,
            functions=(),
            ground_truth=tuple(sorted(query.relevant)),
        )
        for group in groups
        for query in bench.queries
    )


def toolbench_sha(bench: ToolBench) -> str:
    """Hash of requests, documents and domains."""
    queries = [[q.id, q.text, sorted(q.relevant), q.offered] for q in bench.queries]
    documents = [
        [key, [each.document for each in several]] for key, several in bench.documents.items()
    ]
    domains = {group: sorted(keys) for group, keys in bench.domains.items()}
    return digest(to_json([queries, documents, domains]))
