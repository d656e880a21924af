//! Images and clients that mean harm, sent to a running server.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use handclip::image::{Picture, encode_jpeg};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::served::Served;
use crate::images::build;
use crate::support::app::hands;

const MIB: u64 = 1024;

/// Sends a file and gives the status.
fn embed(agent: &ureq::Agent, url: &str, kind: &str, file: &[u8]) -> (u16, String) {
    let asked = agent.post(format!("{url}/v1/embeddings")).content_type(kind).send(file);
    let mut answer = asked.expect("it answers");
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), text)
}

fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let zeros = build::zlib_of_zeros(300_000_000);
    let small = build::png(64, 64);
    let bomb = |kind, head: &[u8]| build::png_with(&small, kind, &[head, &zeros].concat());
    let jpeg = hands()[0].jpeg.clone();
    let cut = |at: usize| jpeg[..jpeg.len() * at / 100].to_vec();
    let png = |width, height| build::png_raw(width, height, 8, 2, &[0; 9]);
    let mut archive = jpeg.clone();
    archive.extend_from_slice(b"PK\x03\x04 an archive behind a picture");
    let idat = build::png_chunk(b"IDAT", &zeros);
    let huge = build::png_raw(8192, 2048, 8, 2, &[]);
    vec![
        ("a picture", jpeg.clone()),
        ("iCCP bomb", bomb(b"iCCP", b"bomb\0\0")),
        ("zTXt bomb", bomb(b"zTXt", b"bomb\0\0")),
        ("iTXt bomb", bomb(b"iTXt", b"bomb\0\x01\0\0\0")),
        ("IDAT bomb", [&huge[..33], &idat, &build::png_chunk(b"IEND", &[])].concat()),
        ("animated WebP", build::animated_webp(64, 64)),
        ("WebP of forged size", build::riff(&build::vp8x(0, 16_000_000, 16_000_000))),
        ("GIF bomb", [&b"GIF89a\xff\xff\xff\xff\xf7\0\0"[..], &[0; 2_000]].concat()),
        ("cut in half", cut(50)),
        ("cut at the end", cut(99)),
        ("one byte", vec![0xff]),
        ("nothing", vec![]),
        ("20000 x 1", png(20_000, 1)),
        ("1 x 1", build::png(1, 1)),
        ("forged to 60000 x 60000", png(60_000, 60_000)),
        ("promises 8192 x 2048", huge),
        ("SVG", b"<svg xmlns=\"http://www.w3.org/2000/svg\"><script/></svg>".to_vec()),
        ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".to_vec()),
        ("AVIF", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf".to_vec()),
        ("picture and archive", archive),
        ("picture that says it is PNG", [b"\x89PNG\r\n\x1a\n", &jpeg[..]].concat()),
        (
            "a thousand EXIF segments",
            (0..1_000).fold(jpeg, |file, _| {
                build::jpeg_with(&file, 0xe1, &[b"Exif\0\0", &build::exif(6, false)[..]].concat())
            }),
        ),
    ]
}

