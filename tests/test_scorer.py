"""The scorer inside the programs whose conventions it follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import open_pipeline
from scipy.stats import pearsonr, spearmanr

import conjure_lib as cj
from conjure_tools.scorer import MtebReranker, MtebScorer

PAIRS = [("cat", "dog"), ("cat", "pizza"), ("sun", "moon"), ("car", "bus"), ("tree", "tree")]
HUMAN = [3.5, 0.4, 2.0, 3.0, 5.0]


@pytest.fixture(scope="module")
def scorer(process: cj.GenerativeProcess) -> cj.Scorer:
    return cj.Scorer(process, weighting="noise", steps=2, draws=2)


def five(mteb: Any) -> Any:
    """A task of mteb that has our five pairs."""
    from datasets import Dataset, DatasetDict

    task = mteb.get_task("STS12")
    first, second = zip(*PAIRS, strict=True)
    columns = {"sentence1": first, "sentence2": second, "score": HUMAN}
    task.dataset = DatasetDict({"test": Dataset.from_dict(columns)})
    task.data_loaded = True
    return task


def test_predict_is_minus_the_distance(scorer: cj.Scorer) -> None:
    found = cj.distances(scorer.process, PAIRS, weighting="noise", steps=2, draws=2)
    expected = [-e.value for e in found]
    np.testing.assert_allclose(scorer.predict(PAIRS), expected, rtol=1e-6)
    tensor = scorer.predict([list(p) for p in PAIRS], convert_to_tensor=True, batch_size=3)
    assert isinstance(tensor, torch.Tensor) and tensor.shape == (5,)
    np.testing.assert_allclose(tensor, expected, rtol=1e-4)
    one = scorer.predict(PAIRS[0])
    assert np.ndim(one) == 0 and one == pytest.approx(expected[0], rel=1e-4)
    two = scorer.predict(PAIRS[:2])  # two pairs, not one pair of tuples
    assert two.shape == (2,)


def test_cross_encoder_evaluator(scorer: cj.Scorer) -> None:
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderCorrelationEvaluator

    evaluator = CrossEncoderCorrelationEvaluator([list(p) for p in PAIRS], HUMAN, name="five")
    found = evaluator(scorer)
    mine = scorer.predict(PAIRS)
    assert found["five_spearman"] == pytest.approx(spearmanr(HUMAN, mine).statistic)
    assert found["five_pearson"] == pytest.approx(pearsonr(HUMAN, mine).statistic)
    assert scorer.model_card_data.metrics["five_spearman"] == found["five_spearman"]


def test_all_evaluators_of_cross_encoders(scorer: cj.Scorer) -> None:
    from sentence_transformers.cross_encoder import evaluation

    labels = [int(h > 2.5) for h in HUMAN]
    pairs = [list(p) for p in PAIRS]
    classes = evaluation.CrossEncoderClassificationEvaluator(pairs, labels, name="five")(scorer)
    mine = scorer.predict(PAIRS)
    best = max(np.mean((mine >= cut) == np.array(labels)) for cut in [*mine, np.inf])
    assert classes["five_accuracy"] == pytest.approx(best)
    samples = [{"query": "cat", "positive": ["dog"], "negative": ["pizza", "bus"]}]
    ranks = evaluation.CrossEncoderRerankingEvaluator(samples, name="one")(scorer)
    order = [r["corpus_id"] for r in scorer.rank("cat", ["dog", "pizza", "bus"])]
    assert ranks["one_mrr@10"] == pytest.approx(1 / (1 + order.index(0)))


def near(scorer: cj.Scorer, first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """Minus the Euclidean distance of the embeddings of corresponding texts."""
    return -np.linalg.norm(scorer.encode(list(first)) - scorer.encode(list(second)), axis=1)


def test_all_evaluators_of_embeddings(scorer: cj.Scorer) -> None:
    from sentence_transformers.sentence_transformer import evaluation as ev

    first, second = (list(side) for side in zip(*PAIRS, strict=True))
    mine, labels = near(scorer, first, second), [int(h > 2.5) for h in HUMAN]
    sts = ev.EmbeddingSimilarityEvaluator(first, second, [h / 5 for h in HUMAN])(scorer)
    assert sts["spearman_euclidean"] == pytest.approx(spearmanr(HUMAN, mine).statistic)
    binary = ev.BinaryClassificationEvaluator(first, second, labels)(scorer)
    best = max(np.mean((mine >= cut) == np.array(labels)) for cut in [*mine, np.inf])
    assert binary["euclidean_accuracy"] == pytest.approx(best)
    triplet = ev.TripletEvaluator(["cat"] * 2, ["dog", "pizza"], ["pizza", "dog"])(scorer)
    assert triplet["euclidean_accuracy"] == 0.5
    queries, corpus = {"q": "cat"}, {"a": "pizza", "b": "dog", "c": "cat"}
    found = ev.InformationRetrievalEvaluator(queries, corpus, {"q": {"c"}})(scorer)
    assert found["euclidean_accuracy@1"] == 1
    samples = [{"query": "cat", "positive": ["cat"], "negative": ["pizza", "bus"]}]
    ranks = ev.RerankingEvaluator(samples, similarity_fct=scorer.similarity)(scorer)
    assert ranks["mrr@10"] == 1
    mined = ev.ParaphraseMiningEvaluator(dict(enumerate(["cat", "cat", "pizza"])), [(0, 1)])(scorer)
    assert mined["average_precision"] == 1
    same = ev.MSEEvaluator(first, first, teacher_model=scorer)(scorer)
    assert same["negative_mse"] == pytest.approx(0, abs=1e-6)
    rows = [{"en": "cat", "other": "cat"}]
    frame = ev.MSEEvaluatorFromDataFrame(rows, scorer, [("en", "other")])(scorer)
    assert frame["negative_mse"] == pytest.approx(0, abs=1e-6)
    there = ev.TranslationEvaluator(["cat", "pizza"], ["cat", "pizza"])(scorer)
    assert there["mean_accuracy"] == 1
    every = ev.SequentialEvaluator([ev.TripletEvaluator(["cat"], ["cat"], ["dog"])])(scorer)
    assert every["euclidean_accuracy"] == 1


def test_paraphrase_mining(scorer: cj.Scorer) -> None:
    from sentence_transformers.util import paraphrase_mining

    words = ["cat", "pizza", "dog", "bus"]
    vectors = scorer.encode(words)
    found = paraphrase_mining(scorer, words, score_function=scorer.similarity)
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    exact = sorted(
        ((-((vectors[i] - vectors[j]) ** 2).sum(), i, j) for i, j in pairs), reverse=True
    )
    assert [tuple(row[1:]) for row in found] == [row[1:] for row in exact]
    np.testing.assert_allclose([row[0] for row in found], [row[0] for row in exact], rtol=1e-3)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"precision": "int8"}, ValueError, "precision='int8' has no meaning here"),
        ({"truncate_dim": 8}, ValueError, r"hash them into fewer numbers, Scorer\(…, width=…\)"),
        ({"prompt": "query: "}, ValueError, "prompt='query: ' has no meaning here"),
        ({"device": "cuda"}, ValueError, "a process has its own"),
        ({"banana": 1}, TypeError, "there is no setting banana"),
    ],
)
def test_settings_of_others_that_mean_nothing_here(
    scorer: cj.Scorer, given: dict[str, Any], error: type[Exception], says: str
) -> None:
    for ask in (scorer.encode, scorer.encode_query, scorer.encode_document):
        with pytest.raises(error, match=says):
            ask(["cat"], **given)
    with pytest.raises(error, match=says):
        scorer.predict(PAIRS, **given)
    assert (
        len(scorer.encode(["cat"], precision="float32", prompt=None, convert_to_numpy=False)) == 1
    )


def test_rank(scorer: cj.Scorer) -> None:
    words = ["pizza", "cat", "dog", "bus"]
    scores = scorer.predict([("cat", w) for w in words])
    ranked = scorer.rank("cat", words, top_k=3, return_documents=True)
    assert ranked[0] == {"corpus_id": 1, "score": 0.0, "text": "cat"}
    assert [r["corpus_id"] for r in ranked] == np.argsort(-scores)[:3].tolist()
    assert [r["text"] for r in ranked] == [words[r["corpus_id"]] for r in ranked]
    assert set(scorer.rank("cat", words)[0]) == {"corpus_id", "score"}


def test_similarity_of_embeddings(scorer: cj.Scorer) -> None:
    words = ["cat", "dog", "pizza"]
    vectors = scorer.encode(words)
    matrix = scorer.similarity(vectors, vectors)
    reference = -((vectors[:, None] - vectors[None]) ** 2).sum(-1)
    np.testing.assert_allclose(matrix, reference, rtol=1e-3, atol=1e-4)
    pairwise = scorer.similarity_pairwise(vectors[:2], vectors[1:])
    np.testing.assert_allclose(pairwise, [reference[0, 1], reference[1, 2]], rtol=1e-4)
    tensor = scorer.encode(words, convert_to_tensor=True, batch_size=7, show_progress_bar=False)
    np.testing.assert_allclose(tensor, vectors, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(scorer.encode("cat"), vectors[0], rtol=1e-3, atol=1e-4)


def test_mteb(scorer: cj.Scorer) -> None:
    """Every rank correlation that mteb computes, the main score among them, is the distance's."""
    mteb = pytest.importorskip("mteb")
    task = five(mteb)
    adapter = MtebScorer(scorer)
    found = mteb.evaluate(adapter, task, cache=None, co2_tracker=False, show_progress_bar=False)
    scores = found.task_results[0].scores["test"][0]
    rank = spearmanr(HUMAN, scorer.predict(PAIRS)).statistic
    assert scores["main_score"] == pytest.approx(found.task_results[0].get_score())
    assert scores["main_score"] == pytest.approx(rank)
    for name in ("spearman", "cosine_spearman", "euclidean_spearman", "manhattan_spearman"):
        assert scores[name] == pytest.approx(rank)
    line = pearsonr(HUMAN, scorer.predict(PAIRS)).statistic
    for name in ("pearson", "cosine_pearson"):
        assert scores[name] == pytest.approx(line, abs=1e-5)


