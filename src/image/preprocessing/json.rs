//! `preprocessor_config.json`, both ways.

use serde::Serialize;
use serde_json::{Map, Value};

use super::geometry::{Geometry, Scale};
use super::{CLIP, Framing, Normalisation, Preprocessing};
use crate::image::{Filter, ImageError};

const FRAMING: &str = "handclip_framing";

/// The switches that `CLIPImageProcessor` knows. Any other that is on is a step we do not have.
const SWITCHES: [&str; 5] =
    ["do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"];

pub(super) fn read(text: &str) -> Result<Preprocessing, ImageError> {
    let object = serde_json::from_str::<Map<String, Value>>(text)
        .map_err(|e| ImageError::PreprocessingSyntax { detail: e.to_string() })?;
    let config = Config(&object);
    config.refuse_unknown_steps()?;
    let rescale = match config.switch("do_rescale")? {
        true => Some(config.number("rescale_factor", 1.0 / 255.0)?),
        false => None,
    };
    if rescale == Some(0.0) {
        return Err(value("rescale_factor", "it is 0"));
    }
    let normalisation = match config.switch("do_normalize")? {
        true => Some(Normalisation {
            mean: config.channels("image_mean", CLIP.mean)?,
            deviation: config.channels("image_std", CLIP.deviation)?,
        }),
        false => None,
    };
    if normalisation.as_ref().is_some_and(|n| n.deviation.iter().any(|&d| d as f32 <= 0.0)) {
        return Err(value("image_std", "a deviation is not above 0"));
    }
    Ok(Preprocessing {
        geometry: config.geometry()?,
        filter: config.filter()?,
        rescale,
        normalisation,
    })
}

/// Fields in alphabetical order, as transformers writes them.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    crop_size: Option<Sides>,
    do_center_crop: bool,
    do_convert_rgb: bool,
    do_normalize: bool,
    do_rescale: bool,
    do_resize: bool,
    handclip_framing: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_mean: Option<[f64; 3]>,
    image_processor_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_std: Option<[f64; 3]>,
    resample: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rescale_factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<Size>,
}

#[derive(Serialize)]
struct Sides {
    height: u32,
    width: u32,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Size {
    Shortest { shortest_edge: u32 },
    Exact(Sides),
}

pub(super) fn write(p: &Preprocessing) -> String {
    let (height, width) = p.size();
    let (size, crop) = match p.geometry {
        Geometry::Crop { scale: Scale::None, .. } => (None, true),
        Geometry::Crop { scale: Scale::ShortestEdge(shortest_edge), .. } => {
            (Some(Size::Shortest { shortest_edge }), true)
        }
        Geometry::Crop { scale: Scale::Exact { height, width }, .. } => {
            (Some(Size::Exact(Sides { height, width })), true)
        }
        Geometry::Squash { .. } | Geometry::Pad { .. } => {
            (Some(Size::Exact(Sides { height, width })), false)
        }
    };
    let written = Written {
        crop_size: crop.then_some(Sides { height, width }),
        do_center_crop: crop,
        do_convert_rgb: true,
        do_normalize: p.normalisation.is_some(),
        do_rescale: p.rescale.is_some(),
        do_resize: size.is_some(),
        handclip_framing: framing_name(p.framing()),
        image_mean: p.normalisation.as_ref().map(|n| n.mean),
        image_processor_type: "CLIPImageProcessor",
        image_std: p.normalisation.as_ref().map(|n| n.deviation),
        resample: p.filter.pillow(),
        rescale_factor: p.rescale,
        size,
    };
    // Plain numbers and strings under fixed keys: nothing that serialisation could refuse.
    let mut text = serde_json::to_string_pretty(&written).unwrap_or_default();
    text.push('\n');
    text
}

fn framing_name(framing: Framing) -> &'static str {
    match framing {
        Framing::CentreCrop => "centre_crop",
        Framing::Squash => "squash",
        Framing::Pad => "pad",
    }
}

/// A parsed file, read by key.
struct Config<'a>(&'a Map<String, Value>);