/// Each is refused by name or embedded, soon, and none makes the server grow or stop.
#[test]
fn no_image_harms_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let decoders = 2_u64;
    let served = Served::start(dir.path(), &["--decoders", "2", "--max-upload-bytes", "2097152"]);
    let agent = Served::agent();
    for hand in hands().iter().cycle().take(200) {
        assert_eq!(embed(&agent, &served.url, "image/jpeg", &hand.jpeg).0, 200);
    }
    let idle = served.memory("VmRSS");
    for (what, file) in corpus() {
        for kind in ["image/jpeg", "image/png", "image/webp"] {
            let begun = Instant::now();
            let (status, text) = embed(&agent, &served.url, kind, &file);
            let expected =
                if what == "a picture" || what.ends_with("Xt bomb") || what == "iCCP bomb" {
                    // What is in a profile or a text is never looked into.
                    [200, 200]
                } else {
                    [422, 415]
                };
            let too_large = status == 413 && text.contains("image_too_large");
            assert!(
                expected.contains(&status) || too_large || what.contains("EXIF"),
                "{what}: {status} {text}"
            );
            assert!(begun.elapsed() < Duration::from_secs(2), "{what}: {:?}", begun.elapsed());
        }
    }

    let mutants = 10_000;
    let next = AtomicUsize::new(0);
    let seeds = [hands()[0].jpeg.clone(), build::png(224, 224), build::webp(224, 224)];
    let counts: Vec<BTreeMap<u16, usize>> = std::thread::scope(|scope| {
        let work = || {
            let agent = Served::agent();
            let mut counts = BTreeMap::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= mutants {
                    return counts;
                }
                let mut rng = ChaCha8Rng::seed_from_u64(number as u64);
                let mut file = seeds[number % seeds.len()].clone();
                for _ in 0..rng.random_range(1..8) {
                    let at = rng.random_range(0..file.len());
                    match rng.random_range(0..8) {
                        0 => file.truncate(at.max(1)),
                        1 => drop(file.splice(at..at, [rng.random(); 5])),
                        _ => file[at] = rng.random(),
                    }
                }
                let begun = Instant::now();
                let (status, text) = embed(&agent, &served.url, "image/jpeg", &file);
                assert!(begun.elapsed() < Duration::from_secs(2), "mutant {number}");
                let allowed = [200, 413, 415, 422].contains(&status);
                assert!(allowed, "mutant {number}: {status} {text}");
                *counts.entry(status).or_insert(0) += 1;
            }
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    println!("{mutants} mutants: {counts:?}");
    let refused =
        counts.iter().flat_map(|counts| counts.iter()).filter(|(status, _)| **status != 200);
    assert!(refused.map(|(_, count)| count).sum::<usize>() > mutants / 4, "few were damaged");
    if let (Some(idle), Some(peak)) = (idle, served.memory("VmHWM")) {
        // Pixels of as many pictures as there are decoders, and what the allocator keeps.
        let most = idle + (decoders * 64 + 32) * MIB;
        assert!(peak < most, "idle at {idle} kB, peak of {peak} kB");
        println!("idle at {} MiB, peak of {} MiB", idle / MIB, peak / MIB);
    }
    assert_eq!(embed(&agent, &served.url, "image/jpeg", &hands()[0].jpeg).0, 200);
}

/// Pictures whose decoders hold the most for their size, several at a time: what they take together is bounded by the number of decoders.
#[test]
fn pictures_that_take_much_memory_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(dir.path(), &["--decoders", "2"]);
    let agent = Served::agent();
    for hand in hands().iter().cycle().take(100) {
        assert_eq!(embed(&agent, &served.url, "image/jpeg", &hand.jpeg).0, 200);
    }
    let idle = served.memory("VmRSS");
    let exif = [&b"Exif\0\0"[..], &build::exif(6, false)].concat();
    let smooth = |width: u32, height: u32| {
        let pixel = |at: u32| [at / width * 255 / height, at % width * 255 / width, 99];
        let rgb = (0..width * height).flat_map(pixel).map(|value| value as u8).collect();
        Picture::from_rgb(width, height, rgb).unwrap()
    };
    let upright = build::jpeg_with(&encode_jpeg(&smooth(4000, 3000), 90).unwrap(), 0xe1, &exif);
    let lossless = smooth(3900, 3900);
    let mut webp = Vec::new();
    let encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut webp);
    encoder.encode(lossless.rgb(), 3900, 3900, image::ExtendedColorType::Rgb8).unwrap();
    drop(lossless);
    // Bytes a pixel: nine, nine, six, four and three, eight.
    let heavy = [
        ("a progressive JPEG", build::progressive_jpeg(3700, 3700), true),
        ("a JPEG of three scans", build::jpeg_of_three_scans(3700, 3700), true),
        ("a JPEG on its side", upright, true),
        ("a grey PNG", build::png_raw(4400, 4200, 8, 0, &[0; 9]), false),
        ("a lossless WebP", webp, true),
    ];
    let largest = heavy.iter().map(|(_, file, _)| file.len()).max().unwrap();
    assert!(largest < 2 << 20, "bodies of {largest} bytes would be what is measured");
    // All are in the server until the last has had its turn.
    let bodies: u64 = heavy.iter().cycle().take(16).map(|(_, file, _)| file.len() as u64).sum();
    std::thread::scope(|scope| {
        for (what, file, sound) in heavy.iter().cycle().take(16) {
            let url = &served.url;
            scope.spawn(move || {
                let (status, text) = embed(&Served::agent(), url, "image/jpeg", file);
                // One grey is decoded, and then refused for it.
                let decoded = status == 200 || text.contains("image_blank");
                assert!(decoded == *sound, "{what}: {status} {text}");
            });
        }
    });
    // More than both decoders have together is refused with the reason.
    for file in [build::progressive_jpeg(4700, 4700), build::jpeg_of_three_scans(4700, 4700)] {
        let (status, text) = embed(&agent, &served.url, "image/jpeg", &file);
        assert!(status == 413 && text.contains("not progressive"), "{status} {text}");
    }
    if let (Some(idle), Some(peak)) = (idle, served.memory("VmHWM")) {
        let bodies = bodies / 1024;
        println!("idle at {} MiB, bodies of {bodies} kB, peak of {} MiB", idle / MIB, peak / MIB);
        let most = idle + bodies + (2 * 64 + 16) * MIB;
        assert!(peak < most, "idle at {idle} kB, bodies of {bodies} kB, peak of {peak} kB");
    }
}

