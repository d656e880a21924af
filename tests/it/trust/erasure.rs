//! A person is erased, and the process dies at every step of it: they are whole, or gone from everywhere.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::served::Served;
use crate::cli::{done, handclip, parse};
use crate::crash::copy;
use crate::support::app::hands;

/// Every step that an erasure can be cut off at.
const STEPS: [&str; 5] =
    ["erase.before", "erase.noted", "erase.hidden", "erase.key_destroyed", "erase.recorded"];
/// Bytes of a key slot.
const SLOT: usize = 128;

/// The answer's status and body; `None` when the server died over it.
fn ask(served: &Served, method: &str, path: &str, body: &[u8]) -> Option<(u16, Value)> {
    let agent = Served::agent();
    let url = format!("{}{path}", served.url);
    let kind = if body.starts_with(b"{") { "application/json" } else { "image/jpeg" };
    let answer = match method {
        "GET" => agent.get(url).call(),
        "DELETE" => agent.delete(url).call(),
        _ => agent.post(url).content_type(kind).send(body),
    };
    let mut answer = answer.ok()?;
    let text = answer.body_mut().read_to_string().ok()?;
    Some((answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null)))
}

/// Those whom a search of each kind finds.
fn found(served: &Served) -> [BTreeSet<String>; 3] {
    let names = |list: &Value| -> BTreeSet<String> {
        let subjects = list.as_array().expect("a list").iter();
        subjects.map(|one| one["subject"].as_str().unwrap().to_owned()).collect()
    };
    let image = ask(served, "POST", "/v1/galleries/g:identify?limit=50", &hands()[0].jpeg).unwrap();
    let prompt = json!({"prompt": "a left hand", "limit": 50}).to_string();
    let text = ask(served, "POST", "/v1/galleries/g:search", prompt.as_bytes()).unwrap();
    let list = ask(served, "GET", "/v1/galleries/g/subjects", b"").unwrap();
    assert_eq!((image.0, text.0, list.0), (200, 200, 200), "{image:?} {text:?}");
    [names(&image.1["candidates"]), names(&text.1["hits"]), names(&list.1["subjects"])]
}

fn holds(dir: &Path, needle: &[u8]) -> Vec<String> {
    let files = walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap);
    let holding = files.filter(|file| file.file_type().is_file()).filter(|file| {
        let bytes = std::fs::read(file.path()).unwrap();
        bytes.windows(needle.len()).any(|window| window == needle)
    });
    holding.map(|file| file.path().display().to_string()).collect()
}

fn stopped(mut served: Served) {
    served.signal("-TERM");
    assert!(served.ended(Duration::from_secs(30)).success());
}

