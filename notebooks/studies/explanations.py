"""Which step and which place carry a distance, and whether that is so: the tests of chapter 8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from scipy.stats import rankdata, spearmanr
from torch import Tensor

import conjure_lib as cj
from conjure_lib import Weighting
from conjure_lib.process import generator
from conjure_lib.sde import term_weights
from conjure_tools.plots import PALETTE, SEQUENTIAL

Pair = tuple[str, str]
READINGS = ("distance", "evidence")
GUIDES = ("map", "pictures", "average map")
KEYS = ["weighting", "reading", "guide"]


def pair_named(name: str) -> Pair:
    """The pair that is written "y1 / y2"."""
    first, second = name.split(" / ")
    return first, second


@dataclass(frozen=True)
class Explainer:
    """A process, its settings, and the regions of the picture that an explanation can name."""

    process: cj.GenerativeProcess
    steps: int
    guidance: float
    seed: int
    region: int  # side, in latent pixels
    stride: int  # between the places where a region can lie

    @cached_property
    def timesteps(self) -> Tensor:
        """Those that the sampler visits, (S,)."""
        return self.process.sampler(sampler="ddim", steps=self.steps).timesteps

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the latent picture."""
        height, width = self.process.latent_shape[1:]
        return height, width

    def scales(self, weighting: Weighting) -> np.ndarray:
        """What each timestep is multiplied by, (S,)."""
        return np.asarray(term_weights(self.process.schedule, self.timesteps, weighting))

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """Upper left corners of all the places that a region can take."""
        rows, columns = (range(0, side - self.region + 1, self.stride) for side in self.shape)
        return [(h, v) for h in rows for v in columns]

    def at_places(self, maps: np.ndarray) -> np.ndarray:
        """Sums of maps (…, H, W) over the region at each place: (…, places)."""
        r = self.region
        parts = [maps[..., h : h + r, v : v + r].sum((-2, -1)) for h, v in self.places]
        return np.stack(parts, axis=-1)

    def trace(self, pair: Pair) -> cj.Trace:
        """The first draw of a pair, laid open."""
        how = cj.Sampling(steps=self.steps, guidance=self.guidance, seed=self.seed)
        return cj.trace(self.process, *pair, sampling=how)

    def contributions(self, trace: cj.Trace, weighting: Weighting) -> np.ndarray:
        """m_i(s, h, v) of one draw, (2, S, H, W); the sum is the distance of the draw."""
        square = (trace.eps[:, 0] - trace.eps[:, 1]).double().square().sum(2).cpu().numpy()
        scale = self.scales(weighting)[None, :, None, None]
        return np.asarray(trace.sampling.guidance**2 * square * scale / 2)

    def where_is(self, place: tuple[int, int]) -> str:
        """A place of the picture in words."""
        height, width = self.shape
        down, right = (place[0] + self.region / 2) / height, (place[1] + self.region / 2) / width
        row = ["upper", "middle", "lower"][min(2, int(3 * down))]
        column = ["left", "centre", "right"][min(2, int(3 * right))]
        return f"{row} {column}" if (row, column) != ("middle", "centre") else "middle"

    def explanation(self, parts: np.ndarray, pair: Pair) -> str:
        """What carries a distance, in one sentence; parts (2, S, H, W)."""
        steps, total = parts.sum((0, 2, 3)), parts.sum()
        early = steps[: len(steps) // 2].sum() / total
        spots = self.at_places(parts.sum((0, 1)))
        top = self.places[int(spots.argmax())]
        share, area = spots.max() / total, self.region**2 / parts[0, 0].size
        return (
            f"“{pair[0]}” and “{pair[1]}” differ most at t = {int(self.timesteps[steps.argmax()])} "
            f"({steps.max() / total:.0%} of the distance; the noisier half of the steps has "
            f"{early:.0%}) and in the {self.where_is(top)} of the picture ({share:.0%} of the "
            f"distance on {area:.0%} of the area)."
        )

    def facts(self, trace: cj.Trace, pair: Pair, weighting: Weighting) -> dict[str, Any]:
        """The explanation, and how much of it lies at the last timestep."""
        by_step = {w: self.contributions(trace, w).sum((0, 2, 3)) for w in cj.WEIGHTINGS}
        last = {w: 100 * steps[-1] / steps.sum() for w, steps in by_step.items()}
        return {
            "explanation": self.explanation(self.contributions(trace, weighting), pair),
            "last_t": int(self.timesteps[-1]),
            "last_sde": last["sde"],
            "last_noise": last["noise"],
            "region": self.region,
            "side": self.shape[0],
            "n_places": len(self.places),
        }

    # -- interventions --

    def masks(self) -> Tensor:
        """One mask for each place, none and all before them, (2 + places, H, W)."""
        masks = torch.zeros(2 + len(self.places), *self.shape)
        masks[1] = 1
        for mask, (h, v) in zip(masks[2:], self.places, strict=True):
            mask[h : h + self.region, v : v + self.region] = 1
        return masks

    @torch.no_grad()
    def hybrids(self, y1: str, y2: str, masks: Tensor) -> tuple[np.ndarray, Tensor]:
        """Trajectories that follow y1 inside each mask and y2 outside; masks (M, S, H, W).

        Returns ‖Δε‖² at each place of each state, (M, S, H, W), and final latents (M, …).
        """
        process, w = self.process, self.guidance
        c0, c1, c2 = (process.encode([text]) for text in ("", y1, y2))
        scheduler = process.sampler(sampler="ddim", steps=self.steps)
        scheduler.register_to_config(prediction_type="epsilon")  # that is what its steps are given
        masks = masks[:, :, None].to(process.device)  # (M, S, 1, H, W)
        x = process.noise([0], self.seed).expand(len(masks), *process.latent_shape)
        squares = []
        for s, t in enumerate(scheduler.timesteps):
            t_rows = t.to(process.device).expand(len(x))
            e0, e1, e2 = (process.eps(x, t_rows, c[[0] * len(x)]) for c in (c0, c1, c2))
            squares.append((w**2 * (e1 - e2) ** 2).sum(1))
            own = torch.where(masks[:, s] > 0, e1, e2)
            x = scheduler.step(e0 + w * (own - e0), t, x).prev_sample
        return torch.stack(squares, 1).double().cpu().numpy(), x

    @torch.no_grad()
    def evidence(self, z: Tensor, y1: str, y2: str) -> np.ndarray:
        """The difference of the two squared errors at each timestep, (M, S), for latents z."""
        process = self.process
        c1, c2 = (process.encode([text])[[0] * len(z)] for text in (y1, y2))
        found = []
        for s, t in enumerate(self.timesteps):
            alpha, sigma = (float(part) for part in process.schedule.coefficients(t))
            rng = generator(self.seed, 0, self.steps + s)
            noise = torch.randn(process.latent_shape, generator=rng).to(z)
            x, t_rows = alpha * z + sigma * noise, t.to(z.device).expand(len(z))
            errors = [(noise - process.eps(x, t_rows, c)).double().flatten(1) for c in (c1, c2)]
            first, second = (e.square().sum(1) for e in errors)
            found.append((first - second).cpu().numpy())
        return np.stack(found, 1)

    def examine(self, pair: Pair, batch_size: int) -> Examined:
        """All interventions on one pair: at every place, then at every step."""
        regions = self.masks()
        one_step = torch.eye(self.steps)[:, :, None, None].expand(-1, -1, *self.shape)
        every = torch.cat([regions[:, None].expand(-1, self.steps, -1, -1), one_step])
        found = [self.hybrids(*pair, masks) for masks in every.split(batch_size)]
        told = [self.evidence(final, *pair) for _, final in found]
        squares = np.concatenate([part for part, _ in found])
        final = torch.cat([latents for _, latents in found])
        return Examined(squares, np.concatenate(told), final, regions.numpy())


@dataclass(frozen=True)
class Examined:
    """One pair under all interventions: nothing, everything, every place, every step."""

    squares: np.ndarray  # ‖Δε‖², (M, S, H, W)
    told: np.ndarray  # evidence, (M, S)
    final: Tensor  # latents, (M, …)
    inside: np.ndarray  # masks of nothing, everything and the places, (2 + places, H, W)

    def read(self, scale: np.ndarray) -> Case:
        """Under the weights ``scale`` (S,) of the timesteps."""
        count = len(self.inside)
        parts = self.squares * scale[:, None, None] / 2  # (M, S, H, W)
        outside = 1 - self.inside  # where the two processes differ
        left = (parts[1].sum(0) + parts[:count].sum(1)) * outside  # both halves, (M, H, W)
        told = (self.told * scale / 2).sum(1)
        return Case(
            map=parts[0].sum(0) + parts[1].sum(0),  # on the trajectories of y2 and of y1
            pictures=(self.final[0] - self.final[1]).square().sum(0).cpu().numpy(),
            steps=parts[0].sum((1, 2)),
            distance=np.delete(left.sum((1, 2)), 1),  # nothing, then the places
            evidence=np.delete(told[:count], 1),
            evidence_all=float(told[1]),
            evidence_step=told[count:],
        )


@dataclass(frozen=True)
class Case:
    """What the interventions on a pair do to its two readings, under one weighting."""

    map: np.ndarray  # (H, W)
    pictures: np.ndarray  # squared difference of the finished latents, (H, W)
    steps: np.ndarray  # contributions, (S,)
    distance: np.ndarray  # (1 + places,)
    evidence: np.ndarray  # (1 + places,)
    evidence_all: float
    evidence_step: np.ndarray  # (S,)

    def falls(self, reading: str) -> np.ndarray:
        """How far a reading falls when each place is left to the first text, (places,)."""
        found: np.ndarray = getattr(self, reading)
        return found[0] - found[1:]

    @property
    def lost_by_step(self) -> np.ndarray:
        """Evidence that is lost when one step alone follows the first text, (S,)."""
        return np.asarray(self.evidence[0] - self.evidence_step)


def percentile(scores: np.ndarray, falls: np.ndarray) -> float:
    """Percentile, among all places, of the fall at the place with the highest score."""
    return float(100 * (rankdata(falls)[scores.argmax()] - 0.5) / len(falls))


# -- whether the explanations are faithful ----------------------------------------------------


@dataclass(frozen=True)
class Fidelity:
    """Every tested pair, in both directions, under each weighting."""

    explainer: Explainer
    tested: list[Pair]
    raw: dict[Pair, Examined]
    cases: dict[Weighting, dict[Pair, Case]]

    @property
    def directed(self) -> list[Pair]:
        """The pairs in both directions."""
        return list(self.raw)

    def average_map(self, pair: Pair, weighting: Weighting) -> np.ndarray:
        """The mean map of the other pairs, each of sum one."""
        maps = {p: case.map / case.map.sum() for p, case in self.cases[weighting].items()}
        return np.asarray(np.mean([m for p, m in maps.items() if set(p) != set(pair)], axis=0))

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row for each weighting, reading, guide and pair: where the named place ranks."""
        rows = []
        for weighting, found in self.cases.items():
            for pair, case in found.items():
                average = self.average_map(pair, weighting)
                guides = dict(zip(GUIDES, (case.map, case.pictures, average), strict=True))
                for reading in READINGS:
                    falls = case.falls(reading)
                    for guide, picture in guides.items():
                        score = self.explainer.at_places(picture)
                        key = dict(zip(KEYS, (weighting, reading, guide), strict=True))
                        rows.append(key | {"pair": pair} | guide_beside_falls(score, falls))
        return pd.DataFrame(rows)

    def by_chance(self, reading: str, weighting: Weighting, count: int = 10_000) -> np.ndarray:
        """Mean percentile if any place were named, the same in both directions: (count,)."""
        cases, n = self.cases[weighting], len(self.tested)
        both = [[rankdata(cases[p].falls(reading)) for p in (pair, pair[::-1])]
                for pair in self.tested]  # fmt: skip
        ranks, places = np.array(both).mean(axis=1), len(self.explainer.places)  # (pairs, places)
        named = np.random.default_rng(self.explainer.seed).integers(places, size=(count, n))
        return np.asarray(100 * (ranks[np.arange(n), named].mean(axis=1) - 0.5) / places)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Means over the cases, and a p-value for the percentile."""
        found = self.table.drop(columns="pair").groupby(KEYS).mean()
        found["p"] = [
            (1 + (self.by_chance(reading, weighting) >= value).sum()) / 10_001
            for (weighting, reading, _), value in found["percentile"].items()
        ]
        return found

    def styled(self) -> Any:
        """The summary, for reading."""
        cases, places = len(self.directed), len(self.explainer.places)
        shown = self.summary.style.format(precision=2).format("{:.0f}", subset="percentile")
        shown = shown.format("{:.0%}", subset="more than the mean").format("{:.2g}", subset="p")
        return shown.set_caption(
            f"The place that a guide names: {cases} cases, {places} places in each"
        )

    def shares(self, weighting: Weighting) -> tuple[np.ndarray, np.ndarray]:
        """Of all cases and places: the share in the map, and the fall of the distance."""
        cases = self.cases[weighting].values()
        predicted = [self.explainer.at_places(c.map) / c.map.sum() for c in cases]
        fallen = [1 - c.distance[1:] / c.distance[0] for c in cases]
        return np.concatenate(predicted), np.concatenate(fallen)

    def facts(self, weighting: Weighting) -> dict[str, Any]:
        """Whether the map of a weighting passes, beside its rivals and the other weightings."""
        by_distance, by_evidence = (self.summary.loc[(weighting, r)] for r in READINGS)
        predicted, fallen = self.shares(weighting)
        cases = self.cases[weighting].values()
        return {
            **test_facts("distance", by_distance.loc["map"]),
            **test_facts("evidence", by_evidence.loc["map"]),
            "rank_pictures": by_evidence.loc["pictures", "percentile"],
            "rank_average": by_evidence.loc["average map", "percentile"],
            "rho_evidence": by_evidence.loc["map", "rank correlation"],
            "rho_pictures": by_evidence.loc["pictures", "rank correlation"],
            "rho_average": by_evidence.loc["average map", "rank correlation"],
            "other_weightings": "; ".join(
                f"“{w}” {row['percentile']:.0f} (p = {row['p']:.2g})"
                for w in cj.WEIGHTINGS
                if w != weighting
                for row in (self.summary.loc[(w, "evidence", "map")],)
            ),
            "slope": (fallen * predicted).sum() / (predicted**2).sum(),
            "additive": np.corrcoef(predicted, fallen)[0, 1],
            "n_cases": len(self.directed),
            "evidence_positive": sum(int(c.evidence[0] > 0) for c in cases),
            "evidence_turned": sum(int(c.evidence_all < 0) for c in cases),
            "steps_agree": ", ".join(f"{r:.2f} under “{w}”" for w, r in self.steps_agree().items()),
        }

    def steps_agree(self) -> dict[Weighting, float]:
        """Rank correlation of a step's contribution with the evidence lost by it."""
        found = {}
        for w, cases in self.cases.items():
            each = [spearmanr(c.steps, c.lost_by_step).statistic for c in cases.values()]
            found[w] = float(np.mean(each))
        return found


def guide_beside_falls(score: np.ndarray, falls: np.ndarray) -> dict[str, Any]:
    """Where a guide's first place ranks by the fall, and how the two go together; (places,)."""
    return {
        "percentile": percentile(score, falls),
        "rank correlation": spearmanr(score, falls).statistic,
        "more than the mean": falls[score.argmax()] > falls.mean(),
    }


def test_facts(reading: str, row: pd.Series) -> dict[str, Any]:
    """The verdict of a test at 5 %, and its numbers."""
    return {
        f"rank_{reading}": row["percentile"],
        f"p_{reading}": row["p"],
        f"passes_{reading}": "passes" if row["p"] < 0.05 else "does not pass",
        f"higher_{reading}": 100 * row["more than the mean"],
    }


def fidelity(explainer: Explainer, tested: Sequence[Pair], batch_size: int) -> Fidelity:
    """Every pair examined in both directions, and read under each weighting."""
    directed = [(a, b) for pair in tested for a, b in (pair, pair[::-1])]
    raw = {pair: explainer.examine(pair, batch_size) for pair in directed}
    cases: dict[Weighting, dict[Pair, Case]] = {
        w: {pair: one.read(explainer.scales(w)) for pair, one in raw.items()} for w in cj.WEIGHTINGS
    }
    return Fidelity(explainer, list(tested), raw, cases)


# -- figures ----------------------------------------------------------------------------------


def show_picture(axis: Axes, picture: np.ndarray, title: str = "") -> None:
    """A picture (height, width, 3) without axes."""
    axis.imshow(picture, interpolation="nearest")
    axis.set_title(title, fontsize=8)
    axis.set(xticks=[], yticks=[])
    sns.despine(ax=axis, left=True, bottom=True)


def outline(
    axis: Axes, of: Explainer, place: tuple[int, int], picture: np.ndarray, colour: Any
) -> None:
    """The border of the region at a place, drawn on a decoded picture."""
    pixel = picture.shape[0] / of.shape[0]
    corner, side = (place[1] * pixel - 0.5, place[0] * pixel - 0.5), of.region * pixel
    axis.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=1.8))


