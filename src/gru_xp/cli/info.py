"""`gru-xp info`: what is installed, by what packages say of themselves, and, if asked, what they do when imported."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from gru_xp import __version__, cache
from gru_xp.backend import Backend
from gru_xp.discovery import available, entries, how_to_get, load
from gru_xp.errors import GRUError, KernelError
from gru_xp.files import unusable_formats
from gru_xp.interfaces import Kernel
from gru_xp.kernels import entries as kernel_entries
from gru_xp.kernels import kernels_of, ordinary_call, refusal, unusable
from gru_xp.selection import kernel_policy, selection
from gru_xp.threads import thread_limit

from .platforms import Machine, row_of
from .terminal import make_console

__all__ = ["info"]


def info(
    devices: Annotated[
        bool, typer.Option("--devices", help="import the libraries: their devices and dtypes, and what kernels answer")
    ] = False,
) -> None:
    """Backends, kernels, versions, variables; what is missing and how to get it."""
    console = make_console()
    headings = ("library", "devices", "dtypes", "fused kernels") if devices else ("library", "fused kernels")
    table = Table(box=SIMPLE_HEAD, padding=(0, 2, 0, 0))
    table.add_column("backend", style="bold cyan", no_wrap=True)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    with console.status("importing the libraries") if devices and console.is_terminal else nullcontext():
        for name in sorted(entries(), key=lambda name: (name not in available(), name)):
            about = _about(name, devices)
            table.add_row(name, *(about if devices else (about[0], about[3])))
    machine = Machine.here()
    console.print(
        f"[bold]gru_xp {__version__}[/], {machine.python} {platform.python_version()}, "
        f"{machine.system} {machine.processor}",
        highlight=False,
    )
    row = row_of(machine)
    console.print(f"[bold]{row.status}[/]: {row.name}; {row.words}", highlight=False, soft_wrap=True)
    console.print(table)
    if devices:
        for fault in unusable_formats().values():
            console.print(f"[red]{escape(fault)}[/]", highlight=False, soft_wrap=True)
    else:
        console.print("gru-xp info --devices imports the libraries and asks them and the kernels", highlight=False)
    for variable, unset, check in (
        ("GRU_XP_BACKEND", "auto: compute where the arrays are", selection),
        ("GRU_XP_KERNELS", "auto: the most fused kernel that fits", kernel_policy),
        ("GRU_XP_NUM_THREADS", "OMP_NUM_THREADS, else as many as there are cores for this process", thread_limit),
        ("GRU_XP_CACHE_DIR", "the user's folder for caches", lambda: None),
    ):
        console.print(_variable(variable, unset, check), highlight=False, soft_wrap=True)
    console.print(_cache(), highlight=False, soft_wrap=True)


def _cache() -> str:
    """Whether compiled kernels are kept, and where."""
    fault = cache.fault("cpu")
    if fault is None:
        return f"compiled kernels are kept in {escape(str(cache.folder('cpu')))}"
    return f"[yellow]compiled kernels cannot be kept: {escape(fault)}; every process compiles them anew[/]"


def _about(name: str, devices: bool) -> tuple[str, ...]:
    """The row of a backend after its name: library, devices, dtypes, kernels."""
    if name not in available():
        return "[yellow]not installed[/]", "-", "-", f"[dim]{escape(how_to_get(name))}[/]"
    found = _version_of(name)
    if not devices:
        names = [entry.name.partition(".")[2] for entry in kernel_entries() if entry.name.partition(".")[0] == name]
        return found, "", "", escape(", ".join(names)) or "none"
    try:
        backend = load(name)
        where = ", ".join(backend.devices())
        kernels = [_about_kernel(kernel, backend) for kernel in kernels_of(name)]
    except Exception as error:  # a library that is there and cannot be imported fails in any way it likes
        cause = error if isinstance(error, KernelError) else error.__cause__ or error
        words = " ".join(f"{type(cause).__name__}: {cause}".split())
        return f"{found} [bold red]broken[/]", "-", "-", f"[red]{escape(words[:300])}[/]"
    kernels += [f"[red]{escape(f'{one.name} ({one.level}) {one.reason}')}[/]" for one in unusable(name)]
    return found, where, ", ".join(backend.float_names()), "\n".join(kernels) or "none"


def _about_kernel(kernel: Kernel, backend: Backend) -> str:
    """A kernel's name, and why it serves no ordinary call here, if so."""
    reasons = [refusal(kernel, ordinary_call(backend, device)) for device in backend.devices().values()]
    named = f"{kernel.name} ({kernel.level})"
    return named if None in reasons else f"{named} [yellow]not here: {escape(str(reasons[0]))}[/]"


def _version_of(module: str) -> str:
    """The version of the distribution that a root module comes from."""
    try:
        return version(module)
    except PackageNotFoundError:
        pass
    try:
        return version(packages_distributions()[module][0])  # reads the list of files of every package
    except (KeyError, PackageNotFoundError):
        return "unknown"


def _variable(name: str, unset: str, check: Callable[[], Any]) -> str:
    value = os.environ.get(name)
    if not value:
        return f"[bold]{name}[/] is not set ({unset})"
    try:
        check()
    except GRUError as error:
        return f"[bold]{name}={escape(value)}[/] [red]{escape(str(error))}[/]"
    except Exception as error:  # as above
        return f"[bold]{name}={escape(value)}[/] [red]broken: {escape(str(error))}[/]"
    return f"[bold]{name}={escape(value)}[/]"
