//! `handclip evaluate`, `compare`, `calibrate` and `runs`, asked of the real binary on generated hands.

mod edges;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use handclip::evaluation::one_a_label;
use handclip::image::{Picture, encode_png};
use handclip::service::tools::{Drawing, OfflineModel, draw_hands};
use handclip::service::{LabelledImage, ModelChoice, read_dataset};
use serde_json::{Value, json};

use crate::cli::{done, failed, handclip, parse};
use crate::support::app::{TestApp, base64};

/// Twelve people, three pictures of each of their four hands.
fn drawn() -> &'static Path {
    static HANDS: OnceLock<tempfile::TempDir> = OnceLock::new();
    HANDS
        .get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let drawing = Drawing { subjects: 12, images: 3, seed: 5, size: 96 };
            draw_hands(drawing, dir.path(), &|_, _| {}).unwrap();
            dir
        })
        .path()
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// Embeddings of every picture by the program's own `embed`.
fn embeddings() -> &'static Vec<(LabelledImage, Vec<f64>)> {
    static EMBEDDINGS: OnceLock<Vec<(LabelledImage, Vec<f64>)>> = OnceLock::new();
    EMBEDDINGS.get_or_init(|| {
        let images = read_dataset(drawn()).unwrap();
        let files: Vec<String> = images.iter().map(|image| path(&image.path)).collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let lines = done(&handclip(&[&["embed", "--json"], &files[..]].concat()));
        let values = lines.lines().map(|line| {
            let embedding = parse(line)["embedding"].as_array().unwrap().clone();
            embedding.iter().map(|value| value.as_f64().unwrap()).collect()
        });
        images.into_iter().zip(values).collect()
    })
}

fn evaluate(rest: &[&str]) -> Value {
    let data = path(drawn());
    let fast = ["--data", &data, "--replicates", "200", "--json"];
    parse(&done(&handclip(&[&["evaluate"], &fast[..], rest].concat())))
}

/// A worse system: embeddings with noise on every value, by name.
fn noisy() -> Vec<(String, Vec<f64>)> {
    let mut state = 7_u64;
    let mut noise = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1_u32 << 31) - 0.5
    };
    embeddings()
        .iter()
        .map(|(image, values)| {
            let noisy: Vec<f64> = values.iter().map(|value| value + 0.7 * noise()).collect();
            let norm = noisy.iter().map(|value| value * value).sum::<f64>().sqrt();
            (name(image), noisy.iter().map(|value| value / norm).collect())
        })
        .collect()
}

fn name(image: &LabelledImage) -> String {
    image.path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn write_csv<'a>(file: &Path, rows: impl Iterator<Item = (String, &'a Vec<f64>)>) {
    let dim = embeddings()[0].1.len();
    let header: Vec<String> = (0..dim).map(|d| format!("e{d}")).collect();
    let mut text = format!("path,{}\n", header.join(","));
    for (name, values) in rows {
        let values: Vec<String> = values.iter().map(f64::to_string).collect();
        text.push_str(&format!("some/where/{name},{}\n", values.join(",")));
    }
    std::fs::write(file, text).unwrap();
}

/// Ranks as a newcomer would work them out: the whole row sorted.
fn rank_of_mate(probe: &[f64], gallery: &[(&[f64], usize)], subject: usize) -> usize {
    let similarity = |of: &[f64]| -> f64 { probe.iter().zip(of).map(|(a, b)| a * b).sum() };
    let mut rows: Vec<(f64, usize)> =
        gallery.iter().map(|(sample, whose)| (similarity(sample), *whose)).collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    rows.iter().position(|(_, whose)| *whose == subject).unwrap() + 1
}

