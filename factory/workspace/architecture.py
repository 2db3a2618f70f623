"""Which weights an architecture has, told from its config: without torch and without the model.

transformers gives random values to what a file lacks, and leaves out what the model has no place
for, with no more than a warning. Of the families below every weight is known by name and shape; of
any other the number of layers, and names that a wrapper of training has left.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Shape = tuple[int, ...]
Config = Mapping[str, Any]
"""A config with its defaults, as transformers' `to_dict()` has it."""

NORMS = ("input_layernorm", "post_attention_layernorm")
AROUND = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
FAMILIES: dict[str, tuple[str, ...]] = {
    "llama": NORMS,
    "mistral": NORMS,
    "qwen2": NORMS,
    "qwen3": NORMS,
    "smollm3": NORMS,
    "granite": NORMS,
    "gemma": NORMS,
    "gemma2": NORMS + AROUND,
    "gemma3_text": NORMS + AROUND,
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "phi3": NORMS,
}
"""By `model_type`: the norms of a layer, beside its attention and feed-forward part."""
WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "base_model.model.": "an adapter's wrapper (peft)",
    "module.": "DataParallel",
    "_fsdp_wrapped_module.": "FSDP",
}
"""How names begin where a model was saved inside of something."""
_LAYER = re.compile(r"^(?:(.*)\.)?(?:layers|h|blocks)\.(\d+)\.")
_PREFIXES = ("model.language_model.", "language_model.model.", "model.", "")
"""What may stand before the names of a text model in a file."""
BIASED = {
    "attention_bias": set(FAMILIES) - {"mistral", "phi3"},
    "mlp_bias": {"llama", "granite", "smollm3"},
}
"""Keys of a config that add biases, and the families in which they do."""
_HEADS = {"gemma": 256, "gemma2": 256, "gemma3_text": 256, "qwen3": 128}
"""Sizes of heads where a config has no `head_dim`, of families that do not part the width."""
_MAY_LACK = ("rotary_emb.inv_freq", "masked_bias", "lm_head.weight")
"""Ends of names that a file has or has not, as it likes."""


def expected(config: Config) -> dict[str, Shape]:
    """Every weight of a model of a known family, by name; nothing for any other.

    Example: expected(config)["model.norm.weight"] == (256,)
    """
    norms = FAMILIES.get(config.get("model_type", ""))
    if norms is None:
        return {}
    width = config["hidden_size"]
    layer: dict[str, Shape] = {f"{name}.weight": (width,) for name in norms}
    layer |= _attention(config) | _feed_forward(config)
    weights = {
        "model.embed_tokens.weight": (config["vocab_size"], width),
        "model.norm.weight": (width,),
    }
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = (config["vocab_size"], width)
    for number in range(config["num_hidden_layers"]):
        weights |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return weights


def find_fault(config: Config, shapes: Mapping[str, Shape]) -> str:
    """What is wrong with weights of these names and shapes under a config; "" where nothing is.

    An empty shape is not known. Example: find_fault(config, {"lm_head.weight": (9, 4)})
    """
    for mark, wrapper in WRAPPERS.items():
        if found := next((name for name in shapes if name.startswith(mark)), ""):
            return (
                f"its weights were saved inside of {wrapper}: they are named like {found!r}, which "
                "no model has"
            )
    layers = config.get("num_hidden_layers")
    if isinstance(layers, int) and layers > max(1, len(shapes)):
        return f"config.json tells of {layers} layers and the file has {len(shapes)} weights"
    wanted = expected(config)
    if not wanted:
        return _find_lost_layers(config, shapes)
    named = _as_plain(shapes)
    if lost := [name for name in wanted if name not in named]:
        more = "" if "lm_head.weight" not in lost else "; config.json has tie_word_embeddings false"
        return (
            f"the file lacks {len(lost)} of the {len(wanted)} weights that config.json tells of, "
            f"such as {lost[0]}{more}: they would be random"
        )
    if more_layers := [name for name in named if name not in wanted and _is_of_layer(name)]:
        return (
            f"the file has {len(more_layers)} weights that config.json tells nothing of, such as "
            f"{more_layers[0]}: they would be left out"
        )
    for name, shape in wanted.items():
        if named[name] and named[name] != shape:
            return f"{name} is {list(named[name])} in the file and {list(shape)} by config.json"
    return ""


