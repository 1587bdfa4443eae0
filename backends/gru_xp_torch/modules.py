"""`GRU` and `GRUCell`: modules that stand where torch.nn.GRU and torch.nn.GRUCell do."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.fx import Proxy
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from gru_xp.checks import steps_first
from gru_xp.discovery import owner
from gru_xp.functional import gru, gru_cell
from gru_xp.params import CellParams, Params, map_params

from .watching import dispatches, traced, transforms

__all__ = ["GRU", "GRUCell", "is_autocast_on"]


def is_autocast_on(device_type: str) -> bool:
    """Whether autocast is on for such devices; meta tensors, which have no values, know none."""
    return device_type != "meta" and torch.is_autocast_enabled(device_type)


class GRU(torch.nn.RNNBase):
    """torch.nn.GRU with its arguments, attributes and `state_dict`, run by gru_xp.

    It is no subclass of torch.nn.GRU, because torch.compile refuses to look into those, but of torch.nn.RNNBase.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: L.
        bias: with both biases or with neither.
        batch_first: x and y are (N, T, ...); so are `resets`; hx and h_n are not affected.
        dropout: probability with which, in training, an output of a layer but the last is dropped. From one seed the
            masks on the CPU are those of torch.nn.GRU, packed input aside.
        bidirectional: D = 2.
        proj_size: 0; others are for LSTMs.
        device: of the parameters.
        dtype: of the parameters.

    >>> import torch, gru_xp_torch
    >>> model = gru_xp_torch.GRU(3, 4, num_layers=2, bidirectional=True)
    >>> y, h_n = model(torch.zeros(7, 2, 3), lengths=[7, 5])
    >>> y.shape, h_n.shape
    (torch.Size([7, 2, 8]), torch.Size([4, 2, 4]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ):
        if proj_size != 0:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        options = {"bias": bias, "batch_first": batch_first, "dropout": dropout, "bidirectional": bidirectional}
        super().__init__("GRU", input_size, hidden_size, num_layers, **options, device=device, dtype=dtype)  # type: ignore[arg-type]
        _find(self.weight_hh_l0)

    @property
    def params(self) -> Params:
        """The parameters themselves, as gru_xp's functions take them: layers of directions of `CellParams`."""
        return self._params()

    def _params(self) -> Params:  # no property, which would hide what attribute is missing
        D = 2 if self.bidirectional else 1
        cells = [_cell(self, names) for names in self._all_weights]
        return tuple(tuple(cells[first : first + D]) for first in range(0, len(cells), D))

    def forward(
        self,
        input: Any,  # noqa: A002
        hx: Tensor | None = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
    ) -> tuple[Any, Tensor]:
        """x (T, N, I), or (N, T, I) if `batch_first`, or (T, I), or a PackedSequence -> y of the same kind, h_n.

        Args:
            input: x.
            hx: (L*D, N, H), without a batch (L*D, H); zero by default.
            lengths: (N,) integers, 0 among them: as in `gru_xp.gru`, and instead of packing.
            mask: (T, N) booleans, (N, T) if `batch_first`, instead of lengths: false where a step is padding.
            resets: (T, N) booleans, (N, T) if `batch_first`: the state is set to zero before the step. A last axis of
                one, which TorchRL's `is_init` has, is left out.
        """
        if isinstance(input, Proxy) and _path(self, input):
            return _leaf(self, input, hx=hx, lengths=lengths, mask=mask, resets=resets)
        _assert_tensors("GRU", input, hx)
        if lengths is None and mask is None and resets is None and _is_exported_to_onnx():
            return _twin(self, torch.nn.GRU)(input, hx)
        if isinstance(input, PackedSequence):
            if not (lengths is mask is resets is None):
                raise ValueError(
                    "GRU: lengths, mask and resets belong to padded input; a PackedSequence has its own lengths"
                )
            return self._forward_packed(input, hx)
        if input.dim() not in (2, 3):
            raise ValueError(f"GRU: Expected input to be 2D or 3D, got {input.dim()}D instead")
        turned = self.batch_first and input.dim() == 3
        if isinstance(resets, Tensor) and resets.dim() == input.dim() and resets.shape[-1] == 1:
            resets = resets.squeeze(-1)
        x = input.transpose(0, 1) if turned else input
        if turned and mask is not None:
            mask = steps_first(mask, "mask", *input.shape[:2])
        if turned and resets is not None:
            resets = steps_first(resets, "resets", *input.shape[:2])
        y, h_n = self._run(x, hx, lengths, mask, resets)
        return (y.transpose(0, 1) if turned else y), h_n

    def _forward_packed(self, packed: PackedSequence, hx: Tensor | None) -> tuple[PackedSequence, Tensor]:
        if packed.data.dim() != 2:
            raise RuntimeError(f"input must have 2 dimensions, got {packed.data.dim()}")
        x, lengths = pad_packed_sequence(PackedSequence(packed.data, packed.batch_sizes))
        if hx is not None and packed.sorted_indices is not None:
            hx = hx.index_select(1, packed.sorted_indices)
        y, h_n = self._run(x, hx, lengths.tolist())
        if packed.unsorted_indices is not None:
            h_n = h_n.index_select(1, packed.unsorted_indices)
        data = pack_padded_sequence(y, lengths).data
        return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices), h_n

    def _run(self, x: Any, hx: Any, lengths: Any = None, mask: Any = None, resets: Any = None) -> tuple[Tensor, Tensor]:
        """x (T, N, I) or (T, I)."""
        params, autocast = self._params(), is_autocast_on(x.device.type)
        self._assert_input(x, hx, params[0][0].W_ih, autocast)
        if autocast:
            x, hx, params = _of_one_type(x, hx, params)
        if isinstance(lengths, Tensor):
            lengths = _checkable(lengths) if lengths.is_cpu else lengths.to(x.device)
        if isinstance(mask, Tensor):
            mask = mask.to(x.device)
        if isinstance(resets, Tensor):
            resets = resets.to(x.device)
        masks = self._draw_masks(x) if self.training and self.dropout > 0.0 and self.num_layers > 1 else None
        return gru(x, params, hx, lengths=lengths, mask=mask, resets=resets, dropout_masks=masks)

    def _assert_input(self, x: Any, hx: Any, weight: Tensor, autocast: bool) -> None:
        """Errors of the kinds and in the words of torch.nn.GRU."""
        _assert_like(weight, x, hx, autocast)
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {x.shape[-1]}"
            )
        if hx is None:
            return
        if hx.dim() != x.dim():
            batched = "batched" if x.dim() == 3 else "unbatched"
            raise RuntimeError(
                f"For {batched} {x.dim()}-D input, hx should also be {x.dim()}-D but got {hx.dim()}-D tensor"
            )
        wanted = (self.num_layers * (2 if self.bidirectional else 1), *x.shape[1:-1], self.hidden_size)
        if hx.shape != wanted:
            raise RuntimeError(
                f"Expected hidden size {wanted}, got {list(hx.shape)}: (layers * directions, batch, hidden)"
            )

    def _draw_masks(self, x: Any) -> Tensor:
        """(L-1, T, N, D*H), drawn layer by layer, as torch.nn.GRU does."""
        ones = x.new_ones(*x.shape[:-1], self.hidden_size * (2 if self.bidirectional else 1))
        return torch.stack([torch.nn.functional.dropout(ones, self.dropout) for _ in range(self.num_layers - 1)])

    # ---- streaming --------------------------------------------------------------------------------------------------

    def initial_state(self, batch_size: int | None = None) -> Tensor:
        """Zeros (L, N, H), or (L, H) without a batch size."""
        batch = () if batch_size is None else (batch_size,)
        return self.all_weights[0][0].new_zeros(self.num_layers, *batch, self.hidden_size)

    def step(self, x_t: Tensor, state: Tensor, *, reset: Any = None) -> tuple[Tensor, Tensor]:
        """One step of a stream: x_t (N, I), state (L, N, H) -> y_t (N, H), next state. Without a batch (I,), (L, H).

        `reset` (N,) booleans set a row's state to zero before the step.
        """
        if self.bidirectional:
            raise ValueError("step: expected a model in one direction; the reverse one needs the whole sequence")
        _assert_tensors("GRU.step", x_t, state)
        if x_t.dim() not in (1, 2):
            raise ValueError(f"GRU.step: Expected input to be 1D or 2D, got {x_t.dim()}D instead")
        resets = None if reset is None else reset[None] if isinstance(reset, Tensor) else [reset]
        y, state = self._run(x_t[None], state, resets=resets)
        return y[0], state

    def flatten_parameters(self) -> None:
        """Nothing to do: kernels take the parameters as they are."""

    def __prepare_scriptable__(self) -> NoReturn:
        """torch.jit.script asks for what it is to take in the place of this module."""
        _assert_no_script("GRU")


