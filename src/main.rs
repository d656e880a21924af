//! The `handclip` binary.
use handclip::service::pretrain::*;
use handclip::training::PretrainConfig;
use std::sync::atomic::AtomicBool;

#[global_allocator]
static A: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let a: Vec<String> = std::env::args().collect();
    let get =
        |k: &str, d: f64| a.iter().position(|x| x == k).map_or(d, |i| a[i + 1].parse().unwrap());
    let c = PretrainConfig::default();
    let config = PretrainConfig {
        steps: get("--steps", 200.0) as usize,
        hands: get("--hands", c.hands as f64) as usize,
        learning_rate: get("--lr", c.learning_rate),
        warmup: get("--warmup", c.warmup as f64) as usize,
        temperature: get("--temp", c.temperature),
        kinds: get("--kinds", c.kinds as f64) as usize,
        text_weight: get("--tw", c.text_weight),
        average_decay: get("--ema", c.average_decay),
        validate_every: get("--every", 100.0) as usize,
        seed: get("--seed", 1.0) as u64,
        ..c
    };
    let o = PretrainOptions {
        config,
        subjects: get("--subjects", 200.0) as u64,
        images: get("--images", 4.0) as u64,
        validation_subjects: get("--val", 60.0) as u64,
        out: a[1].clone().into(),
    };
    let t = std::time::Instant::now();
    let r = pretrain_nano(
        &o,
        &|p| match p {
            PretrainProgress::Training(s) => {
                if s.step % 20 == 0 {
                    eprintln!(
                        "{:.0}s {} loss {:.3} {:.1} img/s",
                        t.elapsed().as_secs_f64(),
                        s.step,
                        s.loss,
                        s.images_per_second
                    )
                }
            }
            other => eprintln!("{:.0}s {other:?}", t.elapsed().as_secs_f64()),
        },
        &AtomicBool::new(false),
    );
    println!("{r:?}");
}
