"""The one way to write a report page: `write_page`, from sections, of the parts below.

HTML by hand: every text goes through `text()`, so that class names and paths cannot become markup.
"""

from __future__ import annotations

import base64
import html
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from raydet.errors import UserError
from raydet.files import make_folder, replacing, write_text

Inputs = TypeVar("Inputs")

STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1c2128;--soft:#5b6470;--line:#e3e6ea;--accent:#2563eb;
--bad:#b91c1c;--bad-page:#fef2f2}
@media(prefers-color-scheme:dark){:root{--page:#0f1216;--card:#181c22;--ink:#e6e9ed;--soft:#98a1ad;--line:#2b313a;
--accent:#6ea8fe;--bad:#fca5a5;--bad-page:#2b1618}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);overflow-wrap:anywhere;
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:26px;line-height:1.2;margin:8px 0 2px}h2{font-size:19px;margin:0 0 4px}
p{margin:4px 0 12px}.soft,figcaption,.absent{color:var(--soft)}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:12px 0 20px}a{color:var(--accent);text-decoration:none}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px;margin:0 0 16px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(148px,1fr));gap:8px;margin:12px 0 16px}
.settings{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));gap:0 28px;margin:12px 0}
.settings div{display:flex;justify-content:space-between;gap:16px;padding:3px 0;border-bottom:1px solid var(--line)}
.settings dt{color:var(--soft);flex:none;max-width:75%}.settings dd{margin:0;text-align:right}
.tile{border:1px solid var(--line);border-radius:10px;padding:10px 12px}
.tile b{display:block;overflow-wrap:break-word;
font-size:20px;line-height:1.25;font-variant-numeric:tabular-nums}.tile span{color:var(--soft)}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px;margin:0 0 12px}
.pairs{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,250px),1fr));gap:12px;margin:0 0 18px}
.row{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,180px),1fr));gap:12px;margin:0 0 18px}
.thumbs{display:grid;grid-template-columns:repeat(auto-fill,minmax(112px,1fr));gap:12px;margin:0 0 12px}
figure{margin:0}.plots figure:only-child{max-width:516px}
figure img{display:block;width:100%;height:auto;border-radius:6px}
figcaption{font-size:13px;margin-top:4px}
.scroll{overflow-x:auto}table{border-collapse:collapse;overflow-wrap:break-word;font-variant-numeric:tabular-nums}
th,td{padding:4px 18px 4px 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
td:first-child{min-width:6em;max-width:24em}
td.number,th.number{text-align:right;white-space:nowrap}
th{font-weight:600;color:var(--soft)}
.alarm{background:var(--bad-page);color:var(--bad);border-radius:8px;padding:8px 12px}
.absent{border-left:3px solid var(--line);padding-left:12px}
summary{cursor:pointer;color:var(--accent)}pre{overflow-x:auto;font-size:13px;overflow-wrap:normal}
h3{font-size:15px;margin:18px 0 6px}
.findings{list-style:none;margin:0 0 12px;padding:0}
.findings li{border-left:3px solid var(--accent);padding:2px 0 2px 12px;margin:10px 0}.findings p{margin:0}
.findings dl{display:flex;flex-wrap:wrap;gap:2px 20px;margin:2px 0 0;font-size:13px;color:var(--soft)}
.findings dl div{display:flex;gap:6px}.findings dd{margin:0;color:var(--ink);font-variant-numeric:tabular-nums}
"""
# The page may show its own pictures and style itself; it can load and run nothing, whatever a class name contains.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, slots=True)
class Section:
    """A card of the page. `body` is HTML made by the functions below."""

    title: str
    body: Sequence[str]


@dataclass(slots=True)
class Pictures:
    """Turns pictures into HTML and keeps them by file name, to be saved beside the page."""

    files: dict[str, bytes] = field(default_factory=dict)

    def figure(self, name: str, content: bytes, caption: str) -> str:
        """Return a figure with the picture inside; `name` ends in .png or .jpg."""
        self.files[name] = content
        kind = "png" if name.endswith(".png") else "jpeg"
        source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        shown = text(caption)
        return f'<figure><img src="{source}" alt="{shown}"><figcaption>{shown}</figcaption></figure>'


Made = tuple[Any, Sequence[Callable[[Any, Pictures], Section]]]
"""What a page is made from, and the makers of its sections in order."""


def write_page(file: Path, title: str, inputs: Inputs, makers: Iterable[Callable[[Inputs, Pictures], Section]]) -> Path:
    """Write a page without outside parts, a section by each maker, and its pictures into plots/ beside it.

    Returns the page. Raises StorageError where it cannot be written.
    """
    pictures = Pictures()
    content = page(title, str(file.parent), [make(inputs, pictures) for make in makers])
    folder = file.parent / "plots"
    make_folder(folder)
    for name, picture in pictures.files.items():
        with replacing(folder / name, needed=len(picture)) as stream:
            stream.write(picture)
    return write_text(file, content)


def can_draw() -> bool:
    """Return whether matplotlib, which draws the pictures, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def check_can_draw() -> None:
    """Raise UserError where matplotlib is not installed."""
    if not can_draw():
        raise UserError("raydet report draws with matplotlib, which is not installed: pip install 'raydet[plots]'")


def text(value: object) -> str:
    """Return a value as text that is safe in HTML and in quoted attributes."""
    return html.escape(str(value), quote=True)


def paragraph(content: str, kind: str = "soft") -> str:
    """Return a paragraph; `kind` is soft, absent or alarm."""
    return f'<p class="{kind}">{text(content)}</p>'


def heading(content: str) -> str:
    """Return a heading inside a section."""
    return f"<h3>{text(content)}</h3>"


def tiles(figures: Mapping[str, str]) -> str:
    """Return name and value of the most important figures."""
    cells = (
        f'<div class="tile"><b>{text(value)}</b><span>{text(name)}</span></div>' for name, value in figures.items()
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def settings(rows: Iterable[tuple[str, str]]) -> str:
    """Return names and values, in as many columns as there is room for."""
    pairs = (f"<div><dt>{_breakable(name)}</dt><dd>{_breakable(value)}</dd></div>" for name, value in rows)
    return f'<dl class="settings">{"".join(pairs)}</dl>'


def findings(items: Iterable[tuple[str, Mapping[str, str]]]) -> str:
    """Return sentences, each above the figures that it was concluded from."""

    def shown(figures: Mapping[str, str]) -> str:
        pairs = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in figures.items())
        return f"<dl>{pairs}</dl>"

    return f'<ul class="findings">{"".join(f"<li><p>{text(said)}</p>{shown(f)}</li>" for said, f in items)}</ul>'


def _breakable(value: str) -> str:
    """Return text that breaks between the words of a key or path rather than inside one."""
    return re.sub(r"([_/])", r"\1<wbr>", text(value))


def grid(figures: Iterable[str], kind: str = "plots") -> str:
    """Return figures side by side where there is room; `kind` is plots, pairs, row or thumbs."""
    return f'<div class="{kind}">{"".join(figures)}</div>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, first_numeric: int = 1) -> str:
    """Return a table; columns from `first_numeric` on are aligned as numbers."""

    def row(tag: str, cells: Sequence[str]) -> str:
        kinds = ("" if i < first_numeric else ' class="number"' for i in range(len(cells)))
        return "".join(f"<{tag}{kind}>{text(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    body = "".join(f"<tr>{row('td', cells)}</tr>" for cells in rows)
    head = f"<thead><tr>{row('th', columns)}</tr></thead>" if columns else ""
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def folded(title: str, content: str) -> str:
    """Return preformatted text behind a line to click on."""
    return f"<details><summary>{text(title)}</summary><pre>{text(content)}</pre></details>"


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Return the whole page."""
    links = "".join(f'<a href="#s{i}">{text(section.title)}</a>' for i, section in enumerate(sections))
    cards = "".join(
        f'<section id="s{i}"><h2>{text(section.title)}</h2>{"".join(section.body)}</section>\n'
        for i, section in enumerate(sections)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{text(POLICY)}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body><main>"
        f'<h1>{text(title)}</h1><p class="soft">{text(subtitle)}</p><nav>{links}</nav>\n{cards}</main></body></html>\n'
    )
