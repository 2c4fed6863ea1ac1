# /// script
# dependencies = ["tabulate>=0.9"]
# ///
from typing import Any

from tabulate import tabulate


def markdown_table(rows: list[dict[str, Any]], columns: list[str] | None = None) -> str:
    """Write rows as a Markdown table, for people and for models to read.

    Args:
        rows: One object a row; keys are column names.
        columns: Which columns, in this order; all of them if left out.
    """
    names = columns or list(dict.fromkeys(name for row in rows for name in row))
    return tabulate([[row.get(name, "") for name in names] for row in rows], names, tablefmt="github")
