"""Pages of the site that are made from the code: commands and keys, the API, tutorials, pages of the top folder."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from scfm.help.keys import Choice, Key, command_groups, read_command, read_group  # noqa: E402
from scfm.help.text import Help  # noqa: E402

COMMANDS = sorted(path.stem for path in (REPOSITORY / "scfm/commands").glob("*.py") if path.stem != "__init__")
#: Files of the top folder that are pages, and their names on the site.
TOP = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "CODE_OF_CONDUCT.md": "conduct.md"}
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the made pages into the navigation, and those of `docs/` that it does not name."""
    made = {
        "Commands": [f"commands/{name}.md" for name in COMMANDS] + [{"Groups": [f"groups/{g}.md" for g in groups()]}],
        "API": [f"api/{room}.md" for room in rooms()],
        "Tutorials": [f"tutorials/{path.stem}.md" for path in NOTEBOOKS],
    }
    nav: list[dict[str, Any]] = config.nav or []
    listed = {*re.findall(r"[\w/]+\.md", str(nav)), *TOP.values()}
    made["How to"] = sorted(path.name for path in (REPOSITORY / "docs").glob("*.md") if path.name not in listed)
    for entry in nav:
        name = next(iter(entry))
        entry[name] = [*entry[name], *made.get(name, [])]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages."""
    for uri, content in pages():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Links between files of the repository, which GitHub follows too, become links between pages."""
    if page.file.src_uri.startswith(("api/", "commands/", "groups/")):
        return markdown
    if page.file.src_uri == "tutorials/index.md":
        return markdown.replace("[`notebooks/`](../../notebooks/)", "`notebooks/`")
    for source, name in TOP.items():
        markdown = markdown.replace(f"](../{source}", f"]({name}").replace(f"]({source}", f"]({name}")
    markdown = re.sub(r"\]\(\.\./notebooks/(\w+)\.ipynb", r"](tutorials/\1.md", markdown)
    markdown = markdown.replace("](../configs/)", "](commands/index.md)").replace("](../scfm/)", "](api/index.md)")
    return markdown.replace("](docs/", "](")


def pages() -> Iterator[tuple[str, str | bytes]]:
    """Path and content of every page that is made."""
    for source, name in TOP.items():
        yield name, (REPOSITORY / source).read_text(encoding="utf-8")
    yield "commands/index.md", command_index()
    for name in COMMANDS:
        yield f"commands/{name}.md", command_page(name)
    for group, choices in groups().items():
        yield f"groups/{group}.md", group_page(group, choices)
    yield "api/index.md", api_index()
    for room, modules in rooms().items():
        yield f"api/{room}.md", "\n\n".join([f"# scfm.{room}", *(f"::: {module}" for module in modules)])
    for notebook in NOTEBOOKS:
        yield from tutorial(notebook)


def groups() -> dict[str, dict[str, Choice]]:
    """All groups that a command has, with their choices."""
    names = sorted({group for name in COMMANDS for group in read_command(name).groups})
    return {name: read_group(name) for name in names}


def command_index() -> str:
    """The commands and what they do."""
    rows = [f"| [`scfm-{name}`]({name}.md) | {_cell(Help.read(name).header.splitlines()[0])} |" for name in COMMANDS]
    text = (REPOSITORY / "scripts/site/commands.md").read_text(encoding="utf-8")
    return text.replace("TABLE", "\n".join(["| command | does |", "|---|---|", *rows]))


def command_page(name: str) -> str:
    """A command: what it does, its keys, its groups."""
    page, command = Help.read(name), read_command(name)
    first, *examples = page.header.splitlines()
    shown = "\n".join(line for line in examples if line)
    parts = [f"# scfm-{name}", first]
    if shown:
        parts.append(f"```\n{shown}\n```")
    parts += ["## Keys", key_table(command.keys)]
    if command.groups:
        rows = ["| group | default | choices |", "|---|---|---|"]
        for group, choices in command_groups(command).items():
            names = ", ".join(f"`{choice}`" for choice in choices)
            rows.append(f"| [`{group}`](../groups/{group}.md) | `{command.groups[group] or 'null'}` | {names} |")
        parts += ["## Groups", "Each choice has keys of its own, typed as `GROUP.KEY=VALUE`.", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def group_page(group: str, choices: dict[str, Choice]) -> str:
    """A group: its choices and the keys of each."""
    parts = [f"# {group}", f"Files of `configs/{group}/`; one is chosen by `{group}=NAME`."]
    for name, choice in choices.items():
        lines = choice.summary.splitlines()
        commands = [line for line in lines if line.startswith(("scfm-", "python "))]
        text = " ".join(line for line in lines if line not in commands)
        parts += [f"## {group}={name}", _escaped(text)]
        if commands:
            parts.append("```\n" + "\n".join(commands) + "\n```")
        prefix = "" if choice.top_level else f"{group}."
        keys = [Key(f"{prefix}{key.name}", key.default, key.text) for key in choice.keys]
        parts.append(key_table(keys) if keys else "It has no keys.")
    return "\n\n".join(part for part in parts if part) + "\n"


def key_table(keys: tuple[Key, ...] | list[Key]) -> str:
    """Keys as a table."""
    rows = [f"| `{key.name}` | {f'`{_bar(key.default)}`' if key.default else ''} | {_cell(key.text)} |" for key in keys]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def rooms() -> dict[str, list[str]]:
    """The rooms of the package (folders and files at its top), each with its modules."""
    found: dict[str, list[str]] = {}
    for path in sorted((REPOSITORY / "scfm").rglob("*.py")):
        words = path.relative_to(REPOSITORY).with_suffix("").parts
        if words[-1] == "__init__" and len(words) == 2:
            continue
        name = ".".join(words[:-1] if words[-1] == "__init__" else words)
        found.setdefault(words[1], []).append(name)
    return found


def api_index() -> str:
    """The rooms with the first sentence of each."""
    text = (REPOSITORY / "scripts/site/api.md").read_text(encoding="utf-8")
    rows = []
    for room, modules in rooms().items():
        path = REPOSITORY / "scfm" / room
        source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
        sentence = re.match(r'"""(.*?)(?:\n\n|""")', source, re.DOTALL)
        rows.append(f"| [`scfm.{room}`]({room}.md) | {_cell(sentence[1] if sentence else '')} | {len(modules)} |")
    return text.replace("TABLE", "\n".join(["| room | what lives there | modules |", "|---|---|---|", *rows]))


def tutorial(path: Path) -> Iterator[tuple[str, str | bytes]]:
    """A notebook with its outputs as a page and its pictures."""
    from nbconvert import MarkdownExporter

    exporter = MarkdownExporter()
    text, resources = exporter.from_filename(str(path))
    for name, content in resources["outputs"].items():
        picture = f"{path.stem}_{name}"
        text = text.replace(f"]({name})", f"]({picture})")
        yield f"tutorials/{picture}", content
    text = re.sub(r"\]\((\w+)\.ipynb", r"](\1.md", text.replace("](../docs/", "](../"))
    yield f"tutorials/{path.stem}.md", re.sub(r"\]\(\.\./scfm/(\w+)[/.][\w.]*\)", r"](../api/\1.md)", text)


def _cell(text: str) -> str:
    return _bar(_escaped(" ".join(text.replace("``", "`").split())))


def _bar(text: str) -> str:
    return text.replace("|", "\\|")


def _escaped(text: str) -> str:
    """Text that is not markup: brackets, stars and angle brackets outside of code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([<>\[\]*_])", r"\\\1", part) for part in parts)
