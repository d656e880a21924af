//! What survives a SIGKILL while a job runs. The test binary runs itself as the child that is killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use handclip::jobs::{
    EventKind, Handlers, JobContext, JobFailure, JobFilter, JobState, JobsOptions, Stage,
};
use serde_json::{Value, json};

use super::queue::{open, run, stages, told, until};

const DIR: &str = "HANDCLIP_TEST_JOBS_DIR";
/// Steps of the job; far more than a child does before it is killed.
const STEPS: u64 = 100_000;

#[expect(clippy::disallowed_methods, reason = "how the parent speaks to the child it runs")]
fn told_dir() -> Option<String> {
    std::env::var(DIR).ok()
}

/// Counts on from the last durable step, up to a number of steps in this attempt.
fn count(context: &JobContext<'_>, steps: u64, each: impl Fn(u64)) -> Result<Value, JobFailure> {
    let from = context.last_checkpoint()?.map_or(0, |step| step.as_u64().unwrap());
    context.log(format!("attempt {} from {from}", context.attempt()));
    for step in from + 1..=from + steps {
        if context.cancelled() {
            return Err(JobFailure::interrupted());
        }
        context.checkpoint(&json!(step))?;
        context.progress(step, STEPS);
        each(step);
    }
    Ok(json!({"from": from, "resumed": context.resumed(), "attempt": context.attempt()}))
}

/// As a child: runs jobs until it is killed, saying each durable step.
#[test]
fn child_runs_jobs_until_killed() {
    let Some(dir) = told_dir() else { return };
    let jobs = open(Path::new(&dir), JobsOptions::default());
    let say = |step: u64| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "step {step}").and_then(|()| out.flush()).unwrap();
    };
    let handlers = Handlers::default().with("count", move |context| count(context, STEPS, say));
    let _runner = run(&jobs, handlers);
    std::thread::sleep(Duration::from_secs(60));
}

fn child(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["jobs::crash::child_runs_jobs_until_killed", "--exact", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Runs the child until it has said so many steps, kills it, and gives the last step it said.
fn killed_after(dir: &Path, steps: usize) -> u64 {
    let mut child = child(dir);
    let mut last = None;
    let out = BufReader::new(child.stdout.take().unwrap());
    let said = out.lines().map_while(Result::ok).filter_map(|line| {
        line.strip_prefix("step ").and_then(|number| number.parse::<u64>().ok())
    });
    for (number, step) in said.enumerate() {
        last = Some(step);
        if number + 1 == steps {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    last.expect("the child began")
}

#[test]
fn a_job_that_was_killed_twice_goes_on_from_its_checkpoint_and_ends_once() {
    let dir = tempfile::tempdir().unwrap();
    let jobs = open(dir.path(), JobsOptions::default());
    let id = jobs.enqueue("count", json!({})).unwrap().id;
    let behind = jobs.enqueue("count", json!({})).unwrap().id;
    drop(jobs);
    let first = killed_after(dir.path(), 40);
    let second = killed_after(dir.path(), 25);
    assert!(second > first, "the second child went on: {second} after {first}");

    let jobs = open(dir.path(), JobsOptions::default());
    let found = jobs.read(id).unwrap();
    assert_eq!((found.state, found.attempts), (JobState::Queued { resumed: true }, 2));
    assert_eq!(jobs.read(behind).unwrap().attempts, 0, "it waited");
    let mut before = 0;
    let runner = run(&jobs, Handlers::default().with("count", |context| count(context, 3, |_| ())));
    let ended = until(&jobs, id, Stage::Succeeded);
    until(&jobs, behind, Stage::Succeeded);
    let JobState::Succeeded { output, .. } = ended.state else { panic!() };
    let from = output["from"].as_u64().unwrap();
    // A step that was durable and not said yet may be one more than was heard of.
    assert!((second..=second + 1).contains(&from), "from {from}, {second} was said");
    assert_eq!((&output["resumed"], &output["attempt"]), (&json!(true), &json!(3)));
    let events = told(&jobs, id);
    use Stage::{Queued, Running, Succeeded};
    assert_eq!(
        stages(&events),
        [Queued, Running, Queued, Running, Queued, Running, Succeeded],
        "it ended once"
    );
    for event in &events {
        assert!(event.id > before, "numbers rise over crashes");
        before = event.id;
    }
    let lines = events.iter().filter(|event| matches!(event.kind, EventKind::Log { .. })).count();
    assert_eq!(lines, 3, "an attempt a line");
    // A later start finds it as it was left, and nothing to run.
    runner.stop(Duration::from_secs(10));
    drop((runner, jobs));
    let jobs = open(dir.path(), JobsOptions::default());
    assert_eq!(jobs.read(id).unwrap().state.stage(), Stage::Succeeded);
    let waiting = JobFilter { stage: Some(Stage::Queued), kind: None };
    assert!(jobs.list(&waiting, None, 10).unwrap().jobs.is_empty());
}

#[test]
fn a_job_that_takes_the_server_down_every_time_has_failed_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let jobs = open(dir.path(), JobsOptions::default());
    let id = jobs.enqueue("count", json!({})).unwrap().id;
    drop(jobs);
    for _ in 0..5 {
        killed_after(dir.path(), 1);
    }
    let jobs = open(dir.path(), JobsOptions::default());
    let found = jobs.read(id).unwrap();
    let JobState::Failed { failure, .. } = found.state else { panic!("{found:?}") };
    assert_eq!((failure.code.as_str(), found.attempts), ("crashed", 5));
    assert_eq!(jobs.retry(id).unwrap().state, JobState::Queued { resumed: true });
}

#[test]
fn a_cancel_that_was_acknowledged_holds_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let jobs = open(&path, JobsOptions::default());
    // Never heeds, so that the job still runs when the process goes.
    let (say, began) = std::sync::mpsc::channel();
    let deaf = move |_: &JobContext<'_>| {
        say.send(()).unwrap();
        std::thread::sleep(Duration::from_secs(2));
        Ok(json!(null))
    };
    let id = jobs.enqueue("deaf", json!(null)).unwrap().id;
    let runner = run(&jobs, Handlers::default().with("deaf", deaf));
    began.recv().unwrap();
    jobs.cancel(id).unwrap();
    // What a kill would leave: the folder as it is now.
    let copied = tempfile::tempdir().unwrap();
    for entry in walkdir::WalkDir::new(&path) {
        let entry = entry.unwrap();
        let target = copied.path().join(entry.path().strip_prefix(&path).unwrap());
        match entry.file_type().is_dir() {
            true => std::fs::create_dir_all(target).unwrap(),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
    let after = open(copied.path(), JobsOptions::default());
    assert_eq!(after.read(id).unwrap().state.stage(), Stage::Cancelled);
    runner.stop(Duration::from_secs(10));
}