def pictures_of(of: Explainer, pair: Pair) -> np.ndarray:
    """Pictures of both prompts from one x_T, (2, height, width, 3)."""
    process = of.process
    x_T = process.noise([0], of.seed).expand(len(pair), *process.latent_shape)
    how: dict[str, Any] = {"steps": of.steps, "guidance": of.guidance, "seed": of.seed}
    path = process.trajectories(process.encode(pair), x_T, [0] * len(pair), **how)
    assert process.decode is not None
    return np.asarray(process.decode(path.final))


def draw_explanation(of: Explainer, pair: Pair, parts: np.ndarray, pictures: np.ndarray) -> None:
    """Both pictures, where either trajectory carries the distance, and when; parts (2, S, H, W)."""
    _, axes = plt.subplots(1, 5, figsize=(11, 2.7), width_ratios=[1, 1, 1, 1, 1.5])
    over_steps, steps = parts.sum(1), len(of.timesteps)  # (2, H, W)
    for i, prompt in enumerate(pair):
        show_picture(axes[2 * i], pictures[i], f"“{prompt}”")
        where = axes[2 * i + 1]
        where.imshow(over_steps[i], cmap=SEQUENTIAL, vmin=0, vmax=over_steps.max())
        where.set(xticks=[], yticks=[])
        sns.despine(ax=where, left=True, bottom=True)
        where.set_title("where, on its trajectory", fontsize=8)
        top = of.places[int(of.at_places(over_steps[i]).argmax())]
        outline(axes[2 * i], of, top, pictures[i], PALETTE[i])
    for i in (0, 1):
        at = np.arange(steps) + 0.4 * (i - 0.5)
        axes[4].bar(at, parts.sum((2, 3))[i], 0.4, color=PALETTE[i])
    names = [str(int(t)) for t in of.timesteps]
    axes[4].set_xticks(range(steps), names, fontsize=7, rotation=60)
    axes[4].set_xlabel("timestep t", fontsize=8)
    axes[4].set_title("when", fontsize=8)
    plt.show()


