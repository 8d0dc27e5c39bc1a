"""Shapes as the docstrings state them, checked by jaxtyping and beartype in a run of the library.

One table says what enters and leaves each public function; the library itself depends on neither
package. Every call below goes through it, and every shape that could be wrong is made wrong once.
"""

# ruff: noqa: F722 - what stands in the brackets are shapes

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import conjure_lib as cj
import conjure_tools.scorer  # noqa: F401 - looked up by its name
from conjure_lib import sde
from conjure_tools import baselines, runs
from studies import gaussians

pytest.importorskip("jaxtyping", reason="shapes are checked with jaxtyping and beartype")
pytest.importorskip("beartype", reason="shapes are checked with jaxtyping and beartype")
from beartype import beartype
from jaxtyping import Float, Float32, Float64, Real, TypeCheckError, jaxtyped

Array = np.ndarray
ANY_TIME = {"t": Real[Tensor, "*t"], "return": Float64[Tensor, "*t"]}
ANY_TAU = {"tau": Real[Tensor, "*t"], "return": Float64[Tensor, "*t"]}
BOTH = {
    "t": Real[Tensor, "*t"],
    "return": tuple[Float64[Tensor, "*t"], Float64[Tensor, "*t"]],
}
ROWS, ROWS32 = Float[Tensor, "n *latent"], Float32[Tensor, "n *latent"]
PER_ROW = Real[Tensor, "n"] | Real[Tensor, ""]
PATHS, TIMES = Float32[Tensor, "n S *latent"], Real[Tensor, "S"]
PAIRS = Float64[Array, "P"]
FIELDS = "fields of "  # a dataclass, checked when one is made

