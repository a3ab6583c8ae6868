//! How much memory may still be taken, and what a model will need, so that one too large is an error
//! with figures and not the end of the process.
//!
//! The figure is the kernel's estimate, or what the container's limit leaves where that is less; of
//! it, the pages of mapped files that this process uses are not free: models live there. Cgroups of
//! version 2 and 1 are known, each level above the process's own too.

use std::fmt;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// What a model takes, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    /// The mapped file; shared by the models of one file.
    pub weights: u64,
    /// The adapter's file.
    pub adapter: u64,
    /// Keys and values of every slot's whole context.
    pub kv: u64,
    /// What a step computes in, estimated.
    pub buffers: u64,
}

impl Need {
    /// What is the model's alone.
    pub(super) fn own(&self) -> u64 {
        self.adapter.saturating_add(self.kv).saturating_add(self.buffers)
    }

    /// Everything.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.own())
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts =
            [("weights", self.weights), ("adapter", self.adapter), ("KV cache", self.kv), ("buffers", self.buffers)];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(_, size)| *size > 0)
            .map(|(name, size)| format!("{name} {}", size_of(size)))
            .collect();
        write!(f, "{} ({})", size_of(self.total()), parts.join(", "))
    }
}

/// A size for a person: `1.9 GiB`, `350 MiB`.
pub(super) fn size_of(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        0 => "0".to_owned(),
        1..MIB => "1 MiB".to_owned(),
        _ if bytes < 1000 * MIB => format!("{} MiB", bytes.div_ceil(MIB)),
        _ => format!("{:.1} GiB", bytes as f64 / (1_u64 << 30) as f64),
    }
}

/// Bytes that may be taken; `None` where the system does not say.
pub(super) fn available_bytes() -> Option<u64> {
    let machine = read_to_string("/proc/meminfo").ok().as_deref().and_then(|text| kibibytes(text, "MemAvailable:"));
    let container = read_to_string("/proc/self/cgroup").ok();
    let container = container.and_then(|text| left_in_container(&text, Path::new("/sys/fs/cgroup")));
    let free = machine.into_iter().chain(container).min()?;
    let mapped = read_to_string("/proc/self/status").ok().as_deref().and_then(|text| kibibytes(text, "RssFile:"));
    Some(free.saturating_sub(mapped.unwrap_or(0)))
}

/// A line `name   N kB` in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// What the limits of the process's cgroups leave, the tightest of all levels; `/proc/self/cgroup` and
/// where the hierarchies are mounted.
fn left_in_container(groups: &str, mounted: &Path) -> Option<u64> {
    let own = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        Some((controllers.to_owned(), path.trim_start_matches('/').to_owned()))
    };
    let found = groups.lines().filter_map(own).filter_map(|(controllers, path)| match controllers.as_str() {
        "" => Some((mounted.to_owned(), path, left_in_v2 as fn(&Path) -> Option<u64>)),
        _ if controllers.split(',').any(|one| one == "memory") => {
            Some((mounted.join("memory"), path, left_in_v1 as fn(&Path) -> Option<u64>))
        }
        _ => None,
    });
    found.flat_map(|(root, path, left)| levels(&root, &path).into_iter().filter_map(move |level| left(&level))).min()
}

/// The folder of a cgroup and of every one above it, to the root of the hierarchy.
fn levels(root: &Path, path: &str) -> Vec<PathBuf> {
    let below = Path::new(path).ancestors().map(|part| root.join(part));
    below.collect()
}

/// Pages of files count as used but can be taken back.
fn left_in_v2(folder: &Path) -> Option<u64> {
    let number = |name: &str| read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let used = number("memory.current")?.saturating_sub(statistic(folder, "file")?);
    Some(number("memory.max")?.saturating_sub(used))
}

fn left_in_v1(folder: &Path) -> Option<u64> {
    let number = |name: &str| read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let used = number("memory.usage_in_bytes")?.saturating_sub(statistic(folder, "total_cache")?);
    Some(number("memory.limit_in_bytes")?.saturating_sub(used))
}

fn statistic(folder: &Path, name: &str) -> Option<u64> {
    let text = read_to_string(folder.join("memory.stat")).ok()?;
    let of = |line: &str| line.split_once(' ').filter(|(key, _)| *key == name)?.1.trim().parse().ok();
    text.lines().find_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_estimate_is_read() {
        let text = "MemTotal:  24000000 kB\nMemFree: 1 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(kibibytes(text, "MemAvailable:"), Some(2048 * 1024));
        assert_eq!(kibibytes("MemTotal: 1 kB", "MemAvailable:"), None);
    }

    fn group(folder: &Path, files: &[(&str, &str)]) {
        std::fs::create_dir_all(folder).unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(folder.join(name), text).unwrap());
    }

    #[test]
    fn the_tightest_cgroup_counts_and_pages_of_files_can_be_taken_back() {
        let mounted = tempfile::tempdir().unwrap();
        let root = mounted.path();
        let files = |max, current, stat| [("memory.max", max), ("memory.current", current), ("memory.stat", stat)];
        group(&root.join("a/b"), &files("max\n", "400\n", "anon 300\nfile 100\n"));
        group(&root.join("a"), &files("1000\n", "700\n", "anon 300\nfile 400\nfile_mapped 1\n"));
        assert_eq!(left_in_container("0::/a/b\n", root), Some(700));
        assert_eq!(left_in_container("0::/\n", root), None, "no limit at the root");
        assert_eq!(left_in_container("", root), None);
        group(&root.join("a/b"), &files("450\n", "400\n", "file 100\n"));
        assert_eq!(left_in_container("0::/a/b\n", root), Some(150));
    }

    #[test]
    fn the_first_version_of_cgroups_is_known_too() {
        let mounted = tempfile::tempdir().unwrap();
        let files = [
            ("memory.limit_in_bytes", "1000\n"),
            ("memory.usage_in_bytes", "900\n"),
            ("memory.stat", "cache 1\ntotal_cache 300\n"),
        ];
        group(&mounted.path().join("memory/x"), &files);
        assert_eq!(left_in_container("5:cpu,cpuacct:/\n4:memory:/x\n0::/\n", mounted.path()), Some(400));
    }

    #[test]
    fn a_need_is_told_in_its_parts() {
        let need = Need { weights: 1 << 30, adapter: 0, kv: 820 << 20, buffers: 100 << 20 };
        assert_eq!(need.to_string(), "1.9 GiB (weights 1.0 GiB, KV cache 820 MiB, buffers 100 MiB)");
        assert_eq!(Need { adapter: 5, ..Need::default() }.to_string(), "1 MiB (adapter 1 MiB)");
    }
}
