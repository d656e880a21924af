use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

use super::{ClipConfig, ModelError, TextConfig};

/// Longest prompt looked at, in bytes; more than any text of a model's tokens.
const MAX_PROMPT: usize = 64 << 10;

/// How many times as long as it is a text may become on its way to tokens. CLIP's own steps make it 54 times as long at most.
const MAX_GROWTH: u64 = 256;

/// Text to token ids, by a model's own `tokenizer.json`.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_tokens: usize,
    begin: u32,
    end: u32,
}

/// A foreign library reads what strangers send: a panic in it is a bad file, not a crash.
fn guarded<T>(work: impl FnOnce() -> Result<T, tokenizers::Error>) -> Result<T, ModelError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| ModelError::Tokenizer(error.to_string())),
        Err(_) => Err(ModelError::Tokenizer("it cannot be used".to_owned())),
    }
}

/// Of merges of what is not in the vocabulary, or into it, the library would panic.
fn check_merges(model: &Value) -> Result<(), ModelError> {
    let refuse = |problem: String| Err(ModelError::Tokenizer(problem));
    let Some(merges) = model["merges"].as_array() else { return Ok(()) };
    let prefix = &model["continuing_subword_prefix"];
    if !(prefix.is_null() || prefix == "") {
        return refuse(format!("it marks what continues a word, with {prefix}: CLIP's do not"));
    }
    for merge in merges {
        let pair = match merge.as_str() {
            Some(both) if both.starts_with("#version") => continue,
            Some(both) => both.split_once(' '),
            None => merge[0].as_str().zip(merge[1].as_str()),
        };
        let known = |token: &str| model["vocab"].get(token).is_some();
        if !pair.is_some_and(|(a, b)| known(a) && known(b) && known(&format!("{a}{b}"))) {
            return refuse(format!("it merges {merge}, of which its vocabulary knows nothing"));
        }
    }
    Ok(())
}

/// How much longer a tokenizer's steps make a text at most. The library does what a file says without a bound: two steps that put
/// 60,000 letters in the place of one would take all memory for a prompt of one letter.
fn check_growth(read: &Value) -> Result<(), ModelError> {
    let growth = growth(&read["normalizer"]).saturating_mul(growth(&read["pre_tokenizer"]));
    if growth > MAX_GROWTH {
        let problem =
            format!("it makes a text up to {growth} times as long, {MAX_GROWTH} times is taken");
        return Err(ModelError::Tokenizer(problem));
    }
    Ok(())
}