PACKAGES = ("conjure_lib", "conjure_tools", "studies")
SHAPES: dict[str, dict[str, Any]] = {
    "sde.Schedule.alpha_bar": ANY_TIME,
    "sde.Schedule.beta_step": ANY_TIME,
    "sde.Schedule.coefficients": BOTH,
    "sde.Schedule.weight": ANY_TIME,
    "sde.Schedule.beta": ANY_TAU,
    "sde.Schedule.alpha": ANY_TAU,
    "sde.Schedule.sigma": ANY_TAU,
    "sde.Schedule.diffusion": ANY_TAU,
    "sde.Schedule.drift": {"x": ROWS, "tau": PER_ROW, "return": ROWS},
    "sde.Schedule.reverse_drift": {"x": ROWS, "tau": PER_ROW, "score": ROWS, "return": ROWS},
    "sde.FlowSchedule.coefficients": BOTH,
    "sde.FlowSchedule.weight": ANY_TIME,
    "sde.term_weights": {"t": TIMES, "return": Float64[Tensor, "S"]},
    "sde.eps_from_output": {
        "output": ROWS,
        "x": ROWS,
        "alpha": PER_ROW,
        "sigma": PER_ROW,
        "return": ROWS,
    },
    "sde.eps_from_score": {"score": ROWS, "sigma": PER_ROW, "return": ROWS},
    "sde.clean_from_eps": {
        "x": ROWS,
        "eps": ROWS,
        "alpha": PER_ROW,
        "sigma": PER_ROW,
        "return": ROWS,
    },
    FIELDS + "gaussians.Mixture": {
        "means": Float64[Tensor, "K D"],
        "stds": Float64[Tensor, "K"],
        "weights": Float64[Tensor, "K"],
    },
    "gaussians.Mixture.log_prob": {"x": Float64[Tensor, "n D"], "return": Float64[Tensor, "n"]},
    "gaussians.Mixture.score": {"x": Float64[Tensor, "n D"], "return": Float64[Tensor, "n D"]},
    "gaussians.Mixture.sample": {"return": Float64[Tensor, "{n} {self.means.shape[1]}"]},
    "gaussians.gaussian_kl": {"return": Float64[Tensor, ""]},
    "process.GenerativeProcess.eps": {"x": ROWS, "t": Real[Tensor, "n"], "return": ROWS32},
    "process.GenerativeProcess.noise": {"return": Float32[Tensor, "{len(draws)} ..."]},
    "process.GenerativeProcess.trajectories": {"x_T": Float[Tensor, "{len(condition)} *latent"]},
    "process.GenerativeProcess.generate": {"return": Float32[Array, "{len(prompts)} h w 3"]},
    "process.GenerativeProcess.clean": {
        "x": ROWS,
        "t": Real[Tensor, "n"],
        "eps": ROWS,
        "return": ROWS,
    },
    FIELDS + "process.Trajectory": {
        "timesteps": TIMES,
        "states": PATHS,
        "eps": PATHS,
        "guided": PATHS,
        "final": ROWS32,
    },
    "similarity.pair_terms": {
        "noise": Float[Tensor, "k *latent"] | None,
    },
    FIELDS + "terms.Terms": {"squares": Float[Array, "P k S 2"], "timesteps": TIMES},
    "terms.Terms.weights": {
        "return": Float64[Array, "{len(self)} {len(self.timesteps)}"],
    },
    "terms.Terms.by_draw": {
        "return": Float64[Array, "{len(self)} {self.squares.shape[1]}"],
    },
    FIELDS + "terms.Estimate": {
        "by_draw": Float64[Array, "draws"],
        "by_step": Float64[Array, "S"],
        "timesteps": Real[Array, "S"],
    },
    FIELDS + "matrices.DistanceMatrix": {
        "value": Float64[Array, "{len(prompts)} {len(prompts)}"],
        "stderr": Float64[Array, "{len(prompts)} {len(prompts)}"],
    },
    FIELDS + "traces.Trace": {
        "timesteps": TIMES,
        "states": Float32[Tensor, "2 S *latent"],
        "eps": Float32[Tensor, "2 2 S *latent"],
    },
    "scorer.Scorer.predict": {"return": Float64[Array, "{len(inputs)}"]},
    "scorer.Scorer.encode": {"return": Float32[Array, "{len(inputs)} width"]},
    "scorer.Scorer.similarity": {
        "embeddings1": Float[Array, "n width"],
        "embeddings2": Float[Array, "m width"],
        "return": Float64[Tensor, "n m"],
    },
    "scorer.Scorer.similarity_pairwise": {
        "embeddings1": Float[Array, "n width"],
        "embeddings2": Float[Array, "n width"],
        "return": Float[Tensor, "n"],
    },
    "runs.Run.by_draw": {"return": Float64[Array, "{len(self.pairs)} draws"]},
    "baselines.initial_timestep": {"return": Float64[Array, "{len(pairs)}"]},
    "baselines.direct_output": {"return": Float64[Array, "{len(pairs)}"]},
    "baselines.text_encoder_cosine": {"return": Float64[Array, "{len(pairs)}"]},
    "baselines.image_gaussian": {"return": Float64[Array, "{len(pairs)}"]},
}
TEXTS = [("a cat", "a dog"), ("pizza", "a cat"), ("a dog", "pizza")]
Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]


def owner_of(name: str) -> tuple[Any, str]:
    """The module or class that holds what the table calls ``name``, and its name there."""
    module, *path = name.removeprefix(FIELDS).split(".")
    place: Any = next(m for p in PACKAGES if (m := sys.modules.get(f"{p}.{module}")))
    path += ["__init__"] if name.startswith(FIELDS) else []
    for part in path[:-1]:
        place = getattr(place, part)
    return place, path[-1]


def checked(function: Callable[..., Any], shapes: dict[str, Any]) -> Callable[..., Any]:
    """``function`` as if its signature said what ``shapes`` does; anything else may be anything."""

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    signature = inspect.signature(function)
    parameters = [
        p.replace(annotation=shapes.get(name, Any)) for name, p in signature.parameters.items()
    ]
    result = shapes.get("return", Any)
    plain.__signature__ = signature.replace(parameters=parameters, return_annotation=result)
    return jaxtyped(typechecker=beartype)(plain)


