"""Side-by-side measurements. What they find is written to `results/`, and the README's tables are made from that."""
