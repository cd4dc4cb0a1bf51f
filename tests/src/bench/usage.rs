//! What a process takes of the machine, from `/proc`.

/// Seconds that all threads of a process have run so far. The ticks of `stat` are too coarse for
/// half a percent of some seconds; the scheduler counts nanoseconds.
///
/// # Errors
/// In words: the process has ended, or the kernel does not count.
pub fn run_time(process: u32) -> Result<f64, String> {
    let folder = format!("/proc/{process}/task");
    let tasks = std::fs::read_dir(&folder).map_err(|e| format!("{folder}: {e}"))?;
    let mut nanos = 0.0;
    for task in tasks.flatten() {
        let path = task.path().join("schedstat");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let first = text.split_whitespace().next();
        let time = first.and_then(|n| n.parse::<f64>().ok());
        nanos += time.ok_or_else(|| format!("{}: no run time", path.display()))?;
    }
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
    fn there_is_no_process_of_an_impossible_id() {
        assert!(run_time(u32::MAX).is_err());
        assert!(resident(u32::MAX).is_err());
    }
}