def test_a_run_of_mteb_that_was_stopped_leaves_nothing(scorer: cj.Scorer) -> None:
    mteb = pytest.importorskip("mteb")
    adapter, task = MtebScorer(scorer), five(mteb)
    about = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default"}
    adapter.encode([{"text": [a for a, _ in PAIRS]}], **about)  # and then Ctrl-C
    found = mteb.evaluate(adapter, task, cache=None, co2_tracker=False, show_progress_bar=False)
    rank = spearmanr(HUMAN, scorer.predict(PAIRS)).statistic
    assert found.task_results[0].get_score() == pytest.approx(rank)


def reranking(mteb: Any) -> Any:
    """A task of mteb in which two queries have documents to rank."""
    from datasets import Dataset

    task = mteb.get_task("AskUbuntuDupQuestions")
    told = {
        "corpus": Dataset.from_dict({"id": list("abcd"), "text": ["dog", "pizza", "bus", "moon"]}),
        "queries": Dataset.from_dict({"id": ["1", "2"], "text": ["cat", "car"]}),
        "relevant_docs": {"1": {"a": 1}, "2": {"c": 1}},
        "top_ranked": {"1": ["a", "b", "c"], "2": ["c", "d"]},
    }
    task.dataset, task.data_loaded = {"default": {"test": told}}, True
    return task


