"""Writes a CLIP model with random weights and, for ONNX Runtime, its two towers as graphs, in f32 and int8.

    pip install torch transformers onnx onnxscript onnxruntime
    python benchmarks/embedding/make_model.py b32 MODELS/b32
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

PATCH = {"b32": 32, "b16": 16}
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "clip" / "tokenizer.json"


class Tower(torch.nn.Module):
    def __init__(self, model, kind):
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, values):
        if self.kind == "image":
            output = self.model.get_image_features(pixel_values=values)
        else:
            output = self.model.get_text_features(input_ids=values)
        return getattr(output, "pooler_output", output)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("size", choices=PATCH)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=SHARED, help="a CLIP tokenizer.json")
    options = parser.parse_args()
    torch.manual_seed(1)
    text = CLIPTextConfig(eos_token_id=49407, bos_token_id=49406)
    vision = CLIPVisionConfig(patch_size=PATCH[options.size])
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    model = CLIPModel(config).eval()
    model.save_pretrained(options.out)
    shutil.copy(options.tokenizer, options.out / "tokenizer.json")
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    preprocessing = {"do_resize": True, "size": {"shortest_edge": 224}, "resample": 3, "do_center_crop": True,
                     "crop_size": {"height": 224, "width": 224}, "do_rescale": True, "rescale_factor": 1 / 255,
                     "do_normalize": True, "image_mean": mean, "image_std": std, "do_convert_rgb": True}
    (options.out / "preprocessor_config.json").write_text(json.dumps(preprocessing))

    from onnxruntime.quantization import QuantType, quantize_dynamic

    ids = torch.full((2, 77), 49407)
    ids[:, 0] = 49406
    for kind, example in (("image", torch.randn(2, 3, 224, 224)), ("text", ids)):
        path = str(options.out / f"{kind}.onnx")
        dynamic = {"values": {0: torch.export.Dim("batch", min=1, max=64)}}
        with torch.inference_mode():
            torch.onnx.export(Tower(model, kind), (example,), path, dynamo=True, dynamic_shapes=dynamic,
                              external_data=False)
        quantize_dynamic(path, str(options.out / f"{kind}-int8.onnx"), weight_type=QuantType.QInt8)


if __name__ == "__main__":
    main()
