//! The room by itself: any handler, a store in a folder.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use handclip::jobs::{
    Event, EventKind, Handlers, JobContext, JobError, JobFailure, JobFilter, JobId, JobRecord,
    JobState, Jobs, JobsOptions, MAX_DATA, Runner, Stage,
};
use serde_json::{Value, json};

use crate::gallery::open_store;

pub(super) fn open(dir: &Path, options: JobsOptions) -> Jobs {
    Jobs::open(open_store(dir), options).unwrap()
}

pub(super) fn run(jobs: &Jobs, handlers: Handlers) -> Runner {
    Runner::start(jobs.clone(), handlers, &["cpu".to_owned()], 1).unwrap()
}

/// Waits for a job to come to an end, or to another stage.
#[track_caller]
pub(super) fn until(jobs: &Jobs, id: JobId, stage: Stage) -> JobRecord {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let record = jobs.read(id).unwrap();
        if record.state.stage() == stage {
            return record;
        }
        assert!(!record.state.has_ended() && Instant::now() < deadline, "{record:?}");
        std::thread::yield_now();
    }
}

/// Everything that a job has told, once it has ended.
pub(super) fn told(jobs: &Jobs, id: JobId) -> Vec<Event> {
    let mut subscription = jobs.subscribe(id, 0).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut all = Vec::new();
    while let Some(events) = runtime.block_on(subscription.next()) {
        all.extend(events);
    }
    all
}

pub(super) fn stages(events: &[Event]) -> Vec<Stage> {
    let stage = |event: &Event| match &event.kind {
        EventKind::State { stage, .. } => Some(*stage),
        EventKind::Progress(_) | EventKind::Log { .. } => None,
    };
    events.iter().filter_map(stage).collect()
}

fn lines(events: &[Event]) -> Vec<&str> {
    fn line(event: &Event) -> Option<&str> {
        match &event.kind {
            EventKind::Log { line } => Some(line.as_str()),
            EventKind::State { .. } | EventKind::Progress(_) => None,
        }
    }
    events.iter().filter_map(line).collect()
}

fn done(_: &JobContext<'_>) -> Result<Value, JobFailure> {
    Ok(json!({}))
}

/// A handler that says when it began, and works until it is let go or told to end.
struct Held {
    began: Receiver<()>,
    let_go: Sender<()>,
}

fn held() -> (Held, impl Fn(&JobContext<'_>) -> Result<Value, JobFailure> + Send + Sync) {
    let ((say, began), (let_go, wait)) = (channel(), channel());
    let wait = Mutex::new(wait);
    let handler = move |context: &JobContext<'_>| {
        say.send(()).unwrap();
        let wait = wait.lock().unwrap();
        loop {
            if wait.recv_timeout(Duration::from_millis(2)).is_ok() {
                return Ok(json!({"attempt": context.attempt()}));
            }
            if context.cancelled() {
                return Err(JobFailure::interrupted());
            }
        }
    };
    (Held { began, let_go }, handler)
}

#[test]
fn jobs_run_one_at_a_time_in_the_order_in_which_they_came() {
    let dir = tempfile::tempdir().unwrap();
    let jobs = open(dir.path(), JobsOptions::default());
    let ids: Vec<JobId> = (0..20).map(|n| jobs.enqueue("note", json!(n)).unwrap().id).collect();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noting = Arc::clone(&seen);
    let running = Mutex::new(());
    let note = move |context: &JobContext<'_>| {
        let _alone = running.try_lock().expect("another job runs on this device");
        assert_eq!(context.slot(), "cpu");
        std::thread::sleep(Duration::from_millis(2));
        noting.lock().unwrap().push(context.input().clone());
        Ok(json!({"twice": context.input().as_u64().unwrap() * 2}))
    };
    let _runner = run(&jobs, Handlers::default().with("note", note));
    let last = until(&jobs, ids[19], Stage::Succeeded);
    assert_eq!(*seen.lock().unwrap(), (0..20).map(|n| json!(n)).collect::<Vec<_>>());
    assert!(
        matches!(last.state, JobState::Succeeded { output, .. } if output == json!({"twice": 38}))
    );
    let events = told(&jobs, ids[0]);
    assert_eq!(stages(&events), [Stage::Queued, Stage::Running, Stage::Succeeded]);
}