def test_mteb_reranking(scorer: cj.Scorer) -> None:
    mteb = pytest.importorskip("mteb")
    task, adapter = reranking(mteb), MtebReranker(scorer)
    found = mteb.evaluate(adapter, task, cache=None, co2_tracker=False, show_progress_bar=False)
    scores = found.task_results[0].scores["test"][0]
    ranks = []
    for query, right, others in (("cat", "dog", ["pizza", "bus"]), ("car", "bus", ["moon"])):
        mine = scorer.predict([(query, text) for text in (right, *others)])
        ranks.append(1 + int((mine[1:] > mine[0]).sum()))
    assert scores["main_score"] == pytest.approx(found.task_results[0].get_score())
    assert scores["map_at_1000"] == pytest.approx(np.mean(1 / np.array(ranks)), abs=1e-4)


@pytest.mark.parametrize("kind", ["Banking77Classification", "TwentyNewsgroupsClustering"])
def test_other_tasks_of_mteb_are_refused_in_a_sentence(scorer: cj.Scorer, kind: str) -> None:
    mteb = pytest.importorskip("mteb")
    about = {"task_metadata": mteb.get_task(kind).metadata, "hf_split": "test", "hf_subset": "x"}
    says = f"{kind}.* is a task of the kind .*: MtebScorer takes STS and MtebReranker takes rerank"
    with pytest.raises(ValueError, match=says):
        MtebScorer(scorer).encode([{"text": ["cat"]}], **about)
    with pytest.raises(ValueError, match=says):
        MtebReranker(scorer).predict([{"text": ["cat"]}], [{"text": ["dog"]}], **about)