class GRUCell(torch.nn.RNNCellBase):
    """torch.nn.GRUCell with its arguments, attributes and `state_dict`, run by gru_xp.

    >>> import torch, gru_xp_torch
    >>> gru_xp_torch.GRUCell(3, 4)(torch.zeros(2, 3)).shape
    torch.Size([2, 4])
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None):
        super().__init__(input_size, hidden_size, bias, num_chunks=3, device=device, dtype=dtype)
        _find(self.weight_hh)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # noqa: A002
        """x (N, I), hx (N, H) or None for zero -> h' (N, H); without a batch (I,), (H,) -> (H,)."""
        if isinstance(input, Proxy) and _path(self, input):
            return _leaf(self, input, hx=hx)
        _assert_tensors("GRUCell", input, hx)
        if _is_exported_to_onnx():
            return _twin(self, torch.nn.GRUCell)(input, hx)
        x, autocast = input, is_autocast_on(input.device.type)
        params: Params = ((_cell(self, ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),),)
        self._assert_input(x, hx, autocast)
        if autocast:
            x, hx, params = _of_one_type(x, hx, params)
        return gru_cell(x, hx, params[0][0])

    def _assert_input(self, x: Tensor, hx: Tensor | None, autocast: bool) -> None:
        """Errors of the kinds and in the words of torch.nn.GRUCell."""
        _assert_like(self.weight_ih, x, hx, autocast)
        if x.dim() not in (1, 2):
            raise ValueError(f"GRUCell: Expected input to be 1D or 2D, got {x.dim()}D instead")
        if x.shape[-1] != self.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {x.shape[-1]} expected {self.input_size}")
        if hx is None:
            return
        if hx.dim() not in (1, 2):
            raise ValueError(f"GRUCell: Expected hidden to be 1D or 2D, got {hx.dim()}D instead")
        if hx.dim() != x.dim():
            raise RuntimeError(f"GRUCell: Expected hidden to be {x.dim()}D as input is, got {hx.dim()}D instead")
        if hx.shape[-1] != self.hidden_size:
            raise RuntimeError(f"hidden0 has inconsistent hidden_size: got {hx.shape[-1]}, expected {self.hidden_size}")
        if x.dim() == 2 and hx.shape[0] != x.shape[0]:
            raise RuntimeError(f"Input batch size {x.shape[0]} doesn't match hidden0 batch size {hx.shape[0]}")

    def __prepare_scriptable__(self) -> NoReturn:
        """torch.jit.script asks for what it is to take in the place of this module."""
        _assert_no_script("GRUCell")


