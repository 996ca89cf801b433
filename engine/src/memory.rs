//! The memory of the process and of the system, as the system reports it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Anonymous memory that this process has written, in bytes; the system cannot drop it. 0 where the system
/// does not report it (Linux does).
pub(crate) fn held() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    kilobytes(&status, "RssAnon").unwrap_or(0)
}

/// Memory that a run could still take before the system runs out, a limit of its control groups is met, or that of its
/// address space (`ulimit -v`), in bytes. What the process takes beside any plan is left free. `None` where the system does not
/// tell (it does on Linux).
pub(crate) fn available() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let machine = kilobytes(&read("/proc/meminfo"), "MemAvailable");
    let groups = limits(&read("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"));
    let addresses = address_space(&read("/proc/self/limits"), &read("/proc/self/status"));
    let least = machine.into_iter().chain(groups).chain(addresses).min()?;
    Some(least.saturating_sub(margin(least)))
}

/// What a process takes beside what it plans: tables of pages, stacks, buffers of files that it writes, what the allocator keeps
/// for itself. A part of it grows with the run.
const fn margin(available: u64) -> u64 {
    const FIXED: u64 = 12 << 20;
    FIXED + available / 32
}

/// What is left of the address space. `limits` and `status` are `/proc`'s files of these names.
fn address_space(limits: &str, status: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(limit.saturating_sub(kilobytes(status, "VmSize")?))
}

/// Bytes that this process may still take: what is left of `max_memory`, a bound on what it holds in all, and what the
/// system has. `None` where neither is known.
pub fn left(max_memory: Option<u64>) -> Option<u64> {
    let own = max_memory.map(|limit| limit.saturating_sub(held()));
    own.into_iter().chain(available()).min()
}

/// The value of `key` in a file of lines such as `MemAvailable:  123 kB`, in bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Files of a control group: the limit, the memory in use, and the statistics with the amount of file pages
/// that can be dropped.
struct GroupFiles {
    limit: &'static str,
    used: &'static str,
    droppable: &'static str,
}

const V1: GroupFiles = GroupFiles {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    droppable: "total_inactive_file",
};
const V2: GroupFiles = GroupFiles { limit: "memory.max", used: "memory.current", droppable: "inactive_file" };

/// The remaining memory of each control group that `/proc/self/cgroup` lists and of the groups above them,
/// mounted at `root`.
fn limits(groups: &str, root: &Path) -> Vec<u64> {
    let mut left = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (root, files) = match controllers {
            "" => (root.to_owned(), V2),
            list if list.split(',').any(|controller| controller == "memory") => (root.join("memory"), V1),
            _ => continue,
        };
        // Inside a container the path may be the host's and not exist; then the root is the container's own
        // group.
        let group = root.join(path.trim_start_matches('/'));
        left.extend(
            group
                .ancestors()
                .take_while(|above| above.starts_with(&root))
                .filter_map(|above| left_in(above, &files)),
        );
    }
    left
}

