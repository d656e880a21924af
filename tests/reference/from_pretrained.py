"""Shows that transformers opens what `handclip train` leaves, and computes the same embeddings.

    pip install torch transformers pillow
    python tests/reference/from_pretrained.py RUN/best IMAGE.png...

Prints the largest difference between embeddings of transformers' CLIPModel and of `handclip embed` over images and
two prompts, and fails above 1e-4. PNG images, because JPEG decoders differ by a few levels.
"""

import json
import subprocess
import sys

import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

PROMPTS = ["a dorsal right hand with a ring", "the palm of a left hand"]


def ours(model, what):
    command = ["target/release/handclip", "embed", *what, "--model", model, "--json"]
    output = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return torch.tensor(output["embedding"])


def main():
    folder, images = sys.argv[1], sys.argv[2:]
    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
    worst = 0.0
    with torch.no_grad():
        for path in images:
            pixels = processor(Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"]
            theirs = unit(model.get_image_features(pixel_values=pixels))
            worst = max(worst, float((theirs - ours(folder, [path])).abs().max()))
        for prompt in PROMPTS:
            ids = torch.tensor([tokenizer(prompt)["input_ids"]])
            theirs = unit(model.get_text_features(input_ids=ids))
            worst = max(worst, float((theirs - ours(folder, ["--text", prompt])).abs().max()))
    print(f"largest difference of an embedding's value: {worst:.1e}")
    sys.exit(worst > 1e-4)


def unit(output):
    features = getattr(output, "pooler_output", output)
    return torch.nn.functional.normalize(features, dim=-1)[0]


if __name__ == "__main__":
    main()
