"""JAX with the fused CPU layer: where it runs and where the plain layer does, batches, threads, other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_params
from subprocesses import on_two_devices

import gru_xp
from gru_xp import errors
from gru_xp.errors import ShapeError
from gru_xp.params import map_params

RNG = np.random.default_rng(0)
T, N, I, H = 9, 4, 3, 5
NUMPY_PARAMS = random_params(RNG, I, H, L=2, D=2)
PARAMS = map_params(jnp.asarray, NUMPY_PARAMS)
X = jnp.asarray(RNG.normal(size=(T, N, I)))
RESETS, LENGTHS = jnp.asarray(RNG.random((T, N)) < 0.3), jnp.asarray([9, 0, 4, 7])


def y_of(x: Any, params: Any, **options: Any) -> Any:
    return gru_xp.gru(x, params, **options)[0]


def loss(params: Any, x: Any) -> Any:
    return jnp.sum(y_of(x, params) ** 2)


def assert_close(found: Any, expected: Any) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        most = np.max(np.abs(np.asarray(b)), initial=1)
        assert np.max(np.abs(np.asarray(a) - np.asarray(b)), initial=0) <= 1e-11 * most


def of_plain(monkeypatch: pytest.MonkeyPatch, f: Any, *args: Any) -> Any:
    with monkeypatch.context() as patched:
        patched.setenv("GRU_XP_KERNELS", "off")
        return f(*args)


def test_a_program_for_one_cpu_is_kernels_and_no_loops() -> None:
    for f, kernels in ((y_of, 4), (lambda x, params: jax.grad(loss)(params, x), 8)):
        text = jax.jit(f).lower(X, PARAMS).compile().as_text()
        assert text.count('custom_call_target="gru_xp-') == kernels
        assert " while(" not in text
    assert gru_xp.explain(X, PARAMS).kernel == "cpu"
    assert "jax.cpu" in {entry.name for entry in gru_xp.kernels.entries()}


@pytest.mark.parametrize("function", ["gru", "inference", "forward"])
def test_require_says_why_not(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRU_XP_KERNELS", "require")
    door = {"gru": gru_xp.gru, "inference": gru_xp.gru_inference, "forward": gru_xp.gru_forward}[function]
    door(X, PARAMS)
    jax.jit(lambda x: door(x, PARAMS)[0])(X)
    spec = gru_xp.GRUSpec(reset_after=False)
    with pytest.raises(errors.KernelError, match="has only the equations with the reset gate after the product"):
        jax.jit(lambda x: door(x, PARAMS, spec=spec)[0])(X)
    if function == "gru":
        with pytest.raises(errors.KernelError, match="has only the equations"):
            jax.grad(lambda x: jnp.sum(door(x, PARAMS, spec=spec)[0]))(X)


def test_a_policy_is_read_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = lambda: str(jax.make_jaxpr(jax.grad(loss))(PARAMS, X))  # noqa: E731
    for policy, kernels in (("auto", True), ("off", False), ("auto", True)):
        monkeypatch.setenv("GRU_XP_KERNELS", policy)
        assert ("gru_xp_backward" in gradient()) == kernels


def test_the_gradient_of_the_input_is_left_out_where_nobody_asks_for_it() -> None:
    for arguments, first, second in ((0, "False", "True"), (1, "True", "True"), ((0, 1), "True", "True")):
        text = str(jax.make_jaxpr(jax.grad(loss, arguments))(PARAMS, X))
        assert text.count("with_dx=True") == [first, first, second, second].count("True")
        assert text.count("with_dx=False") == [first, first, second, second].count("False")


BATCHES: dict[str, Any] = {
    "rows": lambda: jax.vmap(y_of, (1, None), 1)(X, PARAMS),
    "rows of rows": lambda: jax.vmap(jax.vmap(y_of, (0, None)), (0, None))(
        jnp.stack([X, -X] * 3).reshape(3, 2, *X.shape), PARAMS
    ),
    "padding": lambda: jax.vmap(lambda x, n: y_of(x, PARAMS, lengths=n[None]), (1, 0))(X, LENGTHS),
    "resets": lambda: jax.vmap(lambda x, r: y_of(x, PARAMS, resets=r), 1)(X, RESETS),
    "states": lambda: jax.vmap(lambda x, h0: y_of(x, PARAMS, h0=h0), (1, 0))(X, jnp.ones((N, 4, H))),
    "gradient of all": lambda: jax.grad(lambda p: jnp.sum(jax.vmap(y_of, (1, None))(X, p) ** 2))(PARAMS),
    "forward mode": lambda: jax.vmap(lambda x: jax.jvp(lambda x: y_of(x, PARAMS), (x,), (x,)), 1)(X),
}


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_by_vmap_is_more_rows_for_the_same_kernels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = BATCHES[name]
    assert_close(run(), of_plain(monkeypatch, run))
    if name != "forward mode":
        assert " scan[" not in str(jax.make_jaxpr(run)())


@pytest.mark.parametrize(
    "run",
    [
        lambda: jax.vmap(jax.grad(loss), (None, 1))(PARAMS, X),
        lambda: jax.vmap(lambda h0: y_of(X[:, 0], PARAMS, h0=h0))(jnp.ones((3, 4, H))),
        lambda: jax.jacfwd(lambda x: y_of(x, PARAMS))(X[:3, 0]),
        lambda: jax.vmap(lambda x: y_of(x, PARAMS), 1)(X[:, :0]),
        lambda: jax.vmap(jax.grad(loss), (None, 1))(PARAMS, X[:, :0]),
        lambda: jax.vmap(y_of, (None, 0))(X, jax.tree.map(lambda a: jnp.stack([a, -a]), PARAMS)),
    ],
    ids=["gradients", "states", "tangents", "nobody", "nobody's gradients", "weights"],
)
def test_each_with_its_own(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_close(run(), of_plain(monkeypatch, run))


def test_a_tape_that_was_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept in another type, it is computed with in that of x; in part, it is an error."""
    y, _, tape = gru_xp.gru_forward(X, PARAMS, lengths=LENGTHS)

    def grads(**changes: Any) -> Any:
        layers = tuple(
            tuple(one._replace(**{k: f(getattr(one, k)) for k, f in changes.items()}) for one in layer)
            for layer in tape.layers
        )
        return gru_xp.gru_backward(tape._replace(layers=layers), y)

    def narrow(a: Any) -> Any:
        return a.astype("bfloat16")

    for changes in (
        {"r": narrow, "z": narrow},
        dict.fromkeys("rznu", narrow),
        {"h_prev": lambda a: a.astype("float32")},
    ):
        wide = {name: lambda a, f=f: f(a).astype(X.dtype) for name, f in changes.items()}
        assert_close(grads(**changes), of_plain(monkeypatch, lambda c: grads(**c), wide))
    with pytest.raises(ShapeError, match=r"tape.layers\[0\]\[0\].r: expected \(T, N, H\)"):
        grads(r=lambda a: a[:3])


