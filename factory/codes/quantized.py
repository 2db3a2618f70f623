"""A residual-quantised autoencoder whose codes bring tools together that are used together.

ToolWeaver (algorithms §4.3 and §4.4), with the choices A20 to A27: an encoder and a decoder (MLPs),
L codebooks between them, reconstruction, codebook and commitment losses, and a graph term over
pairs of tools that are called together. Sinkhorn balancing acts on the last level while training
(A24): balancing the first one tears semantic prefixes apart. The recipe can have it on all levels,
as the published code has, on none, and where codes are given out.
torch is imported where it trains; a fitted coder loads and encodes with numpy.

Further suffixes: B tools of a batch, d latent width, E pairs.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeAlias

import numpy as np

from factory.codes.arrays import Code, Floats, Ints, load_arrays
from factory.codes.assign import resolve
from factory.codes.base import Assignment, OnProgress, Seen, Taken, silent
from factory.codes.graph import Graph
from factory.codes.levels import LevelCoder
from factory.workspace.recipe import QuantizedSection

if TYPE_CHECKING:
    import torch

Layers: TypeAlias = "list[tuple[torch.Tensor, torch.Tensor]]"

CHECK_EVERY = 10
"""Epochs between two looks at reconstruction and collisions."""
KMEANS_ITERATIONS = 100
"""Steps of the k-means that gives codebooks their first entries, at most (§4.3)."""
CLIP = 1.0
"""Largest norm of a step's gradient (§4.3)."""
PARTINGS = 20
"""Times that Sinkhorn parts tools that want one code (A25)."""
REFRESH_STEPS, REFRESH_RATE = 600, 1e-3
"""Steps at most, and their learning rate, to follow a trained model into its space."""