#[test]
fn a_job_that_waits_is_cancelled_and_never_runs() {
    let dir = tempfile::tempdir().unwrap();
    let jobs = open(dir.path(), JobsOptions::default());
    let (first, second) =
        (jobs.enqueue("fails", json!(1)).unwrap().id, jobs.enqueue("note", json!(2)).unwrap().id);
    let cancelled = jobs.cancel(first).unwrap();
    assert_eq!(cancelled.state.stage(), Stage::Cancelled);
    assert!(matches!(
        jobs.cancel(first),
        Err(JobError::NotCancellable { stage: Stage::Cancelled, .. })
    ));
    let fails = |_: &JobContext<'_>| -> Result<Value, JobFailure> { panic!("it ran") };
    let _runner = run(&jobs, Handlers::default().with("fails", fails).with("note", done));
    until(&jobs, second, Stage::Succeeded);
    assert_eq!(jobs.read(first).unwrap(), cancelled);
    assert_eq!(stages(&told(&jobs, first)), [Stage::Queued, Stage::Cancelled]);
}

#[test]
fn a_job_that_runs_is_cancelled_and_can_be_retried() {
    let dir = tempfile::tempdir().unwrap();
    let jobs = open(dir.path(), JobsOptions::default());
    let (hold, handler) = held();
    let _runner = run(&jobs, Handlers::default().with("held", handler));
    let id = jobs.enqueue("held", json!(null)).unwrap().id;
    assert!(matches!(jobs.retry(id), Err(JobError::NotRetryable { .. })));
    hold.began.recv().unwrap();
    let asked = jobs.cancel(id).unwrap();
    assert!(matches!(asked.state, JobState::Running { cancelling: true, .. }));
    until(&jobs, id, Stage::Cancelled);

    let again = jobs.retry(id).unwrap();
    assert_eq!(again.state, JobState::Queued { resumed: false }, "it had no durable step");
    hold.began.recv().unwrap();
    hold.let_go.send(()).unwrap();
    let ended = until(&jobs, id, Stage::Succeeded);
    assert_eq!(ended.attempts, 1, "a retry counts anew");
    assert!(matches!(jobs.retry(id), Err(JobError::NotRetryable { stage: Stage::Succeeded, .. })));
    use Stage::{Cancelled, Queued, Running, Succeeded};
    let expected = [Queued, Running, Running, Cancelled, Queued, Running, Succeeded];
    assert_eq!(stages(&told(&jobs, id)), expected);
}

#[test]
fn a_job_that_panics_has_failed_with_its_message_and_the_next_one_runs() {
    let dir = tempfile::tempdir().unwrap();
    let jobs = open(dir.path(), JobsOptions::default());
    let panics = |context: &JobContext<'_>| -> Result<Value, JobFailure> {
        // On one of the pool's threads, where heavy work is.
        rayon_panics(context.input().as_u64().unwrap())
    };
    let _runner = run(&jobs, Handlers::default().with("panics", panics).with("note", done));
    let panicking = jobs.enqueue("panics", json!(7)).unwrap().id;
    let unknown = jobs.enqueue("nobody's", json!(null)).unwrap().id;
    let next = jobs.enqueue("note", json!(null)).unwrap().id;
    until(&jobs, next, Stage::Succeeded);
    let failure = |id| {
        let record = jobs.read(id).unwrap();
        let JobState::Failed { failure, .. } = record.state else { panic!("{record:?}") };
        failure
    };
    let why = failure(panicking);
    assert_eq!((why.code.as_str(), why.message.as_str()), ("panicked", "7 went wrong"));
    assert_eq!(failure(unknown).code, "unknown_kind");
}

