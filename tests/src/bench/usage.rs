//! What a process takes of the machine, from `/proc`.

/// Seconds that all threads of a process have run so far. The ticks of `stat` are too coarse for
/// half a percent of some seconds; the scheduler counts nanoseconds.
///
/// # Errors
/// In words: the process has ended, or the kernel does not count.
pub fn run_time(process: u32) -> Result<f64, String> {
    let folder = format!("/proc/{process}/task");
    let tasks = std::fs::read_dir(&folder).map_err(|e| format!("{folder}: {e}"))?;
    let mut nanos = None;
    for task in tasks.flatten() {
        let path = task.path().join("schedstat");
        // A thread may end between being listed and being read: it counts no more, as if it had
        // not been listed.
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let first = text.split_whitespace().next();
        let time = first.and_then(|n| n.parse::<f64>().ok());
        let time = time.ok_or_else(|| format!("{}: no run time", path.display()))?;
        nanos = Some(nanos.unwrap_or(0.0) + time);
    }
    let nanos = nanos.ok_or_else(|| format!("{folder}: no thread's run time"))?;
    Ok(nanos / 1e9)
}

/// Resident memory of a process, in MiB.
///
/// # Errors
/// In words: the process has ended.
pub fn resident(process: u32) -> Result<f64, String> {
    let path = format!("/proc/{process}/status");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.ok_or_else(|| format!("{path}: no VmRSS"))? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_runs_and_has_memory() {
        let own = std::process::id();
        assert!(run_time(own).unwrap() > 0.0);
        assert!(resident(own).unwrap() > 0.0);
    }

    #[test]
    fn threads_that_end_meanwhile_do_no_harm() {
        use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    let threads = [(); 8].map(|()| std::thread::spawn(|| ()));
                    for thread in threads {
                        thread.join().unwrap();
                    }
                }
            });
            let times = [(); 300].map(|()| run_time(std::process::id()));
            is_over.store(true, Relaxed);
            let failed: Vec<_> = times.into_iter().filter_map(Result::err).collect();
            assert_eq!(failed, [""; 0]);
        });
    }

    #[test]
    fn there_is_no_process_of_an_impossible_id() {
        assert!(run_time(u32::MAX).is_err());
        assert!(resident(u32::MAX).is_err());
    }
}
