"""Writes tests/golden/training/adamw.json: the loss of 20 AdamW steps of a small CLIP in PyTorch.

    pip install torch transformers
    python tests/reference/training.py

The model is tests/golden/clip/patch16_gelu, the batches are made of its expected.json. The loss is CLIP's own
symmetric one; gradients are clipped to norm 1, weights that multiply decay, the others do not.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import CLIPModel

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
STEPS = 20
RATE = 1e-3
DECAY = 0.05


def decays(name):
    if name.endswith("patch_embedding.weight"):
        return True
    norm = "norm" in name or "layrnorm" in name
    return name.endswith("weight") and not norm and "embedding" not in name


def batch(expected, step, side):
    """Three images cut from the stored tile at another place each step, with the same three prompts."""
    tile = torch.tensor(expected["pixels"])
    count = 3 * 3 * side * side
    values = tile.roll(-step * 13).repeat(count // len(tile) + 1)[:count]
    return values.reshape(3, 3, side, side), torch.tensor(expected["ids"])


def main():
    folder = GOLDEN / "clip" / "patch16_gelu"
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").train()
    expected = json.loads((folder / "expected.json").read_text())
    side = model.config.vision_config.image_size
    named = [(name, p) for name, p in model.named_parameters()]
    groups = [
        dict(params=[p for n, p in named if decays(n)], weight_decay=DECAY),
        dict(params=[p for n, p in named if not decays(n)], weight_decay=0.0),
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), eps=1e-8)
    losses = []
    for step in range(STEPS):
        pixels, ids = batch(expected, step, side)
        output = model(input_ids=ids, pixel_values=pixels)
        target = torch.arange(len(ids))
        logits = output.logits_per_image
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    out = GOLDEN / "training"
    out.mkdir(exist_ok=True)
    text = dict(rate=RATE, weight_decay=DECAY, losses=[float(f"{loss:.9g}") for loss in losses])
    (out / "adamw.json").write_text(json.dumps(text) + "\n")


if __name__ == "__main__":
    main()
