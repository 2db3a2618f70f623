"""Gist compression (SGTC, algorithms §2.2): a document in V states that suffice to rebuild it.

A model reads `[content; gist tokens]`; the last layer's states at the gist tokens are the
document's embeddings. They are trained so that the same model, given these states in place of input
embeddings and one task indicator, writes the document's fields. Two ordinary causal passes are the
cascaded attention mask exactly: the only way from document to answer leads through the V states
(A12), which a fixed scalar makes as long as input embeddings are (A13). Trained are LoRA adapters,
the gist tokens' embeddings and the indicators'; the model itself is left as it was, unless its
adapters are merged (`merge`), so that what retrieves is what has learnt to compress.

Shape suffixes: B documents, T content tokens, V gist tokens, D model width, M tasks, J instances
(one task of one document), A answer tokens, N documents in all; of a layer's adapters I inputs,
O outputs, R rank.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from factory.codes.arrays import REMEDY, Floats
from factory.codes.base import OnProgress, silent
from factory.codes.literal import encoder_of
from factory.codes.vocabulary import MAX_DOCUMENT_TOKENS
from factory.domain.canon import CATEGORY, COMPRESS_PROMPT, ENCODE_PROMPT, to_json
from factory.domain.failures import ContentError, ModelError
from factory.domain.records import IGNORED
from factory.workspace.recipe import GistSection

GIST_PATH = Path("codes", "gist.safetensors")
"""Where a checkpoint folder keeps it."""
TASKS = ("category", "name", "description", "parameters")
"""Fields that are rebuilt (m = 4); a document without one skips its task (A19)."""
MAX_ANSWER_TOKENS = 128
"""A field is rebuilt up to there."""
MAX_SCALE_DOCUMENTS = 256
"""Documents whose states the scale is measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readable:
    """A document as compression sees it. Example: Readable(content="…", fields={"name": "f"})."""

    content: str
    """What the model reads, up to MAX_DOCUMENT_TOKENS."""
    fields: Mapping[str, str]
    """Task to the text that is rebuilt where the model has read it; tasks of TASKS only."""


