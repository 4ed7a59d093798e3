"""A comparison as one HTML file that needs nothing else: style, script, plotly, figures and pictures are within."""

from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from variata import __version__
from variata.compare import figures, pictures, tables
from variata.compare.comparison import Comparison
from variata.formatting import printable, text

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}


def page(c: Comparison, command: str) -> str:
    """The whole page, which ends with the command that writes it."""
    columns, more = pictures.columns(c)
    parts = {part.__name__: part(c) for part in (*tables.TABLES, tables.headline, tables.followers, figures.figures)}
    return TEMPLATES.get_template("page.html").render(
        **parts,
        c=c,
        about=" · ".join(about(c)),
        columns=columns,
        kinds=[kind for kind in pictures.KINDS if any(kind in column.pictures for column in columns)],
        more=more,
        text=text,
        made=f"{datetime.now():%Y-%m-%d %H:%M}, variata {__version__}",
        command=command,
        plotly=plotly(),
    )


def plotly() -> str:
    """plotly.js, for a page that is read without a network."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def about(c: Comparison) -> list[str]:
    """On what the outcome rests."""
    judged = sum(len(group.judged) for group in c.groups)
    out = [f"directories left out: {len(c.left_out)}"] if c.left_out else []
    return [f"{len(c.runs)} runs in {len(c.groups)} groups, {judged} of them averaged", f"data: {protocols(c)}", *out]


def protocols(c: Comparison) -> str:
    """On what runs were judged, and with how many samples."""
    named = {printable(text(run.results["data/protocol"])) for run in c.runs if run.results.get("data/protocol")}
    samples = sorted({k for run in c.runs if (k := run.results.get("test/nll_samples")) is not None})
    bound = f"; NLL with {', '.join(f'{k:,}' for k in samples)} samples per image" if samples else ""
    return ("; ".join(sorted(named)) or "unknown") + bound
