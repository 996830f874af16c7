"""All tables and figures as one Markdown text, each number of ours with the run behind it."""

from collections.abc import Sequence

from lightning_maml.paper.book import Book, Chosen
from lightning_maml.paper.contents import PARTS, Need, Part, needs
from lightning_maml.paper.readings import readings
from lightning_maml.paper.tables import DIVERGED, Entry, View

HEAD = """# Results

Our numbers beside the paper's (Finn, Abbeel, Levine, ICML 2017), from result files of `test`:

```
{command}
```

Numbers of ours are means over test tasks with their 95% confidence interval
(1.96 s / sqrt(tasks)). Each links to its run: the command, device, versions, date, seed and number
of test tasks. A result records the command of its test and, if newer, those of its training; of the
others the full run of the config stands there, which a run with fewer meta-updates was not: it is
marked with both numbers. Settings of a network that are not the paper's, or of another system not
those of its config, stand beside the number; all other differences with the run. An empty cell
links to the commands that would fill it.
"""


def markdown(book: Book, command: str, figures: Sequence[str] = ()) -> str:
    """Everything; `figures` are the names of those that lie beside the text as ``<name>.svg``."""
    blocks = [HEAD.format(command=command).rstrip()]
    for part in PARTS.values():
        blocks.append(f"## {part.title}")
        if part.note:
            blocks.append(part.note)
        blocks += [view_lines(view) for view in (part.views(book) if part.views else ())]
        if part.name in figures:
            blocks.append(f"![{part.title}]({part.name}.svg)")
        if (numbers := readings_lines(part.name, book)) is not None:
            blocks.append(numbers)
    blocks.append("## Runs")
    blocks += [run_lines(chosen) for chosen in book.chosen.values()]
    blocks.append("## Commands for what is missing")
    blocks += [need_lines(need) for need in all_needs(book)]
    if book.unknown:
        blocks.append("## Results that belong to none of these")
        blocks.append("\n".join(f"- {one.name}: {why}" for one, why in book.unknown))
    return "\n\n".join(blocks) + "\n"


def all_needs(book: Book, parts: Sequence[Part] = tuple(PARTS.values())) -> list[Need]:
    """What the parts lack, each once."""
    return list(dict.fromkeys(need for part in parts for need in needs(part, book)))


def view_lines(view: View) -> str:
    """A table: for each column ours beside the paper's."""
    columns = [f"{column}: {whose}" for column in view.table.columns for whose in ("ours", "paper")]
    rows = []
    for line in view.lines:
        cells = [cell for entry in line.entries for cell in (linked(entry), view.paper(entry))]
        rows.append([line.name, *([line.parameters] if view.counted else []), *cells])
    head = ["", *(["parameters"] if view.counted else []), *columns]
    text = f"{view.table.title}\n\n" + table(head, rows)
    return f"{text}\n\n{DIVERGED.replace('*', chr(92) + '*')}" if view.diverged else text


def readings_lines(figure: str, book: Book) -> str | None:
    """The numbers behind a figure, None for one without."""
    found = readings(figure, book)
    if found is None:
        return None
    rows = []
    for line in found.lines:
        filled = any(line.texts)
        source = line.source if filled else f"{line.source} ([run it](#{line.experiment}))"
        rows.append([line.label, source, *(_escaped(text) for text in line.texts)])
    return table(["", "source", *(f"{step} steps" for step in found.steps)], rows)


def linked(entry: Entry) -> str:
    """Our number with a link to its run; without one, a link to the command."""
    if entry.experiment is None:
        return ""
    link = f"([{'run' if entry.ours else 'run it'}](#{entry.experiment.name}))"
    after = f" after {entry.shortened} meta-updates" if entry.shortened else ""
    other = f", {_escaped(entry.other_network)}" if entry.other_network else ""
    return f"{_escaped(entry.ours)}{after}{other} {link}".strip()


def run_lines(chosen: Chosen) -> str:
    """The run behind the numbers of an experiment."""
    name = chosen.experiment.name
    lines = [f"### {name}", *(f"- {fact}" for fact in [*chosen.facts, *details(chosen)])]
    return "\n".join(lines) + "\n\n" + code(run_commands(chosen))


def run_commands(chosen: Chosen) -> list[str]:
    """The recorded commands of each test and its training; where the latter is not recorded, how
    its config is run in full.
    """
    *fit, _ = chosen.experiment.commands
    lines: dict[str, None] = {}  # each once: several tests may be of one training
    for one in chosen.results:
        trained = [f"python {command}  # as recorded" for command in one.training]
        full = [f"{command}  # the config's full run" for command in fit]
        lines |= dict.fromkeys([*(trained or full), f"python {one.command}  # as recorded"])
    return list(lines)


def details(chosen: Chosen) -> list[str]:
    """File, date, device and versions of each result."""
    return [f"{one.name}, {one.date[:10]}: {one.where}" for one in chosen.results]


def need_lines(need: Need) -> str:
    """Something missing, and its commands."""
    return f"### {need.what}\n{need.why}\n\n" + code(need.commands)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def code(lines: Sequence[str]) -> str:
    """A block of commands."""
    return "\n".join(["```", *lines, "```"])


def _escaped(text: str) -> str:
    return text.replace("*", r"\*")