#[test]
fn figures_are_those_that_a_plain_sort_of_embeddings_gives() {
    let dir = tempfile::tempdir().unwrap();
    let file = path(&dir.path().join("noisy.csv"));
    // Where nobody is confused figures would tell little.
    let noisy = noisy();
    write_csv(Path::new(&file), noisy.iter().map(|(name, values)| (name.clone(), values)));
    let command = ["--runs", "3", "--seed", "7", "--model", &file];
    let found = evaluate(&command);
    let rank1 = found["overall"]["rank1"]["mean"].as_f64().unwrap();
    assert!((0.1..0.9).contains(&rank1), "{rank1}");
    assert_eq!(found["selection"]["protocol"], "hands");
    let sets = found["sets"].as_array().unwrap();
    let names: Vec<&str> = sets.iter().map(|set| set["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dorsal right", "dorsal left", "palmar right", "palmar left"]);
    for set in sets {
        let (aspect, side) = set["name"].as_str().unwrap().split_once(' ').unwrap();
        let of_kind: Vec<(&LabelledImage, &Vec<f64>)> = embeddings()
            .iter()
            .zip(&noisy)
            .map(|((image, _), (_, values))| (image, values))
            .filter(|(image, _)| {
                let a = &image.attributes;
                a.aspect.unwrap().to_string() == aspect
                    && a.side.unwrap().to_string() == side
                    && a.accessories == Some(false)
            })
            .collect();
        let labels: Vec<usize> =
            of_kind.iter().map(|(image, _)| image.key().parse().unwrap()).collect();
        for run in 0..3 {
            let draw = one_a_label(&labels, 7 + run);
            let gallery: Vec<(&[f64], usize)> =
                draw.gallery.iter().map(|i| (of_kind[*i].1.as_slice(), labels[*i])).collect();
            let enrolled = |i: &&usize| gallery.iter().any(|(_, whose)| *whose == labels[**i]);
            let ranks: Vec<usize> = draw
                .query
                .iter()
                .filter(enrolled)
                .map(|i| rank_of_mate(of_kind[*i].1, &gallery, labels[*i]))
                .collect();
            let share =
                |k| ranks.iter().filter(|rank| **rank <= k).count() as f64 / ranks.len() as f64;
            let map = ranks.iter().map(|rank| 1.0 / *rank as f64).sum::<f64>() / ranks.len() as f64;
            let got = &set["runs"]["runs"][run as usize];
            let close = |name: &str, expected: f64| {
                let value = got[name].as_f64().unwrap();
                assert!(
                    (value - expected).abs() < 1e-12,
                    "{name} of run {run}: {value}, {expected}"
                );
            };
            close("rank1", share(1));
            close("rank5", share(5));
            close("map", map);
            close("map_trapezoid", (share(1) + map) / 2.0);
            assert_eq!(got["probes"], ranks.len());
        }
        let cmc = set["cmc"].as_array().unwrap();
        assert_eq!(cmc.last().unwrap(), 1.0, "everybody is found at last");
        let eer = set["verification"]["eer"]["rate"].as_f64().unwrap();
        assert!((0.0..0.5).contains(&eer), "{eer}");
        // 12 people make 66 pairs: they support no FMR below 3/66.
        for point in set["verification"]["points"].as_array().unwrap() {
            assert!(point["refused"].as_str().unwrap().contains("cannot be claimed"), "{point}");
        }
    }
    let again = evaluate(&command);
    assert_eq!(found["sets"], again["sets"], "figures and intervals repeat by seed");
}

/// The model card takes its figures by a way of its own.
#[test]
fn with_the_cards_seed_the_figures_are_the_cards() {
    let found = evaluate(&["--seed", "0"]);
    let nano = OfflineModel::open(&ModelChoice::Nano, "cpu").unwrap();
    let card = nano.score_photographs(drawn()).unwrap();
    for (set, hand) in found["sets"].as_array().unwrap().iter().zip(card.hands) {
        let close = |name: &str, expected: f64| {
            let value = set[name]["mean"].as_f64().unwrap();
            assert!((value - expected).abs() < 1e-9, "{name}: {value}, {expected}");
        };
        close("rank1", hand.rank1);
        close("map", hand.map);
        assert_eq!(set["subjects"], hand.subjects);
    }
}

