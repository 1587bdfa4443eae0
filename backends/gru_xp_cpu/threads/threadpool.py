"""The number of threads as threadpoolctl, and so scikit-learn and joblib, see and limit it."""

from __future__ import annotations

from functools import cache

from gru_xp.threads import choose

from .count import thread_count

__all__ = ["register"]


@cache
def register() -> None:
    """Have `threadpoolctl.threadpool_limits` reach the kernels, where threadpoolctl is installed."""
    try:
        import threadpoolctl
    except ImportError:
        return

    class Controller(threadpoolctl.LibController):  # type: ignore[misc]
        """The kernels are compiled, and so in no library: they are found by that of llvmlite, which they need."""

        user_api = internal_api = "gru_xp"
        filename_prefixes = ("libllvmlite", "llvmlite")

        def get_num_threads(self) -> int:
            """How many a call may use in this context."""
            return thread_count()

        def set_num_threads(self, num_threads: int) -> None:
            """Limit them for the rest of this context; what would be used without a limit takes it away."""
            choose(None)
            if num_threads != thread_count():
                choose(max(1, num_threads))

        def get_version(self) -> str:
            """That of gru_xp."""
            import gru_xp

            return gru_xp.__version__

    threadpoolctl.register(Controller)
