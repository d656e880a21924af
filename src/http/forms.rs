//! One reading of the three ways to send an image with fields: as the body with the fields in the
//! query, as multipart form data, or as JSON with base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use serde_json::{Map, Value};

use crate::domain::{Aspect, AttributeFilter, Consent, HandAttributes, Side};
use crate::service::Combine;

use super::error::ApiError;
use super::extract::{Body, Incoming, parse, query};
use super::multipart;

/// Fields and images of a request. Every field is taken out once; what is left at the end is unknown.
pub(super) struct Form {
    fields: Map<String, Value>,
    images: Vec<(String, Vec<u8>)>,
    /// Holds the request's share of the memory for bodies until it is answered.
    _body: Option<Body>,
}

impl Form {
    /// Reads a request whose images are the fields `images`, the first of which a raw body is.
    pub(super) async fn read(incoming: Incoming, images: &[&str]) -> Result<Self, ApiError> {
        let kind = incoming.content_type();
        let request = incoming.request().clone();
        let mut body = incoming.body(images.len().max(1)).await?;
        match kind.as_str() {
            "application/json" => {
                if let Some(name) = query(&request)?.into_keys().next() {
                    return Err(ApiError::field(
                        &name,
                        "is not a query parameter beside a JSON body",
                    ));
                }
                let fields: Map<String, Value> = parse(&body.bytes)?;
                body.bytes = Vec::new();
                Self { fields, images: Vec::new(), _body: Some(body) }.decode_base64(images)
            }
            "multipart/form-data" => {
                let bytes = std::mem::take(&mut body.bytes);
                let mut form =
                    Self { fields: text_fields(&request)?, images: Vec::new(), _body: Some(body) };
                for (name, content) in multipart::parts(&request, bytes).await? {
                    form.add_part(name, content, images)?;
                }
                Ok(form)
            }
            "image/jpeg" | "image/png" | "image/webp" | "application/octet-stream"
                if !images.is_empty() =>
            {
                let bytes = std::mem::take(&mut body.bytes);
                let fields = text_fields(&request)?;
                Ok(Self { fields, images: vec![(images[0].to_owned(), bytes)], _body: Some(body) })
            }
            _ => Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "send image/jpeg, image/png, image/webp, multipart/form-data or application/json",
            )),
        }
    }

    /// The item of a batch, a JSON object.
    pub(super) fn item(value: Value, images: &[&str]) -> Result<Self, ApiError> {
        match value {
            Value::Object(fields) => {
                Self { fields, images: Vec::new(), _body: None }.decode_base64(images)
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => Err(ApiError::field("samples", "must hold objects")),
        }
    }

    fn decode_base64(mut self, images: &[&str]) -> Result<Self, ApiError> {
        for &name in images {
            match self.fields.remove(name) {
                None | Some(Value::Null) => {}
                Some(Value::String(text)) => {
                    let bytes = STANDARD.decode(text.as_bytes()).map_err(|error| {
                        ApiError::field(name, format!("is not base64: {error}"))
                    })?;
                    self.images.push((name.to_owned(), bytes));
                }
                Some(_) => return Err(ApiError::field(name, "must be base64 in a string")),
            }
        }
        Ok(self)
    }

    fn add_part(
        &mut self,
        name: String,
        content: Vec<u8>,
        images: &[&str],
    ) -> Result<(), ApiError> {
        let twice = self.fields.contains_key(&name) || self.images.iter().any(|(n, _)| *n == name);
        if twice {
            return Err(ApiError::field(&name, "is given twice"));
        }
        if images.contains(&name.as_str()) {
            self.images.push((name, content));
            return Ok(());
        }
        let text =
            String::from_utf8(content).map_err(|_| ApiError::field(&name, "is not UTF-8"))?;
        let nested = matches!(name.as_str(), "attributes" | "filter" | "consent");
        let value = if nested { parse(text.as_bytes())? } else { Value::String(text) };
        self.fields.insert(name, value);
        Ok(())
    }

    pub(super) fn image(&mut self, name: &str) -> Result<Vec<u8>, ApiError> {
        self.optional_image(name).ok_or_else(|| ApiError::field(name, "is needed"))
    }

    pub(super) fn optional_image(&mut self, name: &str) -> Option<Vec<u8>> {
        let at = self.images.iter().position(|(have, _)| have == name)?;
        Some(self.images.swap_remove(at).1)
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.fields.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(ApiError::field(name, "must be a string")),
        }
    }

    /// A number, which query and multipart bring as text.
    pub(super) fn number(&mut self, name: &str) -> Result<Option<f64>, ApiError> {
        let number = match self.fields.remove(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        let finite = number.filter(|number: &f64| number.is_finite());
        finite.map(Some).ok_or_else(|| ApiError::field(name, "must be a number"))
    }

    pub(super) fn count(&mut self, name: &str, default: usize) -> Result<usize, ApiError> {
        match self.number(name)? {
            None => Ok(default),
            Some(number) if number >= 0.0 && number.fract() == 0.0 && number < 1e9 => {
                Ok(number as usize)
            }
            Some(_) => Err(ApiError::field(name, "must be a whole number")),
        }
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.fields.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(Value::String(text)) if text == "true" || text == "1" => Ok(Some(true)),
            Some(Value::String(text)) if text == "false" || text == "0" => Ok(Some(false)),
            Some(_) => Err(ApiError::field(name, "must be true or false")),
        }
    }

    pub(super) fn threshold(&mut self) -> Result<Option<f32>, ApiError> {
        Ok(self.number("threshold")?.map(|number| number as f32))
    }

    pub(super) fn combine(&mut self) -> Result<Combine, ApiError> {
        Ok(match self.count("mean_of", 0)? {
            0 => Combine::Best,
            k => Combine::MeanOf(k),
        })
    }

    /// `attributes`, with `aspect`, `side` and `accessories` taken at the top level too.
    pub(super) fn attributes(&mut self) -> Result<HandAttributes, ApiError> {
        let nested = self.fields.remove("attributes").filter(|value| !value.is_null());
        let mut attributes: HandAttributes = match nested {
            Some(value) => serde_json::from_value(value).map_err(|error| {
                ApiError::field("attributes", format!("cannot be read: {error}"))
            })?,
            None => HandAttributes::default(),
        };
        let flat = self.flat()?;
        attributes.aspect = flat.aspect.or(attributes.aspect);
        attributes.side = flat.side.or(attributes.side);
        attributes.accessories = flat.accessories.or(attributes.accessories);
        Ok(attributes)
    }

    pub(super) fn consent(&mut self) -> Result<Option<Consent>, ApiError> {
        let given = self.fields.remove("consent").filter(|value| !value.is_null());
        let consent = given.map(serde_json::from_value).transpose();
        consent.map_err(|error| ApiError::field("consent", format!("cannot be read: {error}")))
    }

    /// `filter`, with `aspect`, `side` and `accessories` taken at the top level too.
    pub(super) fn filter(&mut self) -> Result<AttributeFilter, ApiError> {
        let nested = self.fields.remove("filter").filter(|value| !value.is_null());
        let mut filter: AttributeFilter = match nested {
            Some(value) => serde_json::from_value(value)
                .map_err(|error| ApiError::field("filter", format!("cannot be read: {error}")))?,
            None => AttributeFilter::default(),
        };
        let flat = self.flat()?;
        filter.aspect = flat.aspect.or(filter.aspect);
        filter.side = flat.side.or(filter.side);
        filter.accessories = flat.accessories.or(filter.accessories);
        Ok(filter)
    }

    fn flat(&mut self) -> Result<HandAttributes, ApiError> {
        let (aspect, side) = (self.text("aspect")?, self.text("side")?);
        let aspect = aspect.map(|text| text.parse::<Aspect>()).transpose();
        let side = side.map(|text| text.parse::<Side>()).transpose();
        Ok(HandAttributes {
            aspect: aspect.map_err(|_| ApiError::field("aspect", "must be dorsal or palmar"))?,
            side: side.map_err(|_| ApiError::field("side", "must be left or right"))?,
            accessories: self.flag("accessories")?,
            ..HandAttributes::default()
        })
    }

    /// Refuses fields that nothing took.
    pub(super) fn finish(&self) -> Result<(), ApiError> {
        let left = self.fields.keys().next().or(self.images.first().map(|(name, _)| name));
        left.map_or(Ok(()), |name| {
            let name: String = name.chars().take(64).collect();
            Err(ApiError::field(&name, "is not a field of this request"))
        })
    }
}

fn text_fields(request: &HttpRequest) -> Result<Map<String, Value>, ApiError> {
    Ok(query(request)?.into_iter().map(|(name, text)| (name, Value::String(text))).collect())
}