class QuantizedCoder(LevelCoder):
    """Encoder, codebooks and decoder, learnt together.

    Example: coder = QuantizedCoder(levels=2, size=512); coder.fit(Seen(embeddings_NVD)).
    """

    name: ClassVar[str] = "quantized"

    def __init__(
        self,
        *,
        levels: int,
        size: int,
        config: QuantizedSection | None = None,
        on_progress: OnProgress = silent,
    ) -> None:
        super().__init__(levels=levels, size=size)
        self.config = config or QuantizedSection()
        """How it is trained."""
        self.on_progress = on_progress
        """Hears of each epoch of training."""
        self.history: list[dict[str, float]] = []
        """One entry a look: epoch, error and collisions."""
        self.cost = Cost()
        """Of the last training."""
        self._mean_D: Floats = np.zeros(0, dtype=np.float32)
        self._scale = 1.0
        self._encoder: list[tuple[Floats, Floats]] = []
        self._decoder: list[tuple[Floats, Floats]] = []

    @property
    def width(self) -> int:
        return self._mean_D.size

    def fit(self, documents: Seen) -> None:
        """Fit on at least as many tools as a level has numbers; the same codes for the same seed.

        A GPU is used where there is one; its sums vary, so the seed fixes codes on a CPU only.
        """
        flat_ND = _flat(documents.embeddings_NVD)
        if len(flat_ND) < self.size:
            raise ValueError(f"{len(flat_ND)} tools are too few for {self.size} codes a level")
        self._centre(flat_ND)
        width, config = flat_ND.shape[1], self.config
        down = (width, *config.hidden, config.latent)
        with _seeded(documents.seed):
            trainer = _Trainer(
                points_ND=self._standardise(flat_ND),
                encoder=_xavier(down),
                decoder=_xavier(down[::-1]),
                levels=self.levels,
                size=self.size,
                config=config,
                graph=documents.graph if config.graph else None,
                seed=documents.seed,
                on_progress=self.on_progress,
            )
            self._encoder, self._decoder, self._centroids_PKd = trainer.run()
        self.history, self.cost = trainer.history, trainer.cost

    def assign(self, documents: Seen, taken: Taken) -> Assignment:
        """As A25 has it, or first parted by Sinkhorn: only then as `exact` has it."""
        embeddings_NVD = documents.embeddings_NVD
        wanted = self.encode(embeddings_NVD)
        parted_NP = self._part(embeddings_NVD, wanted.codes_NP)
        return resolve(
            self, embeddings_NVD, wanted.codes_NP, wanted.error_N, taken, parted_NP=parted_NP
        )

    def _part(self, embeddings_NVD: Floats, codes_NP: Ints) -> Ints:
        """Other last numbers for tools that want one code, by Sinkhorn over those (§4.6)."""
        import torch

        codes_NP = codes_NP.copy()
        if self.config.index != "sinkhorn" or not self.config.epsilon:
            return codes_NP
        for _ in range(PARTINGS):
            _, group_N, count_G = np.unique(
                codes_NP, axis=0, return_inverse=True, return_counts=True
            )
            crowded_N = count_G[group_N] > 1
            if not crowded_N.any():
                break
            before_NP = codes_NP.copy()
            for group in np.unique(group_N[crowded_N]):
                rows = np.flatnonzero(group_N == group)
                distance_GK = self.distances(embeddings_NVD[rows], codes_NP[rows, :-1]) ** 2
                soft_GK = balance(
                    torch.from_numpy(distance_GK), self.config.epsilon, self.config.iterations
                )
                codes_NP[rows, -1] = soft_GK.argmax(dim=1).numpy()
            if np.array_equal(codes_NP, before_NP):
                break
        return codes_NP

    def project(self, embeddings_NVD: Floats, view: int) -> Floats:
        assert view == 0, "one chain of levels codes all embeddings of a tool"
        layer_ND = self._standardise(_flat(embeddings_NVD))
        return _forward(layer_ND, self._encoder)

    def refresh(self, documents: Seen, codes: Sequence[Code]) -> None:
        """Teach the encoder the model's new space, with every tool's code as it is.

        The codebooks stand still while the encoder learns to land on the codes that the tools
        have; then each entry becomes the mean of what its members still are at its level. A model
        of another width starts from a new first layer.
        """
        flat_ND = _flat(documents.embeddings_NVD)
        codes_NP = np.array(codes, dtype=np.int32)
        self._centre(flat_ND)
        with _seeded(documents.seed):
            encoder, decoder = _to_torch(self._encoder), _to_torch(self._decoder)
            if len(self._encoder[0][0]) != flat_ND.shape[1]:
                shapes = [len(weight) for weight, _ in self._encoder]
                down = (flat_ND.shape[1], *shapes[1:], self.config.latent)
                encoder[0], decoder[-1] = _xavier(down)[0], _xavier(down[::-1])[-1]
            trainer = _Trainer(
                points_ND=self._standardise(flat_ND),
                encoder=encoder,
                decoder=decoder,
                levels=self.levels,
                size=self.size,
                config=self.config,
                graph=None,
                seed=documents.seed,
                on_progress=self.on_progress,
                codebooks_PKd=self._centroids_PKd,
                codes_NP=codes_NP,
            )
            self._encoder, self._decoder, self._centroids_PKd = trainer.run()
        self._follow(documents.embeddings_NVD, codes_NP)

    def save(self, path: Path) -> None:
        arrays: dict[str, Any] = {
            f"{name}_{part}_{index}": array
            for name, stack in (("encoder", self._encoder), ("decoder", self._decoder))
            for index, layer in enumerate(stack)
            for part, array in zip(("weight", "bias"), layer, strict=True)
        }
        arrays |= {
            "levels": np.int64(self.levels),
            "config": np.array(json.dumps(self.config.model_dump(mode="json"))),
            "mean": self._mean_D,
            "scale": np.float64(self._scale),
            "centroids": self._centroids_PKd,
        }
        with path.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        arrays = load_arrays(path, ("levels", "config", "mean", "scale", "centroids"))
        config = QuantizedSection(**json.loads(str(arrays["config"])))
        coder = cls(levels=int(arrays["levels"]), size=arrays["centroids"].shape[1], config=config)
        for name, stack in (("encoder", coder._encoder), ("decoder", coder._decoder)):
            for index in range(len(config.hidden) + 1):
                weight, bias = (f"{name}_{part}_{index}" for part in ("weight", "bias"))
                layer = load_arrays(path, (weight, bias))
                stack.append((layer[weight], layer[bias]))
        coder._mean_D, coder._scale = arrays["mean"], float(arrays["scale"])
        coder._centroids_PKd = arrays["centroids"]
        return coder

    def _centre(self, flat_ND: Floats) -> None:
        """One scale for all dimensions: what is small stays small."""
        self._mean_D = flat_ND.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._scale = float(np.sqrt(flat_ND.var(axis=0, dtype=np.float64).mean())) or 1.0

    def _standardise(self, flat_ND: Floats) -> Floats:
        return (flat_ND.astype(np.float64) - self._mean_D) / self._scale


