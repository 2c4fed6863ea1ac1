from typing import Literal


def plot_series(
    series: dict[str, list[float]], title: str = "", kind: Literal["line", "bar"] = "line"
) -> None:
    """Draw one or more series of numbers as a chart.

    Args:
        series: Numbers by the name that the legend shows.
        title: Text above the chart.
        kind: Lines, or bars side by side.
    """
    import matplotlib.pyplot as plt  # only when something is drawn: every kernel imports this file at its start

    _, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    width = 0.8 / max(len(series), 1)
    for index, (name, values) in enumerate(series.items()):
        if kind == "bar":
            axes.bar([x + index * width for x in range(len(values))], values, width, label=name)
        else:
            axes.plot(values, marker="o", label=name)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if series:
        axes.legend()
    plt.show()
