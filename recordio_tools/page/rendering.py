"""Pages from templates: each package brings its own, which fill `base.html.jinja` and take `parts.html.jinja`."""

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from recordio_tools.plot_style import SCHEMES


def environment(package: str, folder: str) -> Environment:
    """Templates of a package's folder, and those that all pages share. What is shown is escaped."""
    loader = ChoiceLoader([PackageLoader(package, folder), PackageLoader("recordio_tools", "page")])
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    shared: dict[str, Any] = {"colours": SCHEMES}
    made.globals.update(shared)
    return made
