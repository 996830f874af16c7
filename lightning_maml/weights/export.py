"""Makes weights to be shipped of a checkpoint, and their card of what `test` measured with it."""

import json
from pathlib import Path
from typing import Any

import torch

from lightning_maml.run.files import write_whole
from lightning_maml.run.from_checkpoint import read_checkpoint, settings_of
from lightning_maml.run.provenance import plain, weights_digest

KEPT = (
    "state_dict",
    "global_step",
    "pytorch-lightning_version",
    "hparams_name",
    "hyper_parameters",
    "datamodule_hparams_name",
    "datamodule_hyper_parameters",
)
LOCAL = {"root": "data", "cache_dir": None}  # where the data was is of no use elsewhere
MAX_BYTES = 2_000_000
DATA = {
    "Sinusoid": "generated; no licence needed",
    "Glyphs": "generated; no licence needed",
    "Omniglot": "Omniglot (Lake, Salakhutdinov, Tenenbaum 2015), MIT licence",
    "MiniImagenet": "mini-ImageNet (Vinyals et al. 2016), images of ImageNet: for non-commercial "
    "research and education only, and so are these weights",
}


def export(checkpoint: Path, results: list[Path], config: str, name: str, folder: Path) -> Path:
    """Write ``<name>.ckpt``, weights and settings alone, and ``<name>.md``; returns the first.

    Args:
        checkpoint: of a run of the command line.
        results: result files that `test` wrote for it.
        config: name of the config that was trained.
        name: of the weights.
        folder: where they go.

    Raises:
        ValueError: if a result is of other weights or another test than the card's command would
            run, or the file would exceed 2 MB.
    """
    content = read_checkpoint(checkpoint)
    weights = {key: content[key] for key in KEPT if key in content}
    data = weights["datamodule_hyper_parameters"]
    weights["datamodule_hyper_parameters"] = {**data, **{k: LOCAL[k] for k in LOCAL if k in data}}
    facts = [json.loads(path.read_text(encoding="utf-8")) for path in results]
    for path, result in zip(results, facts, strict=True):
        _check_result(path, result, checkpoint, content)
    target = folder / f"{name}.ckpt"
    write_whole(target, lambda file: torch.save(weights, file), mode="wb")
    if (size := target.stat().st_size) > MAX_BYTES:
        target.unlink()
        raise ValueError(f"`checkpoint` must make a file of at most 2 MB, got {size} bytes.")
    write_whole(folder / f"{name}.md", lambda file: file.write(card(name, config, facts)))
    return target


def _check_result(
    path: Path, result: dict[str, Any], checkpoint: Path, content: dict[str, Any]
) -> None:
    digest = weights_digest(content["state_dict"])
    if result.get("weights") != digest:
        raise ValueError(
            f"`results` must be of the weights {digest} of {checkpoint}, got {path}, of "
            f"{result.get('weights')} ({result.get('checkpoint')})."
        )
    for part in ("model", "data"):
        trained = plain((settings_of(content, part) or {}).get("init_args") or {})
        for key, value in result[part]["init_args"].items():
            wanted = trained.get(key)  # a setting that is newer than the checkpoint: off
            if key not in ("k_shot", *LOCAL) and value != wanted and (value or key in trained):
                raise ValueError(
                    f"`results` must be of the settings in {checkpoint}, but for k_shot: "
                    f"`{part}.{key}` must be {wanted!r}, got {value!r} in {path}."
                )


def card(name: str, config: str, results: list[dict[str, Any]]) -> str:
    """What a user must know of the weights, as Markdown."""
    first = results[0]
    kind = first["data"]["class_path"].rpartition(".")[2]
    versions = ", ".join(f"{k} {first['versions'][k]}" for k in ("python", "torch", "lightning"))
    device = (
        f"{first['device']['name']} ({first['device']['type']}, {first['device']['precision']})"
    )
    lines = [
        f"# {name}",
        "",
        f'`MetaLearner.from_pretrained("{name}")`',
        "",
        f"- Config: `configs/{config}.yaml`, {first['meta_updates']} meta-updates, "
        f"seed {first['training_seed']}",
        f"- Data: {DATA[kind]}",
        f"- Trained with `python train.py fit --config configs/{config}.yaml`",
        f"- Tested on {first['tasks']} tasks, {first['date'][:10]}, {device}, {versions}",
        "",
    ]
    for result in results:
        shots = result["data"]["init_args"]["k_shot"]
        lines += [
            f"{result['metric']} at K = {shots}, mean and 95% confidence interval over tasks "
            f"(fingerprint {result['fingerprint']}):",
            "",
            "| inner steps | " + " | ".join(map(str, result["steps"])) + " |",
            "|---" * (len(result["steps"]) + 1) + "|",
            f"| {result['metric']} | "
            + " | ".join(
                f"{mean:.4f} +- {ci:.4f}"
                for mean, ci in zip(result["mean"], result["ci95"], strict=True)
            )
            + " |",
            "",
            "```",
            f"python train.py test --ckpt_path lightning_maml/weights/{name}.ckpt "
            f"--data.k_shot {shots}",
            "```",
            "",
        ]
    return "\n".join(lines).rstrip("\n") + "\n"