def _cell(module: torch.nn.Module, names: Iterable[str]) -> CellParams:
    """The parameters of those names, wherever they are by now; most are where `getattr` looks last."""
    known = module._parameters
    return CellParams(*(getattr(module, name) if known.get(name) is None else known[name] for name in names))


def _assert_tensors(module: str, x: Any, hx: Any) -> None:
    """What came are dense tensors, or a PackedSequence for a GRU; a tuple of states is an LSTM's."""
    packed = isinstance(x, PackedSequence) and module == "GRU"
    for name, a, other in (("input", x, packed), ("hx", hx, hx is None)):
        if not (other or isinstance(a, Tensor)):
            got = "None" if a is None else f"a {type(a).__name__}"
            raise TypeError(f"{module}: Expected {name} to be a tensor, got {got}")
    if packed or (x.layout is torch.strided and not x.is_nested):
        return
    what = "a nested one; pad it (to_padded_tensor), and give lengths" if x.is_nested else f"{x.layout}; use to_dense()"
    raise TypeError(f"{module}: Expected input to be a dense tensor, got {what}")


def _checkable(lengths: Tensor) -> Any:
    """As numbers, which are checked to be within 0..T, unless somebody looks on."""
    looked_on = traced() or transforms() or dispatches(lengths)
    return lengths if looked_on or lengths.is_floating_point() else lengths.tolist()


