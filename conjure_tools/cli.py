"""The command line: ``conjure compare``, ``score`` and ``evaluate``."""

from __future__ import annotations

import argparse
import gc
import hashlib
import io
import json
import math
import os
import re
import signal
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from conjure_lib import (
    EMBEDDED,
    FLOW_SAMPLERS,
    QUADRATURES,
    SAMPLERS,
    SPACINGS,
    WEIGHTINGS,
    __version__,
)
from conjure_tools.unread import UNREAD

if TYPE_CHECKING:
    from conjure_lib import Estimate, GenerativeProcess, Sampling

OF_MODEL = (  # options that change what a model says
    *("dtype", "text_dtype", "revision", "variant", "config", "long_prompts"),
    *("height", "width", "negative_prompt"),
)


def entry() -> NoReturn:
    """The program ``conjure``."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nobody decided otherwise
        signal.signal(signal.SIGINT, _stop)
    # a fifth of the time from the start to a distance goes into searches through what imports left
    gc.set_threshold(200_000, 50, 1000)
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: only the end is left
    gc.freeze()  # nor a last search, before all is gone anyway
    sys.exit(code)


def _stop(*_: object) -> None:
    """Ctrl-C while there is nothing to keep: one line, and no traceback of half an import."""
    os.write(2, b"conjure_lib: stopped\n")
    os._exit(130)


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, print.

    Returns:
        0; or, with one line on standard error, 2 for an input that is not usable, 130 for a stop
        by Ctrl-C, 1 for anything else. ``python -X dev`` shows where an error comes from.
    """
    warnings.showwarning = _print_warning  # type: ignore[assignment]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # no terminal is a reason to lose a number
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        _check(options)
        options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _tell("conjure_lib: stopped; of score and evaluate all that is finished is kept")
        return 130
    except BrokenPipeError:  # whoever was reading has gone, and the last flush must not complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        _tell(f"conjure_lib: {_line(error)}")
        return 2 if isinstance(error, ValueError | TypeError | OSError | ImportError) else 1
    return 0


