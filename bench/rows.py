"""python -m bench.rows MODEL [TOOLS] [--text FILE]: what new code tokens do to a model's language.

For each coder and each way of making first rows (`codes.rows`), on the model as it is and with its
head untied: the perplexity of plain text, by that without codes, and the probability that code
tokens take there, where none belongs. Nothing is trained. TOOLS is a file of tool documents; by
default the home world's catalogue; the text, by default, the requests of home-dev.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from bench.table import print_machine, print_table
from factory.codes.growing import fit_codebook, order_of
from factory.codes.install import install
from factory.codes.language import read_language
from factory.codes.reader import DocumentReader
from factory.domain.records import Tool
from factory.lab.seed.examples import catalogue_tools
from factory.score.loading import load, plain_text
from factory.tools.sources import read_tools
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import CodesSection, Recipe, RowsName, vary

CODERS = ("residual", "quantized", "atomic")


def untie(model: PreTrainedModel) -> PreTrainedModel:
    """The same model with a head of its own."""
    model.config.tie_word_embeddings = False
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    return model


def measure(
    folder: Path,
    tools: Sequence[Tool],
    text: str,
    codes: CodesSection,
    ways: Sequence[RowsName],
    heads: Sequence[str],
) -> list[tuple[str, ...]]:
    workspace = Workspace(Path.cwd())
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    plain = AutoTokenizer.from_pretrained(folder)
    reader = DocumentReader(model=whole, tokenizer=plain, prompts=Prompts.load(workspace))
    tools = [tools[row] for row in order_of(tools).values()]
    documents_ND = reader.embed(tools)
    before = read_language(whole, plain, text)
    assert before is not None
    rows: list[tuple[str, ...]] = []
    for coder in CODERS:
        codebook = fit_codebook(tools, documents_ND, vary(codes, coder=coder))
        own = documents_ND if coder == "residual" else None
        for tied in heads:
            for how in ways:
                model, tokenizer = copy.deepcopy(whole), copy.deepcopy(plain)
                if tied == "untied":
                    model = untie(model)
                torch.manual_seed(0)
                ids = install(codebook, model, tokenizer, own, how=how)
                tokens = [token for position in ids for token in position]
                after = read_language(model, tokenizer, text, tokens)
                assert after is not None
                ratio = after.perplexity / before.perplexity
                figures = f"{after.perplexity:.4g}", f"{ratio:.4g}", f"{after.code_mass:.2%}"
                rows.append((coder, tied, how, *figures))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("tools", type=Path, nargs="?")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--num", type=int, default=643)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--ways", nargs="*", default=get_args(RowsName))
    parser.add_argument("--heads", nargs="*", default=("tied", "untied"))
    arguments = parser.parse_args()
    print_machine("torch", "transformers")
    tools = list(read_tools(arguments.tools).items) if arguments.tools else catalogue_tools()
    home_dev = {"home-dev": load(Workspace(Path.cwd()), "home-dev")}
    text = arguments.text.read_text("utf-8") if arguments.text else plain_text(home_dev, Recipe())
    codes = CodesSection(size=arguments.size, levels=arguments.levels)
    tools = tools[: arguments.num]
    rows = measure(arguments.model, tools, text, codes, arguments.ways, arguments.heads)
    print_table(
        f"perplexity of plain text under {arguments.model.name}, {len(tools)} tools",
        ("coder", "head", "codes.rows", "perplexity", "by that without", "on code tokens"),
        rows,
    )


if __name__ == "__main__":
    main()
