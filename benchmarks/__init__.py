"""Side-by-side measurements of this checkout and of what one would use instead, as ratios within one run."""