fn left_in(group: &Path, files: &GroupFiles) -> Option<u64> {
    let read = |file: PathBuf| fs::read_to_string(file).ok();
    let number = |file| read(group.join(file))?.trim().parse::<u64>().ok();
    // v2 writes `max` if there is no limit, v1 a number larger than any memory.
    let limit = number(files.limit)?;
    let used = number(files.used)?;
    let statistics = read(group.join("memory.stat")).unwrap_or_default();
    let droppable =
        statistics.lines().find_map(|line| line.strip_prefix(files.droppable)?.trim().parse().ok());
    Some(limit.saturating_sub(used.saturating_sub(droppable.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_whole_name() {
        let text = "MemTotal:       24689764 kB\nMemAvailable:   23000000 kB\nMem:  1 kB\n";
        assert_eq!(kilobytes(text, "MemAvailable"), Some(23_000_000 * 1024));
        assert_eq!(kilobytes(text, "Mem"), Some(1024));
        assert_eq!(kilobytes(text, "Avail"), None);
        assert_eq!(kilobytes("A: many kB", "A"), None);
    }

    #[test]
    fn groups_above_count_and_file_pages_do_not() {
        let folder = std::env::temp_dir().join(format!("sdq-cgroup-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("memory.max", "max\n");
        write("memory.current", "9000\n");
        write("a/memory.max", "1000\n");
        write("a/memory.current", "700\n");
        write("a/memory.stat", "anon 400\ninactive_file 300\nactive_file 5\n");
        write("a/b/memory.max", "5000\n");
        write("a/b/memory.current", "100\n");
        write("memory/c/memory.limit_in_bytes", "2000\n");
        write("memory/c/memory.usage_in_bytes", "500\n");
        let found = limits("0::/a/b\n", &folder);
        let old = limits("5:cpu,memory:/c\n3:freezer:/a\n", &folder);
        let outside = limits("0::/no/such/group\n", &folder.join("a"));
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found, [4900, 600]);
        assert_eq!(old, [1500]);
        assert_eq!(outside, [600]);
    }

    #[test]
    fn the_address_space_has_a_limit_of_its_own() {
        let limits = |soft: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max cpu time              unlimited            unlimited            seconds   \n\
                 Max address space         {soft}            unlimited            bytes     \n"
            )
        };
        let status = "Name:\tsdq\nVmPeak:\t  900 kB\nVmSize:\t  600 kB\n";
        assert_eq!(address_space(&limits("1024000"), status), Some(1_024_000 - 614_400));
        assert_eq!(address_space(&limits("1000"), status), Some(0));
        assert_eq!(address_space(&limits("unlimited"), status), None);
        assert_eq!(address_space("", status), None);
        assert_eq!(address_space(&limits("1024000"), ""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_tells() {
        assert!(held() > 0);
        assert!(available().is_some_and(|bytes| bytes > 0));
    }

    /// A control group whose files have these contents.
    fn group(texts: [Option<&str>; 3], files: &GroupFiles) -> Option<u64> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [files.limit, files.used, "memory.stat"].iter().zip(texts) {
            if let Some(text) = text {
                fs::write(folder.path().join(name), text).unwrap();
            }
        }
        left_in(folder.path(), files)
    }

    #[test]
    fn what_is_left_is_the_limit_less_what_cannot_be_dropped() {
        for (limit, used, statistics, left) in [
            (Some("1000"), Some("300"), None, Some(700)),
            (Some("1000\n"), Some(" 300 \n"), Some("inactive_file 100\n"), Some(800)),
            // No more memory than is in use can be dropped, and usage may exceed the limit for a moment.
            (Some("1000"), Some("300"), Some("inactive_file 500"), Some(1000)),
            (Some("1000"), Some("1200"), None, Some(0)),
            (Some("0"), Some("0"), None, Some(0)),
            (
                Some("1000"),
                Some("300"),
                Some("active_file 9\ntotal_inactive_file 9\ninactive_file x"),
                Some(700),
            ),
            (Some("max"), Some("300"), None, None),
            (Some("1000"), None, None, None),
            (None, Some("300"), None, None),
            (Some("-1"), Some("300"), None, None),
        ] {
            assert_eq!(group([limit, used, statistics], &V2), left, "{limit:?} {used:?} {statistics:?}");
        }
        let statistics = Some("inactive_file 7\ntotal_inactive_file 100\n");
        assert_eq!(group([Some("1000"), Some("300"), statistics], &V1), Some(800));
    }

    #[test]
    fn lines_that_name_no_group_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("memory.max"), "1000").unwrap();
        fs::write(folder.path().join("memory.current"), "400").unwrap();
        for (lines, left) in [
            ("", &[][..]),
            ("0\n1:cpu\nnonsense", &[]),
            ("4:cpu,cpuset:/\n", &[]),
            ("0::/\n", &[600]),
            ("0::\n", &[600]),
            // A path may contain colons; two lines add two groups.
            ("0::/a:b\n0::/\n", &[600, 600]),
        ] {
            assert_eq!(limits(lines, folder.path()), left, "{lines:?}");
        }
    }

    #[test]
    fn a_value_is_a_whole_number_of_kilobytes_that_fits() {
        for (line, bytes) in [
            ("Mem: 1 kB", Some(1024)),
            ("Mem:1kB", Some(1024)),
            ("Mem:\t 18014398509481983 kB  ", Some(u64::MAX - 1023)),
            ("Mem: 18014398509481984 kB", None),
            ("Mem: 1 MB", None),
            ("Mem: 1", None),
            ("Mem: -1 kB", None),
            ("Mem 1 kB", None),
            (" Mem: 1 kB", None),
        ] {
            assert_eq!(kilobytes(line, "Mem"), bytes, "{line}");
        }
    }
}
