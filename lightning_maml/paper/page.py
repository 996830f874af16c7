"""All tables and figures as one HTML page that needs no network and no script."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from lightning_maml.paper.book import Book, Chosen
from lightning_maml.paper.contents import PARTS, Need, Part
from lightning_maml.paper.markdown import all_needs, details, run_commands
from lightning_maml.paper.readings import readings
from lightning_maml.paper.tables import DIVERGED, Entry, View

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #5d6873; --line: #d7dde3; --tint: #f4f6f8;
  --paper: #ffffff; --link: #1b5e96; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3adb7; --line: #3a434c;
  --tint: #232a31; --paper: #171c21; --link: #7db9ea; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; overflow-wrap: anywhere; }
a { color: var(--link); } small, .soft { color: var(--soft); } small { font-size: .8rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-spacing: 0; font-variant-numeric: tabular-nums; }
.caption { font-weight: 600; margin: 1rem 0 -.4rem; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child, .source { text-align: left; white-space: normal; min-width: 8rem; }
thead th { background: var(--tint); }
figure { margin: .8rem 0; } .wide img { background: #fff; }
img { display: block; width: 100%; height: auto; min-width: 56rem; }
img.narrow { max-width: 40rem; min-width: 0; }
figcaption { color: var(--soft); font-size: .9rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--tint); padding: .7rem;
  border-radius: .3rem; font-size: .82rem; }
ul { padding-left: 1.2rem; margin: .3rem 0; } li { overflow-wrap: anywhere; }
@media (max-width: 40rem) { table { font-size: .85rem; } table small { font-size: .72rem; }
  th, td { padding: .3rem; } th:first-child, td:first-child, .source { min-width: 4.5rem; }
  th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); }
  thead th:first-child { background: var(--tint); } }
:target { background: var(--tint); outline: .3rem solid var(--tint); }
"""

HEAD = """<p>Our numbers beside the paper's (Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for
Fast Adaptation of Deep Networks, ICML 2017). Numbers of ours are means over test tasks with their
95% confidence interval, and link to their run: the command, device, versions, date, seed and number
of test tasks. A run with fewer meta-updates than the paper's, or another network, says so beside
its number. All other differences stand with the run.
&ldquo;Run it&rdquo; links to the commands that would fill an empty cell.</p>"""


def page(book: Book, command: str, figures: Mapping[str, Path]) -> str:
    """The page; `figures`: the SVG file of each figure by name."""
    names = [*PARTS, "runs", "missing"]
    links = "".join(f'<a href="#{name}">{_heading(name)}</a>' for name in names)
    body = [
        "<h1>MAML: the paper's figures and tables</h1>",
        HEAD,
        f"<nav>{links}</nav>",
        *(_section(part, book, figures.get(part.name)) for part in PARTS.values()),
        '<h2 id="runs">Runs</h2>',
        *(_run(chosen) for chosen in book.chosen.values()),
        '<h2 id="missing">Commands for what is missing</h2>',
        *(_need(need) for need in all_needs(book)),
        _unknown(book),
        f'<h2>This page</h2><p class="soft">Made by</p><pre>{escape(command)}</pre>',
    ]
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>MAML: the paper's figures and tables</title><style>{STYLE}</style></head>"
    )
    return f"{head}<body>\n" + "\n".join(body) + "\n</body></html>\n"


def _heading(name: str) -> str:
    kind, number = name.rstrip("0123456789"), name[len(name.rstrip("0123456789")) :]
    return f"{kind.capitalize()} {number}".strip()


