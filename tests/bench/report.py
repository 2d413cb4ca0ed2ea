"""docs/performance.md: its table and plots, made of the rows that were measured; what people wrote there stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from tests.bench.measure import HEAD, Row, cells

BEGIN, END = "<!-- bench: from here -->", "<!-- bench: to here -->"
_LEFT, _RIGHT, _LINE, _WIDTH = 250, 90, 20, 760
_STYLE = "text{font:12px sans-serif;fill:#24292f}.title{font-weight:bold}.must{stroke:#cf222e;stroke-width:2}"
_PASS, _FAIL, _GRID = "#2da44e", "#bf8700", "#d0d7de"


def write_report(rows: Sequence[Row], page: Path) -> None:
    """Put the table and plots between the marks of a page; plots stand in a folder of the page's name."""
    folder = page.with_suffix("")
    folder.mkdir(exist_ok=True)
    plots = []
    for name in dict.fromkeys(row.scenario for row in rows):
        found = [row for row in rows if row.scenario == name and row.ratio is not None]
        if found:
            (folder / f"{name}.svg").write_text(plot(name, found))
            plots.append(f"![{name}]({folder.name}/{name}.svg)")
    text = page.read_text() if page.is_file() else f"# Performance\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    made = "\n\n".join([_about(rows), markdown(rows), *plots])
    page.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}")


def _about(rows: Sequence[Row]) -> str:
    machine = next((row.machine for row in rows if row.machine), {})
    loads = [float(str(row.machine["load"])) for row in rows if row.machine]
    load = f"{min(loads)} to {max(loads)}" if loads else "unknown"
    days = sorted({row.date[:10] for row in rows})
    trees = ", ".join(sorted({str(row.tree)[:12] for row in rows}))
    return (
        f"{machine.get('cpus')} cores, {machine.get('cpu')}; load average {load} while it ran. Measured"
        f" {' to '.join(dict.fromkeys((days[0], days[-1])))} on bundler/ {trees} (`git rev-parse HEAD:bundler`)."
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table of all rows."""
    head = [*HEAD[:-1], "state"]
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in cells(row)] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(title: str, rows: Sequence[Row]) -> str:
    """Return an SVG: a bar for each peer as long as its ratio, a line where it must reach."""
    most = max(max(row.ratio or 0, row.must or 0) for row in rows) * 1.05
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    height, even = _LINE * (len(rows) + 2), _LEFT + scale
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}">',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="4" y="14">{escape(title)}: time of the peer ÷ ours</text>',
        *(part for place, row in enumerate(rows) for part in _bar(row, _LINE * (place + 1) + 4, scale)),
        f'<line x1="{even:.1f}" y1="{_LINE}" x2="{even:.1f}" y2="{height - _LINE}" stroke="{_GRID}"/>',
        f'<text x="{even - 3:.1f}" y="{height - 6}">1</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _bar(row: Row, top: int, scale: float) -> Iterator[str]:
    ratio = row.ratio or 0.0
    name = f"{row.peer} {row.peer_version}".strip()
    color = _FAIL if row.state == "FAIL" else _PASS
    yield f'<text x="4" y="{top + 12}">{escape(name)}</text>'
    yield f'<rect x="{_LEFT}" y="{top}" width="{ratio * scale:.1f}" height="{_LINE - 6}" fill="{color}"/>'
    if row.spread is not None:
        low, high = (_LEFT + each * scale for each in row.spread)
        yield f'<line x1="{low:.1f}" y1="{top + 7}" x2="{min(high, _WIDTH):.1f}" y2="{top + 7}" stroke="#57606a"/>'
    if row.must is not None:
        at = f"{_LEFT + row.must * scale:.1f}"
        yield f'<line class="must" x1="{at}" y1="{top - 2}" x2="{at}" y2="{top + _LINE - 4}"/>'
    end = _LEFT + max(ratio, row.must or 0.0, row.spread[1] if row.spread else 0.0) * scale
    yield f'<text x="{min(end + 6, _WIDTH - 40):.1f}" y="{top + 12}">{ratio:.2f}</text>'
