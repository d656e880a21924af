//! OpenCLIP's names for the parameters that Hugging Face names otherwise.

/// What a stored tensor is in Hugging Face's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The parameter itself.
    Same(String),
    /// The transpose of a matrix.
    Transposed(String),
    /// Three parameters of equal shape, one after the other along the first axis.
    Joined([String; 3]),
    /// A buffer that follows from the configuration.
    Buffer,
    /// Nothing known.
    Unknown,
}

/// Whether a checkpoint with these names is OpenCLIP's.
pub(super) fn is_openclip<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    names.any(|name| name.starts_with("visual."))
}

/// The place of an OpenCLIP tensor.
pub(super) fn place(name: &str) -> Place {
    // CustomTextCLIP keeps the text tower under a prefix.
    let name = name.strip_prefix("text.").unwrap_or(name);
    let same = |to: &str| Place::Same(to.to_owned());
    match name {
        "logit_scale" => same("logit_scale"),
        "attn_mask" => Place::Buffer,
        "token_embedding.weight" => same("text_model.embeddings.token_embedding.weight"),
        "positional_embedding" => same("text_model.embeddings.position_embedding.weight"),
        "text_projection" => Place::Transposed("text_projection.weight".to_owned()),
        "visual.proj" => Place::Transposed("visual_projection.weight".to_owned()),
        "visual.class_embedding" => same("vision_model.embeddings.class_embedding"),
        "visual.conv1.weight" => same("vision_model.embeddings.patch_embedding.weight"),
        "visual.positional_embedding" => same("vision_model.embeddings.position_embedding.weight"),
        other => norm(other).or_else(|| block(other)).unwrap_or(Place::Unknown),
    }
}

fn norm(name: &str) -> Option<Place> {
    let (at, leaf) = name.rsplit_once('.')?;
    let to = match at {
        "ln_final" => "text_model.final_layer_norm",
        "visual.ln_pre" => "vision_model.pre_layrnorm",
        "visual.ln_post" => "vision_model.post_layernorm",
        _ => return None,
    };
    matches!(leaf, "weight" | "bias").then(|| Place::Same(format!("{to}.{leaf}")))
}

fn block(name: &str) -> Option<Place> {
    let (tower, rest) = match name.strip_prefix("visual.transformer.resblocks.") {
        Some(rest) => ("vision_model", rest),
        None => ("text_model", name.strip_prefix("transformer.resblocks.")?),
    };
    let (layer, part) = rest.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let at = format!("{tower}.encoder.layers.{layer}");
    let joined = |leaf: &str| {
        Place::Joined(["q", "k", "v"].map(|p| format!("{at}.self_attn.{p}_proj.{leaf}")))
    };
    let (module, leaf) = match part {
        "attn.in_proj_weight" => return Some(joined("weight")),
        "attn.in_proj_bias" => return Some(joined("bias")),
        other => other.rsplit_once('.')?,
    };
    let to = match module {
        "ln_1" => "layer_norm1",
        "ln_2" => "layer_norm2",
        "attn.out_proj" => "self_attn.out_proj",
        "mlp.c_fc" => "mlp.fc1",
        "mlp.c_proj" => "mlp.fc2",
        _ => return None,
    };
    matches!(leaf, "weight" | "bias").then(|| Place::Same(format!("{at}.{to}.{leaf}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_both_towers_find_their_place() {
        assert_eq!(
            place("visual.transformer.resblocks.11.mlp.c_fc.bias"),
            Place::Same("vision_model.encoder.layers.11.mlp.fc1.bias".to_owned())
        );
        let Place::Joined(parts) = place("text.transformer.resblocks.0.attn.in_proj_bias") else {
            panic!("not joined");
        };
        assert_eq!(parts[1], "text_model.encoder.layers.0.self_attn.k_proj.bias");
    }

    #[test]
    fn other_names_have_no_place() {
        for name in ["visual.head.proj.weight", "transformer.resblocks.x.ln_1.bias", "", "ln_1"] {
            assert_eq!(place(name), Place::Unknown, "{name}");
        }
        assert_eq!(place("visual.ln_pre.running_mean"), Place::Unknown);
    }
}
