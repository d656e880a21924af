"""Writes tests/golden/clip: tiny random CLIP models saved by transformers, with what transformers
computes from them, and what its tokenizer makes of a thousand texts.

    pip install torch transformers
    python tests/reference/clip.py [TOKENIZER_JSON]

Each model is a directory as users have it, plus expected.json. The tokenizer file is that of any
OpenAI CLIP model; without it the texts are left as they are.
"""

import gzip
import json
import random
import shutil
import sys
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, PreTrainedTokenizerFast

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "clip"

# name: vision, text, projection
MODELS = {
    "patch32_quick_gelu": (
        dict(hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
             image_size=64, patch_size=32, hidden_act="quick_gelu"),
        dict(hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
             vocab_size=96, max_position_embeddings=16, hidden_act="quick_gelu",
             bos_token_id=94, eos_token_id=95, pad_token_id=95),
        24,
    ),
    "patch16_gelu": (
        dict(hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=3,
             image_size=48, patch_size=16, hidden_act="gelu"),
        dict(hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3,
             vocab_size=96, max_position_embeddings=16, hidden_act="gelu",
             bos_token_id=94, eos_token_id=95, pad_token_id=0),
        16,
    ),
    "legacy_eos": (
        dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
             image_size=32, patch_size=16, hidden_act="quick_gelu"),
        dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
             vocab_size=96, max_position_embeddings=16, hidden_act="quick_gelu",
             bos_token_id=0, eos_token_id=2, pad_token_id=1),
        16,
    ),
    # The end token is not the largest id, and the towers differ in everything.
    "new_eos_other_widths": (
        dict(hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=2,
             image_size=32, patch_size=8, hidden_act="gelu", layer_norm_eps=1e-6),
        dict(hidden_size=16, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
             vocab_size=96, max_position_embeddings=16, hidden_act="quick_gelu",
             bos_token_id=50, eos_token_id=60, pad_token_id=61),
        20,
    ),
}


def ids_of(name, text):
    """A batch of padded prompts: three lengths, one as long as the model takes."""
    end = 95 if text["eos_token_id"] == 2 else text["eos_token_id"]
    begin = 94 if text["eos_token_id"] == 2 else text["bos_token_id"]
    pad = text["pad_token_id"]
    rng = random.Random(name)
    rows = []
    for length in (3, 9, text["max_position_embeddings"]):
        words = [rng.randrange(2, 50) for _ in range(length - 2)]
        row = [begin, *words, end]
        rows.append(row + [pad] * (text["max_position_embeddings"] - length))
    if end not in (94, 95):
        rows[1][4] = 93  # larger than the end token, before it
    return rows


