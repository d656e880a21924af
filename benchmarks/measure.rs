//! What the benchmarks here share: their arguments, the binary's allocator, memory and processor time.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What follows `name` on the command line.
pub(crate) fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}

/// The same as a number, or what it is where it is not given.
pub(crate) fn number<T: std::str::FromStr>(name: &str, usual: T) -> T {
    argument(name).and_then(|value| value.parse().ok()).unwrap_or(usual)
}

/// Most memory that this process ever held, MiB; 0 where the system does not say.
pub(crate) fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Time that all threads of this process have computed for, seconds; 0 where the system does not say.
pub(crate) fn cpu_seconds() -> f64 {
    /// Of the two fields, a hundredth of a second on Linux.
    const TICK: f64 = 0.01;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the program's name, which may hold anything: user and system time are fields 14 and 15 of all.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() * TICK
}
