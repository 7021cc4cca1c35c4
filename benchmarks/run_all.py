"""Run all benchmarks and print one table in Markdown."""

from __future__ import annotations

import bench_convert
import bench_transform
from measure import markdown_table

if __name__ == "__main__":
    results = [c for n in (64, 96, 128, 256) for c in bench_transform.run(n)]
    print(markdown_table([*results, *bench_convert.run()]))