def _section(part: Part, book: Book, svg: Path | None) -> str:
    blocks = [f'<section><h2 id="{part.name}">{escape(part.title)}</h2>']
    blocks += [_table(view) for view in (part.views(book) if part.views else ())]
    if svg is not None:
        narrow = ' class="narrow"' if part.name in ("figure1", "figure3", "figure4") else ""
        data = base64.b64encode(svg.read_bytes()).decode("ascii")
        image = f'<img{narrow} alt="{escape(part.title)}" src="data:image/svg+xml;base64,{data}">'
        blocks.append(f'<figure><div class="wide">{image}</div>')
        blocks.append(f"<figcaption>{escape(part.note)}</figcaption></figure>")
    elif part.note:
        blocks.append(f"<p>{escape(part.note)}</p>")
    blocks.append(_readings(part.name, book))
    missing = ", ".join(_link(e.name, e.name) for e in book.missing(part.experiments))
    if missing and part.draw is not None:
        blocks.append(f'<p class="soft">No result of their own yet: {missing}.</p>')
    return "\n".join([*(block for block in blocks if block), "</section>"])


def _table(view: View) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in view.table.columns)
    rows = []
    for line in view.lines:
        cells = "".join(f"<td>{_cell(view, entry)}</td>" for entry in line.entries)
        count = f"<td>{line.parameters}</td>" if view.counted else ""
        rows.append(f"<tr><td>{escape(line.name)}</td>{count}{cells}</tr>")
    head = f"<th>parameters</th>{head}" if view.counted else head
    note = f'<p class="soft">{DIVERGED}</p>' if view.diverged else ""
    return _framed(view.table.title, f"<th></th>{head}", rows) + note


def _cell(view: View, entry: Entry) -> str:
    """Ours above the paper's."""
    if entry.paper is None:
        return ""
    paper = f"<small>paper {_signs(view.paper(entry))}</small>"
    if entry.experiment is None:
        return paper
    if not entry.ours:
        return f"{_run_it(entry.experiment.name)}<br>{paper}"
    after = f"<br><small>after {entry.shortened}<br>meta-updates</small>" if entry.shortened else ""
    other = f"<br><small>{escape(entry.other_network)}</small>" if entry.other_network else ""
    return f"{_link(entry.experiment.name, entry.ours)}{after}{other}<br>{paper}"


def _readings(figure: str, book: Book) -> str:
    found = readings(figure, book)
    if found is None:
        return ""
    head = "<th></th><th class='source'>source</th>"
    head += "".join(f"<th>{step} steps</th>" for step in found.steps)
    rows = []
    for line in found.lines:
        source = escape(line.source)
        if not any(line.texts):
            source += f", {_run_it(line.experiment)}"
        cells = "".join(f"<td>{_signs(text)}</td>" for text in line.texts)
        rows.append(
            f"<tr><td>{escape(line.label)}</td><td class='source'>{source}</td>{cells}</tr>"
        )
    return f"<details><summary>The numbers</summary>{_framed('', head, rows)}</details>"


def _framed(title: str, head: str, rows: Sequence[str]) -> str:
    caption = f'<p class="caption">{escape(title)}</p>' if title else ""
    body = "".join(rows)
    return (
        f'{caption}<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _run(chosen: Chosen) -> str:
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in [*chosen.facts, *details(chosen)])
    return _anchored(chosen.experiment.name, f"<ul>{facts}</ul>", run_commands(chosen))


def _need(need: Need) -> str:
    return _anchored(need.what, f'<p class="soft">{escape(need.why)}</p>', need.commands)


def _anchored(name: str, text: str, commands: Sequence[str]) -> str:
    lines = escape("\n".join(commands))
    return f'<h3 id="{name}">{escape(name)}</h3>{text}<pre>{lines}</pre>'


def _unknown(book: Book) -> str:
    if not book.unknown:
        return ""
    items = "".join(f"<li>{escape(one.name)}: {escape(why)}</li>" for one, why in book.unknown)
    return f"<h2>Results that belong to none of these</h2><ul>{items}</ul>"


def _run_it(name: str) -> str:
    return _link(name, "run it")


def _link(name: str, text: str) -> str:
    return f'<a href="#{name}">{_signs(text)}</a>'


def _signs(text: str) -> str:
    return escape(text).replace("+-", "&plusmn;")
