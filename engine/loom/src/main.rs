//! Checks the worker threads of the CPU backend with loom, which tries the possible interleavings of threads
//! and of the visibility of their writes, and fails on a race, a deadlock or a wrong result. Start with
//! `cargo run --release` in this folder.

#[path = "../../src/backend/cpu/workers.rs"]
mod workers;

/// Loom's primitives, under the names that `workers.rs` uses for those of the standard library.
mod sync {
    pub(crate) use loom::{
        hint::spin_loop,
        sync::{
            Arc, Mutex,
            atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
        },
        thread::{self, JoinHandle, Thread},
    };

    /// Loom orders everything before `unpark` before everything that the other thread does next, and never
    /// interrupts a thread directly before it. The yield lets others run first, when they know only the
    /// values of atomics.
    pub(crate) fn wake(thread: &Thread) {
        thread::yield_now();
        thread.unpark();
    }

    /// Threads sleep at once: polling adds interleavings, but none that differ.
    pub(crate) const LOOKS: usize = 0;
}

use loom::{cell::UnsafeCell, thread};
use sync::{Arc, AtomicUsize, Ordering};
use workers::Workers;

/// Values that threads write without synchronisation, each index once, as kernels write tiles. Loom reports a
/// race if the caller can read them before every worker has finished the job.
struct Tiles {
    values: Vec<UnsafeCell<usize>>,
    next: AtomicUsize,
}

impl Tiles {
    fn new(count: usize) -> Tiles {
        let tiles =
            Tiles { values: (0..count).map(|_| UnsafeCell::new(7)).collect(), next: AtomicUsize::new(0) };
        for value in &tiles.values {
            // SAFETY: nobody else knows of the tiles yet; loom fails if a worker can work without seeing this.
            value.with_mut(|value| unsafe { *value = 0 });
        }
        tiles
    }

    fn work(&self) {
        while let Some(value) = self.values.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            // SAFETY: each index is handed out once, and loom fails if the caller reads meanwhile.
            value.with_mut(|value| unsafe { *value += 1 });
        }
    }

    fn assert_done(&self) {
        for value in &self.values {
            // SAFETY: `run` has returned, so no worker writes; loom fails if one can.
            assert_eq!(value.with(|value| unsafe { *value }), 1);
        }
    }
}

// SAFETY: `work` gives each value to one thread, and loom checks every access.
unsafe impl Sync for Tiles {}

fn run(workers: &Workers, helpers: usize, tiles: usize) {
    let tiles = Tiles::new(tiles);
    workers.run(helpers, &|| tiles.work());
    tiles.assert_done();
}

/// Checks every interleaving with at most three preemptions: more took minutes and found nothing else.
fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn main() {
    // The second job is stored at the address of the first one.
    check(|| {
        let workers = Workers::start(1).unwrap();
        run(&workers, 1, 2);
        run(&workers, 1, 1);
    });
    println!("one worker, two jobs: passed");

    check(|| {
        let workers = Workers::start(2).unwrap();
        run(&workers, 2, 2);
    });
    println!("two workers, one job: passed");

    check(|| {
        let workers = Arc::new(Workers::start(1).unwrap());
        let other = workers.clone();
        let caller = thread::spawn(move || run(&other, 1, 1));
        run(&workers, 1, 1);
        caller.join().unwrap();
    });
    println!("two callers of one worker: passed");
}
