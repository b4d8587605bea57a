"""The figures that a report's contents call for."""

from matplotlib.figure import Figure

from megaface_eval.report import plots


def draw(contents: dict) -> dict[str, Figure]:
    """Every figure by name, drawn from the contents of report.json alone; none for a protocol that was not run."""
    methods = contents["methods"]
    figures = {
        "cmc": plots.cmc_figure(methods, contents["gallery"]["size"]),
        "sizes": plots.sizes_figure(methods),
    }
    verified = [m for m in methods if m["verification"] and m["verification"]["eer"] is not None]
    if verified:
        figures["roc"] = plots.roc_figure(verified)
    opened = [m for m in methods if m["open_set"] and all(c["fpir"] for c in m["open_set"]["cosine"]["curves"])]
    if opened:
        figures["open-set"] = plots.open_set_figure(opened)
    figures["bars"] = plots.bars_figure(methods, contents["columns"])
    figures["scores"] = plots.scores_figure(methods)
    return figures
