"""What the documentation site adds to the pages of this folder.

* Pages of files that stand elsewhere in the repository (the README and its like), one page for each
  module of taut from its docstrings, the literature, and each notebook as an ``.ipynb``.
* Links between files of the repository lead to their pages.
* LaTeX becomes MathML, so that a page needs no script for it.
* In docstrings ``References: key.`` becomes what the key stands for, and ``Bound:`` a heading.

``mkdocs.yml`` names this file as a hook of MkDocs and as an extension of griffe, which reads the
docstrings. taut itself is not imported.
"""

from __future__ import annotations

import ast
import gc
import html
import json
import posixpath
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "taut"
ELSEWHERE = {  # page of the site -> file of the repository
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "benchmarks.md": "benchmarks/README.md",
    "security.md": "SECURITY.md",
}
ADDRESSES = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"].get("urls", {})


def _modules() -> dict[str, str]:
    """Returns the public modules: dotted name -> page. A package is the index of its folder."""
    pages = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[-1] == "__init__":
            pages[".".join(("taut", *parts[:-1]))] = "/".join(("api", *parts[:-1], "index.md"))
        elif not parts[-1].startswith("_"):
            pages[".".join(("taut", *parts))] = "/".join(("api", *parts)) + ".md"
    return pages


def _references() -> dict[str, str]:
    """Returns the literature of ``taut.references``."""
    for node in ast.parse((SOURCE / "references.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REFERENCES":
            return dict(ast.literal_eval(node.value))
    raise PluginError("src/taut/references.py holds no REFERENCES")


gc.disable()  # a search for garbage among all pages is an eighth of the time, and ends with them
MODULES = _modules()
REFERENCES = _references()


# ------------------------------------------------------------------------- pages and navigation


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills in the API's part of the menu, and the project's addresses once it has some."""
    entry = next(entry for entry in config.nav or [] if "API" in entry)
    entry["API"] = _menu("taut")
    config.site_url = ADDRESSES.get("Documentation", "")
    config.repo_url = ADDRESSES.get("Source", "")
    return config


def _below(package: str) -> list[str]:
    return [name for name in MODULES if name.rpartition(".")[0] == package]


def _is_package(name: str) -> bool:
    return MODULES[name].endswith("index.md")


def _menu(package: str) -> list[Any]:
    """Returns the pages of a package: its own, its modules, then its packages with theirs."""
    pages: list[Any] = [{"overview": MODULES[package]}]
    for name in sorted(_below(package), key=lambda name: (_is_package(name), name)):
        short = name.rpartition(".")[2]
        pages.append({short: _menu(name) if _is_package(name) else MODULES[name]})
    return pages


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that stand in no file of this folder."""
    taut = griffe.load("taut", search_paths=[ROOT / "src"])
    contents = {page: (ROOT / file).read_text("utf-8") for page, file in ELSEWHERE.items()}
    contents |= {page: _module_page(name, taut) for name, page in MODULES.items()}
    contents["references.md"] = _literature()
    for file in files.documentation_pages():
        if file.src_uri.startswith("notebooks/"):
            contents[file.src_uri.replace(".md", ".ipynb")] = _notebook(file.content_string)
    for page, content in contents.items():
        files.append(File.generated(config, page, content=content))
    return files


def _module_page(name: str, taut: Any) -> str:
    """Returns a module's docstrings; of a package its own, and what is in it."""
    if not _is_package(name):
        return f"::: {name}\n"
    lines = [f"::: {name}", "    options: {members: false}", ""]
    package = taut if name == "taut" else taut[name.removeprefix("taut.")]
    if name == "taut":
        lines += ["## Public names", "", "| name | |", "|---|---|"]
        lines += _rows({public: taut[public] for public in sorted(taut.exports, key=str.lower)})
        lines += [""]
    lines += ["## Modules", "", "| module | |", "|---|---|"]
    short = [module.rpartition(".")[2] for module in _below(name)]
    lines += _rows({module: package.modules[module] for module in short})
    return "\n".join(lines) + "\n"


def _rows(members: dict[str, Any]) -> list[str]:
    """Returns a row of a table for each: its name, which leads to it, and what it says first."""
    rows = []
    for name, member in members.items():
        target = member.final_target if member.is_alias else member
        first = target.docstring.value.split("\n\n")[0] if target.docstring else ""
        summary = " ".join(first.split()).replace("|", "&#124;")
        rows.append(f"| [`{name}`][{target.path}] | {summary} |")
    return rows


def _literature() -> str:
    lines = ["# References", "", "What docstrings name under *References*."]
    lines += [f"\n## {key}\n\n{text}" for key, text in sorted(REFERENCES.items())]
    return "\n".join(lines) + "\n"


def _notebook(page: str) -> str:
    """Returns a page as a Jupyter notebook: its Python blocks are the cells of code."""
    cells: list[dict[str, Any]] = []
    for number, part in enumerate(re.split(r"^```python\n(.*?)^```\n", page, flags=re.M | re.S)):
        kind = "code" if number % 2 else "markdown"
        text = part.strip()
        extra = {"outputs": [], "execution_count": None} if kind == "code" else {}
        if text:
            cells.append({"cell_type": kind, "metadata": {}, "source": text, **extra})
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


# ------------------------------------------------------------------------- links and mathematics


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lets links between files of the repository lead to their pages."""
    here = page.file.src_uri
    folder = posixpath.dirname(ELSEWHERE.get(here, f"docs/{here}"))

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if re.match(r"\w+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        site = _page_of(path)
        if site is not None:
            return f"[{text}]({posixpath.relpath(site, posixpath.dirname(here) or '.')}{anchor})"
        if "Source" in ADDRESSES:
            return f"[{text}]({ADDRESSES['Source']}/blob/main/{path})"
        return text  # a file of the source: there is no address to lead to yet

    if here.startswith("notebooks/"):
        markdown += f"\n\n[This page as a Jupyter notebook]({Path(here).stem}.ipynb)\n"
    return re.sub(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]+)(#[^)\s]*)?\)", link, markdown)


def _page_of(path: str) -> str | None:
    """Returns the page of a file of the repository, if it has one."""
    for page, file in ELSEWHERE.items():
        if path == file:
            return page
    if path.startswith("src/"):
        name = path.removeprefix("src/").removesuffix(".py").replace("/", ".")
        return MODULES.get(name.removesuffix(".__init__"))
    return path.removeprefix("docs/") if path.startswith("docs/") else None


def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Writes LaTeX as MathML, which browsers draw by themselves."""

    def mathml(match: re.Match[str]) -> str:
        latex, block = " ".join(html.unescape(match["latex"]).split()), match["tag"] == "div"
        latex = latex.replace(r"\arg\max", r"\operatorname{arg\,max}")
        written = convert(latex, display="block" if block else "inline")
        if "\\" in html.unescape(written):
            raise PluginError(f"{page.file.src_uri}: what is {latex!r} in MathML?")
        return f'<div class="equation" tabindex="0">{written}</div>' if block else written

    pattern = r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>'
    return re.sub(pattern, mathml, content, flags=re.DOTALL)


def on_post_page(output: str, **_: Any) -> str:
    """Names what the theme leaves without a name, and lets the keyboard reach what scrolls."""
    for found, better in (
        (r"<th></th>", "<td></td>"),
        (r"<table>", '<table tabindex="0">'),
        (r"<pre\b(?=[^>]*><(?:span></span><)?code)", '<pre tabindex="0"'),
        (r'role="dialog"', 'role="dialog" aria-label="Search"'),
    ):
        output = re.sub(found, better, output)
    return output


# ------------------------------------------------------------------------- docstrings


class Docstrings(griffe.Extension):
    """Rewrites the house's own sections before griffe parses a docstring."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrites every docstring of the package."""
        for thing in _objects(pkg):
            if thing.docstring is not None:
                thing.docstring.value = _plain(thing.docstring.value, _makes_itself(thing))


def _objects(parent: Any) -> Iterator[Any]:
    yield parent
    for member in parent.members.values():
        if not member.is_alias:
            yield from _objects(member)


def _makes_itself(thing: Any) -> bool:
    """Says whether a class shows no constructor: a NamedTuple, or a child of one of torch's."""
    if not thing.is_class or any("dataclass" in str(d.value) for d in thing.decorators):
        return False
    return not thing.parameters


def _plain(text: str, fields: bool) -> str:
    text = re.sub(r"^References: ((?:.|\n(?!\n))+)\.$", _cited, text, flags=re.MULTILINE)
    return re.sub(r"^Args:$", "Attributes:", text, flags=re.MULTILINE) if fields else text


def _cited(match: re.Match[str]) -> str:
    keys = re.split(r",\s*", match[1])
    return "\n".join(["**References**", "", *(f"* [{REFERENCES[key]}][{key}]" for key in keys)])