fn rayon_panics(number: u64) -> Result<Value, JobFailure> {
    let (_, right) = rayon::join(|| (), || -> u64 { panic!("{number} went wrong") });
    Ok(json!(right))
}

#[test]
fn a_failed_job_that_is_retried_goes_on_from_its_last_durable_step() {
    let dir = tempfile::tempdir().unwrap();
    let jobs = open(dir.path(), JobsOptions::default());
    let handler = |context: &JobContext<'_>| {
        if let Some(step) = context.last_checkpoint()? {
            assert!(context.resumed());
            return Ok(step);
        }
        assert!(!context.resumed());
        context.checkpoint(&json!({"epoch": 3}))?;
        Err(JobFailure::new("no_room", "the disk is full"))
    };
    let _runner = run(&jobs, Handlers::default().with("steps", handler));
    let id = jobs.enqueue("steps", json!(null)).unwrap().id;
    until(&jobs, id, Stage::Failed);
    assert_eq!(jobs.retry(id).unwrap().state, JobState::Queued { resumed: true });
    let ended = until(&jobs, id, Stage::Succeeded);
    assert!(
        matches!(ended.state, JobState::Succeeded { output, .. } if output == json!({"epoch": 3}))
    );
}

#[test]
fn a_stop_leaves_a_running_job_to_the_next_start_and_is_no_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let jobs = open(dir.path(), JobsOptions::default());
    let (hold, handler) = held();
    let runner = run(&jobs, Handlers::default().with("held", handler));
    let id = jobs.enqueue("held", json!(null)).unwrap().id;
    let behind = jobs.enqueue("held", json!(null)).unwrap().id;
    hold.began.recv().unwrap();
    let begun = Instant::now();
    runner.stop(Duration::from_secs(10));
    assert!(begun.elapsed() < Duration::from_secs(5));
    let stopped = jobs.read(id).unwrap();
    assert_eq!((stopped.state, stopped.attempts), (JobState::Queued { resumed: true }, 0));
    assert_eq!(jobs.read(behind).unwrap().state, JobState::Queued { resumed: false });
    drop((runner, jobs));

    let jobs = open(dir.path(), JobsOptions::default());
    let resumed = |context: &JobContext<'_>| Ok(json!([context.resumed(), context.attempt()]));
    let _runner = run(&jobs, Handlers::default().with("held", resumed));
    let output = |id| {
        let record = until(&jobs, id, Stage::Succeeded);
        let JobState::Succeeded { output, .. } = record.state else { panic!("{record:?}") };
        output
    };
    assert_eq!((output(id), output(behind)), (json!([true, 1]), json!([false, 1])));
}

#[test]
fn a_handler_that_does_not_heed_a_stop_holds_it_up_no_longer_than_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let jobs = open(dir.path(), JobsOptions::default());
    let ((say, began), (let_go, wait)) = (channel(), channel::<()>());
    let wait = Mutex::new(wait);
    let deaf = move |_: &JobContext<'_>| {
        say.send(()).unwrap();
        let _ = wait.lock().unwrap().recv();
        Ok(json!(null))
    };
    let runner = run(&jobs, Handlers::default().with("deaf", deaf));
    let id = jobs.enqueue("deaf", json!(null)).unwrap().id;
    began.recv().unwrap();
    let begun = Instant::now();
    runner.stop(Duration::from_millis(50));
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(jobs.read(id).unwrap().state.stage(), Stage::Running);
    let_go.send(()).unwrap();
    until(&jobs, id, Stage::Succeeded);
}

