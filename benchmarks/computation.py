"""What each route has to compute from activations, in the plainest way: SAELens' own `encode` and torch.

    capture(ids `[batch, pos]`, layers) --> activations `{layer: [batch, pos, d]}` --> Computation --> answers

The peer server and the in-process measurements share it; what sets them apart is the capture, and whether `single`
encodes all features, as the seed does, or one column.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from benchmarks.workload import LAYERS, RESULTS, TOP_K, Route, feature_index

Capture = Callable[[torch.Tensor, tuple[int, ...]], Mapping[int, torch.Tensor]]


def load_saes() -> dict[int, Any]:
    """The SAEs by layer, with decoder norms folded as every published activation assumes."""
    from sae_lens import SAE

    saes: dict[int, Any] = {}
    for layer in range(LAYERS):
        saes[layer] = SAE.from_pretrained("gpt2-small-res-jb", f"blocks.{layer}.hook_resid_pre", device="cpu").eval()
        saes[layer].fold_W_dec_norm()
    return saes


def token_ids(tokenizer: Any, prompts: Sequence[str]) -> torch.Tensor:
    """Token ids with BOS first, `[batch, pos]`, of prompts of one length."""
    return torch.tensor([[tokenizer.bos_token_id, *tokenizer(prompt).input_ids] for prompt in prompts])


class Computation:
    """Answers a route for a batch of prompts. One thread."""

    def __init__(self, saes: Mapping[int, Any], capture: Capture) -> None:
        self._saes = saes
        self._capture = capture
        self._decoder_norms = {layer: sae.W_dec.norm(dim=-1) for layer, sae in saes.items()}

    @torch.inference_mode()
    def answer(self, route: Route, ids: torch.Tensor, numbers: Sequence[int], *, whole: bool = False) -> Any:
        """What the route reports, as tensors on the CPU.

        Args:
            route: What is asked.
            ids: Token ids `[batch, pos]`; not looked at by `cossim`.
            numbers: Number of each request, which decides its feature.
            whole: Encode every feature even where one column is asked for.
        """
        indexes = [feature_index(number) for number in numbers]
        match route.kind:
            case "single":
                return self._single(route, ids, indexes, whole=whole)
            case "all":
                return self._all(route, ids)
            case "topk-by-token":
                layer = route.layers[0]
                return torch.topk(self._saes[layer].encode(self._capture(ids, route.layers)[layer]), TOP_K, dim=-1)
            case "cossim":
                return self._cossim(route.layers[0], indexes)

    def _single(self, route: Route, ids: torch.Tensor, indexes: list[int], *, whole: bool) -> torch.Tensor:
        """Activations `[batch, pos]`."""
        layer = route.layers[0]
        sae, activation = self._saes[layer], self._capture(ids, route.layers)[layer]
        if whole:
            encoded = sae.encode(activation)
            return torch.stack([encoded[row, :, index] for row, index in enumerate(indexes)])
        columns = sae.W_enc[:, indexes].T.unsqueeze(-1)
        return torch.relu(((activation - sae.b_dec) @ columns).squeeze(-1) + sae.b_enc[indexes].unsqueeze(-1))

    def _all(self, route: Route, ids: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """For each prompt the best features: place of the source, index, activations `[RESULTS, pos]`. BOS counts 0."""
        captured = self._capture(ids, route.layers)
        best: list[list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] = [[] for _ in ids]
        for layer in route.layers:
            encoded = self._saes[layer].encode(captured[layer])
            encoded[:, 0] = 0
            top = torch.topk(encoded.amax(1), RESULTS, dim=-1)
            for row, (keys, features) in enumerate(zip(top.values, top.indices, strict=True)):
                best[row].append((keys, features, encoded[row][:, features].T.clone()))
        return [_merge(parts) for parts in best]

    def _cossim(self, layer: int, indexes: list[int]) -> Any:
        """The nearest decoder rows of each feature, `[batch, RESULTS]`."""
        decoder, norms = self._saes[layer].W_dec, self._decoder_norms[layer]
        cosines = (decoder[indexes] @ decoder.T) / (norms[indexes].unsqueeze(-1) * norms)
        return torch.topk(cosines, RESULTS, dim=-1)


def _merge(
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    keys = torch.cat([part[0] for part in parts])
    order = torch.sort(keys, descending=True, stable=True).indices[:RESULTS]
    sources = torch.arange(len(parts)).repeat_interleave(RESULTS)
    return sources[order], torch.cat([part[1] for part in parts])[order], torch.cat([part[2] for part in parts])[order]
