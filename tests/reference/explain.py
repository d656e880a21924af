"""Writes tests/golden/explain: which patches the tiny models of tests/golden/clip look at, by reference
implementations.

    pip install torch transformers grad-cam==1.5.7
    python tests/reference/explain.py

The target is the cosine between an image's features and a direction: another image's features, or a text's.
- rollout: Abnar and Zuidema 2020, section 3: the heads' mean and the identity, half each, multiplied up.
- grad-cam: the package of that name, on the output of the last block's layer_norm1, class token left out.
- relevance: Chefer, Gur and Wolf 2021, equations 5 and 6 for self-attention: R += mean of heads of (grad * attention)+ @ R.
"""

import json
from pathlib import Path

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from transformers import CLIPModel

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
NAMES = ["patch32_quick_gelu", "patch16_gelu", "legacy_eos", "new_eos_other_widths"]


class ImageFeatures(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model.visual_projection(self.model.vision_model(pixels).pooler_output)


def cosine(features, direction):
    return torch.nn.functional.cosine_similarity(features, direction, dim=-1)


def attentions(model, pixels):
    """Features, and each block's probabilities [heads, tokens, tokens], with gradients kept."""
    output = model.vision_model(pixels, output_attentions=True)
    for attention in output.attentions:
        attention.retain_grad()
    return model.visual_projection(output.pooler_output), output.attentions


def rollout(model, pixels):
    with torch.no_grad():
        output = model.vision_model(pixels, output_attentions=True)
    rolled = None
    for attention in output.attentions:
        mean = attention[0].mean(dim=0)
        mixed = mean + torch.eye(mean.shape[0])
        mixed = mixed / mixed.sum(dim=-1, keepdim=True)
        rolled = mixed if rolled is None else mixed @ rolled
    return rolled[0, 1:]


def relevance(model, pixels, direction):
    features, kept = attentions(model, pixels)
    model.zero_grad()
    cosine(features, direction).sum().backward()
    relevance = torch.eye(kept[0].shape[-1])
    for attention in kept:
        positive = (attention.grad[0] * attention[0]).clamp(min=0).mean(dim=0).detach()
        relevance = relevance + positive @ relevance
    return relevance[0, 1:]


def grad_cam(model, pixels, direction):
    side = model.config.vision_config.image_size // model.config.vision_config.patch_size
    features = ImageFeatures(model)

    def grid(tokens):
        return tokens[:, 1:].reshape(tokens.shape[0], side, side, -1).permute(0, 3, 1, 2)

    layer = model.vision_model.encoder.layers[-1].layer_norm1
    kept = []

    class Kept(GradCAM):
        """Before the package scales the map to the image's size and to 0..1, it has it by patch."""

        def get_cam_image(self, *args, **kwargs):
            cam = super().get_cam_image(*args, **kwargs)
            kept.append(np.maximum(cam, 0))
            return cam

    with Kept(model=features, target_layers=[layer], reshape_transform=grid) as cam:
        cam(input_tensor=pixels, targets=[lambda output: cosine(output, direction)])
    return torch.from_numpy(kept[0][0]).flatten()


def cases(name):
    folder = GOLDEN / "clip" / name
    model = CLIPModel.from_pretrained(folder, attn_implementation="eager").eval()
    expected = json.loads((folder / "expected.json").read_text())
    side = model.config.vision_config.image_size
    tile = torch.tensor(expected["pixels"])
    count = 4 * 3 * side * side
    pixels = tile.repeat(count // len(tile) + 1)[:count].reshape(4, 3, side, side)
    images = torch.tensor(expected["image_features"])
    texts = torch.tensor(expected["text_features"])
    for image, (kind, row) in [(0, ("image", 3)), (1, ("text", 1)), (2, ("text", 2))]:
        direction = (images if kind == "image" else texts)[row]
        one = pixels[image : image + 1]
        with torch.no_grad():
            similarity = cosine(ImageFeatures(model)(one), direction).item()
        maps = dict(
            rollout=rollout(model, one),
            **{"grad-cam": grad_cam(model, one, direction)},
            relevance=relevance(model, one, direction),
        )
        yield dict(
            image=image,
            target=kind,
            row=row,
            similarity=similarity,
            maps={method: values.double().tolist() for method, values in maps.items()},
        )


if __name__ == "__main__":
    (GOLDEN / "explain").mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        text = json.dumps(list(cases(name)))
        short = json.loads(text, parse_float=lambda digits: float(f"{float(digits):.9g}"))
        (GOLDEN / "explain" / f"{name}.json").write_text(json.dumps(short) + "\n")
        print(name, [{m: max(v) for m, v in case["maps"].items()} for case in short])
