"""The command line: ``python -m conjure_lib compare`` and ``evaluate``."""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from conjure_lib import WEIGHTINGS, Estimate, GenerativeProcess, load, pair_terms
from conjure_lib.process import EMBEDDED, SAMPLERS


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, print; 0, or 2 with one line on standard error when an input is not usable."""
    warnings.showwarning = _print_warning  # type: ignore[assignment]
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, TypeError, FileNotFoundError) as error:
        print(f"conjure_lib: {error}", file=sys.stderr)
        return 2
    return 0


def compare(options: argparse.Namespace) -> None:
    """The distance of two prompts: printed, as JSON, as a figure."""
    if options.figure:  # before any work is done
        options.figure.parent.mkdir(parents=True, exist_ok=True)
    process = _load(options)
    settings = _settings(options)
    began = time.perf_counter()
    terms, timesteps = pair_terms(process, [(options.first, options.second)], **settings)
    estimate = Estimate.from_terms(terms[0], timesteps, process.schedule, options.weighting)
    record = {
        "distance": estimate.value,
        "stderr": estimate.stderr if options.draws > 1 else None,
        "unit": "nats" if options.weighting == "sde" else None,
        "prompts": [options.first, options.second],
        "model": process.name,
        "device": str(process.device),
        **{k: settings[k] for k in ("steps", "draws", "guidance", "sampler", "seed")},
        "weighting": options.weighting,
        "unet_evaluations": process.evaluations,
        "seconds": round(time.perf_counter() - began, 3),
    }
    if options.figure:
        _draw(process, options)
    print(json.dumps(record) if options.json else _sentence(record))


def evaluate(options: argparse.Namespace) -> None:
    """Spearman's ρ of minus the distance against people, under each weighting."""
    from conjure_lib.benchmarks import agreement, load_pairs

    tables = {name: load_pairs(name) for name in options.benchmarks}  # before any work is done
    process = _load(options)
    settings = _settings(options)
    rows = []
    for name, table in tables.items():
        pairs = list(zip(table["text1"], table["text2"], strict=True))
        terms, timesteps = pair_terms(process, pairs, **settings)
        for weighting in WEIGHTINGS:
            estimates = [
                Estimate.from_terms(t, timesteps, process.schedule, weighting) for t in terms
            ]
            found = agreement(table, [-e.value for e in estimates], seed=options.seed)
            rows += [{"benchmark": name, "weighting": weighting, **row} for row in found]
    record = {"model": process.name, **settings, "agreement": rows}
    print(json.dumps(record) if options.json else _agreement_table(record))


def _load(options: argparse.Namespace) -> GenerativeProcess:
    return load(options.model, device=options.device)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    names = ("steps", "draws", "guidance", "sampler", "seed")
    return {name: getattr(options, name) for name in names}


def _draw(process: GenerativeProcess, options: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from conjure_lib import trace
    from conjure_lib.plots import pair_figure, use_style

    use_style()
    settings = _settings(options)
    settings.pop("draws")
    laid_open = trace(process, options.first, options.second, **settings)
    pair_figure(process, laid_open, options.weighting).savefig(options.figure, dpi=150)


def _sentence(record: dict[str, Any]) -> str:
    error = "" if record["stderr"] is None else f" ± {record['stderr']:.2g}"
    unit = " nats" if record["unit"] else " (no unit)"
    first, second = record["prompts"]
    return (
        f"“{first}” – “{second}”: {record['distance']:.4g}{error}{unit}\n"
        f"weighting {record['weighting']}, {record['draws']} draws of {record['steps']} steps "
        f"({record['sampler']}, guidance {record['guidance']:g}, seed {record['seed']})\n"
        f"{record['model']} on {record['device']}: {record['unet_evaluations']} noise predictions "
        f"in {record['seconds']:.1f} s"
    )


def _agreement_table(record: dict[str, Any]) -> str:
    settings = ", ".join(f"{k} {v}" for k, v in record.items() if k != "agreement")
    lines = [settings, f"{'Spearman × 100':20s} {'weighting':10s}  ρ [95 % interval]"]
    for row in record["agreement"]:
        name = f"{row['benchmark']} {row['group']}".strip()
        interval = f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        lines.append(
            f"{name:20s} {row['weighting']:10s} {100 * row['rho']:5.1f} {interval:14s} "
            f"{row['pairs']} pairs"
        )
    return "\n".join(lines)


def _print_warning(message: Any, *_: Any) -> None:
    print(f"conjure_lib: warning: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conjure_lib", description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("compare", help="the distance of two prompts")
    one.add_argument("first")
    one.add_argument("second")
    one.add_argument("--figure", type=Path, metavar="PNG", help="draw both trajectories")
    one.add_argument("--weighting", choices=WEIGHTINGS, default="sde")
    one.set_defaults(run=compare)
    many = commands.add_parser("evaluate", help="agreement with human judgements")
    many.add_argument("benchmarks", nargs="+")
    many.set_defaults(run=evaluate)
    for command in (one, many):
        command.add_argument("--json", action="store_true", help="one JSON object for machines")
        command.add_argument("--model", default=EMBEDDED, help="name, folder or Hub repository")
        command.add_argument("--device", help="cpu, cuda or mps; the best one by default")
        command.add_argument("--steps", type=int, default=10)
        command.add_argument("--draws", type=int, default=5)
        command.add_argument("--guidance", type=float, default=1.0)
        command.add_argument("--sampler", choices=SAMPLERS, default="ddim")
        command.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