/// Five hundred sockets that drip, half of them headers, half bodies: all are closed soon, and others do not suffer.
#[test]
fn slow_clients_are_closed_and_hold_nobody_up() {
    const SLOW: usize = 500;
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(dir.path(), &[]);
    let agent = Served::agent();
    let health = || {
        let begun = Instant::now();
        let answer = agent.get(format!("{}/livez", served.url)).call().unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        begun.elapsed()
    };
    for _ in 0..200 {
        health();
    }
    let mut sockets: Vec<Option<TcpStream>> = (0..SLOW)
        .map(|n| {
            let mut socket = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
            let begin: &[u8] = if n % 2 == 0 {
                b"GET /livez HTTP/1.1\r\nx-slow: "
            } else {
                b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/jpeg\r\ncontent-length: 100000\r\n\r\n"
            };
            socket.write_all(begin).unwrap();
            socket.set_nonblocking(true).unwrap();
            Some(socket)
        })
        .collect();
    let begun = Instant::now();
    let over = AtomicBool::new(false);
    let healthy = std::thread::scope(|scope| {
        let healthy = scope.spawn(|| {
            let mut times = Vec::new();
            while !over.load(Ordering::Relaxed) {
                times.push(health());
                std::thread::sleep(Duration::from_millis(2));
            }
            times
        });
        while sockets.iter().any(Option::is_some) {
            let open = sockets.iter().flatten().count();
            assert!(begun.elapsed() < Duration::from_secs(10), "{open} are still open");
            for place in &mut sockets {
                let Some(socket) = place else { continue };
                let mut heard = [0; 512];
                let closed = match socket.read(&mut heard) {
                    Ok(0) => true,
                    // An answer comes before the end.
                    Ok(_) => false,
                    Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
                };
                if closed
                    || socket
                        .write_all(b"a")
                        .is_err_and(|e| e.kind() != std::io::ErrorKind::WouldBlock)
                {
                    *place = None;
                }
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        over.store(true, Ordering::Relaxed);
        healthy.join().unwrap()
    });
    let mut times = healthy;
    times.sort();
    let p99 = times[times.len() * 99 / 100];
    println!("{SLOW} slow clients closed after {:?}; p99 of others {p99:?}", begun.elapsed());
    assert!(times.len() > 200);
    assert!(p99 < Duration::from_millis(250), "others wait {p99:?}");
}

/// Told to stop while many enrol: what was acknowledged is there, nobody is let in any more, and it ends well.
#[test]
fn a_stop_under_load_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut served = Served::start(dir.path(), &[]);
    let agent = Served::agent();
    let made = agent
        .post(format!("{}/v1/galleries", served.url))
        .send_json(serde_json::json!({"id": "g"}))
        .unwrap();
    assert_eq!(made.status().as_u16(), 201);
    let (acknowledged, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let names: Vec<String> = std::thread::scope(|scope| {
        let (served, acknowledged, stopped) = (&served, &acknowledged, &stopped);
        let workers: Vec<_> = (0..4)
            .map(|worker: usize| {
                scope.spawn(move || {
                    let agent = Served::agent();
                    let mut names = Vec::new();
                    for (n, hand) in hands().iter().cycle().enumerate() {
                        let name = format!("w{worker}-{n}");
                        let path = format!("{}/v1/galleries/g/subjects/{name}/samples", served.url);
                        let sent = agent.post(path).content_type("image/jpeg").send(&hand.jpeg[..]);
                        match sent.map(|answer| answer.status().as_u16()) {
                            Ok(201) => {
                                names.push(name);
                                acknowledged.fetch_add(1, Ordering::Relaxed);
                            }
                            Ok(429 | 503) => {}
                            Ok(status) => panic!("{status}"),
                            Err(_) => {
                                assert!(stopped.load(Ordering::Relaxed), "refused before the stop");
                                return names;
                            }
                        }
                    }
                    names
                })
            })
            .collect();
        while acknowledged.load(Ordering::Relaxed) < 100 {
            std::thread::sleep(Duration::from_millis(5));
        }
        stopped.store(true, Ordering::Relaxed);
        served.signal("-TERM");
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(served.ended(Duration::from_secs(30)).success());
    let served = Served::start(dir.path(), &[]);
    for name in &names {
        let path = format!("{}/v1/galleries/g/subjects/{name}", served.url);
        assert_eq!(agent.get(path).call().unwrap().status().as_u16(), 200, "{name} is lost");
    }
    println!("{} acknowledged enrolments survived a stop under load", names.len());
}