class Epoch(NamedTuple):
    """What one epoch came to."""

    number: int
    """From 1; 0 is before training."""
    loss: float
    """Nats a token over the epoch's steps; NaN before training."""
    held_out: float
    """Nats a token on the documents that are not trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gist:
    """Trained compression: what turns the documents a model reads into V states each."""

    config: GistSection
    """How it was trained."""
    seed: int
    """Of its order, new embeddings, adapters and dropout."""
    gist_VD: torch.Tensor
    """Embeddings of the gist tokens, float32."""
    indicator_MD: torch.Tensor
    """Embeddings of the tasks, float32, in the order of TASKS."""
    adapter: Mapping[str, torch.Tensor]
    """The adapters' weights by name."""
    scale: float
    """What states are multiplied by where the model reads them in place of input embeddings."""
    epochs: tuple[Epoch, ...]
    """How training went, the state before it first."""
    prompt: str = COMPRESS_PROMPT
    """Says what is read of a document."""

    def save(self, path: Path) -> None:
        """Write one .safetensors file."""
        tensors = {"gist": self.gist_VD, "indicator": self.indicator_MD}
        tensors |= {f"adapter.{name}": value for name, value in self.adapter.items()}
        head = {
            "config": {**self.config.model_dump(), "seed": self.seed},
            "tasks": TASKS,
            "scale": self.scale,
            "epochs": self.epochs,
            "prompt": self.prompt,
        }
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            path,
            metadata={"gist": json.dumps(head)},
        )

    @classmethod
    def load(cls, path: Path) -> Gist:
        """Read a saved one; an early one has no scale and read documents in another layout.

        Raises ModelError if the file is missing or is not one.
        """
        try:
            with safe_open(path, framework="pt") as file:
                head = json.loads(file.metadata()["gist"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if tuple(head["tasks"]) != TASKS:
                raise ValueError(f"its tasks are {head['tasks']}, not {list(TASKS)}")
            seed = head["config"].pop("seed")
            return cls(
                config=GistSection(**{"rescale": False, **head["config"]}),
                seed=seed,
                gist_VD=tensors.pop("gist"),
                indicator_MD=tensors.pop("indicator"),
                adapter={k.removeprefix("adapter."): v for k, v in tensors.items()},
                scale=head.get("scale", 1.0),
                epochs=tuple(Epoch(*values) for values in head["epochs"]),
                prompt=head.get("prompt", ENCODE_PROMPT),
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"cannot read the gist compression: {error}", where=str(path), remedy=REMEDY
            ) from error


def make_readable(content: str, document: Mapping[str, Any]) -> Readable:
    """A tool document for compression: `content` is read, its fields are rebuilt (A19).

    An API's name is its service's and its own (§2.2). The parameters stand for the `code` field of
    ToolBench's documents.
    """
    names = (document.get("tool_name"), document.get("name"))
    arguments = document.get("arguments") or {}
    fields = {
        "category": document.get(CATEGORY),
        "name": "\n".join(dict.fromkeys(name for name in names if name and isinstance(name, str))),
        "description": document.get("description"),
        "parameters": to_json(arguments) if arguments.get("properties") else "",
    }
    texts = {
        task: text.encode("utf-8", "replace").decode("utf-8")
        for task, text in fields.items()
        if isinstance(text, str) and text.strip()
    }
    return Readable(content=content, fields=texts)


def fit_gist(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Readable],
    config: GistSection,
    *,
    seed: int = 0,
    start: Gist | None = None,
    report: Callable[[Epoch], None] = lambda epoch: None,
) -> Gist:
    """Train compression of these documents on the model as it is (equation L_tool, §2.2).

    Args:
        model: causal model; its weights, mode and gradient flags are as before afterwards.
        tokenizer: its tokenizer, with an end-of-turn token.
        documents: at least 2.
        config: sizes and schedule.
        seed: of the order, the new embeddings, the adapters and the dropout.
        start: where training begins; without it, new embeddings and adapters.
        report: hears of each epoch.

    Returns:
        The state with the lowest held-out loss.

    Raises:
        ValueError: fewer than 2 documents, or one without content.
        ContentError: none of a document's fields can be read in its content.
    """
    if len(documents) < 2:
        raise ValueError(f"{len(documents)} documents are too few to compress")
    with torch.random.fork_rng(), attached(model, config, seed, start) as compressor:
        encoded = [encode_document(document, tokenizer) for document in documents]
        parts = split(len(encoded), config.held_out, seed)
        held, train = ([encoded[row] for row in part] for part in parts)
        if config.rescale and not (start and start.config.rescale):
            scale = compressor.find_scale([document.content for document in train])
            compressor = replace(compressor, scale=scale)
        optimizer = torch.optim.Adam(
            compressor.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        epochs = [Epoch(0, float("nan"), compressor.measure(held))]
        best = compressor.state()
        report(epochs[0])
        for number in range(1, config.epochs + 1):
            loss = _train_epoch(compressor, train, optimizer, config)
            epochs.append(Epoch(number, loss, compressor.measure(held)))
            report(epochs[-1])
            if epochs[-1].held_out >= min(epoch.held_out for epoch in epochs[:-1]):
                break
            best = compressor.state()
        if config.merge:
            best = compressor.merge(best)
    return Gist(config=config, seed=seed, epochs=tuple(epochs), **best)


def embed_gists(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    gist: Gist,
    texts: Sequence[str],
    batch: int = 32,
    on_progress: OnProgress = silent,
) -> Floats:
    """(N, V, D) float32 states of the documents, in their order; a row depends on its text only.

    `on_progress` hears of the documents embedded after each batch.

    Raises:
        ValueError: a text has no tokens.
    """
    ids = [content_ids(text, tokenizer) for text in texts]
    with torch.random.fork_rng(), attached(model, gist.config, gist.seed, gist) as compressor:
        return compressor.embed(ids, batch, on_progress)


class EncodedDocument(NamedTuple):
    """A document in token ids."""

    content: list[int]
    answers: dict[int, list[int]]
    """Row of the task's indicator to the field's ids, its end included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressor:
    """A model with gist tokens, indicators and adapters attached; made by `fit_gist`."""

    model: PeftModel
    """Around the causal model."""
    gist_VD: torch.nn.Parameter
    """Embeddings of the gist tokens."""
    indicator_MD: torch.nn.Parameter
    """Embeddings of the tasks."""
    scale: float
    """Of states in pass 2."""
    batch_size: int
    """Instances whose answers are scored at once."""

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        adapters = [p for p in self.model.parameters() if p.requires_grad]
        return [self.gist_VD, self.indicator_MD, *adapters]

    def state(self) -> dict[str, Any]:
        """A copy of what is trained, as `Gist` has it."""
        adapter = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        return {
            "gist_VD": self.gist_VD.detach().clone(),
            "indicator_MD": self.indicator_MD.detach().clone(),
            "adapter": copy.deepcopy(adapter),
            "scale": self.scale,
        }

    def merge(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Give the model this state's adapters as its own; the state with adapters that do nothing.

        They go on from there: A as it is, B at 0.
        """
        set_peft_model_state_dict(self.model, state["adapter"])
        self.model.merge_adapter(safe_merge=True)
        adapter = {
            name: torch.zeros_like(value) if "lora_B" in name else value
            for name, value in state["adapter"].items()
        }
        return {**state, "adapter": adapter}

    def compress(self, content: Sequence[Sequence[int]]) -> torch.Tensor:
        """(B, V, D) states at the gist tokens after reading each document (pass 1)."""
        num_views = len(self.gist_VD)
        lengths = [len(ids) for ids in content]
        embedded_BTD = self.look_up(pad(content, num_views, fill=0))
        gist_BVD = self.gist_VD.to(embedded_BTD.dtype).expand(len(content), -1, -1)
        # Gist tokens follow each document at once; what stands behind them is not attended to.
        at_BV = torch.tensor(lengths)[:, None] + torch.arange(num_views)
        at_BV = at_BV.to(embedded_BTD.device)
        rows_B1 = torch.arange(len(content), device=at_BV.device)[:, None]
        embedded_BTD = embedded_BTD.index_put((rows_B1, at_BV), gist_BVD)
        states_BTD = self.model.base_model.model.base_model(
            inputs_embeds=embedded_BTD, use_cache=False
        ).last_hidden_state
        states_BVD: torch.Tensor = states_BTD[rows_B1, at_BV]
        return states_BVD

    def log_probs(
        self, states_JVD: torch.Tensor, tasks: Sequence[int], answers: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the answers given states and task, and which of them count (pass 2).

        Returns:
            (J, A) natural logarithms, and (J, A) booleans, False on padding.
        """
        answers_JA = pad(answers, 0, fill=IGNORED).to(states_JVD.device)
        real_JA = answers_JA != IGNORED
        indicator_J1D = self.indicator_MD[list(tasks)][:, None].to(states_JVD.dtype)
        written_JAD = self.look_up(answers_JA.clamp(min=0)[:, :-1])
        inputs_JLD = torch.cat([self.scale * states_JVD, indicator_J1D, written_JAD], dim=1)
        num_views = states_JVD.shape[1]
        logits_JAW = self.model(inputs_embeds=inputs_JLD, use_cache=False).logits[:, num_views:]
        logs_JAW = torch.log_softmax(logits_JAW.float(), dim=-1)
        return logs_JAW.gather(2, answers_JA.clamp(min=0)[:, :, None])[:, :, 0], real_JA

    def measure(self, documents: Sequence[EncodedDocument], shuffle: bool = False) -> float:
        """Nats a token of rebuilding the documents; `shuffle` gives each the states of the next."""
        was_training = self.model.training
        self.model.eval()
        total, count = 0.0, 0
        with torch.inference_mode():
            for batch in batches(documents, range(len(documents)), self.batch_size):
                loss, number = self.loss(batch, shuffle)
                total, count = total + float(loss), count + number
        self.model.train(was_training)
        return total / count

    def loss(
        self, documents: Sequence[EncodedDocument], shuffle: bool = False
    ) -> tuple[torch.Tensor, int]:
        """Summed nats of all tasks of the documents, and the number of tokens."""
        states_BVD = self.compress([document.content for document in documents])
        if shuffle:
            states_BVD = states_BVD.roll(1, dims=0)
        instances = [
            (row, task, answer)
            for row, document in enumerate(documents)
            for task, answer in document.answers.items()
        ]
        rows, tasks, answers = zip(*instances, strict=True)
        logs_JA, real_JA = self.log_probs(states_BVD[list(rows)], tasks, answers)
        return -(logs_JA * real_JA).sum(), int(real_JA.sum())

    def embed(
        self, content: Sequence[Sequence[int]], batch: int = 32, on_progress: OnProgress = silent
    ) -> Floats:
        """(N, V, D) float32 states of the documents, in their order, without dropout."""
        was_training = self.model.training
        self.model.eval()
        order = sorted(range(len(content)), key=lambda row: (len(content[row]), row))
        result_NVD = np.zeros((len(content), *self.gist_VD.shape), dtype=np.float32)
        with torch.inference_mode():
            for begin in range(0, len(order), batch):
                rows = order[begin : begin + batch]
                states_BVD = self.compress([content[row] for row in rows])
                result_NVD[rows] = states_BVD.float().cpu().numpy()
                on_progress(begin + len(rows), "", len(order))
        self.model.train(was_training)
        return result_NVD

    def find_scale(self, content: Sequence[Sequence[int]]) -> float:
        """Mean norm of the input embeddings by that of states as they are now (A13)."""
        states_NVD = self.embed(content[:MAX_SCALE_DOCUMENTS])
        table = self.model.get_input_embeddings().weight.detach()
        norm = float(table.float().norm(dim=1).mean()) * reading_scale(self.model)
        return norm / float(np.linalg.norm(states_NVD, axis=2).mean())

    def look_up(self, ids: torch.Tensor) -> torch.Tensor:
        """Input embeddings of tokens."""
        table = self.model.get_input_embeddings()
        embedded: torch.Tensor = table(ids.to(table.weight.device))
        return embedded


def reading_scale(model: PreTrainedModel) -> float:
    """How much longer input embeddings are than a model's rows: sqrt(D) for Gemma, 1 for most."""
    table = model.get_input_embeddings()
    rows_KD = table.weight.detach()[:256]
    with torch.no_grad():
        read_KD = table(torch.arange(len(rows_KD), device=rows_KD.device))
    return float(read_KD.float().norm() / rows_KD.float().norm())


def score_targets(
    model: PreTrainedModel, labels_BT: torch.Tensor, **inputs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, L) log-probabilities of next tokens, 0 where there is no loss, and their positions.

    The language head runs on the L of T - 1 positions at which any row has loss.
    """
    labels_BT = labels_BT[:, 1:]
    place_L = (labels_BT != IGNORED).any(dim=0).nonzero()[:, 0]
    labels_BL = labels_BT[:, place_L]
    logits_BLW = model(**inputs, use_cache=False, logits_to_keep=place_L).logits
    losses_BL = torch.nn.functional.cross_entropy(
        logits_BLW.float().transpose(1, 2), labels_BL, ignore_index=IGNORED, reduction="none"
    )
    return -losses_BL, place_L


def split(number: int, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows that the stopping is decided on, and rows that are trained on."""
    order = np.random.default_rng(seed).permutation(number).tolist()
    num_held = max(1, round(held_out * number))
    return order[:num_held], order[num_held:]


@contextlib.contextmanager
def attached(
    model: PreTrainedModel, config: GistSection, seed: int, start: Gist | None
) -> Iterator[Compressor]:
    """The model with adapters, which are taken off again; draws from the global generator."""
    torch.manual_seed(seed)
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    was_training = model.training
    table = model.get_input_embeddings().weight.detach().float()
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, lora)
    try:
        if start is None:
            shape = (config.views + len(TASKS), table.shape[1])
            new = table.mean(dim=0) + table.std(dim=0) * torch.randn(shape).to(table.device)
            new *= reading_scale(model)
            gist_VD, indicator_MD = new[: config.views], new[config.views :]
        else:
            gist_VD, indicator_MD = (
                t.to(table.device) for t in (start.gist_VD, start.indicator_MD)
            )
            fresh = get_peft_model_state_dict(adapted, save_embedding_layers=False)
            resized = resize_adapter(start.adapter, start.config, config, fresh)
            set_peft_model_state_dict(adapted, resized)
        yield Compressor(
            model=adapted,
            gist_VD=torch.nn.Parameter(gist_VD.clone()),
            indicator_MD=torch.nn.Parameter(indicator_MD.clone()),
            scale=start.scale if start is not None and config.rescale else 1.0,
            batch_size=config.batch_size,
        )
    finally:
        adapted.base_model.unload()
        if hasattr(model, "peft_config"):
            del model.peft_config
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        model.train(was_training)


def resize_adapter(
    adapter: Mapping[str, torch.Tensor],
    old: GistSection,
    new: GistSection,
    fresh: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Adapters of the `new` rank and alpha that change the model as those of the `old` ones do.

    To fewer ranks this is as near as can be: the largest singular values of each product stay.

    Args:
        adapter: `…lora_A…` (rank, in) and `…lora_B…` (out, rank) by name.
        old: what they were trained with.
        new: what they are to go on with.
        fresh: new adapters of the same names; ranks beyond those filled are theirs, B being 0.
    """
    scale = (old.alpha / old.rank) / (new.alpha / new.rank)
    resized = {name: tensor.clone() for name, tensor in fresh.items()}
    for name in (name for name in adapter if "lora_A" in name):
        other = name.replace("lora_A", "lora_B")
        a_RI, b_OR = (adapter[each].to(fresh[each].device).float() for each in (name, other))
        if new.rank < old.rank:
            # The product's singular values, by those of the small matrix between two bases.
            (base_OR, left_RR), (base_IR, right_RR) = map(torch.linalg.qr, (b_OR, a_RI.T))
            # A layer narrower than the ranks has fewer of them than either.
            u_RR, s_R, v_RR = torch.linalg.svd(left_RR @ right_RR.T, full_matrices=False)
            root_R = s_R[: new.rank].sqrt()
            a_RI = root_R[:, None] * (v_RR[: new.rank] @ base_IR.T)
            b_OR = (base_OR @ u_RR[:, : new.rank]) * root_R
        resized[name][: len(a_RI)] = a_RI
        resized[other][:, : len(a_RI)] = scale * b_OR
    return resized


def _train_epoch(
    compressor: Compressor,
    documents: Sequence[EncodedDocument],
    optimizer: torch.optim.Optimizer,
    config: GistSection,
) -> float:
    """Nats a token over one pass, in a new order."""
    compressor.model.train()
    total, count = 0.0, 0
    for batch in batches(documents, torch.randperm(len(documents)).tolist(), config.batch_size):
        loss, number = compressor.loss(batch)
        optimizer.zero_grad()
        (loss / number).backward()
        optimizer.step()
        total, count = total + float(loss.detach()), count + number
    return total / count


def batches(
    documents: Sequence[EncodedDocument], order: Sequence[int], size: int
) -> Iterator[list[EncodedDocument]]:
    """Documents in this order, until a batch has `size` instances."""
    batch: list[EncodedDocument] = []
    for row in order:
        batch.append(documents[row])
        if sum(len(document.answers) for document in batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def encode_document(document: Readable, tokenizer: PreTrainedTokenizerBase) -> EncodedDocument:
    """A document in token ids, with answers that can be read in its content, line by line.

    Raises:
        ValueError: it has no tokens.
        ContentError: it has no such answer.
    """
    content = content_ids(document.content, tokenizer)
    read, answers = tokenizer.decode(content), {}
    for task, text in document.fields.items():
        ids = encoder_of(tokenizer).encode(text)[: MAX_ANSWER_TOKENS - 1]
        # The cut may have left half a character.
        lines = tokenizer.decode(ids).rstrip("\ufffd").split("\n")
        if all(line.strip() in read for line in lines):
            answers[TASKS.index(task)] = [*ids, int(tokenizer.eos_token_id)]
    if not answers:
        raise ContentError(
            f"no field of the tool can be read in {read[:80]!r}",
            where="the prompt that compression reads tools by",
            remedy=f"let {COMPRESS_PROMPT} ({ENCODE_PROMPT} for an early compression) show a "
            "tool's name, description or parameters (as JSON) as they are",
        )
    return EncodedDocument(content=content, answers=answers)


def content_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What is read of a document. ValueError for one without tokens."""
    ids = encoder_of(tokenizer).encode(text)[:MAX_DOCUMENT_TOKENS]
    if not ids:
        raise ValueError("a document without tokens cannot be compressed")
    return ids


def pad(rows: Sequence[Sequence[int]], extra: int, fill: int) -> torch.Tensor:
    """(B, longest + extra) ids, filled up on the right, where a causal model does not look."""
    padded = torch.full((len(rows), max(map(len, rows)) + extra), fill, dtype=torch.long)
    for row, ids in enumerate(rows):
        padded[row, : len(ids)] = torch.tensor(ids)
    return padded
