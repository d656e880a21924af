//! The table of who may use whom, as code. ARCHITECTURE.md prints the same table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Room -> rooms it may use. Anything not listed is forbidden.
const MAY_USE: &[(&str, &[&str])] = &[
    ("cli", &["http", "service", "config", "telemetry", "domain"]),
    ("http", &["service", "config", "telemetry", "domain"]),
    (
        "service",
        &[
            "model",
            "gallery",
            "access",
            "jobs",
            "training",
            "evaluation",
            "dataset",
            "synth",
            "report",
            "storage",
            "image",
            "tensor",
            "telemetry",
            "urgency",
            "domain",
        ],
    ),
    ("training", &["model", "dataset", "evaluation", "image", "tensor", "storage", "domain"]),
    ("dataset", &["evaluation", "image", "storage", "domain"]),
    ("gallery", &["storage", "urgency", "domain"]),
    ("access", &["storage", "domain"]),
    ("jobs", &["storage", "urgency", "domain"]),
    ("model", &["tensor", "image", "storage", "domain"]),
    ("evaluation", &["image", "tensor", "domain"]),
    ("synth", &["domain"]),
    ("report", &[]),
    ("storage", &["domain"]),
    ("image", &["simd", "domain"]),
    ("tensor", &["simd", "domain"]),
    ("simd", &[]),
    ("urgency", &[]),
    ("config", &["domain"]),
    ("telemetry", &["domain"]),
    ("domain", &[]),
];

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The rooms named as `crate::<room>` in a source text, comments left out; one level of
/// `use crate::{a::…, b::…}` is opened.
fn rooms_named(source: &str) -> BTreeSet<String> {
    let code: String = source
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` in a macro is the same crate too.
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0_u32;
            let mut word = String::new();
            let mut at_start = true;
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        at_start = true;
                        word.clear();
                    }
                    c if depth == 0 && at_start && (c.is_alphanumeric() || c == '_') => {
                        word.push(c);
                    }
                    c if depth == 0 && at_start && !word.is_empty() => {
                        let _ = c;
                        found.insert(word.clone());
                        at_start = false;
                    }
                    _ => {}
                }
            }
            if at_start && !word.is_empty() {
                found.insert(word);
            }
        } else {
            let word: String =
                rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.insert(word);
        }
    }
    found
}

fn violations(sources: &[(String, String)]) -> Vec<String> {
    let table: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    for (file, source) in sources {
        let room = file.split('/').next().unwrap_or(file).trim_end_matches(".rs");
        let Some(allowed) = table.get(room) else {
            wrong.push(format!("{file}: `{room}` is no room of the table"));
            continue;
        };
        for used in rooms_named(source) {
            if table.contains_key(used.as_str())
                && used != room
                && !allowed.contains(&used.as_str())
            {
                wrong.push(format!("{file}: `{room}` may not use `{used}`"));
            }
        }
    }
    wrong
}

#[test]
fn no_room_uses_a_room_it_may_not() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let sources: Vec<(String, String)> = files
        .iter()
        .map(|path| {
            let name = path.strip_prefix(&src).unwrap().to_string_lossy().replace('\\', "/");
            (name, std::fs::read_to_string(path).unwrap())
        })
        .filter(|(name, _)| name != "lib.rs" && name != "main.rs")
        .collect();
    assert!(sources.len() > 20, "the source tree was not found");
    let wrong = violations(&sources);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_forbidden_use_is_found_however_it_is_written() {
    let case = |file: &str, source: &str| violations(&[(file.into(), source.into())]).len();
    assert_eq!(case("domain/x.rs", "use crate::gallery::Gallery;"), 1);
    assert_eq!(case("gallery/x.rs", "use crate::{domain::A, model::{B, C}, storage};"), 1);
    assert_eq!(case("http/x.rs", "fn f() { crate::gallery::open() }"), 1);
    assert_eq!(case("http/x.rs", "use crate::service::Service; // crate::gallery"), 0);
    assert_eq!(case("gallery/x.rs", "use crate::gallery::key; use crate::storage::Store;"), 0);
    assert_eq!(case("attic/x.rs", ""), 1, "a new folder must be entered in the table");
}

#[test]
fn only_config_reads_the_environment() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    for path in files {
        let name = path.strip_prefix(&src).unwrap().to_string_lossy().replace('\\', "/");
        let source = std::fs::read_to_string(&path).unwrap();
        let reads = source.contains("env::var") || source.contains("env = \"HANDCLIP");
        assert!(!reads || name == "config.rs" || name.starts_with("config/"), "{name}");
    }
}
