//! One thread that does one blocking job at a time for the node's thread: a flush, a write of the
//! node state, a cold read, a new segment file.
//!
//! The hand-over allocates nothing. The result is polled through an atomic; the node's thread is
//! woken only if it sleeps, because a sleeping hand-over costs tens of microseconds.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::config::Idle;
use crate::waker::Waker;

/// The node's end of a worker thread. Dropping it lets the current job end, then joins the thread.
#[derive(Debug)]
pub struct Worker<J, R> {
    shared: Arc<Shared<J, R>>,
    thread: Option<JoinHandle<()>>,
    busy: bool,
}

#[derive(Debug)]
struct Shared<J, R> {
    desk: Mutex<Desk<J, R>>,
    changed: Condvar,
    done: AtomicBool,
    /// There is a job, or there will be none: what a thread that spins looks at.
    posted: AtomicBool,
}

#[derive(Debug)]
struct Desk<J, R> {
    job: Option<J>,
    result: Option<R>,
    closing: bool,
}

impl<J: Send + 'static, R: Send + 'static> Worker<J, R> {
    /// Starts the thread `name`, which runs `work` on each job, and sleeps while it has none.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub fn spawn(
        name: &str,
        waker: Waker,
        work: impl FnMut(J) -> R + Send + 'static,
    ) -> io::Result<Self> {
        Self::start(name, false, waker, work)
    }

    /// The same, but where the node's thread spins this one does, too: a core of its own saves it
    /// the time that it takes to be woken, for every job.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub fn spawn_idling(
        name: &str,
        idle: Idle,
        waker: Waker,
        work: impl FnMut(J) -> R + Send + 'static,
    ) -> io::Result<Self> {
        Self::start(name, idle == Idle::Spin, waker, work)
    }

    fn start(
        name: &str,
        spins: bool,
        waker: Waker,
        mut work: impl FnMut(J) -> R + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            desk: Mutex::new(Desk {
                job: None,
                result: None,
                closing: false,
            }),
            changed: Condvar::new(),
            done: AtomicBool::new(false),
            posted: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Some(job) = theirs.next_job(spins) {
                    let result = work(job);
                    theirs.post_result(result);
                    theirs.changed.notify_all();
                    waker.wake();
                }
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
            busy: false,
        })
    }

    /// Whether a job may be submitted now.
    pub fn is_idle(&self) -> bool {
        !self.busy
    }

    /// Whether `poll` would return a result.
    pub fn is_done(&self) -> bool {
        self.shared.done.load(Ordering::SeqCst)
    }

    /// Hands a job over. Only while idle: one job is in flight at a time.
    pub fn submit(&mut self, job: J) {
        assert!(!self.busy, "one job at a time");
        self.busy = true;
        self.shared.lock().job = Some(job);
        self.shared.post();
    }

    /// The result of the job in flight, once there is one. Then the worker is idle again.
    pub fn poll(&mut self) -> Option<R> {
        if !self.shared.done.swap(false, Ordering::SeqCst) {
            return None;
        }
        self.busy = false;
        self.shared.lock().result.take()
    }

    /// Waits for the result of the job in flight; `None` if none is, or if the thread has died.
    pub fn wait(&mut self) -> Option<R> {
        if !self.busy {
            return None;
        }
        let mut desk = self.shared.lock();
        while desk.result.is_none() && !self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            let (next, _) = self
                .shared
                .changed
                .wait_timeout(desk, std::time::Duration::from_millis(50))
                .unwrap_or_else(PoisonError::into_inner);
            desk = next;
        }
        self.busy = false;
        self.shared.done.store(false, Ordering::SeqCst);
        desk.result.take()
    }
}

impl<J, R> Shared<J, R> {
    fn lock(&self) -> MutexGuard<'_, Desk<J, R>> {
        // A poisoned desk means that the work panicked; its job then never ends, and is noticed.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both under the lock: `wait` may take the result as soon as it is there, and what is said to
    /// be done after that would be the next job.
    fn post_result(&self, result: R) {
        let mut desk = self.lock();
        desk.result = Some(result);
        self.done.store(true, Ordering::SeqCst);
    }

    fn post(&self) {
        self.posted.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    fn next_job(&self, spins: bool) -> Option<J> {
        while spins && !self.posted.swap(false, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        let mut desk = self.lock();
        loop {
            if let Some(job) = desk.job.take() {
                return Some(job);
            }
            if desk.closing {
                return None;
            }
            desk = self
                .changed
                .wait(desk)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<J, R> Drop for Worker<J, R> {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.post();
        if let Some(thread) = self.thread.take() {
            // The work's panic was already printed by the panic hook.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_come_back_one_at_a_time_from_a_thread_that_sleeps_or_spins() {
        for idle in [Idle::Sleep, Idle::Spin] {
            let waker = Waker::new().unwrap();
            let double = |job: u32| job * 2;
            let mut worker = Worker::spawn_idling("doubler", idle, waker, double).unwrap();
            for job in 0..100 {
                assert!(worker.is_idle());
                worker.submit(job);
                assert!(!worker.is_idle());
                assert_eq!(worker.wait(), Some(job * 2));
            }
            assert_eq!(worker.poll(), None);
            assert_eq!(worker.wait(), None);
        }
    }
}
