"""scikit-learn: a grid search over two processes finds a classifier for sequences that differ in length.

Chirps: a tone that rises, one that falls, and one that warbles, in noise, from 20 to 60 samples long.

    python docs/examples/classify_with_scikit_learn.py
"""

import time

import numpy as np
from sklearn.metrics import classification_report
from sklearn.model_selection import GridSearchCV, train_test_split

from gru_xp_sklearn import GRUClassifier

KINDS = {
    "falls": lambda t: 0.9 - 0.6 * t,
    "rises": lambda t: 0.3 + 0.6 * t,
    "warbles": lambda t: 0.6 + 0.3 * np.sin(9 * t),
}


def chirp(kind: str, rng: np.random.Generator) -> np.ndarray:
    """(T_i, 1)."""
    t = np.linspace(0.0, 1.0, rng.integers(20, 60))
    tone = np.sin(np.cumsum(KINDS[kind](t)) + rng.uniform(0.0, 2.0 * np.pi))
    return (tone + 0.3 * rng.normal(size=t.shape))[:, None]


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    y = [str(kind) for kind in rng.choice(list(KINDS), size=600)]
    X = [chirp(kind, rng) for kind in y]
    X, X_held_out, y, y_held_out = train_test_split(X, y, stratify=y, random_state=0)

    started = time.perf_counter()
    grid = {"hidden_size": [8, 32], "bidirectional": [False, True]}
    search = GridSearchCV(GRUClassifier(max_iter=15, random_state=0), grid, cv=3, n_jobs=2).fit(X, y)
    print(f"{search.best_params_} in {time.perf_counter() - started:.1f} s")
    print(classification_report(y_held_out, search.predict(X_held_out), digits=3))
    accuracy = search.score(X_held_out, y_held_out)
    print(f"accuracy by cross-validation {search.best_score_:.3f}, on the held-out ones {accuracy:.3f}")