def _assert_like(weight: Tensor, x: Tensor, hx: Tensor | None, autocast: bool) -> None:
    """All are of one type and on one device, in the words of torch.nn.GRU."""
    if x.device != weight.device:
        raise RuntimeError(
            "Input and parameter tensors are not at the same device, "
            f"found input tensor at {x.device} and parameter tensor at {weight.device}"
        )
    if x.dtype != weight.dtype and not autocast:
        raise ValueError(
            f"RNN input dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert input: input.to({weight.dtype}), or convert model: model.to({x.dtype})"
        )
    if hx is None:
        return
    if hx.device != x.device:
        raise RuntimeError(
            "Input and hidden tensors are not at the same device, "
            f"found input tensor at {x.device} and hidden tensor at {hx.device}"
        )
    if hx.dtype != x.dtype and not (autocast and hx.is_floating_point()):
        raise RuntimeError(
            f"hx dtype ({hx.dtype}) does not match input dtype ({x.dtype}). Convert hx: hx.to({x.dtype})"
        )


def _of_one_type(x: Tensor, hx: Tensor | None, params: Params) -> tuple[Tensor, Tensor | None, Params]:
    """All in the type of the state, by default that of x: under autocast on the CPU torch.nn.GRU puts out that."""
    dtype = x.dtype if hx is None else hx.dtype
    return x.to(dtype), hx, map_params(lambda a: a.to(dtype), params)


def _leaf(module: torch.nn.Module, x: Proxy, **options: Any) -> Any:
    """A call of the module itself in a graph of torch.fx, which looks into modules that are not torch.nn's."""
    given = {name: a for name, a in options.items() if a is not None}
    return x.tracer.create_proxy("call_module", _path(module, x), (x,), given)


def _path(module: torch.nn.Module, x: Proxy) -> str:
    """The module's name in what torch.fx traces, empty if it is that itself."""
    tracer: Any = x.tracer
    return str(tracer.path_of_module(module))


def _is_exported_to_onnx() -> bool:
    if not is_compiling() and torch._C._get_tracing_state() is None:
        return False
    from torch.onnx import is_in_onnx_export  # which takes time

    return is_in_onnx_export()


def _assert_no_script(module: str) -> NoReturn:
    raise NotImplementedError(
        f"torch.jit.script does not take gru_xp_torch.{module}; use torch.export or torch.jit.trace, "
        f"or put a torch.nn.{module} in its place, which takes its state_dict"
    )


def _twin(module: torch.nn.Module, kind: type) -> Any:
    """torch.nn's module with the same parameters, for what knows no other."""
    twin = copy(module)
    twin.__class__ = kind
    return twin


def _find(weight: Any) -> None:
    """Have gru_xp find this backend and its operators now: torch.compile cannot follow it there."""
    from . import autograd  # noqa: F401

    for kind in (weight, weight.detach()):
        owner(kind, "weight")