def embedding_rows(config: Config, shapes: Mapping[str, Shape]) -> int:
    """Rows of the table of embeddings: by the file, where it has one that is known, else by the
    config; 0 where neither says."""
    tables = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
    rows = [shape[0] for name, shape in shapes.items() if len(shape) == 2 and name.endswith(tables)]
    return max(rows, default=int(config.get("vocab_size") or 0))


def head_size(config: Config) -> int:
    """Numbers in a head of attention, by a config as its file has it; 0 where that does not say.

    Example: head_size({"model_type": "llama", "hidden_size": 576, "num_attention_heads": 9}) == 64
    """
    text = config.get("text_config")
    config = text if isinstance(text, Mapping) else config
    kind, heads = config.get("model_type"), config.get("num_attention_heads")
    if kind not in FAMILIES:
        return 0
    own, width = config.get("head_dim") or _HEADS.get(kind), config.get("hidden_size")
    if own is None and isinstance(width, int) and isinstance(heads, int) and heads:
        own = width // heads
    return own if isinstance(own, int) else 0


def _attention(config: Config) -> dict[str, Shape]:
    kind, width, heads = config["model_type"], config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim") or width // heads
    own, shared = heads * size, (config.get("num_key_value_heads") or heads) * size
    parts = {"q": own, "k": shared, "v": shared}
    weights: dict[str, Shape] = {"self_attn.o_proj.weight": (width, own)}
    if kind == "phi3":
        return weights | {"self_attn.qkv_proj.weight": (own + 2 * shared, width)}
    weights |= {f"self_attn.{part}_proj.weight": (number, width) for part, number in parts.items()}
    if kind == "qwen2" or _has(config, "attention_bias"):
        weights |= {f"self_attn.{part}_proj.bias": (number,) for part, number in parts.items()}
        if kind != "qwen2":
            weights["self_attn.o_proj.bias"] = (width,)
    if kind in ("qwen3", "gemma3_text"):
        weights |= {f"self_attn.{part}_norm.weight": (size,) for part in "qk"}
    if kind == "olmo2":
        weights |= {"self_attn.q_norm.weight": (own,), "self_attn.k_norm.weight": (shared,)}
    return weights


def _has(config: Config, key: str) -> bool:
    """Whether the config adds these biases."""
    return bool(config.get(key)) and config["model_type"] in BIASED[key]


def _feed_forward(config: Config) -> dict[str, Shape]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    into: dict[str, int] = {"gate_proj": inner, "up_proj": inner}
    if config["model_type"] == "phi3":
        into = {"gate_up_proj": 2 * inner}
    weights: dict[str, Shape] = {f"mlp.{name}.weight": (n, width) for name, n in into.items()}
    weights["mlp.down_proj.weight"] = (width, inner)
    if _has(config, "mlp_bias"):
        weights |= {f"mlp.{name}.bias": (number,) for name, number in into.items()}
        weights["mlp.down_proj.bias"] = (width,)
    return weights


def _as_plain(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The weights under the names that transformers saves a text model with."""
    prefix = next(p for p in _PREFIXES if p == "" or any(n.startswith(p) for n in shapes))
    named = {}
    for name, shape in shapes.items():
        if name.startswith(prefix) and not name.endswith(_MAY_LACK):
            named[f"model.{name.removeprefix(prefix)}"] = shape
        elif name.endswith("lm_head.weight"):
            named["lm_head.weight"] = shape
    return named


def _is_of_layer(name: str) -> bool:
    return name.startswith("model.layers.")


def _find_lost_layers(config: Config, shapes: Mapping[str, Shape]) -> str:
    """Of any architecture: fewer layers in the file than by the config."""
    wanted = config.get("num_hidden_layers")
    groups: dict[str, set[int]] = {}
    for name in shapes:
        if match := _LAYER.match(name):
            groups.setdefault(match[1] or "", set()).add(int(match[2]))
    most = max(map(len, groups.values()), default=0)
    if not isinstance(wanted, int) or not 0 < most < wanted:
        return ""
    return (
        f"config.json tells of {wanted} layers and the file has {most}: the others would be random"
    )
