//! Threads that wait for work and take it without allocating: each has a mailbox for one job.
//!
//! `engine/loom` compiles this file with loom's primitives instead of those in [`sync`](super::sync), and
//! checks the possible interleavings of the threads.
#![expect(unsafe_code, reason = "a job is lent to other threads by its address")]

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr,
    sync::PoisonError,
};

use super::sync::{
    Arc, AtomicBool, AtomicPtr, AtomicUsize, JoinHandle, LOOKS, Mutex, Ordering, Thread, spin_loop, thread,
    wake,
};

/// Work that several threads do at once, stored on the stack of the thread that requests it.
struct Job<'a> {
    work: &'a (dyn Fn() + Sync),
    /// Workers that were given the job and have neither finished it nor had it withdrawn.
    left: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    caller: Thread,
}

struct Worker {
    /// The next job; null if there is none.
    mailbox: AtomicPtr<Job<'static>>,
    stop: AtomicBool,
}

/// Some threads.
pub(super) struct Workers {
    workers: Vec<(Arc<Worker>, JoinHandle<()>)>,
}

impl Workers {
    /// Starts `count` threads.
    pub(super) fn start(count: usize) -> io::Result<Workers> {
        let mut workers = Workers { workers: Vec::with_capacity(count) };
        for index in 1..=count {
            let worker =
                Arc::new(Worker { mailbox: AtomicPtr::new(ptr::null_mut()), stop: AtomicBool::new(false) });
            let own = worker.clone();
            let thread = thread::Builder::new().name(format!("sdq-{index}")).spawn(move || own.serve())?;
            workers.workers.push((worker, thread));
        }
        Ok(workers)
    }

    /// Calls `work` on this thread and, at the same time, on up to `helpers` other threads: those that become
    /// free before this one is done.
    ///
    /// # Panics
    /// If any of the calls panics.
    pub(super) fn run(&self, helpers: usize, work: &(dyn Fn() + Sync)) {
        let job = Job { work, left: AtomicUsize::new(0), panic: Mutex::new(None), caller: thread::current() };
        let posted = Posted { workers: self, helpers, job: &job };
        posted.post();
        work();
        drop(posted);
        if let Some(panic) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (worker, thread) in &self.workers {
            worker.stop.store(true, Ordering::Release);
            thread.thread().unpark();
        }
        for (_, thread) in self.workers.drain(..) {
            // A worker catches every panic of its work.
            let _ = thread.join();
        }
    }
}

/// A job in the mailboxes of workers. Dropping it waits until no worker refers to it, both on return and on
/// unwinding.
struct Posted<'a> {
    workers: &'a Workers,
    helpers: usize,
    job: &'a Job<'a>,
}

impl Posted<'_> {
    fn address(&self) -> *mut Job<'static> {
        ptr::from_ref(self.job).cast_mut().cast()
    }

    fn post(&self) {
        for (worker, thread) in self.workers.workers.iter().take(self.helpers) {
            self.job.left.fetch_add(1, Ordering::Relaxed);
            let free = ptr::null_mut();
            match worker.mailbox.compare_exchange(free, self.address(), Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => wake(thread.thread()),
                // The mailbox holds the job of another caller.
                Err(_) => _ = self.job.left.fetch_sub(1, Ordering::Relaxed),
            }
        }
    }
}

impl Drop for Posted<'_> {
    fn drop(&mut self) {
        for (worker, _) in self.workers.workers.iter().take(self.helpers) {
            let unread = self.address();
            let taken_back = worker.mailbox.compare_exchange(
                unread,
                ptr::null_mut(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            if taken_back.is_ok() {
                self.job.left.fetch_sub(1, Ordering::Relaxed);
            }
        }
        wait_until(|| self.job.left.load(Ordering::Acquire) == 0);
    }
}

impl Worker {
    fn serve(&self) {
        loop {
            wait_until(|| {
                !self.mailbox.load(Ordering::Relaxed).is_null() || self.stop.load(Ordering::Acquire)
            });
            let address = self.mailbox.swap(ptr::null_mut(), Ordering::Acquire);
            if address.is_null() {
                match self.stop.load(Ordering::Acquire) {
                    true => return,
                    // The caller took the job back.
                    false => continue,
                }
            }
            // SAFETY: the thread that put the address there keeps the job alive until `left` shows that this
            // worker is done, or takes the address out again, and then the swap does not find it.
            let job = unsafe { &*address };
            let result = catch_unwind(AssertUnwindSafe(job.work));
            if let Err(panic) = result {
                *job.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
            let caller = job.caller.clone();
            // The job may be gone after this.
            if job.left.fetch_sub(1, Ordering::Release) == 1 {
                caller.unpark();
            }
        }
    }
}

/// Polls for a while, then sleeps until another thread unparks this one and the condition holds.
fn wait_until(condition: impl Fn() -> bool) {
    for _ in 0..LOOKS {
        if condition() {
            return;
        }
        spin_loop();
    }
    while !condition() {
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_work_is_done_when_run_returns() {
        let workers = Workers::start(3).unwrap();
        for round in 0..20_000 {
            let next = AtomicUsize::new(0);
            let done = AtomicUsize::new(0);
            workers.run(3, &|| {
                while next.fetch_add(1, Ordering::Relaxed) < round % 7 {
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
            assert_eq!(done.load(Ordering::Relaxed), round % 7);
        }
    }

    #[test]
    fn callers_may_come_together_and_from_within() {
        let workers = Workers::start(2).unwrap();
        let calls = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        workers.run(2, &|| {
                            workers.run(1, &|| _ = calls.fetch_add(1, Ordering::Relaxed));
                        });
                    }
                });
            }
        });
        // Each of the 1500 outer calls ran at least on its caller, and so did the nested calls.
        assert!(calls.load(Ordering::Relaxed) >= 1500);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_workers_alive() {
        let workers = Workers::start(1).unwrap();
        for _ in 0..50 {
            let here = thread::current().id();
            let started = AtomicBool::new(false);
            let result = catch_unwind(AssertUnwindSafe(|| {
                workers.run(1, &|| {
                    if thread::current().id() == here {
                        // Waits until the other thread has the job, which would be withdrawn otherwise.
                        while !started.load(Ordering::Relaxed) {
                            thread::yield_now();
                        }
                    } else {
                        started.store(true, Ordering::Relaxed);
                        panic!("on purpose");
                    }
                });
            }));
            assert!(result.is_err());
        }
    }
}