@dataclass(slots=True)
class Cost:
    """What a training took."""

    seconds: float = 0.0
    sinkhorn_seconds: float = 0.0
    """Of them, those of balancing."""
    graph_share: float | None = None
    """Size of the graph term, with its weight, beside the reconstruction loss at the first step
    that had pairs (A22); None where none had."""


class _Trained(NamedTuple):
    """What training leaves, as arrays of single precision."""

    encoder: list[tuple[Floats, Floats]]
    decoder: list[tuple[Floats, Floats]]
    codebooks_PKd: Floats


class _Trainer:
    """One training: all tools, in shuffled batches, to the best look at all of them."""

    def __init__(
        self,
        *,
        points_ND: Floats,
        encoder: Layers,
        decoder: Layers,
        levels: int,
        size: int,
        config: QuantizedSection,
        graph: Graph | None,
        seed: int,
        on_progress: OnProgress = silent,
        codebooks_PKd: Floats | None = None,
        codes_NP: Ints | None = None,
    ) -> None:
        import torch

        self.config = config
        self.history: list[dict[str, float]] = []
        self.cost = Cost()
        self._on_progress = on_progress
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._points_ND = torch.from_numpy(points_ND.astype(np.float32)).to(device)
        self._encoder, self._decoder = (
            [(weight.to(device), bias.to(device)) for weight, bias in stack]
            for stack in (encoder, decoder)
        )
        self._codes_NP = None
        if codes_NP is not None:
            self._codes_NP = torch.from_numpy(codes_NP.astype(np.int64)).to(device)
        self._graph = graph
        self._graph_weight = math.nan
        if config.graph_unit == "absolute":
            self._graph_weight = config.graph
        self._generator = torch.Generator().manual_seed(seed)
        if codebooks_PKd is None:
            codebooks_PKd = self._first_entries(levels, size, seed)
        self._codebooks_PKd = torch.from_numpy(codebooks_PKd.astype(np.float32)).to(device)

    def run(self) -> _Trained:
        import torch

        held = self._codes_NP is not None
        weights = [t for layer in (*self._encoder, *self._decoder) for t in layer]
        learnt = weights if held else [*weights, self._codebooks_PKd]
        for tensor in learnt:
            tensor.requires_grad_()
        rate = REFRESH_RATE if held else self.config.learning_rate
        optimizer = torch.optim.AdamW(learnt, lr=rate, weight_decay=0.0)
        started, steps = time.perf_counter(), 0
        best, gained, kept = self._look(0), 0, self._snapshot()
        if self.config.kept == "collisions":
            best = best[0], len(self._points_ND)  # untrained, it is none of those to choose from
        num_batches = math.ceil(len(self._points_ND) / self.config.batch_size)
        epochs = math.ceil(REFRESH_STEPS / num_batches) if held else self.config.epochs
        rising = 0 if held else self.config.warmup * num_batches
        for epoch in range(1, epochs + 1):
            for rows_B in self._batches():
                steps += 1
                if steps <= rising:
                    optimizer.param_groups[0]["lr"] = rate * steps / rising
                optimizer.zero_grad(set_to_none=True)
                (self._follow(rows_B) if held else self._loss(rows_B)).backward()
                torch.nn.utils.clip_grad_norm_(learnt, CLIP)
                optimizer.step()
            if epoch % CHECK_EVERY == 0:
                look = self._look(epoch)
                if self._is_better(look, best):
                    best, gained, kept = look, epoch, self._snapshot()
                if 0 < self.config.patience <= epoch - gained:
                    break
            last = self.history[-1]
            told = f"error {last['error']:.4g}, {last['collisions']:.0f} collisions"
            self._on_progress(epoch, told, epochs)
        self.cost.seconds = time.perf_counter() - started
        return kept

    def _is_better(self, look: tuple[float, int], best: tuple[float, int]) -> bool:
        """By what the recipe keeps (codes.quantized.kept); each is (error, collisions)."""
        (error, collisions), (least, fewest) = look, best
        if self.config.kept == "collisions":
            return (collisions, error) < (fewest, least)
        return error < least * 0.99 or (error <= least * 1.01 and collisions < fewest)

    def _batches(self) -> Iterator[torch.Tensor]:
        import torch

        order_N = torch.randperm(len(self._points_ND), generator=self._generator)
        yield from order_N.split(self.config.batch_size)

    def _loss(self, rows_B: torch.Tensor) -> torch.Tensor:
        """Reconstruction + mean over levels of codebook and commitment losses + graph term."""
        import torch

        points_BD = self._points_ND[rows_B]
        latent_Bd = _run(points_BD, self._encoder)
        residual_Bd, chosen = latent_Bd, []
        quantise = latent_Bd.new_zeros(())
        for level, codebook_Kd in enumerate(self._codebooks_PKd):
            code_Bd = codebook_Kd[self._choose(residual_Bd.detach(), level)]
            quantise = quantise + torch.nn.functional.mse_loss(code_Bd, residual_Bd.detach())
            quantise = quantise + self.config.beta * torch.nn.functional.mse_loss(
                residual_Bd, code_Bd.detach()
            )
            residual_Bd = residual_Bd - code_Bd.detach()
            chosen.append(code_Bd)
        # Straight through: forward the sum of the chosen entries, backward as if it were z.
        sum_Bd = torch.stack(chosen).sum(dim=0)
        straight_Bd = latent_Bd + (sum_Bd - latent_Bd).detach()
        recon = torch.nn.functional.mse_loss(_run(straight_Bd, self._decoder), points_BD)
        loss = recon + quantise / len(chosen)
        if self._graph is not None and len(self._graph):
            vectors = [straight_Bd] if self.config.graph_on == "encoder" else chosen
            term = self._graph_term(rows_B, vectors)
            if math.isnan(self._graph_weight) and term.item():
                self._graph_weight = self.config.graph * recon.item() / term.item()
            if self.cost.graph_share is None and term.item():
                self.cost.graph_share = self._graph_weight * term.item() / recon.item()
            if not math.isnan(self._graph_weight):
                loss = loss + self._graph_weight * term
        return loss

    def _follow(self, rows_B: torch.Tensor) -> torch.Tensor:
        """How far the encoder is from the codes that the tools have, and the decoder from them."""
        import torch

        assert self._codes_NP is not None
        points_BD = self._points_ND[rows_B]
        sum_Bd = self._sum(self._codes_NP[rows_B])
        miss = torch.nn.functional.mse_loss(_run(points_BD, self._encoder), sum_Bd)
        return miss + torch.nn.functional.mse_loss(_run(sum_Bd, self._decoder), points_BD)

    def _sum(self, codes_BP: torch.Tensor) -> torch.Tensor:
        """(B, d) sum of the entries of whole codes."""
        import torch

        entries = [book_Kd[codes_BP[:, p]] for p, book_Kd in enumerate(self._codebooks_PKd)]
        return torch.stack(entries).sum(dim=0)

    def _choose(self, residual_Bd: torch.Tensor, level: int) -> torch.Tensor:
        """(B) entry of each tool: the nearest, or a balanced one on the recipe's levels."""
        import torch

        config, num_levels = self.config, len(self._codebooks_PKd)
        balanced = {"off": (), "last": (num_levels - 1,), "all": range(num_levels)}
        with torch.no_grad():
            distance_BK = torch.cdist(residual_Bd, self._codebooks_PKd[level]) ** 2
            if not config.epsilon or level not in balanced[config.sinkhorn]:
                return distance_BK.argmin(dim=1)
            with self._timed():
                return balance(distance_BK, config.epsilon, config.iterations).argmax(dim=1)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Count the seconds within as Sinkhorn's; a GPU does first what it has been told before."""
        import torch

        wait = torch.cuda.synchronize if self._points_ND.is_cuda else lambda: None
        wait()
        started = time.perf_counter()
        yield
        wait()
        self.cost.sinkhorn_seconds += time.perf_counter() - started

    def _graph_term(self, rows_B: torch.Tensor, vectors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Mean over `vectors` of the graph loss of the pairs that this batch holds."""
        import torch

        assert self._graph is not None
        place_N = np.full(len(self._points_ND), -1)
        place_N[rows_B.numpy()] = np.arange(len(rows_B))
        row_E, column_E = place_N[self._graph.row_E], place_N[self._graph.column_E]
        here_E = (row_E >= 0) & (column_E >= 0)
        pairs = Graph(
            row_E=row_E[here_E], column_E=column_E[here_E], weight_E=self._graph.weight_E[here_E]
        )
        return torch.stack([graph_loss(vector_Bd, pairs) for vector_Bd in vectors]).mean()

    def _look(self, epoch: int) -> tuple[float, int]:
        """Reconstruction error of all tools by their nearest codes, and how many collide."""
        import torch

        with torch.inference_mode():
            latent_Nd = _run(self._points_ND, self._encoder)
            if self._codes_NP is None:
                codes_NP = _nearest_codes(latent_Nd, self._codebooks_PKd)
                decoded_ND = _run(self._sum(codes_NP), self._decoder)
                error = torch.nn.functional.mse_loss(decoded_ND, self._points_ND)
            else:  # codes stand still: what counts is how near the encoder lands
                codes_NP = self._codes_NP
                error = torch.nn.functional.mse_loss(latent_Nd, self._sum(codes_NP))
            collisions = len(codes_NP) - len(torch.unique(codes_NP, dim=0))
        self.history.append(
            {"epoch": epoch, "error": float(error), "collisions": float(collisions)}
        )
        return float(error), collisions

    def _snapshot(self) -> _Trained:
        def arrays(stack: Layers) -> list[tuple[Floats, Floats]]:
            return [(_array(weight), _array(bias)) for weight, bias in stack]

        books_PKd = _array(self._codebooks_PKd)
        return _Trained(arrays(self._encoder), arrays(self._decoder), books_PKd)

    def _first_entries(self, levels: int, size: int, seed: int) -> Floats:
        """(L, K, d) k-means centres of what each level finds, before any training (§4.3)."""
        import torch
        from scipy.spatial.distance import cdist  # type: ignore[import-untyped]
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        with torch.inference_mode():
            residual_Nd = _run(self._points_ND, self._encoder).cpu().numpy().astype(np.float64)
        books = []
        for level in range(levels):
            state = (seed + level) % 2**32
            means = KMeans(size, n_init=1, max_iter=KMEANS_ITERATIONS, random_state=state)
            with warnings.catch_warnings():
                # Fewer distinct residuals than entries, as with equal documents.
                warnings.simplefilter("ignore", ConvergenceWarning)
                means.fit(residual_Nd)
            books.append(means.cluster_centers_)
            residual_Nd = residual_Nd - books[-1][cdist(residual_Nd, books[-1]).argmin(axis=1)]
        return np.stack(books)


def graph_loss(vectors_Bd: torch.Tensor, graph: Graph) -> torch.Tensor:
    """Sum over all ordered pairs of A_uv |z_u - z_v|^2, by B^2 (ToolWeaver Eq. 6).

    Equal to 2 tr(Z^T L Z) / B^2 with L = D - A, at a cost of the pairs there are.
    """
    import torch

    difference_Ed = (
        vectors_Bd[torch.from_numpy(graph.row_E)] - vectors_Bd[torch.from_numpy(graph.column_E)]
    )
    weight_E = torch.from_numpy(graph.weight_E).to(vectors_Bd)
    return 2 * (weight_E * (difference_Ed**2).sum(dim=1)).sum() / len(vectors_Bd) ** 2


def balance(distance_BK: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """(B, K) soft assignment whose rows sum to 1 and whose columns tend to B / K (§4.5).

    Distances are scaled to [-1, 1] over the batch. The same matrix as dividing all of it by row
    and column sums in turn, kept as two vectors of factors: each pass reads it twice.
    """
    import torch

    distance_BK = distance_BK.double()
    low, high = distance_BK.min(), distance_BK.max()
    middle, reach = (high + low) / 2, ((high - low) / 2).clamp_min(1e-12)
    kernel_BK = torch.exp(-(distance_BK - middle) / reach / epsilon)
    num_rows, num_columns = kernel_BK.shape
    column_K = kernel_BK.new_ones(num_columns)
    for _ in range(iterations):
        row_B = 1 / (num_rows * (kernel_BK @ column_K)).clamp_min(1e-300)
        column_K = 1 / (num_columns * (kernel_BK.T @ row_B)).clamp_min(1e-300)
    spread_BK = kernel_BK * column_K
    return spread_BK / spread_BK.sum(dim=1, keepdim=True)


def _nearest_codes(latent_Nd: torch.Tensor, codebooks_PKd: torch.Tensor) -> torch.Tensor:
    import torch

    codes, residual_Nd = [], latent_Nd
    for codebook_Kd in codebooks_PKd:
        codes.append(torch.cdist(residual_Nd, codebook_Kd).argmin(dim=1))
        residual_Nd = residual_Nd - codebook_Kd[codes[-1]]
    return torch.stack(codes, dim=1)


def _flat(embeddings_NVD: Floats) -> Floats:
    """(N, V*D)."""
    return embeddings_NVD.reshape(len(embeddings_NVD), math.prod(embeddings_NVD.shape[1:]))


def _forward(layer_ND: Floats, stack: Sequence[tuple[Floats, Floats]]) -> Floats:
    """The MLP in numpy: ReLU between the layers, none after the last."""
    for index, (weight, bias) in enumerate(stack):
        layer_ND = layer_ND @ weight.astype(np.float64) + bias
        if index < len(stack) - 1:
            layer_ND = np.maximum(layer_ND, 0)
    return layer_ND


def _run(layer_BD: torch.Tensor, stack: Layers) -> torch.Tensor:
    """The same in torch."""
    for index, (weight, bias) in enumerate(stack):
        layer_BD = layer_BD @ weight + bias
        if index < len(stack) - 1:
            layer_BD = layer_BD.relu()
    return layer_BD


def _array(tensor: torch.Tensor) -> Floats:
    array: Floats = tensor.detach().cpu().numpy().copy()
    return array


def _xavier(widths: Sequence[int]) -> Layers:
    """Xavier-normal weights (in, out) and zero biases (§4.3)."""
    import torch

    return [
        (torch.nn.init.xavier_normal_(torch.empty(a, b)), torch.zeros(b))
        for a, b in itertools.pairwise(widths)
    ]


def _to_torch(stack: Sequence[tuple[Floats, Floats]]) -> Layers:
    import torch

    return [(torch.from_numpy(w.copy()), torch.from_numpy(b.copy())) for w, b in stack]


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The same numbers for the same seed: own random state, one thread, one order of summing."""
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), threadpool_limits(1):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
