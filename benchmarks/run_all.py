"""Run all benchmarks, print one table in Markdown and keep it for the documentation."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import bench_convert
import bench_feeding
import bench_few_rows
import bench_gpu
import bench_many_stacks
import bench_memory
import bench_output
import bench_planning
import bench_score
import bench_sizes
import bench_templates
import bench_transform
from machine import describe_machine
from measure import TABLE_HEAD, Comparison, argument_parser, table_row

BENCHMARKS: dict[str, Callable[..., list[Comparison]]] = {
    "transform": bench_transform.run,
    "sizes": bench_sizes.run,
    "convert": bench_convert.run,
    "many_stacks": bench_many_stacks.run,
    "few_rows": bench_few_rows.run,
    "memory": bench_memory.run,
    "planning": bench_planning.run,
    "output": bench_output.run,
    "feeding": bench_feeding.run,
    "templates": bench_templates.run,
    "score": bench_score.run,
    "gpu": bench_gpu.run,
}

TABLE = Path(__file__).resolve().parents[1] / "docs" / "performance_table.md"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for; the table is kept where that is everything."""
    parser = argument_parser(__doc__)
    parser.add_argument("--only", choices=BENCHMARKS, action="append", help="may be repeated")
    given = parser.parse_args(arguments)
    os.chdir(given.folder)
    rows = [TABLE_HEAD]
    for name in given.only or BENCHMARKS:
        print(f"--- {name}", flush=True)
        done = [table_row(comparison) for comparison in BENCHMARKS[name](n_runs=given.runs)]
        print("\n".join(done), flush=True)
        rows += done
    table = "\n".join(rows)
    print(table)
    if given.only is None:
        TABLE.write_text(f"{describe_machine(Path.cwd())}\n\n{table}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
