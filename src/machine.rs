//! Where a comparison is made: processor, cores, kernel and the time of day.

use std::{fs, thread, time::SystemTime};

use crate::compare::Circumstances;

impl Circumstances {
    /// This machine, now, for what `command` does with chance from `seed`. What cannot be read is left
    /// empty: a comparison does not fail for the want of a processor's name.
    pub fn here(command: String, seed: u64) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command,
            seed,
            began: now.map_or(0, |since| since.as_secs()),
            processor: processor(&read("/proc/cpuinfo")).unwrap_or_default(),
            // Those that this process may run on, and that its control group lets it use.
            cores: thread::available_parallelism().map_or(0, usize::from),
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
            notes: Vec::new(),
        }
    }
}

/// `model name : …` on most machines; Arm says no more than `Model` or `CPU implementer`.
fn processor(cpuinfo: &str) -> Option<String> {
    ["model name", "Model", "CPU implementer"]
        .iter()
        .find_map(|wanted| {
            cpuinfo.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == *wanted).then(|| value.trim().to_owned())
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_found_by_the_name_that_its_kind_gives_it() {
        let intel = "processor\t: 0\nmodel\t\t: 143\nmodel name\t: Some CPU @ 2.00GHz\n";
        assert_eq!(processor(intel).as_deref(), Some("Some CPU @ 2.00GHz"));
        let arm = "processor\t: 0\nCPU implementer\t: 0x41\n";
        assert_eq!(processor(arm).as_deref(), Some("0x41"));
        assert_eq!(processor(""), None);
    }

    #[test]
    fn here_is_somewhere_and_now() {
        let here = Circumstances::here("pointsman bench".to_owned(), 7);
        assert!(here.cores >= 1 && here.began > 1_700_000_000);
        assert!(here.kernel.len() > "Linux ".len());
        assert_eq!((here.command.as_str(), here.seed), ("pointsman bench", 7));
    }
}
