"""The model card of a shared run (Mitchell et al. 2019): its data, its scores, its training, and how to load it."""

from typing import Any

from segpipe.engine.exported import Facts

TO_FILL = "**To be filled in by the author.**"
TEMPLATE = """# {name}

A network for semantic segmentation, trained with segpipe {version}: {parts}.

| | |
|---|---|
| licence | {licence} |
| classes | {classes} |
| images | {images} |
| identity of the training | {identity} |

## Intended use

{to_fill} For which images and which purpose is this model meant, and for which is it not?

## Data

{data}

## Scores

{scores}

## Training

{training}

## How to load it

```python
import segpipe  # pip install 'segpipe[export]'

model = segpipe.load("{file}")
mask = model("photo.jpg")                           # (H, W), class indices
probabilities = model.probabilities("photo.jpg")    # (K, H, W)
model.classes, model.palette
```

```bash
python -m segpipe.predict {file} IMAGES --out masks
python -m segpipe.archive --restore {file} FOLDER      # the folder of the run
python -m segpipe.export {file} --format onnx
```
"""


def model_card(
    facts: Facts,
    record: dict[str, Any],
    metrics: dict[str, Any],
    config: dict[str, Any],
    *,
    file: str,
    licence: str | None,
) -> str:
    """Return the card as Markdown. record, metrics, config: of the run, without what belongs to a machine.

    file: the name of the archive. licence: of the model; None leaves a line to be filled in.
    """
    bands = "" if facts.bands is None else ", scaled by the ranges in model.json"
    size = f"resized to {facts.size[0]} x {facts.size[1]} (height x width)" if facts.size else "of any size"
    return TEMPLATE.format(
        name=cell(facts.name or "A segpipe model"),
        version=cell(facts.segpipe),
        parts=", ".join(f"{group} {cell(name)}" for group in PARTS if (name := named(config, group))),
        licence=cell(licence) if licence else f"{TO_FILL} Without a licence, others may not use it.",
        classes=cell(", ".join(facts.classes)),
        images=f"{'RGB, 8 bits' if facts.bands is None else f'{facts.channels} bands'}{bands}, {size}",
        identity=cell(facts.identity or "unknown"),
        to_fill=TO_FILL,
        data=data_text(record, metrics, config),
        scores=scores_text(metrics),
        training=training_text(record, metrics, config),
        file=file.replace("`", "").replace('"', ""),
    )


PARTS = ("encoder", "model", "decoder", "fusion")


def named(config: dict[str, Any], group: str) -> str:
    """Return the name of a group's choice."""
    node = config.get(group)
    return str(node.get("name") or "") if isinstance(node, dict) else ""


def cell(text: object) -> str:
    """Return a text that is safe in a cell of a table in Markdown: names may come from a stranger."""
    one_line = " ".join(str(text).split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in one_line)


def data_text(record: dict[str, Any], metrics: dict[str, Any], config: dict[str, Any]) -> str:
    """Return the name of the data set and what is known of its splits."""
    lines = [
        f"Data set: {cell(named(config, 'data') or 'unknown')}.",
        "",
        "| split | images | fingerprint |",
        "|---|---|---|",
    ]
    fingerprints, counts = record.get("data_fingerprint") or {}, record.get("images") or {}
    for split in ("train", "val", "test"):
        images = counts.get(split, (metrics.get(split) or {}).get("images"))
        lines.append(f"| {split} | {images if images is not None else '-'} | {cell(fingerprints.get(split, '-'))} |")
    lines += ["", f"{TO_FILL} Where do the images come from, who labelled them, and under which licence?"]
    return "\n".join(lines)


def scores_text(metrics: dict[str, Any]) -> str:
    """Return a table of the scores of the best checkpoint, and of IoU by class on the test split."""
    splits = [split for split in ("val", "test") if metrics.get(split)]
    if not splits:
        return "No scores are stored with this run."
    names = [
        name
        for name in dict.fromkeys(key for split in splits for key in metrics[split])
        if any(isinstance(metrics[split].get(name), float) for split in splits)
    ]
    lines = [f"| | {' | '.join(splits)} |", f"|---|{'---|' * len(splits)}"]
    for name in names:
        lines.append(f"| {cell(name)} | {' | '.join(number(metrics[split].get(name)) for split in splits)} |")
    by_class = (metrics.get("test") or {}).get("per_class_iou") or {}
    if by_class:
        lines += ["", "| class | test IoU |", "|---|---|"]
        lines += [f"| {cell(label)} | {number(value)} |" for label, value in by_class.items()]
    return "\n".join(lines)


def number(value: Any) -> str:
    """Return a score with four digits, or a dash."""
    return f"{value:.4f}" if isinstance(value, int | float) and not isinstance(value, bool) else "-"


def training_text(record: dict[str, Any], metrics: dict[str, Any], config: dict[str, Any]) -> str:
    """Return the facts of the training, as a list."""
    training, cost = metrics.get("training") or {}, metrics.get("cost") or {}
    data = config.get("data") if isinstance(config.get("data"), dict) else {}
    optimizer = config.get("optimizer") if isinstance(config.get("optimizer"), dict) else {}
    versions = record.get("versions") or {}
    best = metrics.get("best_epoch")
    entries = {
        "epochs": training.get("epochs"),
        "epoch of the best checkpoint": best + 1 if isinstance(best, int) else None,  # counted from 1, as in tables
        "steps": training.get("steps"),
        "seconds": training.get("seconds"),
        "seed": record.get("seed"),
        "batch size": data.get("batch_size"),  # type: ignore[union-attr]
        "crop": data.get("crop"),  # type: ignore[union-attr]
        "optimizer": str(optimizer.get("_target_", "")).rpartition(".")[2] or None,  # type: ignore[union-attr]
        "learning rate": optimizer.get("lr"),  # type: ignore[union-attr]
        "loss": named(config, "loss") or None,
        "augmentation": named(config, "augment") or None,
        "weights of the encoder before": (config.get("encoder") or {}).get("weights"),
        "parameters": cost.get("parameters"),
        "multiply-adds of an image (10^9)": cost.get("gmac"),
        "torch": versions.get("torch"),
    }
    return "\n".join(f"- {name}: {cell(value)}" for name, value in entries.items() if value is not None)
