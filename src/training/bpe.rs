use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

/// CLIP's split of a text into words, before bytes are merged.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// A trained tokenizer.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainedTokenizer {
    /// Its `tokenizer.json`.
    pub json: Value,
    /// Number of tokens; the last is the end of text.
    pub vocabulary: usize,
}

/// Trains a byte-level BPE tokenizer with CLIP's conventions (lower case, `</w>` at word ends, end of
/// text as the highest id) and gives its `tokenizer.json`. Every byte is in the vocabulary with and
/// without `</w>`, so that no text is unknown. The corpus is plain lower-case ASCII.
#[must_use]
pub fn train_tokenizer(corpus: &[String], merges: usize) -> TrainedTokenizer {
    let alphabet = byte_symbols();
    let mut words: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    for word in corpus.iter().flat_map(|line| split(line)) {
        let mut symbols: Vec<String> =
            word.bytes().map(|b| alphabet[b as usize].to_string()).collect();
        if let Some(last) = symbols.last_mut() {
            last.push_str("</w>");
        }
        *words.entry(symbols).or_default() += 1;
    }
    let mut vocabulary: Vec<String> = alphabet.iter().map(char::to_string).collect();
    vocabulary.extend(alphabet.iter().map(|c| format!("{c}</w>")));
    let mut rules = Vec::new();
    for _ in 0..merges {
        let mut pairs: HashMap<(&str, &str), usize> = HashMap::new();
        for (word, count) in &words {
            for pair in word.windows(2) {
                *pairs.entry((&pair[0], &pair[1])).or_default() += count;
            }
        }
        // Most frequent first, ties by spelling: the result does not depend on hashing.
        let best = pairs.into_iter().max_by(|(a, n), (b, m)| n.cmp(m).then_with(|| b.cmp(a)));
        let Some(((left, right), _)) = best else { break };
        let (left, right) = (left.to_owned(), right.to_owned());
        let merged = format!("{left}{right}");
        words = words.into_iter().map(|(word, n)| (merge(word, &left, &right), n)).collect();
        rules.push(json!([left, right]));
        vocabulary.push(merged);
    }
    let (start, end) = (vocabulary.len(), vocabulary.len() + 1);
    vocabulary.extend(["<|startoftext|>".to_owned(), "<|endoftext|>".to_owned()]);
    let vocab: serde_json::Map<String, Value> =
        vocabulary.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let vocabulary = vocab.len();
    let special = |id: usize, content: &str, normalized: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": normalized, "special": true})
    };
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(start, "<|startoftext|>", false), special(end, "<|endoftext|>", false)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": {"type": "RobertaProcessing", "sep": ["<|endoftext|>", end],
            "cls": ["<|startoftext|>", start], "trim_offsets": false, "add_prefix_space": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<|endoftext|>",
            "continuing_subword_prefix": "", "end_of_word_suffix": "</w>", "fuse_unk": false,
            "byte_fallback": false, "vocab": vocab, "merges": rules},
    });
    TrainedTokenizer { json, vocabulary }
}

/// Letters together, anything else but space by itself, as the pattern above does on the corpus.
fn split(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut inside = false;
    for c in line.to_lowercase().chars() {
        let letter = c.is_alphabetic();
        match words.last_mut() {
            Some(word) if letter && inside => word.push(c),
            _ if c.is_whitespace() => {}
            _ => words.push(c.to_string()),
        }
        inside = letter;
    }
    words
}

fn merge(word: Vec<String>, left: &str, right: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(word.len());
    for symbol in word {
        match out.last_mut() {
            Some(last) if last == left && symbol == right => last.push_str(&symbol),
            _ => out.push(symbol),
        }
    }
    out
}

/// GPT-2's printable stand-ins for the 256 bytes.
fn byte_symbols() -> [char; 256] {
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 256;
    std::array::from_fn(|byte| {
        let byte = byte as u32;
        let code = if printable(byte) {
            byte
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).unwrap_or(' ')
    })
}

#[cfg(test)]
mod tests {
    use tokenizers::Tokenizer;

    use super::*;

    fn tokenizer() -> Tokenizer {
        let corpus =
            vec!["a photo of a left hand".to_owned(), "a palmar left hand, palm side".to_owned()];
        let json = train_tokenizer(&corpus, 100).json.to_string();
        Tokenizer::from_bytes(json.as_bytes()).unwrap()
    }

    #[test]
    fn words_of_the_corpus_are_one_token_and_the_ends_are_marked() {
        let tokenizer = tokenizer();
        let encoding = tokenizer.encode("a LEFT  hand", true).unwrap();
        assert_eq!(
            encoding.get_tokens(),
            ["<|startoftext|>", "a</w>", "left</w>", "hand</w>", "<|endoftext|>"]
        );
        let end = *encoding.get_ids().last().unwrap() as usize;
        assert_eq!(end + 1, tokenizer.get_vocab_size(true), "the end of text has the highest id");
    }

    #[test]
    fn no_text_is_unknown() {
        let tokenizer = tokenizer();
        let end = tokenizer.token_to_id("<|endoftext|>").unwrap();
        for text in ["Zebra 42!", "手 ✋🏽", "naïve\tÉ", "x\u{0}y"] {
            let ids = tokenizer.encode(text, true).unwrap().get_ids().to_vec();
            assert_eq!(ids.iter().filter(|id| **id == end).count(), 1, "{text}");
            assert!(ids.len() > 2, "{text}");
        }
    }

    #[test]
    fn the_same_corpus_gives_the_same_tokenizer() {
        let corpus = vec!["bb aa ab ba".to_owned()];
        assert_eq!(train_tokenizer(&corpus, 3), train_tokenizer(&corpus, 3));
    }
}