def exercise(process: cj.GenerativeProcess, folder: Path) -> None:
    """Calls everything that the table names, as a user would."""
    settings: dict[str, Any] = {"steps": 2, "draws": 2}
    noise = process.noise([0, 1], 0)
    cj.pair_terms(process, TEXTS, noise=noise, **settings)
    cj.distance_matrix(process, ["a cat", "pizza", "a dog"], guidance=2.0, **settings)
    cj.trace(process, "a cat", "pizza", steps=2).terms()
    cj.floor(process, "a cat", steps=2)
    process.generate(["a cat", "pizza"], steps=2)
    eps = process.eps(noise, torch.tensor([5, 900]), process.encode(["a", "b"]))
    process.clean(noise, torch.tensor([5, 900]), eps)
    scorer = cj.Scorer(process, **settings)
    scorer.predict(TEXTS)
    vectors = scorer.encode(["a cat", "pizza", "a dog"])
    scorer.similarity(vectors, vectors[:2])
    scorer.similarity_pairwise(vectors[:2], vectors[1:])
    table = pd.DataFrame(TEXTS, columns=["text1", "text2"]).assign(id=["p", "q", "r"])
    runs.score(process, table, folder, report=lambda _: None, **settings).by_draw()
    baselines.initial_timestep(process, TEXTS, **settings)
    baselines.direct_output(process, TEXTS, **settings)
    baselines.text_encoder_cosine(process, TEXTS)
    baselines.image_gaussian(process, TEXTS, images=2, components=2, steps=2)


def exercise_sde() -> None:
    """The same for the two SDEs, with a time for all rows and with one for each."""
    schedule = sde.Schedule(torch.linspace(0.99, 0.01, 10))
    t, x = torch.tensor([0, 4, 9]), torch.randn(3, 4, 2, 2)
    for tau in (torch.tensor(0.5), torch.tensor([0.5, 2.0, 9.5])):
        schedule.drift(x, tau)
        schedule.reverse_drift(x, tau, x)
        alpha, sigma = schedule.alpha(tau), schedule.sigma(tau)
        sde.eps_from_output(x, x, alpha, sigma, "v_prediction")
        sde.eps_from_score(x, sigma)
        sde.clean_from_eps(x, x, alpha, sigma)
    schedule.diffusion(torch.tensor([[0.5, 2.0]]))
    schedule.beta_step(t)
    for weighting in cj.WEIGHTINGS:
        sde.term_weights(schedule, t, weighting)
        sde.term_weights(sde.FlowSchedule(), torch.tensor([1000.0, 400.0]), weighting)
    law = gaussians.Mixture(
        *(torch.tensor(v).double() for v in ([[0.0, 1], [2, 3]], [1, 2], [0.5, 0.5]))
    )
    x = law.diffuse(0.8, 0.6).sample(3, torch.Generator())
    law.log_prob(x), law.score(x)
    one, two = (gaussians.Mixture.gaussian([m, m], 1.0) for m in (0.0, 1.0))
    gaussians.gaussian_kl(one, two)