impl Config<'_> {
    /// The value of a key that is there and not null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn refuse_unknown_steps(&self) -> Result<(), ImageError> {
        for (key, on) in self.0 {
            let known = SWITCHES.contains(&key.as_str());
            if key.starts_with("do_") && !known && on == &Value::Bool(true) {
                return Err(value("do_*", format!("`{key}` is not supported")));
            }
        }
        Ok(())
    }

    fn switch(&self, key: &'static str) -> Result<bool, ImageError> {
        match self.get(key) {
            None => Ok(true),
            Some(on) => on.as_bool().ok_or_else(|| value(key, "it is neither true nor false")),
        }
    }

    fn number(&self, key: &'static str, default: f64) -> Result<f64, ImageError> {
        match self.get(key) {
            None => Ok(default),
            Some(number) => number.as_f64().ok_or_else(|| value(key, "it is not a number")),
        }
    }

    /// Three numbers, or one for all.
    fn channels(&self, key: &'static str, default: [f64; 3]) -> Result<[f64; 3], ImageError> {
        let refused = || value(key, "it is not three numbers");
        match self.get(key) {
            None => Ok(default),
            Some(Value::Array(items)) => {
                let numbers: Option<Vec<f64>> = items.iter().map(Value::as_f64).collect();
                numbers.and_then(|n| <[f64; 3]>::try_from(n).ok()).ok_or_else(refused)
            }
            Some(one) => one.as_f64().map(|n| [n; 3]).ok_or_else(refused),
        }
    }

    fn filter(&self) -> Result<Filter, ImageError> {
        let Some(resample) = self.get("resample") else { return Ok(Filter::Bicubic) };
        resample.as_u64().and_then(Filter::from_pillow).ok_or_else(|| {
            value("resample", format!("{resample} is not one of Pillow's filters 1 to 5"))
        })
    }

    fn geometry(&self) -> Result<Geometry, ImageError> {
        let scale = if self.switch("do_resize")? { self.scale()? } else { Scale::None };
        let crop = if self.switch("do_center_crop")? { Some(self.crop()?) } else { None };
        let (height, width) = match (crop, scale) {
            (Some(crop), _) => crop,
            (None, Scale::Exact { height, width }) => (height, width),
            (None, Scale::None | Scale::ShortestEdge(_)) => {
                let detail = "without it `size` must give height and width: models take one size";
                return Err(value("do_center_crop", detail));
            }
        };
        let framing = match self.get(FRAMING) {
            None if crop.is_some() => Framing::CentreCrop,
            None => Framing::Squash,
            Some(name) => [Framing::CentreCrop, Framing::Squash, Framing::Pad]
                .into_iter()
                .find(|&framing| name.as_str() == Some(framing_name(framing)))
                .ok_or_else(|| value(FRAMING, "it is not centre_crop, squash or pad"))?,
        };
        match framing {
            Framing::CentreCrop if crop.is_none() => {
                Err(value(FRAMING, "centre_crop needs do_center_crop"))
            }
            Framing::CentreCrop => Ok(Geometry::Crop { scale, height, width }),
            Framing::Squash => Ok(Geometry::Squash { height, width }),
            Framing::Pad => Ok(Geometry::Pad { height, width }),
        }
    }

    fn scale(&self) -> Result<Scale, ImageError> {
        let key = "size";
        match self.get(key) {
            None => Ok(Scale::ShortestEdge(224)),
            // Files of old: one number. Two switches of old say what it means.
            Some(number @ Value::Number(_)) => {
                let side = side(key, number)?;
                let square = |key| self.get(key) == Some(&Value::Bool(true));
                if square("use_square_size") || square("default_to_square") {
                    return Ok(Scale::Exact { height: side, width: side });
                }
                Ok(Scale::ShortestEdge(side))
            }
            Some(Value::Object(sides)) => {
                let given: Vec<&str> =
                    sides.iter().filter(|(_, v)| !v.is_null()).map(|(k, _)| k.as_str()).collect();
                match given.as_slice() {
                    ["shortest_edge"] => {
                        let side = side(key, &sides["shortest_edge"])?;
                        // Files of old for KOSMOS-2, which transformers still reads so.
                        if self.get("use_square_size") == Some(&Value::Bool(true)) {
                            return Ok(Scale::Exact { height: side, width: side });
                        }
                        Ok(Scale::ShortestEdge(side))
                    }
                    ["height", "width"] | ["width", "height"] => {
                        let (height, width) = both(key, sides)?;
                        Ok(Scale::Exact { height, width })
                    }
                    _ => {
                        Err(value(key, "it gives neither shortest_edge nor height and width alone"))
                    }
                }
            }
            Some(_) => Err(value(key, "it is neither a number nor an object")),
        }
    }

    fn crop(&self) -> Result<(u32, u32), ImageError> {
        let key = "crop_size";
        match self.get(key) {
            None => Ok((224, 224)),
            Some(number @ Value::Number(_)) => side(key, number).map(|side| (side, side)),
            Some(Value::Object(sides)) => both(key, sides),
            Some(_) => Err(value(key, "it is neither a number nor an object")),
        }
    }
}

fn both(key: &'static str, sides: &Map<String, Value>) -> Result<(u32, u32), ImageError> {
    match (sides.get("height"), sides.get("width")) {
        (Some(height), Some(width)) => Ok((side(key, height)?, side(key, width)?)),
        _ => Err(value(key, "it lacks height or width")),
    }
}

fn side(key: &'static str, number: &Value) -> Result<u32, ImageError> {
    let max = Preprocessing::MAX_SIDE;
    number
        .as_u64()
        .and_then(|side| u32::try_from(side).ok())
        .filter(|side| (1..=max).contains(side))
        .ok_or_else(|| value(key, format!("{number} is not a side of 1 to {max} pixels")))
}

fn value(key: &'static str, detail: impl Into<String>) -> ImageError {
    ImageError::PreprocessingValue { key, detail: detail.into() }
}