/// Bytes that a step may make of one.
fn growth(step: &Value) -> u64 {
    let length = |key: &str| step[key].as_str().map_or(0, |text| text.len() as u64);
    let all = |key: &str| step[key].as_array().map(Vec::as_slice).unwrap_or_default();
    match step["type"].as_str() {
        None => 1,
        Some("Sequence") => all("normalizers")
            .iter()
            .chain(all("pretokenizers"))
            .map(growth)
            .fold(1, u64::saturating_mul),
        Some("Replace") => 1 + length("content"),
        Some("Prepend") => 1 + length("prepend"),
        // U+FDFA becomes eighteen letters.
        Some("NFKC" | "NFKD") => 11,
        Some("Split" | "Whitespace" | "WhitespaceSplit" | "Punctuation" | "Digits" | "Strip") => 1,
        Some(_) => 3,
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json` and checks that it fits the text tower: the ids are within its
    /// vocabulary, and a text gets a begin and the end token that the tower pools at.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] otherwise.
    pub fn from_bytes(json: &[u8], config: &ClipConfig) -> Result<Self, ModelError> {
        let refuse = |problem: String| Err(ModelError::Tokenizer(problem));
        let failed = |error: tokenizers::Error| ModelError::Tokenizer(error.to_string());
        // Of what is no JSON, deep inside, the library would panic: all of it is read, texts too.
        let read: Value = serde_json::from_slice(json)
            .map_err(|error| ModelError::Tokenizer(error.to_string()))?;
        check_merges(&read["model"])?;
        check_growth(&read)?;
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(json))?;
        // Both are done here, where the end token is known.
        inner.with_truncation(None).map_err(failed)?;
        inner.with_padding(None);
        let text = &config.text;
        let largest = inner.get_vocab(true).into_values().max().unwrap_or(0);
        if largest as usize >= text.vocab_size {
            let size = text.vocab_size;
            return refuse(format!("it has the id {largest}, the model knows {size} tokens"));
        }
        if text.max_position_embeddings < 3 {
            return refuse("the model has no room for a text between its two tokens".to_owned());
        }
        let probe = guarded(|| inner.encode("a", true))?;
        let (begin, end) = match probe.get_ids() {
            [begin, .., end] if begin != end => (*begin, *end),
            _ => return refuse("it puts no begin and end token around a text".to_owned()),
        };
        let expected = match text.eos_token_id {
            // The tower then pools at the largest id.
            TextConfig::LEGACY_EOS => largest,
            id => id,
        };
        if end != expected {
            return refuse(format!("it ends a text with {end}, the model looks for {expected}"));
        }
        Ok(Self { inner, max_tokens: text.max_position_embeddings, begin, end })
    }

    /// Token ids with begin and end token. A text that is too long is cut; it keeps its end token.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`] when nothing is left to encode, [`ModelError::PromptTooLong`]
    /// for more than any caller means.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        if text.len() > MAX_PROMPT {
            return Err(ModelError::PromptTooLong { got: text.len(), max: MAX_PROMPT });
        }
        let encoding = guarded(|| self.inner.encode_fast(text, true))?;
        let mut ids = encoding.get_ids().to_vec();
        if ids.iter().all(|id| [self.begin, self.end].contains(id)) {
            return Err(ModelError::EmptyPrompt);
        }
        if ids.len() > self.max_tokens {
            ids.truncate(self.max_tokens - 1);
            ids.push(self.end);
        }
        Ok(ids)
    }

    /// Token ids of several texts, padded after their end token to the length of the longest.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], for the first text at fault.
    pub fn encode_batch<S: AsRef<str>>(&self, texts: &[S]) -> Result<Vec<Vec<u32>>, ModelError> {
        let mut batch =
            texts.iter().map(|text| self.encode(text.as_ref())).collect::<Result<Vec<_>, _>>()?;
        self.pad(&mut batch);
        Ok(batch)
    }

    /// Pads sequences to the length of the longest. Nothing after the end token reaches the
    /// feature; the end token itself also does for models that pool at the largest id.
    pub(super) fn pad(&self, batch: &mut [Vec<u32>]) {
        let longest = batch.iter().map(Vec::len).max().unwrap_or(0);
        batch.iter_mut().for_each(|ids| ids.resize(longest, self.end));
    }

    /// The token before a text.
    #[must_use]
    pub fn begin(&self) -> u32 {
        self.begin
    }

    /// The token after a text.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_makes_the_library_panic_is_refused() {
        let config = include_str!("nano/config.json");
        let config = ClipConfig::from_json(config).unwrap();
        let whole = include_str!("nano/tokenizer.json");
        Tokenizer::from_bytes(whole.as_bytes(), &config).unwrap();
        let prefix = r#""continuing_subword_prefix":"""#;
        // Found by fuzzing: a value deep inside that is none.
        let wrong = |from: &str, to: &[u8]| {
            let at = whole.find(from).unwrap();
            [&whole.as_bytes()[..at], to, &whole.as_bytes()[at + from.len()..]].concat()
        };
        for broken in [
            wrong("true", b"rue"),
            wrong("ByteLevel", b"Byte\xf9evel"),
            wrong("ByteLevel", b"Byte\\ud800"),
            // A mark that is longer than what it would be taken off, and a word that is not in the vocabulary.
            wrong(prefix, br#""continuing_subword_prefix":":fals""#),
            wrong(r#"["a","n"]"#, br#"["an","antidisestablishmentarianism"]"#),
        ] {
            let refused = Tokenizer::from_bytes(&broken, &config).err().unwrap().to_string();
            assert!(!refused.contains("cannot be used"), "{refused}");
        }
        // Steps that make a text longer and longer.
        let long = "a".repeat(60_000);
        let replace =
            format!(r#"{{"type":"Replace","pattern":{{"String":"a"}},"content":"{long}"}},"#);
        let prepend = format!(r#"{{"type":"Prepend","prepend":"{long}"}},"#);
        let spaces = r#"{"type":"ByteLevel","add_prefix_space":true},"#.repeat(40);
        for (to, steps) in [
            (r#""normalizers":["#, replace.repeat(2)),
            (r#""normalizers":["#, prepend),
            (r#""pretokenizers":["#, spaces),
        ] {
            let broken = wrong(to, format!("{to}{steps}").as_bytes());
            let refused = Tokenizer::from_bytes(&broken, &config).err().unwrap().to_string();
            assert!(refused.contains("times as long"), "{refused}");
        }
        let panicked = guarded::<()>(|| panic!("as the library does"));
        assert!(matches!(panicked, Err(ModelError::Tokenizer(_))));
    }
}