/// The same embeddings in each format that other programs write.
fn external(dir: &Path) -> [PathBuf; 3] {
    let dim = embeddings()[0].1.len();
    let csv = dir.join("ours_csv.csv");
    write_csv(&csv, embeddings().iter().map(|(image, values)| (name(image), values)));

    let npy = dir.join("ours_npy.npy");
    use npyz::WriterBuilder as _;
    let file = std::fs::File::create(&npy).unwrap();
    let shape = [embeddings().len() as u64, dim as u64];
    let mut writer = npyz::WriteOptions::<f32>::new()
        .default_dtype()
        .shape(&shape)
        .writer(file)
        .begin_nd()
        .unwrap();
    // A length of two: what comes from outside is normalised.
    for (_, values) in embeddings() {
        writer.extend(values.iter().map(|value| 2.0 * *value as f32)).unwrap();
    }
    writer.finish().unwrap();
    let names: Vec<String> = embeddings().iter().map(|(image, _)| name(image)).collect();
    std::fs::write(dir.join("ours_npy.txt"), names.join("\n")).unwrap();

    let parquet = dir.join("ours_parquet.parquet");
    write_parquet(&parquet, &names);
    [csv, npy, parquet]
}

fn write_parquet(file: &Path, names: &[String]) {
    use parquet::data_type::{ByteArray, ByteArrayType, FloatType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    let schema = parquet::schema::parser::parse_message_type(
        "message m { required binary path (UTF8);
         optional group embedding (LIST) { repeated group list { optional float element; } } }",
    )
    .unwrap();
    let properties =
        WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
    let out = std::fs::File::create(file).unwrap();
    let mut writer = SerializedFileWriter::new(out, schema.into(), properties.into()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let paths: Vec<ByteArray> = names.iter().map(|name| name.as_str().into()).collect();
    column.typed::<ByteArrayType>().write_batch(&paths, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<f32> =
        embeddings().iter().flat_map(|(_, values)| values.iter().map(|v| *v as f32)).collect();
    let dim = embeddings()[0].1.len();
    let repetition: Vec<i16> = (0..values.len()).map(|at| i16::from(at % dim != 0)).collect();
    let definition = vec![3_i16; values.len()];
    let typed = column.typed::<FloatType>();
    typed.write_batch(&values, Some(&definition), Some(&repetition)).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn embeddings_of_another_program_join_the_table_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let ours = evaluate(&["--runs", "2"]);
    for file in external(dir.path()) {
        let theirs = evaluate(&["--runs", "2", "--model", &path(&file)]);
        assert_eq!(theirs["system"]["fingerprint"], Value::Null);
        for (a, b) in
            ours["sets"].as_array().unwrap().iter().zip(theirs["sets"].as_array().unwrap())
        {
            assert_eq!(a["runs"], b["runs"], "{}", path(&file));
        }
    }
    let csv = dir.path().join("ours_csv.csv");
    let text = std::fs::read_to_string(&csv).unwrap();
    // As pandas writes it: row numbers first, without a name.
    let mut numbered = String::new();
    for (row, line) in text.lines().enumerate() {
        let number = row.checked_sub(1).map_or_else(String::new, |row| row.to_string());
        numbered.push_str(&format!("{number},{line}\n"));
    }
    std::fs::write(&csv, numbered).unwrap();
    let theirs = evaluate(&["--runs", "2", "--model", &path(&csv)]);
    assert_eq!(theirs["system"]["dim"], embeddings()[0].1.len());
    assert_eq!(theirs["sets"][0]["runs"], ours["sets"][0]["runs"]);
    let bad = |content: &str, expected: &str| {
        std::fs::write(&csv, content).unwrap();
        let data = path(drawn());
        let output = handclip(&["evaluate", "--data", &data, "--model", &path(&csv)]);
        let message = failed(&output, 1);
        assert!(message.contains(expected), "{message}");
    };
    let (header, rows) = text.split_once('\n').unwrap();
    let first = rows.lines().next().unwrap();
    bad(&format!("{text}{first}\n"), "twice");
    bad(&text.replacen("path,", "name,", 1), "no column `path`");
    bad(&format!("{header}\n{first}\n"), "has no embedding of");
    bad(&format!("{header}\n{}", rows.replacen(',', ",x", 1)), "is no number");
    let zeros = vec!["0"; embeddings()[0].1.len()].join(",");
    let nothing = rows.lines().map(|row| format!("{},{zeros}", row.split_once(',').unwrap().0));
    let nothing: Vec<String> = nothing.collect();
    bad(&format!("{header}\n{}\n", nothing.join("\n")), "no direction");
    let broken = dir.path().join("broken.parquet");
    std::fs::write(&broken, b"PAR1 nothing PAR1").unwrap();
    let output = handclip(&["evaluate", "--data", &path(drawn()), "--model", &path(&broken)]);
    assert!(failed(&output, 1).contains("cannot be read"));
}

#[test]
fn a_comparison_pairs_probes_and_leaves_a_report_that_loads_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let [csv, ..] = external(dir.path());
    let worse = dir.path().join("worse.csv");
    let noisy = noisy();
    write_csv(&worse, noisy.iter().map(|(name, values)| (name.clone(), values)));
    let noisy_file = path(&worse);
    let runs = dir.path().join("runs");
    let out = runs.join("first");
    let data = path(drawn());
    let (same, worse) = (format!("same={}", path(&csv)), format!("worse={noisy_file}"));
    let (runs_dir, out_dir) = (path(&runs), path(&out));
    let command = [
        "compare",
        "nano",
        &same,
        &worse,
        "--data",
        &data,
        "--runs",
        "3",
        "--replicates",
        "500",
        "--out",
        &out_dir,
        "--json",
    ];
    let found = parse(&done(&handclip(&command)));
    assert_eq!(found["systems"].as_array().unwrap().len(), 3);
    let differences = found["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 2 * 5, "two systems, four sets and all of them");
    for difference in differences {
        let rank1 = &difference["rank1"];
        let (value, p) = (rank1["difference"].as_f64().unwrap(), rank1["p"].as_f64().unwrap());
        match difference["system"].as_str().unwrap() {
            "same" => assert_eq!((value, p), (0.0, 1.0), "{difference}"),
            _ => assert!(value < 0.0, "{difference}"),
        }
        if difference["system"] == "worse" && difference["set"] == "overall" {
            assert!(p < 0.05 && rank1["interval"]["high"].as_f64().unwrap() < 0.0, "{difference}");
        }
    }
    assert!(found["published"].as_array().unwrap().len() > 10);

    let html = std::fs::read_to_string(out.join("report.html")).unwrap();
    for text in ["CMC, dorsal right", "DET, palmar left", "MBA-Net", "published", "Worst probes"] {
        assert!(html.contains(text), "{text}");
    }
    for loads in [" src=\"http", "<script", "<link", "url("] {
        assert!(!html.contains(loads), "{loads}");
    }
    assert!(!html.contains("<img"), "pictures of people only when asked for");
    assert!(
        !html.contains(&path(drawn())) || html.contains("command"),
        "paths only in the command"
    );
    let markdown = std::fs::read_to_string(out.join("report.md")).unwrap();
    assert!(markdown.contains("| set |") && markdown.contains("## Differences"));
    assert!(out.join("det_dorsal_right.svg").is_file() && out.join("comparison.json").is_file());
    assert!(failed(&handclip(&command), 1).contains("is not empty"));

    let second = path(&runs.join("second"));
    let single = [
        "evaluate",
        "--data",
        &data,
        "--runs",
        "2",
        "--replicates",
        "200",
        "--out",
        &second,
        "--show-images",
        "--model",
        &noisy_file,
    ];
    let shown = done(&handclip(&single));
    assert!(shown.contains("Rank-1") && shown.contains("palmar left"), "{shown}");
    let page = std::fs::read_to_string(runs.join("second/report.html")).unwrap();
    assert!(page.contains("src=\"data:image/jpeg;base64,"), "pictures where they were asked for");
    let listed = done(&handclip(&["runs", "list", "--runs-dir", &runs_dir]));
    assert!(listed.contains("first") && listed.contains("compare") && listed.contains("second"));
    let diff = parse(&done(&handclip(&[
        "runs",
        "diff",
        "first",
        "second",
        "--runs-dir",
        &runs_dir,
        "--json",
    ])));
    let settings: Vec<&str> =
        diff["settings"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert!(settings.contains(&"runs") && !settings.contains(&"data_sha256"), "{settings:?}");
    let show = done(&handclip(&["runs", "show", "second", "--runs-dir", &runs_dir]));
    assert!(show.contains("data_sha256") && show.contains("rank1"));
    assert!(
        failed(&handclip(&["runs", "show", "x", "--runs-dir", &runs_dir]), 1).contains("no run")
    );
}

#[test]
fn a_file_that_is_refused_is_a_miss_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    draw_hands(Drawing { subjects: 6, images: 3, seed: 8, size: 96 }, &data, &|_, _| {}).unwrap();
    let images = read_dataset(&data).unwrap();
    let blank = Picture::from_rgb(96, 96, vec![200; 96 * 96 * 3]).unwrap();
    let spoilt = images.iter().find(|image| image.attributes.accessories == Some(false)).unwrap();
    std::fs::write(&spoilt.path, encode_png(&blank).unwrap()).unwrap();
    let cache = path(&dir.path().join("cache"));
    let data = path(&data);
    let command = ["evaluate", "--data", &data, "--replicates", "100", "--cache", &cache, "--json"];
    let found = parse(&done(&handclip(&command)));
    let refused = found["data"]["refused"].as_array().unwrap();
    assert_eq!(refused.len(), 1);
    let name = spoilt.path.file_name().unwrap().to_str().unwrap();
    assert_eq!(refused[0]["file"], name);
    let lost: u64 =
        found["sets"].as_array().unwrap().iter().map(|s| s["lost"].as_u64().unwrap()).sum();
    assert!(lost > 0, "its searches are misses");
    let pooled = &found["overall"]["verification"];
    assert_eq!(pooled["lost"], lost);
    let (fnmr, frr) = (&pooled["points"][0]["fnmr"], &pooled["points"][0]["frr"]);
    let of = |rate: &Value| rate["errors"].as_u64().unwrap();
    assert_eq!(of(frr), of(fnmr) + lost);
    let open = |set: &Value| {
        let point = &set["open_set"]["points"][0];
        (point["fnir"]["trials"].as_u64(), set["open_set"]["mated"].as_u64())
    };
    let sets = found["sets"].as_array().unwrap();
    assert!(sets.iter().map(open).any(|(trials, mated)| trials > mated), "misses there too");
    // The second time all but the refused one come from the cache, and nothing else changes.
    let again = parse(&done(&handclip(&command)));
    let images = found["data"]["images"].as_u64().unwrap();
    assert_eq!(
        (&found["system"]["cached"], &again["system"]["cached"]),
        (&0.into(), &(images - 1).into())
    );
    assert_eq!(found["sets"], again["sets"]);
}

#[test]
fn trees_of_draws_are_evaluated_as_they_lie_with_and_without_distractors() {
    let dir = tempfile::tempdir().unwrap();
    let split = path(&dir.path().join("split"));
    let data = path(drawn());
    let command =
        ["dataset", "split", &data, "--protocol", "subjects", "--train", "0.25", "--out", &split];
    done(&handclip(&command));
    let tree = ["evaluate", "--data", &split, "--runs", "4", "--replicates", "100", "--json"];
    let found = parse(&done(&handclip(&tree)));
    assert_eq!(found["selection"]["protocol"]["tree"]["all"], false);
    // Drawn anew, nobody asks with the file that is enrolled, though each lies in many folders.
    let hands = |data: &str, rest: &[&str]| {
        let hands = ["evaluate", "--data", data, "--protocol", "hands", "--replicates", "100"];
        let output = handclip(&[&hands[..], &["--json"], rest].concat());
        let found = parse(&done(&output));
        (found["sets"].clone(), String::from_utf8(output.stderr).unwrap())
    };
    let test = path(&dir.path().join("split/test"));
    let (of_tree, said) = hands(&split, &[]);
    assert!(said.contains("of the splits only"), "{said}");
    let (of_test, said) = hands(&test, &[]);
    assert_eq!((&of_tree, said.contains("note")), (&of_test, false), "{said}");
    assert!(of_test[0]["probes"].as_u64() > Some(0));
    // Nor with a copy of it.
    let subject = std::fs::read_dir(&test).unwrap().next().unwrap().unwrap().path();
    let photo = std::fs::read_dir(&subject).unwrap().next().unwrap().unwrap().path();
    std::fs::copy(&photo, subject.join("z.png")).unwrap();
    let (with_copy, said) = hands(&test, &[]);
    assert!(said.contains("one image is a copy"), "{said}");
    assert_eq!(with_copy, of_test);
    std::fs::remove_file(subject.join("z.png")).unwrap();
    // Held out is who `train` holds out, which trains on nobody of the test part.
    let (held_out, _) = hands(&split, &["--hold-out", "0.7"]);
    assert_eq!(held_out[0]["subjects"], 2);
    failed(&handclip(&["evaluate", "--data", &split, "--protocol", "11k"]), 1);
    let set = &found["sets"][0];
    assert_eq!((&set["subjects"], &set["gallery"]), (&9.into(), &9.into()));
    assert_eq!(set["runs"]["runs"].as_array().unwrap().len(), 4);
    let all = handclip(&[&tree[..], &["--protocol", "tree-all"]].concat());
    assert!(failed(&all, 1).contains("gallery0_all"));
    // Distractors of people under ids of their own: more gallery, never more hits.
    let tree_dir = dir.path().join("split");
    let draws = std::fs::read_dir(&tree_dir).unwrap().map(|e| e.unwrap().path());
    let root = draws.into_iter().find(|p| p.join("query0").is_dir()).unwrap_or(tree_dir);
    let train = read_dataset(&root.join("train")).unwrap();
    for run in 0..4 {
        let gallery = root.join(format!("gallery{run}"));
        let with = root.join(format!("gallery{run}_all"));
        let others = train.iter().step_by(4).map(|image| (11_000_000 + run, image));
        for (image, id) in read_dataset(&gallery)
            .unwrap()
            .iter()
            .map(|image| (image, image.subject.as_str().to_owned()))
            .chain(others.map(|(offset, image)| {
                (image, (offset + image.key().parse::<u64>().unwrap()).to_string())
            }))
        {
            std::fs::create_dir_all(with.join(&id)).unwrap();
            let name = image.path.file_name().unwrap();
            std::fs::copy(&image.path, with.join(&id).join(name)).unwrap();
        }
    }
    let all = parse(&done(&handclip(&[&tree[..], &["--protocol", "tree-all"]].concat())));
    let (few, many) = (&found["sets"][0], &all["sets"][0]);
    assert!(many["gallery"].as_u64() > few["gallery"].as_u64());
    assert!(many["rank1"]["mean"].as_f64() <= few["rank1"]["mean"].as_f64());
    assert_eq!(many["probes"], few["probes"]);
    let cross = evaluate(&["--protocol", "cross-aspect", "--runs", "2"]);
    let names: Vec<&str> =
        cross["sets"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names[0], "dorsal -> palmar right");
    assert_eq!(names.len(), 4);
}

#[test]
fn nobody_is_evaluated_on_whom_the_model_was_trained_unless_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (data, run) = (path(drawn()), path(&dir.path().join("run")));
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/smoke.toml");
    let train = [
        "train",
        &data,
        "--recipe",
        &path(&recipe),
        "--hold-out",
        "0.4",
        "--out",
        &run,
        "--device",
        "cpu",
    ];
    done(&handclip(&train));
    let ask = |rest: &[&str]| {
        let all = ["evaluate", "--model", &run, "--data", &data, "--replicates", "100", "--json"];
        handclip(&[&all[..], rest].concat())
    };
    let message = failed(&ask(&[]), 1);
    assert!(message.contains("were trained on") && message.contains("--hold-out"), "{message}");
    let held_out = parse(&done(&ask(&["--hold-out", "0.4"])));
    assert_eq!(held_out["system"]["name"], "run/best");
    assert_eq!(held_out["sets"][0]["subjects"], 5);
    assert!(
        failed(&ask(&["--hold-out", "0.4", "--split-seed", "2"]), 1).contains("were trained on")
    );
    done(&ask(&["--allow-leak"]));
    let kept = std::fs::read_to_string(dir.path().join("run/data.json")).unwrap();
    assert!(!kept.contains("Hand_"), "hashes only");
}

#[test]
fn calibrated_thresholds_decide_and_do_not_reach_beyond_what_was_measured() {
    let dir = tempfile::tempdir().unwrap();
    let out = path(&dir.path().join("calibration"));
    let data = path(drawn());
    let calibrate = |rest: &[&str]| {
        let all = ["calibrate", "--data", &data, "--replicates", "100", "--out", &out, "--json"];
        handclip(&[&all[..], rest].concat())
    };
    let message = failed(&calibrate(&["--fmr", "1e-3", "--fpir", "1e-2"]), 1);
    assert!(message.contains("no threshold") && message.contains("support"), "{message}");
    std::fs::remove_dir_all(dir.path().join("calibration")).unwrap();
    // Six people make 15 pairs and three strangers: FMR 0.2 is as low as they go.
    let found = parse(&done(&calibrate(&["--fmr", "0.5,0.2", "--fpir", "1.0"])));
    assert_eq!(found["calibration"]["subjects"], 6);
    let reach = found["calibration"]["gallery_subjects"].as_u64().unwrap();
    assert!((1..=3).contains(&reach), "half of six people are enrolled: {reach}");
    let tried = found["tried"].as_array().unwrap();
    assert_eq!(tried.len(), 3, "on the people that were not measured on");

    let app = TestApp::spawn();
    app.create_gallery("g");
    let kept = std::fs::read_to_string(dir.path().join("calibration/calibration.json")).unwrap();
    let calibration = parse(&kept);
    let at = "/v1/galleries/g/calibration";
    app.get(at).refused(404, "not_calibrated");
    assert_eq!(app.put_json(at, &calibration).ok(), calibration);
    assert_eq!(app.get(at).ok(), calibration);
    let images = read_dataset(drawn()).unwrap();
    let mut by_subject: BTreeMap<String, Vec<&LabelledImage>> = BTreeMap::new();
    for image in images.iter().filter(|i| i.attributes.side.unwrap().to_string() == "right") {
        by_subject.entry(image.key()).or_default().push(image);
    }
    let (first, others) = by_subject.iter().next().map(|(s, i)| (s.clone(), i.clone())).unwrap();
    enrol(&app, &first, others[0]);
    let same = verify(&app, &first, others[0]);
    assert_eq!(same["decision"], "match", "{same}");
    let threshold = &same["threshold"];
    assert_eq!(
        (&threshold["source"], &threshold["target"]["rate"]),
        (&"calibration".into(), &"fmr".into())
    );
    assert_eq!(threshold["target"]["at_most"], 0.2);
    assert_eq!(threshold["target"]["covered"], true);
    // A second sample of the subject: more chances of a false match than were measured.
    enrol(&app, &first, others[1]);
    let same = verify(&app, &first, others[0]);
    assert_eq!(
        (&same["decision"], &same["threshold"]["target"]["covered"]),
        (&"uncertain".into(), &false.into())
    );

    let mut other = calibration.clone();
    other["fingerprint"] = "00".repeat(32).into();
    app.put_json(at, &other).refused(409, "model_mismatch");
    other = calibration.clone();
    other["verification"].as_array_mut().unwrap().reverse();
    app.put_json(at, &other).refused(400, "invalid_request");
    assert_eq!(app.get(at).ok(), calibration, "what is refused changes nothing");
    let app = app.restart();
    assert_eq!(app.get(at).ok(), calibration, "durable");
    app.delete(at).ok();
    app.get(at).refused(404, "not_calibrated");
    assert_eq!(verify(&app, &first, others[0])["decision"], Value::Null);
}

#[test]
fn thresholds_go_into_a_store_that_keeps_weights_in_the_bits_they_were_measured_with() {
    let dir = tempfile::tempdir().unwrap();
    let store = path(&dir.path().join("store"));
    let data = path(drawn());
    let on = ["--data-dir", &store, "--gallery", "g", "--device", "cpu:bf16"];
    let first = path(&embeddings()[0].0.path);
    done(&handclip(&[&["enrol", "--create", "--subject", "ann", &first], &on[..]].concat()));
    let command = ["calibrate", "--data", &data, "--replicates", "100", "--fmr", "0.5"];
    done(&handclip(&[&command[..], &["--fpir", "1.0"], &on[..]].concat()));
    let verify = ["verify", "--subject", "ann", "--json", &first];
    let answer = parse(&done(&handclip(&[&verify[..], &on[..]].concat())));
    assert_eq!(answer["threshold"]["source"], "calibration", "{answer}");
}

fn encoded(image: &LabelledImage) -> String {
    base64(&std::fs::read(&image.path).unwrap())
}

fn enrol(app: &TestApp, subject: &str, image: &LabelledImage) {
    let body = json!({"image": encoded(image)});
    app.post(&format!("/v1/galleries/g/subjects/{subject}/samples"), &body).ok();
}

fn verify(app: &TestApp, subject: &str, image: &LabelledImage) -> Value {
    let body = json!({"subject": subject, "image": encoded(image)});
    app.post("/v1/galleries/g:verify", &body).ok()
}