def test_mteb_keeps_scores_of_other_settings_apart(process: cj.GenerativeProcess) -> None:
    pytest.importorskip("mteb")

    def revision(**settings: Any) -> str:
        return str(MtebScorer(cj.Scorer(process, **settings)).mteb_model_meta.revision)

    noise = torch.zeros(5, *process.latent_shape)
    changes: list[dict[str, Any]] = [
        {"steps": 4},
        {"draws": 2},
        {"draws": [0, 2, 1, 3, 5]},
        {"guidance": 3.0},
        {"sampler": "ddpm"},
        {"seed": 1},
        {"weighting": "noise"},
        {"pairing": "crossed"},
        {"noise": noise},
        {"noise": noise + 1},
    ]
    found = [revision(**change) for change in ({}, *changes)]
    assert len(set(found)) == len(found)
    same: dict[str, Any] = {"draws": range(5), "batch_size": 3, "memory": 10**9, "progress": True}
    numpys = {"steps": np.int64(10), "seed": np.int64(0), "guidance": np.float32(1)}
    assert revision(**same, **numpys) == found[0]  # as it is anyway
    for other in (noise.numpy(), noise.bfloat16(), noise.double().requires_grad_(), list(noise)):
        assert revision(noise=other) == found[9]


def test_mteb_serves_no_score_of_another_scorer(tmp_path: Path) -> None:
    """Whatever is changed after the adapter was built: settings, weights, its own functions."""
    mteb = pytest.importorskip("mteb")

    scorer = cj.Scorer(cj.load(device="cpu"), weighting="noise", steps=2, draws=1)
    adapter, cache = MtebScorer(scorer), mteb.cache.ResultCache(tmp_path)

    def score() -> tuple[float, int]:
        before = scorer.process.evaluations
        found = mteb.evaluate(
            adapter, five(mteb), cache=cache, co2_tracker=False, show_progress_bar=False
        )
        value = found.task_results[0].scores["test"][0]["pearson"]
        return round(value, 5), scorer.process.evaluations - before

    def weights() -> None:
        with torch.no_grad():
            next(scorer.process.network.parameters()).mul_(1.5)  # type: ignore[union-attr]

    def predict() -> None:
        scorer.process = replace(scorer.process, source=None)
        scorer.process.predict = lambda x, t, c: x * c.mean()

    noise = torch.randn(1, *scorer.process.latent_shape)
    seen = [score()]
    assert score() == (seen[0][0], 0)  # kept
    for change in (
        lambda: scorer.settings.update(steps=np.int64(4)),
        lambda: scorer.settings.update(noise=noise),
        lambda: noise.mul_(0.5),
        lambda: setattr(scorer, "weighting", "sde"),
        weights,
    ):
        change()
        value, evaluations = score()
        assert evaluations > 0 and value not in [v for v, _ in seen]
        direct = pearsonr(HUMAN, scorer.predict(PAIRS)).statistic
        assert value == pytest.approx(direct, abs=1e-4)
        seen.append((value, evaluations))
    revision = adapter.mteb_model_meta.revision
    predict()
    assert adapter.mteb_model_meta.revision != revision
    revision = adapter.mteb_model_meta.revision
    kept = scorer.process.predict
    predict()
    assert adapter.mteb_model_meta.revision != revision and scorer.process.predict is not kept