def _line(error: Exception) -> str:
    """An error in one line, with what can be done about it where the error does not say so."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in text or "t allocate memory" in text:
        return f"out of memory: take fewer --draws or --steps, or a smaller --batch-size ({text})"
    if isinstance(error, ValueError | TypeError | OSError | ImportError) and text:
        return text
    return f"{type(error).__name__}: {text or 'no more is known'}"


def _check(options: argparse.Namespace) -> None:
    """Check whatever needs neither a model nor a file."""
    from conjure_lib.inputs import as_text, whole
    from conjure_lib.sampling import check_settings

    given = vars(options)
    check_settings(sampling=_sampling(options), batch_size=given.get("batch_size", 1))
    for name in ("limit", "block"):
        if given.get(name) is not None:
            whole(f"--{name}", given[name])
    if given.get("sample") is not None and not 0 < options.sample <= 1:
        raise ValueError(f"--sample must be a fraction above 0 and up to 1: {options.sample}")
    for name in ("first", "second"):
        if name in given:
            as_text(f"the {name} prompt", given[name])
    if options.negative_prompt and options.guidance == 1:
        raise ValueError("--negative-prompt is what guidance leads away from: give --guidance too")
    _check_sampler(options)


def _check_sampler(options: argparse.Namespace) -> None:
    """Refuse a sampler that a model in a folder cannot have, before it is loaded."""
    file = Path(options.model) / "scheduler" / "scheduler_config.json"
    if options.sampler and file.is_file():
        from conjure_lib.inputs import one_of
        from conjure_lib.pipelines import is_flow
        from conjure_tools.weights import settings_in

        config = settings_in(file)
        flow = is_flow(str(config.get("_class_name")), config)
        known = FLOW_SAMPLERS if flow else SAMPLERS
        one_of(f"--sampler of {options.model}", options.sampler, [*known, "own"])


def compare(options: argparse.Namespace) -> None:
    """The distance of two prompts: printed, as JSON, as a figure."""
    from conjure_lib import distance

    if options.figure:
        _prepare_figure(options.figure)
    process = _load(options)
    sampling, prompts = process.settled(_sampling(options)), (options.first, options.second)
    ways = {"weighting": options.weighting, "quadrature": options.quadrature}
    began = time.perf_counter()
    aims = ("tolerance", "budget")
    to: Any = {name: given for name in aims if (given := getattr(options, name)) is not None}
    estimate = distance(process, prompts[0], prompts[1], sampling=sampling, **to, **ways)
    record = {
        "distance": estimate.value,
        "stderr": estimate.stderr,
        "quadrature_error": estimate.quadrature_error,
        "floor": estimate.floor,
        "unit": "nats" if options.weighting == "sde" else None,
        "prompts": prompts,
        "read": [str(reading) for reading in estimate.readings],
        "lost": [reading.lost for reading in estimate.readings],
        "folded": [reading.folded for reading in estimate.readings],
        "same_tokens": estimate.same_tokens,
        "model": process.name,
        "device": str(process.device),
        **sampling.told(),
        "log_snr": list(sampling.log_snr or process.schedule.window),
        "steps": len(estimate.timesteps),
        "draws": len(estimate.by_draw),
        **ways,
        **to,
        "met": estimate.spent and estimate.spent.met,
        "unet_evaluations": process.evaluations,
        "seconds": round(time.perf_counter() - began, 3),
    }
    print(_json(record) if options.json else _sentence(estimate, record), flush=True)
    if options.figure:  # last, since it may fail
        _draw(process, options)


def score(options: argparse.Namespace) -> None:
    """Score the pairs of a file into a run folder; ``distances.parquet`` and ``.csv`` in it."""
    from conjure_tools.folders import keep
    from conjure_tools.runs import check_folder, check_kept

    check_folder(options.out, options.pairs)
    table = _thin(_read(options.pairs, options), options)  # before any work is done
    check_kept(table)
    run = _run(_load(options), table, options.out, options)
    distances = run.distances(options.weighting)
    _tell_floor(run, options.weighting)
    if "score" in run.pairs:
        distances["score"] = run.pairs["score"]
    keep(options.out / "distances.parquet", lambda path: distances.to_parquet(path, index=False))
    keep(options.out / "distances.csv", lambda path: distances.to_csv(path, index=False))
    _save(options.out / "record.json", run.record | {"weighting": options.weighting})
    print(f"{len(distances)} distances (weighting {options.weighting}) in {options.out}")


def evaluate(options: argparse.Namespace) -> None:
    """Agreement of minus the distance with people, under each weighting, by subset and pooled."""
    from conjure_tools.benchmarks import STS, WORDS, load_pairs
    from conjure_tools.correlation import agreement, both_texts, paired_bootstrap
    from conjure_tools.folders import check_place
    from conjure_tools.runs import check_folder, check_kept, open_run

    check_place(options.out)
    tables = {}
    for name in options.benchmarks:  # all of them, before any work is done
        is_file = name not in STS + WORDS and Path(name).is_file()
        stem = Path(name).stem
        if stem in tables:
            raise ValueError(f"two benchmarks are called {stem}: rename one file")
        table = _thin(_read(name, options) if is_file else load_pairs(name), options)
        if "score" not in table:
            raise ValueError(
                f"{name} has no column score with numbers in it: nothing to agree with; it has "
                f"{', '.join(table)}: name it, --columns FIRST,SECOND,SCORE"
            )
        if len(table) < 3:
            raise ValueError(f"{name} has {len(table)} pairs to score: a correlation needs 3")
        check_kept(table)
        tables[stem] = table
    other = open_run(options.against) if options.against else None
    for name, table in tables.items():
        if other is not None:
            _same_pairs(other.pairs, table, options.against, name)
    process = _load(options)
    results = []
    folders = {name: options.out / _folder_name(name, process, options) for name in tables}
    for folder in folders.values():
        check_folder(folder)
    for name, table in tables.items():
        folder = folders[name]
        run = _run(process, table, folder, options)
        human, rows = run.pairs["score"].to_numpy(float), []
        for weighting in WEIGHTINGS:
            mine = -run.by_draw(weighting).T
            _tell_floor(run, weighting)
            rows += [{"weighting": weighting, **row} for row in agreement(run.pairs, mine)]
            if other is not None:
                theirs = -other.by_draw(weighting).T
                seeds = {one.record["settings"]["seed"] for one in (run, other)}
                how: Any = {"same_draws": len(seeds) == 1, "texts": both_texts(run.pairs)}
                difference = paired_bootstrap(mine, theirs, human, **how)
                rows.append({"weighting": weighting, "against": True, **asdict(difference)})
        results.append({"benchmark": name, "record": run.record, "agreement": rows})
        _save(folder / "evaluation.json", results[-1])
    print(_json(results) if options.json else "\n\n".join(map(_agreement_table, results)))


def _read(file: str | Path, options: argparse.Namespace) -> Any:
    """The pairs of a file as the options say to read it."""
    from conjure_tools.tables import read_pairs

    given = {k: getattr(options, k) for k in ("columns", "encoding", "quotes", "drop")}
    return read_pairs(file, **given)


def _run(process: GenerativeProcess, table: Any, folder: Path, options: argparse.Namespace) -> Any:
    """The run of ``table`` in ``folder``."""
    from conjure_tools import runs

    note = table.attrs.get("thinned")
    settings = {k: getattr(options, k) for k in ("quadrature", "batch_size", "block")}
    settings["sampling"] = _sampling(options)
    return runs.score(process, table, folder, note=note, report=_tell, **settings)


def _thin(table: Any, options: argparse.Namespace) -> Any:
    """The stratified part of ``table`` that --limit and --sample ask for."""
    from conjure_tools.runs import stratified

    count = len(table) if options.limit is None else options.limit
    if options.sample is not None:
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


def _json(record: Any, indent: int | None = None) -> str:
    """A record as JSON, which has no NaN, as of a single draw's error: null stands for it."""
    return json.dumps(_plain(record), indent=indent, ensure_ascii=indent is None, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _folder_name(name: str, process: GenerativeProcess, options: argparse.Namespace) -> str:
    """One folder for each benchmark and setting, so that a second start finds the first."""
    sampler = process.settled(_sampling(options)).sampler
    parts = [name, process.name.replace("/", "--"), f"{sampler}{options.steps}"]
    parts += [f"w{options.guidance:g}", f"seed{options.seed}"]
    parts += [options.spacing] if options.spacing != "leading" else []
    parts += ["snr{:g}to{:g}".format(*options.log_snr)] if options.log_snr else []
    parts += [options.quadrature] if options.quadrature != "log-snr" else []
    parts += [f"limit{options.limit}"] if options.limit is not None else []
    parts += [f"sample{options.sample:g}"] if options.sample is not None else []
    changed = {name: getattr(options, name) for name in (*OF_MODEL, "quantization")}
    changed = {k: v for k, v in changed.items() if v not in (None, False, "float32")}
    told = json.dumps(changed, sort_keys=True, default=str).encode()
    parts += [f"options{hashlib.sha256(told).hexdigest()[:8]}"] if changed else []
    return "-".join(parts)


def _same_pairs(theirs: Any, mine: Any, run: Path, name: str) -> None:
    from conjure_tools.runs import first_difference

    if found := first_difference(theirs, mine):
        raise ValueError(
            f"{run} holds other pairs than {name}{found}: give --against a run of the same pairs "
            "(file, --limit, --sample, --seed)"
        )


def _save(file: Path, record: Any) -> None:
    from conjure_tools.folders import keep

    text = _json(record, indent=1) + "\n"
    keep(file, lambda path: path.write_text(text, encoding="utf-8"))


def _tell(message: str) -> None:
    print(message, file=sys.stderr)


def _load(options: argparse.Namespace) -> GenerativeProcess:
    from conjure_lib import load

    given = {name: getattr(options, name) for name in ("device", "device_map", *OF_MODEL)}
    given["quantization_config"] = options.quantization
    process = load(options.model, **{k: v for k, v in given.items() if v is not None})
    if signal.getsignal(signal.SIGINT) is _stop:  # from now on there is work to keep
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return process


def _sampling(options: argparse.Namespace) -> Sampling:
    from conjure_lib.sampling import DEFAULT, Sampling, spacing_for_tolerance

    names = ("steps", "draws", "guidance", "sampler", "seed", "spacing", "log_snr")
    given = {name: getattr(options, name) for name in names}
    if given["spacing"] is None:
        given["spacing"] = DEFAULT.spacing
        if options.tolerance is not None:
            given["spacing"] = spacing_for_tolerance(options.sampler, options.quadrature)
    return Sampling(**given)


def _tell_floor(run: Any, weighting: str) -> None:
    """Say how many pairs, of two texts each, have a distance that rounding alone could make."""
    from conjure_lib.similarity import NEAR

    table, floor = run.distances(weighting), run.record["floor"][weighting]
    near = (table["text1"] != table["text2"]) & (table["distance"] < NEAR * floor)
    near &= ~table["same_tokens"] if "same_tokens" in table else True
    if near.any():
        first = table[near].iloc[0]
        _tell(
            f"conjure_lib: warning: {int(near.sum())} distances (weighting {weighting}) are near "
            f"the floor of rounding, {floor:.2g}, and not told from 0: first {first['id']}, "
            f"{first['text1']!r} and {first['text2']!r}"
        )


def _prepare_figure(file: Path) -> None:
    """Raise ValueError or OSError where a figure cannot be written to ``file``."""
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if file.suffix[1:].lower() not in known:
        raise ValueError(f"--figure {file} must end in .{', .'.join(known)}")
    if file.is_dir():
        raise ValueError(f"--figure {file} is a folder: name a file in it")
    is_new = not os.path.lexists(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab"):  # only trying tells: not all folders say what they refuse
            pass
    except OSError as error:
        why = f"choose another place ({error.strerror})"
        raise ValueError(f"--figure {file} cannot be written: {why}") from error
    if is_new:
        file.unlink()


def _draw(process: GenerativeProcess, options: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from conjure_lib import trace
    from conjure_tools.plots import pair_figure, use_style

    use_style()
    laid_open = trace(process, options.first, options.second, sampling=_sampling(options))
    pair_figure(process, laid_open, options.weighting).savefig(options.figure, dpi=150)


def _sentence(estimate: Estimate, record: dict[str, Any]) -> str:
    error = f" ± {record['stderr']:.2g} (draws)" if record["draws"] > 1 else ""
    steps = record["quadrature_error"]
    error += f" ± {steps:.2g} (steps)" if not math.isnan(steps) else ""
    unit = " nats" if record["unit"] else " (no unit)"
    unmet = "; tolerance not met" if record["met"] is False else ""
    first, second = record["prompts"]
    number = f"{record['distance']:.4g}{error}{unit}"
    folded = dict.fromkeys(one for ours in record["folded"] for one in ours)
    read = f"tokens read: {' and '.join(record['read'])}"
    rule = "{} from {:.1f} to {:.1f}".format("log-snr", *record["log_snr"])
    rule = rule if record["quadrature"] == "log-snr" else record["quadrature"]
    spacing = "" if record["spacing"] == "leading" else f", spacing {record['spacing']}"
    return (
        f"“{first}” – “{second}”: {estimate if estimate.same_tokens else number}\n"
        f"{'; '.join([read, *folded])}\n"
        f"weighting {record['weighting']} ({rule}), {record['draws']} draws of {record['steps']} "
        f"steps ({record['sampler']}{spacing}, guidance {record['guidance']:g}, seed "
        f"{record['seed']})\n"
        f"{record['model']} on {record['device']}: {record['unet_evaluations']} noise predictions "
        f"in {record['seconds']:.1f} s{unmet}"
    )


def _agreement_table(result: dict[str, Any]) -> str:
    record, settings = result["record"], result["record"]["settings"]
    lines = [
        f"{result['benchmark']} with {settings['model']}: {record['draws']} draws of "
        f"{settings['steps']} steps ({settings['sampler']}, guidance {settings['guidance']:g}, "
        f"seed {settings['seed']}), {record['unet_evaluations']:,} noise predictions in "
        f"{record['seconds']:,.0f} s",
        *[f"{record[key]:,} {key.replace('_', ' ')}" for key in UNREAD if record.get(key)],
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
    if math.isnan(row[value]):
        return "–"
    if math.isnan(low):  # of a few pairs
        return f"{100 * row[value]:.1f}"
    return f"{100 * row[value]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _print_warning(message: Any, *_: Any) -> None:
    print(f"conjure_lib: warning: {message}", file=sys.stderr)


def _place(text: str) -> Path:
    """A path that was given; ``Path("")`` would be the present folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: name a place, or . for the present folder")
    return Path(text)


def _settings(text: str) -> dict[str, Any]:
    """The settings of a quantiser."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        from conjure_tools.loading import QUANTISER

        example = f"such as '{QUANTISER}'"
        raise argparse.ArgumentTypeError(f"{text!r} names no settings as JSON, {example}")
    return found


class _Parser(argparse.ArgumentParser):
    """Says of a prompt such as -cat, which is taken for an option, how it can be given."""

    def error(self, message: str) -> NoReturn:
        if re.search("required: .*(first|second)|unrecognized arguments: -", message):
            message += " (a prompt that begins with - stands last, behind --)"
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="conjure", description=__doc__)
    parser.add_argument("--version", action="version", version=f"conjure {__version__}")
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("compare", help="the distance of two prompts")
    one.add_argument("first")
    one.add_argument("second")
    one.add_argument("--figure", type=_place, metavar="PNG", help="draw both trajectories")
    one.add_argument("--weighting", choices=WEIGHTINGS, default="sde")
    one.add_argument("--tolerance", type=float, metavar="SHARE", help="add draws or steps to this")
    one.add_argument("--budget", type=int, help="noise predictions for it, at most")
    one.set_defaults(run=compare)
    some = commands.add_parser("score", help="the distances of a file of pairs, resumable")
    some.add_argument("pairs", type=_place, help="CSV, JSON lines, Excel, Parquet: text1, text2, …")
    some.add_argument("--out", type=_place, required=True, help="folder of the run")
    some.add_argument("--weighting", choices=WEIGHTINGS, default="sde")
    some.set_defaults(run=score)
    many = commands.add_parser("evaluate", help="agreement with human judgements, resumable")
    many.add_argument("benchmarks", nargs="+", help="names such as rg65 stsb, or files of pairs")
    many.add_argument("--out", type=_place, default=Path("conjure-runs"), help="folder of the runs")
    many.add_argument("--against", type=_place, metavar="RUN", help="compare with another run")
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
        command.add_argument(
            "--model", default=EMBEDDED, help="name, folder, file or Hub repository"
        )
        command.add_argument("--device", help="cpu, cuda or mps; the best one by default")
        command.add_argument("--dtype", default="float32", help="of the network: float16, …")
        command.add_argument("--text-dtype", default="float32", help="of the text encoders; auto")
        command.add_argument("--revision", metavar="COMMIT", help="of a Hub repository")
        command.add_argument("--variant", help="of the weights' files, such as fp16")
        command.add_argument("--config", metavar="FOLDER", help="the settings of a single file")
        command.add_argument("--device-map", help="of large networks, such as auto")
        command.add_argument(
            "--quantization",
            type=_settings,
            metavar="JSON",
            help="of the network, as diffusers has it",
        )
        command.add_argument("--height", type=int, help="of the pictures, in pixels")
        command.add_argument("--width", type=int)
        command.add_argument("--negative-prompt", help="what guidance leads away from")
        command.add_argument(
            "--long-prompts", action="store_true", help="read them whole, in pieces"
        )
        command.add_argument("--steps", type=int, default=10)
        command.add_argument("--draws", type=int, default=draws)
        command.add_argument("--guidance", type=float, default=1.0)
        command.add_argument(
            "--sampler", choices=[*SAMPLERS, "own"], help="default: the first that fits"
        )
        command.add_argument("--seed", type=int, default=0)
        spacing = None if command is one else "leading"  # which a tolerance decides
        command.add_argument("--spacing", choices=SPACINGS, default=spacing)
        command.add_argument("--log-snr", type=float, nargs=2, metavar=("LOW", "HIGH"))
        command.add_argument("--quadrature", choices=QUADRATURES, default="log-snr")
    return parser
