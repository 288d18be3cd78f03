"""`python -m benchmarks [workload …]` runs workloads, writes results/ and README.md's table."""

import argparse
import importlib

from . import report

WORKLOADS = (
    "cold",
    "small",
    "insteval",
    "derivatives",
    "batch",
    "inference",
    "residual",
    "study",
    "gibbs",
    "calibration",
    "sbc",
    "agreement",
)


def main() -> None:
    """Runs the workloads named on the command line, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"of {', '.join(WORKLOADS)}; all by default")
    chosen = parser.parse_args().workloads or WORKLOADS
    unknown = [name for name in chosen if name not in WORKLOADS]
    if unknown:
        parser.error(f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    for name in chosen:
        print(f"== {name}", flush=True)
        before = report.machine()
        rows = importlib.import_module(f".{name}", __package__).run()
        report.save(name, rows, before)
        print(report.table(rows), flush=True)
    print(f"written: {report.publish(WORKLOADS)}")


if __name__ == "__main__":
    main()