def test_steps_of_a_loop_are_differentiated_with_the_loop() -> None:
    """The weights' gradients are added up in it by XLA: no kernel writes them out at each step."""

    def total(params: Any) -> Any:
        return jnp.sum(jax.lax.scan(lambda h, x: (gru_xp.gru(x[None], params, h)[1], None), jnp.zeros((1, N, H)), X)[0])

    params = ((PARAMS[0][0],),)
    assert "gru_xp_" not in str(jax.make_jaxpr(jax.grad(total))(params))
    assert "gru_xp_forward" in str(jax.make_jaxpr(total)(params))


def test_the_first_callers_at_once_share_their_threads() -> None:
    code = """
        import threading, jax, jax.numpy as jnp, numpy as np, gru_xp
        from gru_xp_cpu.threads import workers

        started, really = [], workers._started
        workers._started = lambda *arguments: started.append(arguments) or really(*arguments)
        params, x = gru_xp.GRU(64, 128, seed=0, backend="jax").params, jnp.ones((50, 8, 64), "f4")
        start = threading.Barrier(6)
        def call(scale):
            start.wait()
            jax.jit(lambda x: gru_xp.gru(scale * x, params)[0])(x).block_until_ready()
        callers = [threading.Thread(target=call, args=(i + 1.0,)) for i in range(6)]
        [caller.start() for caller in callers]
        [caller.join() for caller in callers]
        print(len(started))
    """
    assert in_a_process(code, GRU_XP_NUM_THREADS="2") == "1\n"