#[test]
fn the_queue_and_what_a_job_holds_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let jobs = open(dir.path(), JobsOptions { max_queued: 3, ..JobsOptions::default() });
    let ids: Vec<JobId> = (0..3).map(|_| jobs.enqueue("note", json!(null)).unwrap().id).collect();
    assert!(matches!(jobs.enqueue("note", json!(null)), Err(JobError::QueueFull { waiting: 3 })));
    jobs.cancel(ids[0]).unwrap();
    jobs.enqueue("note", json!(null)).unwrap();
    assert!(matches!(jobs.retry(ids[0]), Err(JobError::QueueFull { .. })));
    jobs.cancel(ids[1]).unwrap();
    let big = json!("x".repeat(MAX_DATA));
    assert!(matches!(jobs.enqueue("note", big), Err(JobError::TooLong { what: "input", .. })));
    let large = |_: &JobContext<'_>| Ok(json!("x".repeat(MAX_DATA)));
    let _runner = run(&jobs, Handlers::default().with("note", large));
    let failed = until(&jobs, ids[2], Stage::Failed);
    assert!(matches!(failed.state, JobState::Failed { failure, .. } if failure.code == "output"));
}

#[test]
fn ended_jobs_go_when_they_are_too_many_or_too_old_and_others_never() {
    let dir = tempfile::tempdir().unwrap();
    let options = JobsOptions { keep_finished: 5, ..JobsOptions::default() };
    let jobs = open(dir.path(), options);
    let ids: Vec<JobId> = (0..12).map(|_| jobs.enqueue("note", json!(null)).unwrap().id).collect();
    let checkpoint = |context: &JobContext<'_>| {
        context.checkpoint(&json!(1))?;
        Err(JobFailure::new("wrong", "on purpose"))
    };
    let runner = run(&jobs, Handlers::default().with("note", checkpoint));
    until(&jobs, ids[11], Stage::Failed);
    runner.stop(Duration::from_secs(10));
    let kept = jobs.list(&JobFilter::default(), None, 100).unwrap().jobs;
    assert_eq!(
        kept.iter().map(|job| job.id).collect::<Vec<_>>(),
        [11, 10, 9, 8, 7].map(|n| ids[n])
    );
    assert!(matches!(jobs.read(ids[0]), Err(JobError::NotFound(_))));
    assert!(matches!(jobs.subscribe(ids[0], 0), Err(JobError::NotFound(_))));
    let waiting = jobs.enqueue("note", json!(null)).unwrap().id;
    drop((runner, jobs));

    // Nothing of those that went is left in the store: job, checkpoint and journal of each kept one are.
    let store = open_store(dir.path());
    let records = |kind: u8| store.keys(&[kind]).unwrap().len();
    assert_eq!([records(0x20), records(0x21), records(0x22)], [6, 5, 6]);
    drop(store);
    let jobs = open(dir.path(), JobsOptions { keep_for: Duration::ZERO, ..options });
    let kept = jobs.list(&JobFilter::default(), None, 100).unwrap().jobs;
    assert_eq!(kept.iter().map(|job| job.id).collect::<Vec<_>>(), [waiting]);
}

#[test]
fn a_list_comes_in_pages_the_newest_first_and_filtered() {
    let dir = tempfile::tempdir().unwrap();
    let jobs = open(dir.path(), JobsOptions::default());
    let kind = |n: usize| if n.is_multiple_of(3) { "third" } else { "other" };
    let mut ids: Vec<JobId> =
        (0..25).map(|n| jobs.enqueue(kind(n), json!(n)).unwrap().id).collect();
    jobs.cancel(ids[3]).unwrap();
    let thirds: Vec<JobId> = ids.iter().step_by(3).rev().copied().collect();
    ids.reverse();
    let paged = |filter: &JobFilter, limit| {
        let (mut seen, mut pages, mut token) = (Vec::new(), 0, None);
        loop {
            let page = jobs.list(filter, token.as_deref(), limit).unwrap();
            assert!(page.jobs.len() <= limit);
            seen.extend(page.jobs.iter().map(|job| job.id));
            pages += 1;
            match page.next {
                Some(next) => token = Some(next),
                None => return (seen, pages),
            }
        }
    };
    assert_eq!(paged(&JobFilter::default(), 10), (ids.clone(), 3));
    assert_eq!(paged(&JobFilter::default(), 25), (ids.clone(), 1));
    let of_kind = JobFilter { kind: Some("third".to_owned()), stage: None };
    assert_eq!(paged(&of_kind, 4), (thirds, 3));
    let cancelled = JobFilter { stage: Some(Stage::Cancelled), ..of_kind };
    assert_eq!(paged(&cancelled, 4), (vec![ids[21]], 1));
    for bad in ["x", "", "AAAA", "AAAAAAAAAAAAAAAAAAAAAA", "%%%"] {
        assert!(matches!(
            jobs.list(&JobFilter::default(), Some(bad), 10),
            Err(JobError::PageToken)
        ));
    }
}

