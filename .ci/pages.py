"""For the pages: the tables of `mlsde COMMAND --help`, written from the parser when the site is built."""

import argparse
import re
from typing import Any

from mlsde import cli

MARKER = re.compile(r"<!-- options of (\w+) -->")


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Called by mkdocs for every page."""
    return MARKER.sub(lambda match: options(match[1]), markdown)


def options(name: str) -> str:
    """What a command does, and its arguments as a table."""
    (commands,) = (action for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction))
    parser = commands.choices[name]
    rows = [f"| `{words(action)}` | {meaning(action)} |" for action in parser._actions if action.dest != "help"]
    return "\n".join([f"{parser.description}\n", "| argument | meaning |", "|---|---|", *rows])


def words(action: argparse.Action) -> str:
    """How an argument is written: its name, and what follows it."""
    if not action.option_strings:
        return str(action.metavar or action.dest)
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    return action.option_strings[0] + value


def meaning(action: argparse.Action) -> str:
    """The help of an argument, and its choices."""
    choices = "" if action.choices is None else f" ({', '.join(map(str, action.choices))})"
    return f"{action.help}{choices}".replace("|", "\\|").replace("<", "&lt;")
