"""Write the generated parts of docs/: `python docs/generate.py`. A test keeps them in step with the registries."""

from pathlib import Path

from camrobust.contract import schema
from camrobust.interface.listing import catalogue

HERE = Path(__file__).parent
MARK = "<!-- generated from camrobust/contract/schema.py by docs/generate.py -->"


def table(rows: list[dict[str, object]]) -> str:
    """A Markdown table."""
    names = list(rows[0])
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join(str(row[name]).replace("|", "\\|") for name in names) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def catalogue_page() -> str:
    """docs/catalogue.md."""
    parts = ["# Catalogue", "What `camrobust list` shows, generated from the registries by docs/generate.py."]
    kinds = {
        "cams": "CAMs",
        "perturbations": "Perturbations",
        "similarities": "Similarities",
        "segments": "Segments",
    }
    for kind, title in kinds.items():
        parts += [f"## {title}", table(catalogue(kind))]
    return "\n\n".join(parts) + "\n"


def schema_part() -> str:
    """The columns of every table, for docs/results.md."""
    parts = [MARK]
    for name in ("scores", "images", "failures", "maps"):
        columns = getattr(schema, name.upper())
        rows = [{"column": one.name, "type": one.type, "meaning": one.meaning} for one in columns]
        parts += [f"## {name}/", table(rows)]
    measures = (*schema.SUMMARY_MEASURES, *schema.SUMMARY_SPREAD, *schema.SUMMARY_COUNTS)
    for title, text, columns in (
        ("summary/by_…", "Each measure also has `_lower` and `_upper`, its 95 % interval.", measures),
        ("summary/tests", "See [statistics](statistics.md).", schema.TESTS),
        ("camrobust compare", "What `camrobust compare RUN RUN --json` prints as `table`.", schema.DIFFERENCES),
        ("summary/characteristics", "See [statistics](statistics.md).", schema.CHARACTERISTICS),
    ):
        rows = [{"column": one.name, "type": one.type, "meaning": one.meaning} for one in columns]
        parts += [f"## {title}", text, table(rows)]
    return "\n\n".join(parts) + "\n"


def results_page() -> str:
    """docs/results.md with its generated part renewed."""
    return (HERE / "results.md").read_text("utf-8").partition(MARK)[0] + schema_part()


if __name__ == "__main__":
    (HERE / "catalogue.md").write_text(catalogue_page(), "utf-8")
    (HERE / "results.md").write_text(results_page(), "utf-8")
