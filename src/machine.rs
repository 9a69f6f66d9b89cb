//! Where a comparison is made: processor, cores, kernel and the time of day, and who has the cores' time.

use std::{fs, thread, time::SystemTime};

use crate::compare::Circumstances;

impl Circumstances {
    /// This machine, now, for what `command` does with chance from `seed`. What cannot be read is left
    /// empty: a comparison does not fail for the want of a processor's name.
    pub fn here(command: String, seed: u64) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command,
            seed,
            began: now.map_or(0, |since| since.as_secs()),
            processor: processor().unwrap_or_default(),
            // Those that this process may run on, and that its control group lets it use.
            cores: thread::available_parallelism().map_or(0, usize::from),
            kernel: kernel(),
            notes: Vec::new(),
        }
    }
}

/// The processor's name, if the kernel says one.
pub(crate) fn processor() -> Option<String> {
    model(&fs::read_to_string("/proc/cpuinfo").ok()?)
}

/// The kernel's name and release.
pub(crate) fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}

/// `model name : …` on most machines; Arm says no more than `Model` or `CPU implementer`.
fn model(cpuinfo: &str) -> Option<String> {
    ["model name", "Model", "CPU implementer"]
        .iter()
        .find_map(|wanted| {
            cpuinfo.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == *wanted).then(|| value.trim().to_owned())
            })
        })
}

/// What all cores have done since the machine started, in ticks of the kernel's clock: the first line of
/// `/proc/stat` (proc_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreTime {
    /// The hypervisor gave it to somebody else.
    stolen: u64,
    /// Not idle, and not stolen.
    busy: u64,
    all: u64,
    cores: usize,
}

impl CoreTime {
    /// Until now; `None`: the kernel does not say it as it used to.
    pub fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.cores
    }

    /// Shares of the time since `earlier` (0 to 1): stolen, and busy.
    pub fn shares_since(&self, earlier: &Self) -> (f64, f64) {
        let all = self.all.saturating_sub(earlier.all).max(1) as f64;
        let share = |now: u64, then: u64| now.saturating_sub(then) as f64 / all;
        (
            share(self.stolen, earlier.stolen),
            share(self.busy, earlier.busy),
        )
    }

    /// `cpu user nice system idle iowait irq softirq steal …`; guests, which follow, are in these already.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<u64> = text
            .lines()
            .find_map(|line| line.strip_prefix("cpu "))?
            .split_ascii_whitespace()
            .take(8)
            .map(|field| field.parse().ok())
            .collect::<Option<_>>()?;
        let (all, stolen) = (fields.iter().sum::<u64>(), *fields.get(7)?);
        let is_core = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
        Some(Self {
            stolen,
            busy: all - stolen - fields[3] - fields[4],
            all,
            cores: text.lines().filter(is_core).count().max(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cores_time_is_shared_out() {
        let before = "cpu  10 0 10 70 10 0 0 0 5 0\ncpu0 9 9 9 9 9 9 9 9 0 0\ncpu1 1\nctxt 7\n";
        let after = "cpu  20 0 20 120 20 10 5 5 9 0\ncpu0 9\ncpu1 1\n";
        let time = |text| CoreTime::parse(text).expect("it is there");
        assert_eq!(time(before).cores(), 2);
        let (stolen, busy) = time(after).shares_since(&time(before));
        assert!((stolen - 0.05).abs() < 1e-9, "{stolen}");
        assert!((busy - 0.35).abs() < 1e-9, "{busy}");
        assert_eq!(time(after).shares_since(&time(after)), (0.0, 0.0));
        for text in ["", "cpu0 1 2 3 4 5 6 7 8", "cpu 1 2 3 4 5 6 7"] {
            assert_eq!(CoreTime::parse(text), None, "{text}");
        }
        assert!(CoreTime::now().is_some());
    }

    #[test]
    fn the_processor_is_found_by_the_name_that_its_kind_gives_it() {
        let intel = "processor\t: 0\nmodel\t\t: 143\nmodel name\t: Some CPU @ 2.00GHz\n";
        assert_eq!(model(intel).as_deref(), Some("Some CPU @ 2.00GHz"));
        let arm = "processor\t: 0\nCPU implementer\t: 0x41\n";
        assert_eq!(model(arm).as_deref(), Some("0x41"));
        assert_eq!(model(""), None);
    }

    #[test]
    fn here_is_somewhere_and_now() {
        let here = Circumstances::here("pointsman bench".to_owned(), 7);
        assert!(here.cores >= 1 && here.began > 1_700_000_000);
        assert!(here.kernel.len() > "Linux ".len());
        assert_eq!((here.command.as_str(), here.seed), ("pointsman bench", 7));
    }
}
