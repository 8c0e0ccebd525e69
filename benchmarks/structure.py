"""How the code is layered, counted from its imports: rooms, floors, arrows, and arrows that run back up.

A room is a package or a module that lies directly in ``segpipe``. An arrow leads from a room to one that it imports. A
room stands one floor above the highest room that it imports; an arrow that closes a circle runs back up.

    python benchmarks/structure.py                       # this checkout
    python benchmarks/structure.py FOLDER --files        # another one, and the arrows between files
"""

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent


def modules(folder: Path) -> dict[str, Path]:
    """Dotted name to file of every module in ``FOLDER/segpipe``."""
    paths = sorted((folder / "segpipe").rglob("*.py"))
    named = {".".join(path.relative_to(folder).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in named.items()}


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of ours that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                names.append(name if name in known else node.module)
        yield from (name for name in names if name in known)


def room(name: str) -> str:
    """``segpipe.runs`` for ``segpipe.runs.storage``; a command and ``segpipe`` itself stand for themselves."""
    return ".".join(name.split(".")[:2])


def graph(folder: Path, *, files: bool) -> dict[str, set[str]]:
    """Room, or file, to those it imports; not to itself."""
    known = modules(folder)
    arrows: dict[str, set[str]] = {}
    for name, path in known.items():
        own = name if files else room(name)
        others = {other if files else room(other) for other in imported(path, known)}
        arrows.setdefault(own, set()).update(others - {own})
    return arrows


def layers(arrows: dict[str, set[str]]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The floor of every room, 1 being the lowest, and the arrows that run back up, which have no say in it."""
    floors: dict[str, int] = {}
    back: list[tuple[str, str]] = []

    def floor(name: str, above: tuple[str, ...]) -> int:
        if name not in floors:
            back.extend((name, other) for other in sorted(arrows[name]) if other in (*above, name))
            below = [other for other in sorted(arrows[name]) if other not in (*above, name)]
            floors[name] = 1 + max((floor(other, (*above, name)) for other in below), default=0)
        return floors[name]

    for name in sorted(arrows):
        floor(name, ())
    return floors, back


def main() -> None:
    """Print the counts, and the rooms of every floor from the top."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT, help="a checkout (default: this one)")
    parser.add_argument("--files", action="store_true", help="count files instead of rooms")
    given = parser.parse_args()
    arrows = graph(given.folder, files=given.files)
    floors, back = layers(arrows)
    what = "files" if given.files else "rooms"
    number = sum(map(len, arrows.values()))
    print(f"{len(arrows)} {what} on {max(floors.values())} floors, {number} arrows, {len(back)} of them back up")
    for level in range(max(floors.values()), 0, -1):
        here = [name.removeprefix("segpipe.") for name, own in floors.items() if own == level]
        print(f"{level:3}  {' '.join(sorted(here))}")
    for name, other in back:
        print(f"back up: {name} imports {other}")


if __name__ == "__main__":
    main()
