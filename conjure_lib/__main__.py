"""The command line: ``python -m conjure_lib compare``, ``score`` and ``evaluate``."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from dataclasses import asdict
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
    except (ValueError, TypeError, OSError) as error:
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


def score(options: argparse.Namespace) -> None:
    """Score the pairs of a file into a run folder; ``distances.parquet`` and ``.csv`` in it."""
    table = _thin(_read(options.pairs, options), options)  # before any work is done
    run = _run(_load(options), table, options.out, options)
    distances = run.distances(options.weighting)
    if "score" in run.pairs:
        distances["score"] = run.pairs["score"]
    distances.to_parquet(options.out / "distances.parquet", index=False)
    distances.to_csv(options.out / "distances.csv", index=False)
    _save(options.out / "record.json", run.record | {"weighting": options.weighting})
    print(f"{len(distances)} distances (weighting {options.weighting}) in {options.out}")


def evaluate(options: argparse.Namespace) -> None:
    """Agreement of minus the distance with people, under each weighting, by subset and pooled."""
    from conjure_lib.benchmarks import STS, WORDS, agreement, load_pairs, paired_bootstrap
    from conjure_lib.runs import open_run

    tables = {}
    for name in options.benchmarks:  # all of them, before any work is done
        is_file = name not in STS + WORDS and Path(name).is_file()
        stem = Path(name).stem
        if stem in tables:
            raise ValueError(f"two benchmarks are called {stem}: rename one file")
        table = _thin(_read(name, options) if is_file else load_pairs(name), options)
        if "score" not in table:
            raise ValueError(
                f"{name} has no column score, so there is nothing to agree with; it has "
                f"{', '.join(table)}: name it, --columns FIRST,SECOND,SCORE"
            )
        tables[stem] = table
    other = open_run(options.against) if options.against else None
    for name, table in tables.items():
        if other is not None and other.pairs["id"].tolist() != table["id"].tolist():
            raise ValueError(f"{options.against} holds other pairs than {name}")
    process = _load(options)
    results = []
    for name, table in tables.items():
        folder = options.out / _folder_name(name, process, options)
        run = _run(process, table, folder, options)
        human, rows = run.pairs["score"].to_numpy(float), []
        for weighting in WEIGHTINGS:
            mine = -run.distances(weighting)["distance"].to_numpy()
            rows += [{"weighting": weighting, **row} for row in agreement(run.pairs, mine)]
            if other is not None:
                theirs = -other.distances(weighting)["distance"].to_numpy()
                difference = paired_bootstrap(mine, theirs, human)
                rows.append({"weighting": weighting, "against": True, **asdict(difference)})
        plain = [{k: _json(v) for k, v in row.items()} for row in rows]
        results.append({"benchmark": name, "record": run.record, "agreement": plain})
        _save(folder / "evaluation.json", results[-1])
    print(json.dumps(results) if options.json else "\n\n".join(map(_agreement_table, results)))


def _read(file: str | Path, options: argparse.Namespace) -> Any:
    """The pairs of a file as the options say to read it."""
    from conjure_lib.tables import read_pairs

    given = {k: getattr(options, k) for k in ("columns", "encoding", "quotes", "drop")}
    return read_pairs(file, **given)


def _run(process: GenerativeProcess, table: Any, folder: Path, options: argparse.Namespace) -> Any:
    """The run of ``table`` in ``folder``; rows of its file that were left out are there too."""
    from conjure_lib import runs, tables

    tables.write_dropped(table, folder)
    note = table.attrs.get("thinned")
    settings = _settings(options) | {"batch_size": options.batch_size, "block": options.block}
    return runs.score(process, table, folder, note=note, report=_tell, **settings)


def _thin(table: Any, options: argparse.Namespace) -> Any:
    """The stratified part of ``table`` that --limit and --sample ask for."""
    from conjure_lib.runs import stratified

    count = len(table) if options.limit is None else options.limit
    if options.sample is not None:
        if not 0 < options.sample <= 1:
            raise ValueError(f"--sample must be a fraction above 0 and up to 1: {options.sample}")
        count = min(count, max(1, round(options.sample * len(table))))
    if count >= len(table):
        return table
    part = stratified(table, count, seed=options.seed)
    part.attrs["thinned"] = {
        "pairs_of": len(table),
        "limit": options.limit,
        "sample": options.sample,
    }
    return part


def _json(value: Any) -> Any:
    """NaN, of a group too small for a correlation, is no JSON."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _folder_name(name: str, process: GenerativeProcess, options: argparse.Namespace) -> str:
    """One folder for each benchmark and setting, so that a second start finds the first."""
    parts = [name, process.name.replace("/", "--"), f"{options.sampler}{options.steps}"]
    parts += [f"w{options.guidance:g}", f"seed{options.seed}"]
    parts += [f"limit{options.limit}"] if options.limit is not None else []
    parts += [f"sample{options.sample:g}"] if options.sample is not None else []
    return "-".join(parts)