def write_model(name, vision, text, dim):
    torch.manual_seed(sum(map(ord, name)))
    config = CLIPConfig(vision_config=vision, text_config=text, projection_dim=dim)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # transformers starts biases at 0 and norms at 1, which hides mistakes.
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model.logit_scale.fill_(2.6592)
    out = GOLDEN / name
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out)
    side = vision["image_size"]
    # The same few values over and over keep the file small: the test repeats them.
    tile = torch.randn(997, generator=torch.Generator().manual_seed(5)).mul(1e4).round().div(1e4)
    count = 4 * 3 * side * side
    pixels = tile.repeat(count // 997 + 1)[:count].reshape(4, 3, side, side)
    ids = torch.tensor(ids_of(name, text))
    with torch.no_grad():
        output = model(input_ids=ids, pixel_values=pixels)
        image = model.visual_projection(model.vision_model(pixels).pooler_output)
        words = model.text_projection(model.text_model(ids).pooler_output)
    expected = dict(
        pixels=tile.tolist(),
        ids=ids.tolist(),
        image_features=image.double().tolist(),
        text_features=words.double().tolist(),
        logits_per_image=output.logits_per_image.double().tolist(),
    )
    # 9 digits are all that f32 has.
    text = json.dumps(expected)
    short = json.loads(text, parse_float=lambda digits: float(f"{float(digits):.9g}"))
    (out / "expected.json").write_text(json.dumps(short) + "\n")
    (out / "model.safetensors").chmod(0o644)


def texts():
    """Over a thousand texts: prompts, scripts, emoji, entities, odd spaces, over-long ones."""
    rng = random.Random(20)
    fixed = [
        "a photo of a hand", "A PHOTO of the DORSAL side of a LEFT hand!", "don't we've they'll I'd",
        "&amp; &lt;b&gt; &quot;x&quot; &#39; &nbsp; &eacute; &amp;amp;", "<p>hand</p>", "naïve café Zoë",
        "e\u0301 n\u0303 o\u0308 (combining)", "ﬁ ligature ½ ² № ™ ㎏", "İstanbul ıI ẞß ΑΒΓ ς Σ",
        "👋🏽 👨\u200d👩\u200d👧\u200d👦 🖐️ ✋🏿 🇩🇪 🏳️\u200d🌈", "手のひら 손바닥 手掌 ладонь كف اليد יד हथेली ฝ่ามือ",
        "tab\tnew\nline\r\nand\u00a0nbsp\u2003em\u3000ideographic", "zero\u200bwidth\u200djoin\ufeffbom", "１２３ ٣٤٥ 12,345.67",
        "3.14e-10 0x1F 1st 2nd", "snake_case camelCase kebab-case", "C++ && || != === <<>> ->",
        "http://example.com/a?b=c&d=%20#e", "x" * 500, "ab " * 300, "🖐" * 120, "!?" * 200, "1 " * 200,
        "<|startoftext|>hand<|endoftext|> more", "<|endoftext|>", "<|startoftext|>", " leading", "trailing ",
        "  many   inner    spaces  ", "'s 't 're 've 'm 'll 'd 'S 'LL", "it’s “quoted” — dash… ‘x’", "\u0000\u0001\u001b[31mred",
        "\ud7ff \ue000 \ufffd \U0001F9E4 \U000E0041 \U0010FFFF", "ǅ ǆ Ǆ Ⅷ ⅷ ª º", "a\u0300\u0301\u0302\u0303\u0304 stacked", "",
        " ", "\u3000", "\u200b", "Å Å Å", "가 가", "दिन ক্ষ ಕ್ಷ", "𝕳𝖆𝖓𝖉 𝒉𝒂𝒏𝒅 ⒽⒶⓃⒹ ｈａｎｄ",
    ]
    words = ("photo hand dorsal palmar left right ring bracelet nail polish woman man fair dark skin close-up "
             "veins creases finger thumb Accessories very medium of a the with without wearing").split()
    ranges = [(0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x6FF), (0x900, 0x97F),
              (0xE00, 0xE7F), (0x1E00, 0x1FFF), (0x2000, 0x2BFF), (0x3040, 0x30FF), (0x4E00, 0x4FFF),
              (0xAC00, 0xAD00), (0xFE00, 0xFFEF), (0x1F300, 0x1FAFF), (0x0300, 0x036F)]
    out = list(fixed)
    for _ in range(350):
        out.append(" ".join(rng.choice(words) for _ in range(rng.randrange(1, 14))))
    for _ in range(450):
        low, high = rng.choice(ranges)
        out.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randrange(1, 24))))
    for _ in range(250):
        parts = []
        for _ in range(rng.randrange(2, 30)):
            low, high = rng.choice(ranges)
            parts.append(rng.choice([rng.choice(words), chr(rng.randint(low, high)), str(rng.randrange(10000)),
                                     rng.choice(["&amp;", "'s", "\n", "  ", "<br>", "...", "👍🏾"])]))
        out.append(rng.choice(["", " "]).join(parts))
    return out


def write_texts(tokenizer_json):
    folder = Path(tokenizer_json).resolve().parent
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    bare = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_json))
    rows, dropped = [], 0
    for text in texts():
        ids = tokenizer(text, truncation=True, max_length=77)["input_ids"]
        # The class rebuilds its normalizer; keep in mind where that and the file differ.
        plain = bare(text)["input_ids"]
        plain = plain if len(plain) <= 77 else plain[:76] + plain[-1:]
        if ids != plain:
            dropped += 1
            print("differs from the plain file:", repr(text)[:70])
        rows.append([text, ids])
    print(len(rows), "texts,", dropped, "differ between CLIPTokenizer and the plain file")
    lines = "\n".join(json.dumps(row, ensure_ascii=True, separators=(",", ":")) for row in rows)
    (GOLDEN / "texts.jsonl").write_text(lines + "\n")


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for model_name, parts in MODELS.items():
        write_model(model_name, *parts)
    if len(sys.argv) > 1:
        write_texts(sys.argv[1])