@pytest.mark.parametrize("sizes", [(0, 2, 3, 4), (3, 0, 3, 4), (3, 2, 0, 4), (1, 1, 1, 1)])
def test_sizes_without_anything(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    T, N, I, H = sizes
    params, x = map_params(jnp.asarray, random_params(RNG, I, H)), jnp.asarray(RNG.normal(size=(T, N, I)))

    def run() -> Any:
        return gru_xp.gru(x, params), jax.grad(loss, (0, 1))(params, x)

    assert_close(run(), of_plain(monkeypatch, run))


def test_what_is_exported_needs_nothing_of_ours() -> None:
    steps, rows = jax.export.symbolic_shape("steps, rows")
    for shape in (X.shape, (steps, rows, I)):
        f = jax.jit(lambda x: y_of(x, PARAMS))
        exported = jax.export.export(f)(jax.ShapeDtypeStruct(shape, X.dtype))
        assert '@"gru_xp-' not in exported.mlir_module()
        assert_close(jax.export.deserialize(exported.serialize()).call(X), f(X))


def test_numbers_below_the_normal_ones_are_kept() -> None:
    """XLA flushes them to zero on its threads; then who does which share of a kernel would decide its result."""
    W_ih = np.concatenate([np.zeros((2 * H, H)), np.eye(H)]).astype("f4")
    w = gru_xp.CellParams(jnp.asarray(W_ih), jnp.zeros((3 * H, H), "f4"))
    y = np.asarray(y_of(jnp.asarray(np.full((1, N, H), 3e-39, "f4")), ((w,),)))
    assert np.array_equal(y, np.full((1, N, H), 1.5e-39, "f4"))
    assert y.all()


def test_two_devices() -> None:
    """On each of them alone by the kernels; a program for both has none."""
    code = """
        import jax, numpy as np, gru_xp
        from jax.sharding import NamedSharding, PartitionSpec as P

        params, x = gru_xp.GRU(3, 4, seed=0).params, np.ones((5, 2, 3), "f4")
        expected = gru_xp.gru(x, params)[0]
        mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
        for place in (*jax.devices(), NamedSharding(mesh, P(None, "batch"))):
            whole = place if isinstance(place, jax.Device) else NamedSharding(mesh, P())
            given = jax.device_put(x, place), jax.device_put(params, whole)
            program = jax.jit(lambda x, params: gru_xp.gru(x, params)[0]).lower(*given).compile()
            print("gru_xp-" in program.as_text(), bool(np.allclose(program(*given), expected, atol=1e-6)))
    """
    assert on_two_devices(code) == ["True True", "True True", "False True"]


def test_many_callers_at_once() -> None:
    """They share the threads without Python; who finds them taken works alone, to the same bits."""
    model = gru_xp.GRU(64, 128, num_layers=2, bidirectional=True, seed=0)
    params, x = map_params(jnp.asarray, model.params), jnp.asarray(RNG.normal(size=(50, 8, 64)).astype("f4"))
    run = jax.jit(lambda x, params: (y_of(x, params), jax.grad(loss, (0, 1))(params, x)))
    expected, by_numpy, wrong = jax.tree.leaves(run(x, params)), model(np.asarray(x))[0], []
    assert gru_xp.explain(x, params).kernel == "cpu"

    def work() -> None:
        for _ in range(20):
            found = jax.tree.leaves(run(x, params))
            wrong.extend(not np.array_equal(a, b) for a, b in zip(found, expected, strict=True))

    callers = [threading.Thread(target=work) for _ in range(6)]
    for caller in callers:
        caller.start()
    while any(caller.is_alive() for caller in callers):
        assert np.array_equal(model(np.asarray(x))[0], by_numpy)
    assert not any(wrong)
    assert len(wrong) == 6 * 20 * len(expected)


def in_a_process(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_compiled_program_serves_other_processes(tmp_path: Any) -> None:
    """JAX's cache on disk: a program holds no addresses, and is not taken for one with vectors of another width."""
    code = """
        import sys, jax, numpy as np, gru_xp
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        found = []
        jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
        params, x = gru_xp.GRU(64, 128, seed=0).params, np.ones((50, 8, 64), "f4")
        y = gru_xp.gru(jax.numpy.asarray(x), jax.tree.map(jax.numpy.asarray, params))[0]
        print(bool(np.allclose(y, gru_xp.gru(x, params)[0], atol=1e-6)), "/jax/compilation_cache/cache_misses" in found)
    """
    where = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    assert in_a_process(code, **where) == "True True\n"
    assert in_a_process(code, **where) == "True False\n"
    assert in_a_process(code, **where, GRU_XP_CPU_WIDTH="128") == "True True\n"


def test_no_memory_is_an_error() -> None:
    code = """
        import ctypes, jax, jax.numpy as jnp, gru_xp
        from gru_xp_cpu.calling import xla
        from gru_xp_cpu.threads.shared import SYNC

        none = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)(lambda size: None)
        xla._workers().sync[SYNC["allocate"]] = ctypes.cast(none, ctypes.c_void_p).value
        try:
            gru_xp.gru(jnp.ones((5, 2, 3)), gru_xp.GRU(3, 4, seed=0, backend="jax").params)
        except jax.errors.JaxRuntimeError as error:
            print(error)
    """
    assert "RESOURCE_EXHAUSTED: gru_xp: no memory for what a kernel needs beside its results" in in_a_process(code)


@pytest.mark.filterwarnings("ignore:os.fork")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_none_of_the_threads() -> None:
    """It calls the kernel as a compiled program would, since JAX itself does not survive a fork."""
    code = """
        import os, warnings, jax, jax.numpy as jnp, numpy as np, gru_xp
        from gru_xp_cpu.calling import xla
        from gru_xp_cpu.threads.shared import SYNC

        warnings.simplefilter("ignore")
        params, x = gru_xp.GRU(64, 128, seed=0).params, np.ones((50, 8, 64), "f4")
        gru_xp.gru(jnp.asarray(x), jax.tree.map(jnp.asarray, params))[0].block_until_ready()
        before = xla._workers().sync[SYNC["taken"]]
        if os.fork() == 0:
            print(before, xla._workers().sync[SYNC["taken"]], flush=True)
            os._exit(0)
        os.wait()
    """
    assert in_a_process(code, GRU_XP_NUM_THREADS="2") == "0 1\n"
