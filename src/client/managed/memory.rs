//! Resident memory of processes.

use std::fs;

/// Maximum number of processes inspected: a command that forks endlessly must not delay a response.
const PROCESSES_MAX: usize = 64;

/// Resident memory of this process, in bytes; 0 if the system does not report it.
pub(super) fn own() -> u64 {
    resident("self")
}

/// Resident memory of this process and all of its descendants.
pub(super) fn with_children() -> u64 {
    let mut processes = vec!["self".to_owned()];
    let mut looked_at = 0;
    while let Some(process) = processes.get(looked_at).filter(|_| looked_at < PROCESSES_MAX) {
        // The first thread starts all children; its id is that of the process.
        let id = if process == "self" { std::process::id().to_string() } else { process.clone() };
        let children = fs::read_to_string(format!("/proc/{process}/task/{id}/children")).unwrap_or_default();
        processes.extend(children.split_ascii_whitespace().map(str::to_owned));
        looked_at += 1;
    }
    processes.iter().take(PROCESSES_MAX).map(|process| resident(process)).sum()
}

fn resident(process: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_that_of_a_process() {
        let own = own();
        assert!(own > 100 * 1024, "{own}");
        assert_eq!(resident("0"), 0);
        assert!(with_children() >= own / 2);
    }
}