def draw_fidelity(found: Fidelity, weighting: Weighting) -> None:
    """Falls over shares, percentiles of the named places, and the steps."""
    _, (shares, named, steps) = plt.subplots(1, 3, figsize=(11, 3.6))
    predicted, fallen = found.shares(weighting)
    shares.plot(100 * predicted, 100 * fallen, ".", ms=4, alpha=0.5, color=PALETTE[0])
    end = 100 * max(predicted.max(), fallen.max())
    shares.plot([0, end], [0, end], color="0.5", linewidth=1)
    shares.set(xlabel="share of the region in the map (%)", ylabel="fall of the distance (%)")
    _draw_named(named, found.table.set_index(KEYS), weighting)
    _draw_steps(steps, found, weighting)
    plt.show()


def _draw_named(axis: Axes, table: pd.DataFrame, weighting: Weighting) -> None:
    """The percentile of every case, by reading and guide."""
    for i, reading in enumerate(READINGS):
        for j, (guide, colour) in enumerate(zip(GUIDES, PALETTE, strict=False)):
            value = table.loc[(weighting, reading, guide), "percentile"]
            x = i + 0.25 * (j - 1) + np.linspace(-0.06, 0.06, len(value))
            axis.plot(x, value, "o", ms=4, alpha=0.6, color=colour)
            label = guide if i == 0 else ""
            ends = x[0] - 0.04, x[-1] + 0.04
            axis.hlines(value.mean(), *ends, color=colour, linewidth=3, label=label)
    axis.axhline(50, color="0.6", linestyle="--", linewidth=1)
    axis.set_xticks([0, 1], list(READINGS))
    axis.set(ylabel="percentile at the named place", ylim=(-2, 102))
    axis.legend(fontsize=8)


