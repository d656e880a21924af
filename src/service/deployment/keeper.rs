//! Ends soaks in time, gives up what ended jobs left, removes templates that nobody needs, and erases people whose time is over.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::domain::now_ms;
use crate::jobs::Jobs;

use crate::service::ServiceError;
use crate::service::audit::AuditLog;
use crate::service::retention::sweep;
use crate::service::workshop::Workshop;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);
/// How often it looks whose time is over, whose day ends to the minute, and what jobs left that are not kept any more.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Desk {
    stop: bool,
    look: bool,
}

#[derive(Default)]
struct Shared {
    desk: Mutex<Desk>,
    asked: Condvar,
}

/// The thread; it ends when this is dropped.
pub(in crate::service) struct Keeper {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Keeper {
    /// Starts the thread; `None` gives a keeper that does nothing.
    pub(in crate::service) fn start(
        work: Option<(Arc<Workshop>, Jobs, AuditLog)>,
    ) -> Result<Self, ServiceError> {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let thread = work.map(|(workshop, jobs, audit)| {
            std::thread::Builder::new()
                .name("deployment".to_owned())
                .spawn(move || keep(&seen, &workshop, &jobs, &audit))
                .map_err(|error| ServiceError::Internal(error.to_string()))
        });
        Ok(Self { shared, thread: Mutex::new(thread.transpose()?) })
    }

    /// Has it look at once.
    pub(in crate::service) fn look(&self) {
        self.shared.desk.lock().look = true;
        self.shared.asked.notify_one();
    }

    /// Waits for the thread to end.
    pub(in crate::service) fn stop(&self) {
        self.shared.desk.lock().stop = true;
        self.shared.asked.notify_one();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the deployment's keeper panicked");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

fn keep(shared: &Shared, workshop: &Workshop, jobs: &Jobs, audit: &AuditLog) {
    workshop.sweep_uploads();
    let mut swept = None;
    loop {
        if swept.is_none_or(|at: Instant| at.elapsed() >= SWEEP_EVERY) {
            if let Err(error) = sweep(workshop, audit, now_ms()) {
                tracing::warn!(%error, "somebody whose time is over is not erased; trying again");
            }
            workshop.sweep_folders(jobs);
            swept = Some(Instant::now());
        }
        if let Err(error) = look(workshop, jobs, &|| !shared.desk.lock().stop) {
            tracing::warn!(%error, "what a deployment left is not cleared; trying again");
        }
        let mut desk = shared.desk.lock();
        if !desk.stop && !desk.look {
            shared.asked.wait_for(&mut desk, EVERY);
        }
        if desk.stop {
            return;
        }
        desk.look = false;
    }
}

fn look(workshop: &Workshop, jobs: &Jobs, go_on: &dyn Fn() -> bool) -> Result<(), ServiceError> {
    let table = &workshop.deployments;
    let record = table.record();
    if record.soak_until_ms.is_some_and(|until| until <= now_ms()) {
        match table.retire(None) {
            // Somebody rolled back a moment ago.
            Ok(()) | Err(ServiceError::NothingToRollBack) => {}
            Err(error) => return Err(error),
        }
    }
    if let Some(filling) = &record.filling {
        let ended = match jobs.read(filling.job) {
            Ok(job) => job.state.has_ended(),
            // Forgotten, so long ended.
            Err(_) => true,
        };
        if ended {
            table.abandon(filling.job)?;
        }
    }
    Ok(workshop.galleries.purge_while(go_on)?)
}
