//! What the kernel knows of a running process: memory, processor time, open files.
//!
//! It knows nothing of what runs in it. Invariant: everything is read at the moment of asking.

use std::time::Duration;

use anyhow::Context;

/// The resident memory of a process in KiB.
pub fn memory(id: u32) -> anyhow::Result<u64> {
    kilobytes(id, "VmRSS:")
}

/// The most that it ever was.
pub fn peak_memory(id: u32) -> anyhow::Result<u64> {
    kilobytes(id, "VmHWM:")
}

fn kilobytes(id: u32, key: &str) -> anyhow::Result<u64> {
    let status = read(id, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
    line.trim().trim_end_matches(" kB").parse().with_context(|| format!("reading {key}"))
}

/// The processor time of a process so far, to 10 ms.
pub fn processor(id: u32) -> anyhow::Result<Duration> {
    let stat = read(id, "stat")?;
    let fields = stat.rsplit(')').next().context("an empty stat")?.split_whitespace();
    let ticks = fields.skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10)) // USER_HZ is 100 on every Linux
}

/// How many files and sockets a process has open.
pub fn files(id: u32) -> anyhow::Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{id}/fd")).context("listing its files")?.count())
}

fn read(id: u32, file: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(format!("/proc/{id}/{file}")).with_context(|| format!("reading its {file}"))
}