@pytest.fixture(scope="module")
def calls(
    process: cj.GenerativeProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, list[Call]]]:
    """One call of each checked function: the function, what it was given, and what it returned.

    Every module of the library calls the checked ones while this runs.
    """
    found: dict[str, list[Call]] = {name: [] for name in SHAPES}

    def recording(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        strict = checked(function, SHAPES[name])

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            result = strict(*args, **kwargs)
            found[name].append((function, args, kwargs, result))
            return result

        return wrapper

    for name in cj.__all__:
        getattr(cj, name)  # what is imported at its first use is there before it is patched
    library = [m for n, m in list(sys.modules.items()) if n.split(".")[0] in PACKAGES]
    with pytest.MonkeyPatch.context() as patch:
        for name in SHAPES:
            place, attribute = owner_of(name)
            kept = inspect.getattr_static(place, attribute)
            function = recording(name, getattr(kept, "__func__", kept))
            new = classmethod(function) if isinstance(kept, classmethod) else function
            holders = [place] if isinstance(place, type) else library
            for holder in holders:
                for key in [k for k, value in vars(holder).items() if value is kept]:
                    patch.setattr(holder, key, new)
        exercise_sde()
        exercise(process, tmp_path_factory.mktemp("run") / "run")
        yield found


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_those_of_the_table(calls: dict[str, list[Call]], name: str) -> None:
    """The fixture has checked every call; here, that there was one."""
    assert calls[name]


# -- a check that cannot fail is none ----------------------------------------------------------

Place = tuple[str, str, int, int | None]  # function, argument or return, which of its arrays, axis


def arrays(hint: Any) -> list[Any]:
    """The array types inside a hint such as ``tuple[Float[…], Real[…]]``, in order."""
    if hasattr(hint, "dim_str"):
        return [hint]
    return [part for inner in typing.get_args(hint) for part in arrays(inner)]


def words(*hints: Any) -> list[str]:
    return [word for hint in hints for part in arrays(hint) for word in part.dim_str.split()]


def stated(name: str) -> Iterator[Place]:
    """Every rank that is fixed, and every axis whose length something else decides."""
    shapes = SHAPES[name]
    given = {place: hint for place, hint in shapes.items() if place != "return"}
    for place, hint in shapes.items():
        others = words(*(h for p, h in given.items() if p != place))
        for k, part in enumerate(arrays(hint)):
            own = part.dim_str.split()
            if not any(word.startswith(("*", "...")) for word in own):
                yield name, place, k, None
            for axis, word in enumerate(own):
                fixed = word.isdigit() or word.startswith("{")
                if fixed or word in others or own.count(word) > 1:
                    yield name, place, k, -1 if word.startswith("*") else axis


def break_shape(array: Any, axis: int | None) -> Any:
    """``array`` twice as long along ``axis``, or with an axis more."""
    if axis is None:
        return array[..., None]
    double = np.concatenate if isinstance(array, Array) else torch.cat
    return double([array, array], axis)


def suits(array: Any, part: Any) -> bool:
    """Whether ``array`` has an axis for every word, or, of several alternatives, is this one."""
    own = part.dim_str.split()
    if any(word.startswith(("*", "...")) for word in own):
        return array.ndim >= len(own)
    return array.ndim == len(own)


@pytest.mark.parametrize("place", [p for name in SHAPES for p in stated(name)], ids=str)
def test_every_wrong_shape_fails(calls: dict[str, list[Call]], place: Place) -> None:
    name, where, k, axis = place
    part = arrays(SHAPES[name][where])[k]
    for function, args, kwargs, result in calls[name]:
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        value = result if where == "return" else bound.arguments[where]
        array = value[k] if isinstance(value, tuple) else value
        if array is None or not suits(array, part):
            continue
        broken = break_shape(array, axis)
        if isinstance(value, tuple):
            broken = (*value[:k], broken, *value[k + 1 :])
        if where == "return":
            wrong = functools.wraps(function)(lambda *_, broken=broken, **__: broken)
        else:
            wrong = functools.wraps(function)(lambda *_, result=result, **__: result)
            bound.arguments[where] = broken
        with pytest.raises(TypeCheckError):
            checked(wrong, SHAPES[name])(*bound.args, **bound.kwargs)
        return
    raise AssertionError(f"no call of {name} has {where} of shape {part.dim_str!r}")


def test_another_dtype_fails() -> None:
    strict = checked(sde.term_weights, SHAPES["sde.term_weights"])
    schedule, t = sde.Schedule(torch.tensor([0.9, 0.1])), torch.tensor([1, 0])
    assert strict(schedule, t, "noise").dtype == torch.float64
    single = functools.wraps(sde.term_weights)(lambda *_: torch.ones(2))
    with pytest.raises(TypeCheckError, match="return value"):
        checked(single, SHAPES["sde.term_weights"])(schedule, t, "noise")


def test_every_public_function_stands_in_the_table() -> None:
    """What the package exports and gives or takes arrays, less what only hands them on."""
    handed_on = {"distance", "distances", "from_pipeline", "load"}
    public = {name for name in cj.__all__ if isinstance(getattr(cj, name), types.FunctionType)}
    listed = {part for name in SHAPES for part in name.removeprefix(FIELDS).split(".")}
    # dataclasses come of them
    assert public - handed_on - listed == {"distance_matrix", "floor", "trace"}


def test_columns_of_truth_values_are_no_numbers(process: cj.GenerativeProcess) -> None:
    for names in ([False, True], [np.False_, np.True_]):
        table = pd.DataFrame([["cat", "dog"]], columns=pd.Index(names, dtype=object))
        with pytest.raises(ValueError, match=r"pairs need the columns .* here are .*: rename two"):
            cj.distances(process, table)
