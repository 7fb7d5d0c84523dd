"""What a norm is once its scale is held: a map that is linear in its input.

    norm(x) = (x - c mean(x)) / s(x) * gain + bias        s(x) = sqrt(mean((x - c mean(x))^2) + eps)

c is 1 for layer norms and 0 for RMS norms; the gain is the weight, one plus the weight, or nothing. Which of these a
module computes is found by trying them against the module itself. A class name says less: `T5LayerNorm` is an RMS norm,
and nobody could list them all. A module that fits none of them is left as it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

_EPS_NAMES: Final = ("variance_epsilon", "eps", "epsilon", "norm_eps")
_UNSTATED_EPS: Final = (1e-5, 1e-6)


@dataclass(frozen=True, slots=True, eq=False)
class NormForm:
    """The formula of one norm.

    Attributes:
        centred: Whether the mean is subtracted, c.
        gain: Broadcast over the last dimension; None stands for ones.
        bias: The same way; None stands for zeros.
        eps: Under the root.
    """

    centred: bool
    gain: Tensor | None
    bias: Tensor | None
    eps: float

    @classmethod
    def of(cls, module: nn.Module, x: Tensor) -> Self | None:
        """The formula that `module` follows around inputs `[..., d]`, or None."""
        with torch.no_grad():
            wide = _wide(x)
            # A slope along the width gives inputs a mean, without which a layer norm is an RMS norm.
            slope = torch.linspace(0.5, 1.5, x.shape[-1], dtype=wide.dtype, device=x.device)
            probe = (wide + wide.pow(2).mean(-1, keepdim=True).sqrt() * slope).to(x.dtype)
            truth = module.forward(probe)
            if not isinstance(truth, Tensor) or truth.shape != probe.shape:
                return None
            bias = getattr(module, "bias", None)
            forms = [cls(centred, gain, bias, eps) for centred, gain, eps in _candidates(module)]
            misfits = [form._misfit(_wide(probe), _wide(truth)) for form in forms]
        best = min(range(len(forms)), key=misfits.__getitem__)
        return forms[best] if misfits[best] <= max(1e-4, 4 * torch.finfo(x.dtype).eps) else None

    def normalized(self, x: Tensor) -> Tensor:
        """`[..., d]` without gain and bias; gradients pass through the numerator only."""
        kept = x - x.mean(-1, keepdim=True) if self.centred else x
        return kept / (kept.detach().pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def __call__(self, x: Tensor) -> Tensor:
        """The norm of `[..., d]`; gradients pass through the numerator only."""
        straight = self.normalized(x)
        if self.gain is not None:
            straight = straight * self.gain.to(x.dtype)
        return straight if self.bias is None else straight + self.bias.to(x.dtype)

    def _misfit(self, x: Tensor, truth: Tensor) -> float:
        """The largest difference to the truth, in units of what rounding acts on."""
        unit = 1.0 + self.normalized(x).abs()
        if self.gain is not None:
            unit = unit * (1.0 + self.gain.to(x.dtype).abs())
        if self.bias is not None:
            unit = unit + self.bias.to(x.dtype).abs()
        return float(((self(x) - truth).abs() / unit).max())


def freeze_norm(module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
    """A forward hook: what the norm returned, with the gradient of its formula at a fixed scale.

    Returns:
        The output to go on with; None, which leaves it alone, if the module follows no formula known here.
    """
    if len(args) != 1 or not isinstance(output, Tensor):
        return None
    x: Tensor = args[0]
    form = NormForm.of(module, x)
    if form is None:
        return None
    straight = form(_wide(x)).to(output.dtype)
    # The value stays the module's own to the last bit.
    return output.detach() + (straight - straight.detach())


def norms(model: nn.Module) -> Iterator[nn.Module]:
    """The modules of a model that may be norms."""
    return (module for module in model.modules() if "norm" in type(module).__name__.lower())


def _candidates(module: nn.Module) -> Iterator[tuple[bool, Tensor | None, float]]:
    weight = getattr(module, "weight", None)
    gains = (_wide(weight), 1.0 + _wide(weight)) if isinstance(weight, Tensor) else (None,)
    stated = tuple(e for e in (getattr(module, name, None) for name in _EPS_NAMES) if isinstance(e, float))
    return product((False, True), gains, stated[:1] or _UNSTATED_EPS)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
