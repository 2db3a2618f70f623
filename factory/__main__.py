"""`python -m factory` is the `factory` command."""

from factory.cli.main import run

run()
