"""Side-by-side measurements; each prints ratios within one run."""