def test_embeddings_may_be_tensors_of_any_kind(scorer: cj.Scorer) -> None:
    vectors = torch.randn(3, 4, dtype=torch.bfloat16)
    expected = scorer.similarity(vectors.float().numpy(), vectors.float().numpy())
    for other in (vectors, vectors.float().requires_grad_(), list(vectors)):
        assert torch.equal(scorer.similarity(other, vectors), expected)


def test_bad_input(scorer: cj.Scorer) -> None:
    with pytest.raises(TypeError, match="row 0 must be a pair of texts, not 'cat'"):
        scorer.predict(["cat", "dog", "pizza"])
    with pytest.raises(ValueError, match="no named prompts"):
        scorer.predict(PAIRS, prompt_name="query")


def test_embeddings_too_large_to_be_squared_are_refused(scorer: cj.Scorer) -> None:
    far = np.array([[1e200, 0.0], [-1e200, 1.0]])
    for ask in (scorer.similarity, scorer.similarity_pairwise):
        with pytest.raises(ValueError, match="embeddings1 and embeddings2 are too large"):
            ask(far, far[::-1])
        with pytest.raises(ValueError, match="embeddings1 must be rows of numbers: it is None"):
            ask(None, far)
        with pytest.raises(ValueError, match="embeddings2 is not finite: NaN"):
            ask(far, np.nan)


@pytest.mark.parametrize("guidance", [1e-60, -1e-21])
def test_a_guidance_that_vanishes_in_embeddings_is_refused(
    process: cj.GenerativeProcess, guidance: float
) -> None:
    settings = {"steps": 2, "draws": 1}
    with pytest.raises(ValueError, match=f"guidance={guidance:g} is too small for embeddings"):
        cj.Scorer(process, guidance=guidance, **settings).encode("cat")
    small, plain = (cj.Scorer(process, guidance=w, **settings).encode("cat") for w in (1e-12, 1))
    np.testing.assert_allclose(small * 1e12, plain, rtol=1e-5)


def test_a_pipeline_in_the_place_of_a_process_is_told_how_to_be_one(random_folder: Path) -> None:
    with pytest.raises(TypeError) as told:
        cj.Scorer(open_pipeline(random_folder))
    says = "process must be a loaded model, not a StableDiffusionPipeline: write process = "
    says += "cj.load(pipe)"
    assert str(told.value) == says


@pytest.mark.parametrize("given", [None, "emoji-diffusion", torch.nn.Identity()])
def test_what_is_no_process_is_refused_at_once(given: Any) -> None:
    for ask in (
        lambda: cj.Scorer(given),
        lambda: cj.distance(given, "cat", "dog"),
        lambda: cj.distance_matrix(given, ["cat", "dog"]),
        lambda: cj.pair_terms(given, [("cat", "dog")]),
        lambda: cj.trace(given, "cat", "dog"),
        lambda: cj.floor(given, "cat"),
    ):
        with pytest.raises(TypeError, match=r"process must be a loaded model, .* cj\.load\("):
            ask()


def test_settings_that_are_none_are_refused_by_name(process: cj.GenerativeProcess) -> None:
    pair = "cat", "dog"
    for ask in (
        lambda **more: cj.Scorer(process, **more),
        lambda **more: cj.distance(process, *pair, **more),
        lambda **more: cj.distance_matrix(process, pair, **more),
    ):
        for name in ("banana", "pairs"):
            with pytest.raises(TypeError, match=f"no setting {name}: there are steps, draws"):
                ask(**{name: [pair]})
        with pytest.raises(TypeError, match="progress must be True, False or None, not 'x'"):
            ask(progress="x")
    for width in (10**13, 10**30):
        with pytest.raises(ValueError, match=f"width={width} is more than the"):
            cj.Scorer(process, width=width)
