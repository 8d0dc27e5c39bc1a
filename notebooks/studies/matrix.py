"""All pairs of sixty words in ten groups: the record 'matrix', of chapter 8 and the explorer."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pandas as pd

import conjure_lib as cj
from conjure_tools import baselines, runs
from studies.records import Made, in_single, texts_of, work

GROUPS = {
    "mammals": "cat, dog, horse, cow, tiger, bear",
    "birds": "duck, eagle, owl, penguin, parrot, rooster",  # that cannot all fly
    "sea animals": "shark, whale, octopus, crab, lobster, shrimp",  # by where they live
    "bugs": "ant, bee, butterfly, spider, beetle, mosquito",  # insects and a spider
    "fruit": "apple, banana, cherry, lemon, peach, strawberry",
    "vegetables": "carrot, broccoli, corn, potato, onion, cucumber",
    "meals": "pizza, hamburger, sandwich, taco, pancakes, sushi",
    "vehicles": "car, bus, train, truck, bicycle, motorcycle",
    "clothes": "shirt, jeans, dress, coat, socks, scarf",
    "instruments": "guitar, violin, piano, drum, trumpet, saxophone",
}
"""Fixed before the first run."""
STEPS, DRAWS, SEED = 10, 2, 0
ENCODER = "text_encoder_last"


def word_groups(groups: int = 10, words: int = 6, own: str = "") -> dict[str, list[str]]:
    """Names and words of the first groups, and of each the first words.

    Args:
        own: groups to take instead, such as "apple, pear; car, bus".

    Raises:
        ValueError: a word stands twice.
    """
    listed = {f"group {i}": text for i, text in enumerate(own.split(";"), 1)} if own else GROUPS
    members = {name: [w.strip() for w in text.split(",")] for name, text in listed.items()}
    found = {name: members[name][:words] for name in list(members)[:groups]}
    every = [word for group in found.values() for word in group]
    if twice := {word for word in every if every.count(word) > 1}:
        raise ValueError(f"stands twice in the groups: {', '.join(sorted(twice))}")
    return found


def record() -> Made:
    """The table 'matrix'."""
    groups = word_groups()
    words = [word for members in groups.values() for word in members]
    texts = pd.DataFrame(combinations(words, 2), columns=["text1", "text2"])
    pairs = runs.arranged(texts.assign(id=texts["text1"] + " / " + texts["text2"]), 256)
    process = cj.load()
    how: dict[str, Any] = {"steps": STEPS, "draws": DRAWS, "seed": SEED}
    run = runs.score(process, pairs, work("matrix") / str(len(words)), block=256, **how)
    found = {"text1": run.pairs["text1"], "text2": run.pairs["text2"]}
    for weighting in cj.WEIGHTINGS:
        one = run.distances(weighting, draws=DRAWS)
        found |= {weighting: one["distance"], f"{weighting}_stderr": one["stderr"]}
    found[ENCODER] = baselines.text_encoder_cosine(process, texts_of(run.pairs))
    return {"matrix": in_single(pd.DataFrame(found))}, {"groups": groups} | run.record
