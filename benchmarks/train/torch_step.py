"""The same training step in PyTorch; see step.rs. One line of JSON."""

import argparse
import json
import time

import torch
import torch.nn.functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

CLASSES = 72


def peak_mib():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    return 0


def triplet(unit, labels, margin):
    distance = torch.cdist(unit, unit, compute_mode="use_mm_for_euclid_dist")
    same = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=unit.device)
    farthest = distance.masked_fill(~same | itself, -1.0).amax(1)
    closest = distance.masked_fill(same, 1e9).amin(1)
    return F.relu(farthest - closest + margin).mean()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--patch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="under autocast")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    device = torch.device(arguments.device)
    on_card = device.type == "cuda"
    config = CLIPVisionConfig(patch_size=arguments.patch, projection_dim=512)
    model = CLIPVisionModelWithProjection(config).train().to(device)
    classifier = torch.nn.Linear(512, CLASSES, bias=False).to(device)
    parameters = [*model.parameters(), *classifier.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, betas=(0.9, 0.98), weight_decay=0.05, fused=on_card or None)
    pixels = torch.randn(arguments.batch, 3, 224, 224, device=device)
    labels = (torch.arange(arguments.batch) // 4).to(device)
    if arguments.compile:
        model = torch.compile(model)
    seconds, cpu = [], []
    warm_up = 3 if on_card else 1
    for step in range(arguments.steps + warm_up):
        start, cpu_before = time.perf_counter(), time.process_time()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=arguments.bf16):
            features = model(pixel_values=pixels).image_embeds
        features = features.float()
        loss = F.cross_entropy(classifier(features), labels, label_smoothing=0.1)
        loss = loss + triplet(F.normalize(features, dim=1), labels, 0.3)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if on_card:
            torch.cuda.synchronize()
        if step >= warm_up:
            seconds.append(time.perf_counter() - start)
            cpu.append(time.process_time() - cpu_before)
    print(json.dumps(dict(batch=arguments.batch, seconds=seconds, cpu_seconds=cpu, peak_mib=peak_mib())))


if __name__ == "__main__":
    main()