#[test]
fn progress_and_log_are_told_as_they_come_and_read_again_from_any_number() {
    let dir = tempfile::tempdir().unwrap();
    let jobs = open(dir.path(), JobsOptions::default());
    let ((say, began), (let_go, wait)) = (channel(), channel::<()>());
    let wait = Mutex::new(wait);
    let handler = move |context: &JobContext<'_>| {
        context.log("begun\nwell");
        context.progress(1, 4);
        say.send(()).unwrap();
        wait.lock().unwrap().recv().unwrap();
        context.progress(4, 4);
        context.log("done");
        Ok(json!(null))
    };
    let runner = run(&jobs, Handlers::default().with("told", handler));
    let id = jobs.enqueue("told", json!(null)).unwrap().id;
    let mut subscription = jobs.subscribe(id, 0).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    began.recv().unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.extend(runtime.block_on(subscription.next()).unwrap());
    }
    assert_eq!(lines(&seen), ["begun well"], "before the job ended");
    assert_eq!(jobs.read(id).unwrap().progress.unwrap().done, 1);
    let_go.send(()).unwrap();
    while let Some(events) = runtime.block_on(subscription.next()) {
        seen.extend(events);
    }
    assert_eq!(lines(&seen), ["begun well", "done"]);
    assert!(seen.windows(2).all(|pair| pair[0].id < pair[1].id));
    // Those that a later one stands for are gone; all others are there, also after a restart.
    runner.stop(Duration::from_secs(10));
    drop((runner, subscription, jobs));
    let jobs = open(dir.path(), JobsOptions::default());
    let kept = told(&jobs, id);
    assert_eq!(kept, seen.into_iter().filter(|event| event.id != 4).collect::<Vec<_>>());
    let middle = kept[2].id;
    let mut rest = jobs.subscribe(id, middle).unwrap();
    assert_eq!(runtime.block_on(rest.next()).unwrap(), kept[3..]);
    assert!(rest.is_over());
    assert_eq!(runtime.block_on(rest.next()), None);
}

#[test]
fn a_job_computes_on_threads_of_its_own_that_give_way_to_those_that_serve() {
    let dir = tempfile::tempdir().unwrap();
    let jobs = open(dir.path(), JobsOptions::default());
    let niceness = || {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        // The second field may hold spaces; the 19th is the niceness.
        let after_name = stat.rsplit_once(") ").unwrap().1;
        after_name.split(' ').nth(16).unwrap().parse::<i64>().unwrap()
    };
    let handler = move |_: &JobContext<'_>| {
        let inner = rayon::join(niceness, niceness);
        Ok(json!([rayon::current_num_threads(), inner.0, inner.1]))
    };
    let before = niceness();
    let runner = Runner::start(
        jobs.clone(),
        Handlers::default().with("look", handler),
        &["cpu".to_owned()],
        3,
    )
    .unwrap();
    let id = jobs.enqueue("look", json!(null)).unwrap().id;
    let JobState::Succeeded { output, .. } = until(&jobs, id, Stage::Succeeded).state else {
        panic!()
    };
    let lower = (before + 15).min(19);
    assert_eq!(output, json!([3, lower, lower]));
    runner.stop(Duration::from_secs(10));
    assert_eq!(niceness(), before, "nobody else is slowed down");
}