#[test]
fn an_erasure_that_is_cut_off_at_any_step_leaves_the_person_whole_or_nowhere() {
    let root = tempfile::tempdir().unwrap();
    let (base, backup) = (root.path().join("base"), root.path().join("backup"));
    let served = Served::start(&base, &[]);
    let gallery = json!({"id": "g", "retain_images": true}).to_string();
    assert_eq!(ask(&served, "POST", "/v1/galleries", gallery.as_bytes()).unwrap().0, 201);
    let enrol = |name: &str, n: usize| {
        let path = format!("/v1/galleries/g/subjects/{name}/samples");
        assert_eq!(ask(&served, "POST", &path, &hands()[n].jpeg).unwrap().0, 201);
        std::fs::read(base.join("keys.slots")).unwrap()
    };
    let before = (1..6).fold(Vec::new(), |_, n| enrol(&format!("p{n}"), n * 8));
    let after = enrol("p0", 0);
    // The key of who is to be erased is what the last enrolment added.
    let slot = (0..after.len() / SLOT).map(|at| at * SLOT..(at + 1) * SLOT);
    let mut added = slot.filter(|slot| before.get(slot.clone()) != Some(&after[slot.clone()]));
    let key = after[added.next().expect("a slot")][16..88].to_vec();
    assert!(added.next().is_none());
    assert_eq!(holds(&base, &key).len(), 1, "the scan finds the key while they are enrolled");
    let mut whole = Served::agent().get(format!("{}/v1/backup", served.url)).call().unwrap();
    std::fs::write(&backup, whole.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap())
        .unwrap();
    let everybody: BTreeSet<String> = (0..6).map(|n| format!("p{n}")).collect();
    let others: BTreeSet<String> = (1..6).map(|n| format!("p{n}")).collect();
    assert_eq!(found(&served), [(); 3].map(|()| everybody.clone()));
    stopped(served);

    for step in STEPS {
        let dir = root.path().join(step);
        copy(&base, &dir);
        let mut served = Served::start(&dir, &["--failpoint", step]);
        assert!(ask(&served, "DELETE", "/v1/galleries/g/subjects/p0", b"").is_none(), "{step}");
        served.ended(Duration::from_secs(30));

        // A backup of what the crash left is one that can be put back, and finishes what had begun.
        let path = |name: &str| root.path().join(format!("{step}.{name}")).display().to_string();
        let (at, cut, elsewhere) = (dir.display().to_string(), path("backup"), path("elsewhere"));
        let master = format!("{at}/master.key");
        let gallery = |dir: &str, rest: &[&str]| {
            let at = ["gallery", "--data-dir", dir, "--master-key-file", &master, "--json"];
            parse(&done(&handclip(&[&at[..], rest].concat())))
        };
        gallery(&at, &["backup", &cut]);
        gallery(&elsewhere, &["restore", &cut]);
        let left = if step == "erase.before" { &everybody } else { &others };
        let shown = gallery(&elsewhere, &["show", "g"]);
        assert_eq!(shown[0]["subjects"], json!(left.len()), "{step}, of the backup");
        let keys = holds(Path::new(&elsewhere), &key).len();
        assert_eq!(keys, usize::from(step == "erase.before"), "{step}, of the backup");

        let begun = Instant::now();
        let served = Served::start(&dir, &[]);
        assert!(begun.elapsed() < Duration::from_secs(10), "{step}");
        if step == "erase.before" {
            assert_eq!(found(&served), [(); 3].map(|()| everybody.clone()), "{step}");
            assert_eq!(holds(&dir, &key).len(), 1, "{step}");
            let erased = ask(&served, "DELETE", "/v1/galleries/g/subjects/p0", b"").unwrap();
            assert_eq!(erased.0, 200, "{step}");
            let erased = erased.1.to_string();
            let checked = ask(&served, "POST", "/v1/erasures:verify", erased.as_bytes()).unwrap().1;
            assert_eq!(checked, json!({"genuine": true, "enrolled": false}));
        }
        assert_eq!(found(&served), [(); 3].map(|()| others.clone()), "{step}");
        for method in ["GET", "DELETE"] {
            let gone = ask(&served, method, "/v1/galleries/g/subjects/p0", b"").unwrap();
            assert_eq!(gone.0, 404, "{step}, {method}");
        }
        assert_eq!(holds(&dir, &key), Vec::<String>::new(), "{step}");
        // It was written down before it began, by whom and of whom, without saying who.
        let lines = ask(&served, "GET", "/v1/audit?limit=1000", b"").unwrap().1;
        let lines = lines["entries"].as_array().expect("lines").iter();
        let erasures: Vec<&Value> =
            lines.filter(|line| line["line"]["action"] == "subject.erase").collect();
        assert!(!erasures.is_empty(), "{step}");
        let checked = ask(&served, "POST", "/v1/audit:verify", b"{}").unwrap().1;
        assert_eq!(checked["sound"], true, "{step}: {checked}");
        stopped(served);

        let at = dir.display().to_string();
        let backup = backup.display().to_string();
        let restore = ["gallery", "--data-dir", &at, "--json", "restore", &backup, "--replace"];
        let restored = parse(&done(&handclip(&restore)));
        assert_eq!(restored["erased_again"], 1, "{step}");
        assert_eq!(holds(&dir, &key), Vec::<String>::new(), "{step}, after the restore");
        let served = Served::start(&dir, &[]);
        assert_eq!(found(&served), [(); 3].map(|()| others.clone()), "{step}, after the restore");
    }
}
