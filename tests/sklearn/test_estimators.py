"""The estimators against PyTorch, finite differences, and themselves in other words."""

from __future__ import annotations

import pickle
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from helpers import random_params
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split

from gru_xp.threads import thread_limit
from gru_xp.training import cross_entropy, flatten, unflatten
from gru_xp_sklearn import GRUClassifier, GRURegressor
from gru_xp_sklearn.network import Options, loss_and_gradients


def ragged(seed: int, N: int = 60, I: int = 2) -> tuple[list[np.ndarray], np.ndarray]:
    """Sequences (T_i, I), and the sign of the first feature of their first step."""
    rng = np.random.default_rng(seed)
    X = [rng.normal(size=(n, I)) for n in rng.integers(1, 9, size=N)]
    return X, np.array(["up" if x[0, 0] > 0 else "down" for x in X])


def small(**options: Any) -> GRUClassifier:
    return GRUClassifier(8, **{"max_iter": 3, "random_state": 0, **options})


def test_digits() -> None:
    """Rows from the top to the bottom, read as eight steps of eight pixels."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images.reshape(-1, 8, 8), labels, test_size=0.25, stratify=labels, random_state=0)
    X, X_held_out, y, y_held_out = parts
    assert GRUClassifier(random_state=0).fit(X, y).score(X_held_out, y_held_out) >= 0.98


def test_a_sum_over_ragged_sequences() -> None:
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(n, 2)) for n in rng.integers(0, 9, size=500)]  # of length 0 too
    y = np.array([[100.0 + 30.0 * x[:, 0].sum(), x[:, 1].sum()] for x in X])
    assert GRURegressor(16, random_state=0).fit(X[:400], y[:400]).score(X[400:], y[400:]) > 0.95


@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("D", [1, 2])
def test_probabilities_are_those_of_torch(L: int, D: int) -> None:
    """Each sequence alone, standardised by hand, through torch.nn.GRU and torch.nn.Linear."""
    X, y = ragged(0)
    estimator = small(num_layers=L, bidirectional=D == 2).fit(X, y)
    steps = np.concatenate(X)
    gru = torch.nn.GRU(2, 8, num_layers=L, bidirectional=D == 2)
    names = [f"{kind}_l{layer}{end}" for layer in range(L) for end in ("", "_reverse")[:D] for kind in KINDS]
    arrays = [array for layer in estimator.model_.params for w in layer for array in w]
    gru.load_state_dict({name: torch.tensor(array) for name, array in zip(names, arrays, strict=True)})
    for x, got in zip(X, estimator.predict_proba(X), strict=True):
        scaled = torch.tensor((x - steps.mean(axis=0)) / steps.std(axis=0), dtype=torch.float32)
        with torch.no_grad():
            states = gru(scaled)[1][-D:].flatten()
        logits = torch.tensor(estimator.coef_) @ states + torch.tensor(estimator.intercept_)
        np.testing.assert_allclose(got, logits.softmax(dim=0), atol=1e-6)


KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@pytest.mark.parametrize("options", [Options(0.0, 0.0, None), Options(0.5, 0.4, None)], ids=["plain", "noise, dropout"])
def test_the_gradients_are_those_of_the_loss(options: Options) -> None:
    """Along one direction in the space of all weights, by a central difference in float64."""
    rng = np.random.default_rng(0)
    weights = {"gru": random_params(rng, 2, 3, L=2, D=2), "W": rng.normal(size=(4, 6)), "b": rng.normal(size=4)}
    rows, labels = ragged(1, N=5)[0], np.array([0, 3, 1, 2, 3])

    def run(vector: np.ndarray) -> tuple[float, Any]:
        tree = unflatten(vector, weights)
        return loss_and_gradients(tree, rows, labels, cross_entropy, options, np.random.default_rng(7))

    start = flatten(weights)
    direction = rng.normal(size=start.shape)
    slope = flatten(run(start)[1]) @ direction
    difference = (run(start + 1e-5 * direction)[0] - run(start - 1e-5 * direction)[0]) / 2e-5
    assert difference == pytest.approx(slope, rel=1e-6)


def test_arrays_tables_and_lists_are_the_same_sequences() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 6, 3)), rng.integers(3, size=40)
    fitted = [small().fit(data, y) for data in (X, list(X), tuple(X), X.tolist())]
    for estimator in fitted:
        assert estimator.n_features_in_ == 3
        np.testing.assert_array_equal(estimator.predict_proba(list(X)), fitted[0].predict_proba(X))
    as_table, as_sequences = small().fit(X[:, :, 0], y), small().fit(X[:, :, :1], y)
    assert as_table.n_features_in_ == 6 and as_sequences.n_features_in_ == 1
    np.testing.assert_array_equal(as_table.predict_proba(X[:, :, :1]), as_sequences.predict_proba(X[:, :, 0]))
    objects = np.empty(40, object)
    objects[:] = [x[: n % 6 + 1, 0] for n, x in enumerate(X)]
    np.testing.assert_array_equal(
        small().fit(objects, y).predict_proba(objects), small().fit(list(objects), y).predict_proba(list(objects))
    )


def test_a_sequence_is_read_the_same_in_any_company() -> None:
    X, y = ragged(0, N=300)
    estimator = small().fit(X, y)
    together = estimator.decision_function(X)
    np.testing.assert_allclose([estimator.decision_function([x])[0] for x in X[:20]], together[:20], atol=1e-6)
    order = np.random.default_rng(0).permutation(300)
    np.testing.assert_allclose(estimator.decision_function([X[i] for i in order]), together[order], atol=1e-6)


def test_random_state_decides_all() -> None:
    X, y = ragged(0)
    a, b, c = (small(random_state=seed).fit(X, y).predict_proba(X) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3


def test_partial_fit_goes_on_and_survives_a_pickle() -> None:
    X, y = ragged(0)
    whole, halves = small(), small()
    for _ in range(4):
        whole.partial_fit(X, y, classes=["up", "down"])
    for _ in range(2):
        halves.partial_fit(X, y, classes=["up", "down"])
    halves = pickle.loads(pickle.dumps(halves))
    for _ in range(2):
        halves.partial_fit(X, y)
    assert halves.n_iter_ == 4 and halves.loss_curve_[-1] < halves.loss_curve_[0]
    np.testing.assert_array_equal(halves.predict_proba(X), whole.predict_proba(X))
    np.testing.assert_array_equal(halves.mean_, np.concatenate(X).mean(axis=0))


def test_early_stopping_keeps_the_best() -> None:
    X, y = ragged(0, N=200)
    options = {"early_stopping": True, "validation_fraction": 0.25, "n_iter_no_change": 3, "max_iter": 60}
    estimator = GRUClassifier(8, random_state=0, **options).fit(X, y)
    scores = estimator.validation_scores_
    assert 4 <= len(scores) == estimator.n_iter_ < 60
    assert estimator.best_validation_score_ == max(scores) and max(scores[-3:]) <= max(scores[:-3])
    shorter = GRUClassifier(8, random_state=0, **options | {"n_iter_no_change": 60}).fit(X, y)
    assert shorter.n_iter_ == 60
    rows = train_test_split(range(200), test_size=0.25, random_state=estimator._seed, stratify=y)[1]
    held_out = [X[i] for i in rows], y[rows]
    assert estimator.score(*held_out) == pytest.approx(estimator.best_validation_score_)


@pytest.mark.parametrize("backend", ["torch", "jax", "array_api_strict"])
def test_every_backend_trains_the_same(backend: str) -> None:
    X, y = ragged(0)
    got, expected = (small(num_layers=2, backend=name).fit(X, y) for name in (backend, "numpy"))
    np.testing.assert_allclose(got.predict_proba(X), expected.predict_proba(X), atol=1e-4)
    assert type(got.coef_) is np.ndarray


def test_cross_validation_takes_ragged_sequences() -> None:
    X, y = ragged(0, N=200)
    assert cross_val_score(GRUClassifier(8, random_state=0), X, y, cv=3).min() > 0.8


def test_the_processes_of_a_grid_search_share_the_cores() -> None:
    """joblib says in each of its processes how many threads are fair, and the kernels keep to it."""
    X, y = ragged(0)
    grid = GridSearchCV(small(), {"hidden_size": [4, 8], "bidirectional": [False, True]}, cv=2, n_jobs=2).fit(X, y)
    alone = GridSearchCV(small(), {"hidden_size": [4, 8], "bidirectional": [False, True]}, cv=2).fit(X, y)
    np.testing.assert_allclose(grid.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], atol=0.02)
    fair = max(1, joblib.cpu_count() // 2)
    assert joblib.Parallel(n_jobs=2)(joblib.delayed(thread_limit)() for _ in range(2)) == [fair, fair]


def test_a_progress_bar_is_shown_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = ragged(0)
    small().fit(X, y)
    assert capsys.readouterr() == ("", "")
    small(verbose=1, early_stopping=True).fit(X, y)
    out, err = capsys.readouterr()
    assert out == "" and "3/3" in err and "loss" in err and "held out" in err


X, Y = ragged(3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: small().fit([*X, np.zeros((3, 5))], [*Y, "up"]), r"X\[60\]: expected a sequence \(T_i, I\)"),
        (lambda: small().fit([*X, np.full((3, 2), np.nan)], [*Y, "up"]), "Input X contains NaN"),
        (lambda: small().fit(X, Y[:-1]), "inconsistent numbers of samples"),
        (lambda: small().fit(X, None), "requires y to be passed"),
        (lambda: small().fit([], []), "Expected 2D array|at least one sequence"),
        (lambda: small().fit(X, np.arange(60) / 7), "Unknown label type"),
        (lambda: small().fit(X, Y).predict([x[:, :1] for x in X]), "X has 1 features, but .* 2 features"),
        (lambda: small().fit(X, Y).predict(np.zeros((2, 5))), "X is a table .* is expecting 2 features"),
        (lambda: small().fit(np.ones((6, 4)), [0, 1] * 3).predict(np.ones((2, 5))), "X has 5 features, but .* 4"),
        (lambda: small().fit(np.ones((6, 4)), [0, 1] * 3).predict(X), "X has 2 features at each step, but .* table"),
        (lambda: small().fit(X, Y).predict([np.full((3, 2), 1e200)]), "X: expected values within float32"),
        (lambda: small().partial_fit(X, Y), "classes: expected all classes"),
        (lambda: small().partial_fit(X, Y, ["up"]), r"y: expected the classes \['up'\], got \['down'\] too"),
        (lambda: small().partial_fit(X, Y, ["up", "down"]).partial_fit(X, Y, ["up", "on"]), "classes: expected"),
        (lambda: small(batch_size=0).fit(X, Y), "batch_size == 0, must be >= 1"),
        (lambda: small(dropout=1.0).fit(X, Y), "dropout == 1.0, must be < 1.0"),
        (lambda: small(learning_rate=-1.0).fit(X, Y), "learning_rate == -1.0, must be > 0"),
        (lambda: small(backend="nothing").fit(X, Y), "unknown backend 'nothing'"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_before_fit() -> None:
    with pytest.raises(NotFittedError):
        GRUClassifier().predict(X)
