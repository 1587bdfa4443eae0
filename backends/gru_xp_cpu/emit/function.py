"""Functions of a module, each written by a Python function of the same arguments.

    @function
    def scale(c: Code, a: Reals, count: Value, *, step: int) -> None: ...

`scale(c, a, count, step=1)`, called while another function of the module is written, writes a call of the machine
code's `scale`, which itself is written at its first call. Arguments by position are values and pointers of the machine
code, as annotated; keywords are known while code is written, and each combination of them makes another function. So
does each combination of `Reals` that are `Stored`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from llvmlite import ir

from .code import Bytes, Code, Integers, Operand, Reals, Value
from .module import I64, PTR, Module
from .stored import Stored

__all__ = ["Function", "call_one_of", "function"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result", None, Value)

#: by their names, which annotations are (`from __future__ import annotations`)
KINDS: dict[str, type[Operand]] = {kind.__name__: kind for kind in (Value, Reals, Integers, Bytes)}


class Function(Generic[Arguments, Result]):
    """What `function` makes of a Python function; see there."""

    def __init__(self, write: Callable[Concatenate[Code, Arguments], Result]):
        self._write: Callable[Concatenate[Code, Arguments], Result] = write
        self.__name__, self.__doc__ = write.__name__, write.__doc__

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self._write)

    @property
    def _kinds(self) -> list[type[Operand]]:
        """The types of the arguments by position, but the code."""
        parameters = list(self._signature.parameters.values())[1:]
        return [KINDS[p.annotation] for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    def __call__(self, c: Code, /, *arguments: Arguments.args, **known: Arguments.kwargs) -> Result:
        """Write a call."""
        operands = cast(Sequence[Operand], arguments)
        stored = tuple(i for i, a in enumerate(operands) if isinstance(a, Stored))
        result: Any = write_call(c, self.__name__, self.of(c.module, stored, **known), operands)
        return result

    def of(self, module: Module, stored: tuple[int, ...] = (), /, **known: Any) -> Any:
        """The function of a module, for LLVM; written now if it has not been. `stored` are arguments of that kind."""
        key = self, stored, *sorted(known.items())
        if key not in module.functions:
            name = "_".join((self.__name__, *(str(value) for value in known.values()), *(f"stored{i}" for i in stored)))
            self._define(module, name, stored, known).linkage = "internal"
        return module.functions[key]

    def export(self, module: Module, name: str, /, **known: Any) -> None:
        """Write the function so that it can be found by its name."""
        self._define(module, name, (), known)

    def _define(self, module: Module, name: str, stored: tuple[int, ...], known: Mapping[str, Any]) -> Any:
        returns = I64 if self._signature.return_annotation == "Value" else ir.VoidType()
        kinds = [Stored if i in stored else kind for i, kind in enumerate(self._kinds)]
        types = [I64 if kind is Value else PTR for kind in kinds]
        defined = ir.Function(module.ir, ir.FunctionType(returns, types), name)
        module.functions[self, stored, *sorted(known.items())] = defined
        defined.attributes.add("nounwind")
        defined.attributes.add("noinline")
        c = Code(module, defined)
        arguments: Any = [kind(c, argument) for kind, argument in zip(kinds, defined.args, strict=True)]
        result = self._write(c, *arguments, **cast(Any, known))
        if result is None:
            c.b.ret_void()
        else:
            c.b.ret(result.ir)
        c.finish()
        return defined


def function(write: Callable[Concatenate[Code, Arguments], Result]) -> Function[Arguments, Result]:
    """A function of units that is called like the Python function that writes it."""
    return Function(write)


def call_one_of(
    c: Code, called: Function[Any, None], variants: Sequence[Mapping[str, int]], index: Value, *arguments: Operand
) -> None:
    """Call one of several variants of a function, given by their keywords; which one is known at run time."""
    name = f"{called.__name__}_" + "_".join("x".join(map(str, variant.values())) for variant in variants)
    table = c.module.ir.globals.get(name)
    if table is None:
        functions = [called.of(c.module, **variant) for variant in variants]
        kind = ir.ArrayType(PTR, len(functions))
        table = ir.GlobalVariable(c.module.ir, kind, name)
        table.linkage, table.global_constant, table.initializer = "internal", True, ir.Constant(kind, functions)
    place = c.b.gep(table, [index.ir], source_etype=PTR)
    chosen = c.b.load(place, align=8, typ=table.initializer.constant[0].type)
    write_call(c, called.__name__, chosen, arguments)


def write_call(c: Code, name: str, called: Any, arguments: Sequence[Operand]) -> Value:
    """All calls of functions go through here; `name` is that of the function, however it is found."""
    return Value(c, c.b.call(called, [a.ir for a in arguments]))
