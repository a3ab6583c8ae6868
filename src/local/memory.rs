//! How much memory may still be taken, so that a cache too large is an error and not the end of
//! the process: the kernel's estimate, or the container's limit where that is less.

use std::fs::read_to_string;

/// Bytes that may be taken; `None` where the system does not say.
pub(super) fn available_bytes() -> Option<u64> {
    let machine = read_to_string("/proc/meminfo").ok().as_deref().and_then(parse_meminfo);
    let limit = read_to_string("/sys/fs/cgroup/memory.max").ok();
    let used = read_to_string("/sys/fs/cgroup/memory.current").ok();
    let container = limit.zip(used).and_then(|(limit, used)| left_in_container(&limit, &used));
    machine.into_iter().chain(container).min()
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn left_in_container(limit: &str, used: &str) -> Option<u64> {
    let limit: u64 = limit.trim().parse().ok()?;
    Some(limit.saturating_sub(used.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_estimate_is_read() {
        let text = "MemTotal:  24000000 kB\nMemFree: 1 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(parse_meminfo(text), Some(2048 * 1024));
        assert_eq!(parse_meminfo("MemTotal: 1 kB"), None);
    }

    #[test]
    fn a_containers_limit_counts_where_there_is_one() {
        assert_eq!(left_in_container("1000\n", "400\n"), Some(600));
        assert_eq!(left_in_container("max\n", "400\n"), None);
        assert_eq!(left_in_container("100\n", "400\n"), Some(0));
    }
}
