"""Writes tests/golden/training/gradients: a tiny CLIP, and the gradient of every trainable tensor for every loss of the
fine-tuner, by PyTorch's own operations.

    pip install torch transformers safetensors
    python tests/reference/gradients.py
"""

import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

OUT = Path(__file__).resolve().parent.parent / "golden" / "training" / "gradients"
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
DIM = 6
# Three prompts, the last of which is true of two kinds of image.
IDS = torch.tensor([[22, 3, 4, 23, 0, 0], [22, 5, 6, 7, 23, 0], [22, 8, 23, 1, 1, 1]])
MATCHES = torch.tensor([[1.0, 0, 0], [1, 0, 1], [0, 1, 0], [0, 1, 1], [0, 0, 1], [0, 0, 0]])
# A prompt a hand, of two learned words each: tokens 10 to 15.
WORDS = torch.tensor([[22, 9, 10 + 2 * hand, 11 + 2 * hand, 23] for hand in range(3)])
LORA_SCALE = 4.0 / 2


def tiny():
    torch.manual_seed(11)
    tower = dict(hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2)
    config = CLIPConfig(
        vision_config=dict(**tower, image_size=8, patch_size=4, hidden_act="quick_gelu"),
        text_config=dict(**tower, vocab_size=24, max_position_embeddings=8, hidden_act="gelu",
                         bos_token_id=22, eos_token_id=23, pad_token_id=0),
        projection_dim=DIM,
    )
    config._attn_implementation = "eager"
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        model.logit_scale.fill_(1.5)
    return model


def triplet(unit, margin):
    distance = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
    same = LABELS[:, None] == LABELS[None, :]
    itself = torch.eye(len(LABELS), dtype=torch.bool)
    excess = distance.masked_fill(~same | itself, -1.0).amax(1) - distance.masked_fill(same, 1e9).amin(1)
    return F.softplus(excess).mean() if margin is None else F.relu(excess + margin).mean()


def sup_con(unit, temperature):
    logits = unit @ unit.t() / temperature
    others = ~torch.eye(len(LABELS), dtype=torch.bool)
    mates = (LABELS[:, None] == LABELS[None, :]) & others
    log = logits - logits.masked_fill(~others, -torch.inf).logsumexp(1, keepdim=True)
    return -((log * mates).sum(1) / mates.sum(1)).mean()


def margin(unit, directions, arc, size):
    cosine = unit @ F.normalize(directions, dim=1).t()
    if arc:
        moved = torch.cos(torch.acos(cosine) + size)
        moved = torch.where(cosine > torch.cos(torch.tensor(torch.pi - size)), moved,
                            cosine - size * torch.sin(torch.tensor(size)))
    else:
        moved = cosine - size
    right = F.one_hot(LABELS, cosine.shape[1]).bool()
    return F.cross_entropy(torch.where(right, moved, cosine) * 8.0, LABELS)


def info_nce(images, texts, scale, matches):
    def one_way(logits, matches):
        kept = matches.sum(1) > 0
        target = matches[kept] / matches[kept].sum(1, keepdim=True)
        return F.cross_entropy(logits[kept], target)

    logits = scale * images @ texts.t()
    return (one_way(logits, matches) + one_way(logits.t(), matches.t())) / 2


def main():
    model = tiny()
    shutil.rmtree(OUT, ignore_errors=True)
    model.save_pretrained(OUT)
    pixels = torch.randn(len(LABELS), 3, 8, 8)
    saved = {"pixels": pixels}
    heads = {
        "heads.classifier": torch.randn(3, DIM),
        "heads.neck": 1 + 0.3 * torch.randn(DIM),
        "heads.arc_face": torch.randn(3, DIM),
        "heads.cos_face": torch.randn(3, DIM),
        "heads.centres": torch.randn(3, DIM),
    }
    saved |= {name: value.clone() for name, value in heads.items()}
    prompts = F.normalize(torch.randn(3, DIM), dim=1)
    saved["prompts"] = prompts
    attention = {
        name: value for name, value in model.named_parameters()
        if name.startswith("vision_model.") and ".self_attn." in name and value.dim() == 2
    }
    adapters = {}
    for name, value in attention.items():
        adapters[f"{name}.lora_down"] = torch.randn(2, value.shape[1]) * 0.5
        adapters[f"{name}.lora_up"] = torch.randn(value.shape[0], 2) * 0.5
    saved |= {name: value.clone() for name, value in adapters.items()}
    trained = dict(model.named_parameters()) | heads | adapters
    for value in trained.values():
        value.requires_grad_(True)

    def image(changes=None):
        if changes:
            output = torch.func.functional_call(model.vision_model, changes, (pixels,))
        else:
            output = model.vision_model(pixels)
        return model.visual_projection(output.pooler_output)

    def text(ids):
        return F.normalize(model.text_projection(model.text_model(ids).pooler_output), dim=1)

    def cross_entropy(features):
        necked = F.batch_norm(features, None, None, weight=heads["heads.neck"], training=True)
        return F.cross_entropy(necked @ heads["heads.classifier"].t(), LABELS, label_smoothing=0.1)

    def lora():
        prefix = "vision_model."
        changes = {
            name.removeprefix(prefix): value.detach()
            + LORA_SCALE * adapters[f"{name}.lora_up"] @ adapters[f"{name}.lora_down"]
            for name, value in attention.items()
        }
        return cross_entropy(image(changes))

    def unit():
        return F.normalize(image(), dim=1)

    scale = model.logit_scale.exp
    losses = {
        "cross_entropy": lambda: cross_entropy(image()),
        "triplet": lambda: triplet(unit(), 1.0),
        "triplet_soft": lambda: triplet(unit(), None),
        "sup_con": lambda: sup_con(unit(), 0.5),
        "arc_face": lambda: margin(unit(), heads["heads.arc_face"], True, 0.3),
        "cos_face": lambda: margin(unit(), heads["heads.cos_face"], False, 0.2),
        "center": lambda: (unit() - heads["heads.centres"][LABELS]).pow(2).sum(1).mean() / 2,
        "image_to_prompt": lambda: F.cross_entropy(unit() @ prompts.t() * 5.0, LABELS, label_smoothing=0.1),
        "info_nce": lambda: info_nce(unit(), text(IDS), scale(), MATCHES),
        "lora": lora,
        "words": lambda: info_nce(unit().detach(), text(WORDS), scale().detach(), F.one_hot(LABELS).float()),
    }
    for loss, compute in losses.items():
        value = compute()
        saved[f"loss.{loss}"] = value.detach().reshape(1)
        names = {
            "lora": [*adapters, "heads.classifier", "heads.neck"],
            "words": ["text_model.embeddings.token_embedding.weight"],
        }.get(loss, [name for name in trained if name not in adapters])
        found = torch.autograd.grad(value, [trained[name] for name in names], allow_unused=True)
        for name, gradient in zip(names, found):
            if gradient is None:
                continue
            if loss == "words":
                name, gradient = "words", gradient[10:16].reshape(3, 2, 8)
            saved[f"{loss}/{name}"] = gradient
    save_file({name: value.detach().contiguous() for name, value in saved.items()}, OUT / "gradients.safetensors")


if __name__ == "__main__":
    main()