def _save(file: Path, record: Any) -> None:
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _tell(message: str) -> None:
    print(message, file=sys.stderr)


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


def _agreement_table(result: dict[str, Any]) -> str:
    record, settings = result["record"], result["record"]["settings"]
    lines = [
        f"{result['benchmark']} with {settings['model']}: {record['draws']} draws of "
        f"{settings['steps']} steps ({settings['sampler']}, guidance {settings['guidance']:g}, "
        f"seed {settings['seed']}), {record['unet_evaluations']:,} noise predictions in "
        f"{record['seconds']:,.0f} s",
        f"{'× 100, 95 % interval':28s} {'weighting':9s} {'Spearman':>20s} {'Pearson':>20s}  pairs",
    ]
    for row in result["agreement"]:
        if row.get("against"):
            name, found = "  Spearman less the other's", [_interval(row, "value", "")]
        else:
            name = f"  {row['group']}" if row["group"] else "all"
            found = [_interval(row, kind, f"{kind}_") for kind in ("spearman", "pearson")]
        numbers = " ".join(f"{text:>20s}" for text in found)
        lines.append(f"{name:28s} {row['weighting']:9s} {numbers}  {row['pairs']}")
    return "\n".join(lines)


def _interval(row: dict[str, Any], value: str, prefix: str) -> str:
    low, high = row[f"{prefix}low"], row[f"{prefix}high"]
    if None in (row[value], low, high):
        return "–"
    return f"{100 * row[value]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


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
    some = commands.add_parser("score", help="the distances of a file of pairs, resumable")
    some.add_argument("pairs", type=Path, help="CSV, JSON lines, Excel, Parquet: text1, text2, …")
    some.add_argument("--out", type=Path, required=True, help="folder of the run")
    some.add_argument("--weighting", choices=WEIGHTINGS, default="sde")
    some.set_defaults(run=score)
    many = commands.add_parser("evaluate", help="agreement with human judgements, resumable")
    many.add_argument("benchmarks", nargs="+", help="names such as rg65 stsb, or files of pairs")
    many.add_argument("--out", type=Path, default=Path("conjure-runs"), help="folder of the runs")
    many.add_argument("--against", type=Path, metavar="RUN", help="compare with another run")
    many.add_argument("--json", action="store_true", help="one JSON object for machines")
    many.set_defaults(run=evaluate)
    for command in (some, many):
        command.add_argument("--columns", metavar="A,B,…", help="the texts, score, id of a file")
        command.add_argument("--encoding", help="of a file that is not UTF-8, such as cp1252")
        command.add_argument("--quotes", help="none: characters of a text; double: around cells")
        command.add_argument("--drop", action="store_true", help="leave out rows with faults")
        command.add_argument("--limit", type=int, help="at most so many pairs, stratified")
        command.add_argument("--sample", type=float, help="this fraction of them, stratified")
        command.add_argument("--batch-size", type=int, default=64)
        command.add_argument("--block", type=int, default=128, help="pairs a shard")
    one.add_argument("--json", action="store_true", help="one JSON object for machines")
    for command, draws in ((one, 5), (some, 3), (many, 3)):
        command.add_argument("--model", default=EMBEDDED, help="name, folder or Hub repository")
        command.add_argument("--device", help="cpu, cuda or mps; the best one by default")
        command.add_argument("--steps", type=int, default=10)
        command.add_argument("--draws", type=int, default=draws)
        command.add_argument("--guidance", type=float, default=1.0)
        command.add_argument("--sampler", choices=SAMPLERS, default="ddim")
        command.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