def _draw_steps(axis: Axes, found: Fidelity, weighting: Weighting) -> None:
    """Shares of the steps, and the evidence that each takes along."""
    place = np.arange(found.explainer.steps)
    bars: tuple[tuple[Weighting, float, Any], ...] = (
        ("sde", -0.3, PALETTE[5]),
        ("noise", 0, PALETTE[0]),
    )
    for w, shift, colour in bars:
        share = np.mean([c.steps / c.steps.sum() for c in found.cases[w].values()], axis=0)
        axis.bar(place + shift, share, 0.28, color=colour, label=f"contribution, {w}")
    cases: Mapping[Pair, Case] = found.cases[weighting]
    lost = [c.lost_by_step / np.abs(c.evidence[0] - c.evidence_all) for c in cases.values()]
    label = f"evidence lost, {weighting}"
    axis.bar(place + 0.3, np.mean(lost, axis=0), 0.28, color=PALETTE[1], label=label)
    names = [str(int(t)) for t in found.explainer.timesteps]
    axis.set_xticks(place, names, fontsize=7, rotation=60)
    axis.set(xlabel="the step that follows the other text", ylabel="share")
    axis.legend(fontsize=8)


def draw_replaced(found: Fidelity, weighting: Weighting) -> None:
    """Of every pair, its pictures, and that of the second with the first's most and least."""
    of, tested = found.explainer, found.tested
    assert of.process.decode is not None
    size = (6.4, 1.72 * len(tested))
    _, axes = plt.subplots(len(tested), 4, figsize=size, squeeze=False)
    for row, pair in zip(axes, tested, strict=True):
        score = of.at_places(found.cases[weighting][pair].map)
        picked = [int(score.argmax()), int(score.argmin())]
        pictures = of.process.decode(found.raw[pair].final[[1, 0, *(2 + i for i in picked)]])
        titles = [f"“{pair[0]}”", f"“{pair[1]}”", "most, from the first", "least, from the first"]
        for axis, picture, title in zip(row, pictures, titles, strict=True):
            show_picture(axis, picture, title)
        for axis, index in zip(row[2:], picked, strict=True):
            outline(axis, of, of.places[index], pictures[0], PALETTE[1])
    plt.show()
