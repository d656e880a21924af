//! Threads that stay awake over a pass.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::Yield;

/// Times that a thread looks for work in vain before it lets others have the processor.
const LOOKS: usize = 200;

thread_local! {
    /// Whether this thread is in a pass, or stays awake for one.
    static TAKEN: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on a thread of the pool while others, `threads` in all, look for parts of it until it ends. Left to sleep between two products,
/// a thread would take about as long to wake up as its part of the next.
pub(super) fn awake<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    let over = AtomicBool::new(false);
    rayon::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| look_for_work(&over));
        }
        // Even if `work` panics: the scope ends when all others have.
        let _over = OnDrop(|| over.store(true, Ordering::Release));
        taken(work)
    })
}

fn look_for_work(over: &AtomicBool) {
    // A thread that waits for its own pass may get to this. What it waited for would never end then.
    if TAKEN.get() {
        return;
    }
    taken(|| {
        let mut looks = 0;
        while !over.load(Ordering::Acquire) {
            looks = if rayon::yield_now() == Some(Yield::Executed) { 0 } else { looks + 1 };
            if looks < LOOKS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    });
}

fn taken<R>(work: impl FnOnce() -> R) -> R {
    let before = TAKEN.replace(true);
    let _after = OnDrop(|| TAKEN.set(before));
    work()
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    /// What a pass is: parts for all, over and over, with something done alone in between.
    fn pass(salt: u64) -> u64 {
        (0..200).fold(salt, |sum, _| (0..8_u64).into_par_iter().map(|part| part ^ sum).sum())
    }

    #[test]
    fn passes_end_and_give_what_they_give_alone_however_many_run_at_a_time() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let expected: Vec<u64> = (0..8).map(pass).collect();
        std::thread::scope(|scope| {
            let work = |salt| pool.install(|| awake(3, || pass(salt)));
            let passes: Vec<_> = (0..8)
                .map(|salt| scope.spawn(move || (0..50).map(|_| work(salt)).collect::<Vec<_>>()))
                .collect();
            for (pass, expected) in passes.into_iter().zip(expected) {
                assert!(pass.join().unwrap().iter().all(|got| *got == expected));
            }
        });
    }

    #[test]
    fn a_panic_ends_a_pass_and_leaves_the_threads() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        for _ in 0..20 {
            let panics = || pool.install(|| awake(2, || assert!(pass(1) == 0, "on purpose")));
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        }
        assert_eq!(pool.install(|| awake(2, || pass(1))), pass(1));
    }
}
