//! One block of load: a run of `wrk`, and what it says of itself.

use std::fmt;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::guard::{Guard, Interrupt, POLL};

/// What `wrk` is asked to do.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) core: usize,
    pub(crate) connections: u32,
    pub(crate) duration: Duration,
    pub(crate) url: String,
    pub(crate) connection_per_request: bool,
}

/// Requests that did not go well, as `wrk` sorts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Errors {
    pub(crate) connect: u64,
    pub(crate) read: u64,
    pub(crate) write: u64,
    pub(crate) timeout: u64,
    /// Answers that were neither 2xx nor 3xx.
    pub(crate) status: u64,
}

impl Errors {
    pub(crate) fn total(self) -> u64 {
        self.connect + self.read + self.write + self.timeout + self.status
    }
}

impl std::ops::AddAssign for Errors {
    fn add_assign(&mut self, other: Self) {
        self.connect += other.connect;
        self.read += other.read;
        self.write += other.write;
        self.timeout += other.timeout;
        self.status += other.status;
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("connect", self.connect),
            ("read", self.read),
            ("write", self.write),
            ("timeout", self.timeout),
            ("status", self.status),
        ];
        let mut separator = "";
        for (kind, count) in kinds.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "{separator}{count} {kind}")?;
            separator = ", ";
        }
        if separator.is_empty() {
            f.write_str("0")?;
        }
        Ok(())
    }
}

/// What came of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) errors: Errors,
}

/// Runs `wrk` on the load core to its end.
pub(crate) fn run(load: &Load, interrupt: &Interrupt) -> Result<Outcome> {
    let mut command = Command::new("taskset");
    command
        .args(["-c", &load.core.to_string(), "wrk", "-t1"])
        .arg(format!("-c{}", load.connections))
        .arg(format!("-d{}s", load.duration.as_secs()));
    if load.connection_per_request {
        command.args(["-H", "Connection: close"]);
    }
    command
        .arg(&load.url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut guard = Guard::spawn("wrk", &mut command)?;
    let deadline = Instant::now() + load.duration + Duration::from_secs(20);
    // What it writes is shorter than a pipe: it can be read after the end.
    let status = loop {
        if let Some(status) = guard.ended()? {
            break status;
        }
        if Instant::now() > deadline {
            bail!("wrk against {} does not come to an end", load.url);
        }
        interrupt.sleep(POLL)?;
    };
    let mut text = String::new();
    let mut complaint = String::new();
    let child = guard.child_mut();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut text).context("wrk's output")?;
    }
    if let Some(mut stderr) = child.stderr.take() {
        stderr
            .read_to_string(&mut complaint)
            .context("wrk's errors")?;
    }
    if !status.success() {
        bail!("wrk against {}: {status}: {}{text}", load.url, complaint);
    }
    parse(&text).with_context(|| format!("wrk against {} said:\n{text}", load.url))
}

fn parse(text: &str) -> Result<Outcome> {
    let mut requests = None;
    let mut requests_per_second = None;
    let mut errors = Errors::default();
    for line in text.lines().map(str::trim) {
        if let Some((count, _)) = line.split_once(" requests in ") {
            requests = Some(number(count)?);
        } else if let Some(rate) = line.strip_prefix("Requests/sec:") {
            let rate = rate.trim();
            requests_per_second = Some(
                rate.parse::<f64>()
                    .with_context(|| format!("not a rate: {rate:?}"))?,
            );
        } else if let Some(counts) = line.strip_prefix("Socket errors:") {
            for pair in counts.split(',') {
                let (kind, count) = pair
                    .trim()
                    .split_once(' ')
                    .with_context(|| format!("not an error count: {pair:?}"))?;
                let count = number(count)?;
                match kind {
                    "connect" => errors.connect = count,
                    "read" => errors.read = count,
                    "write" => errors.write = count,
                    "timeout" => errors.timeout = count,
                    _ => bail!("unknown kind of socket error {kind:?}"),
                }
            }
        } else if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses:") {
            errors.status = number(count)?;
        }
    }
    Ok(Outcome {
        requests: requests.context("no count of requests")?,
        requests_per_second: requests_per_second.context("no rate of requests")?,
        errors,
    })
}

fn number(text: &str) -> Result<u64> {
    text.trim()
        .parse()
        .with_context(|| format!("not a count: {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "\
Running 2s test @ http://127.0.0.1:20001/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.65ms  300.11us   9.12ms   92.10%
    Req/Sec    38.70k     1.20k   40.11k    80.00%
  77012 requests in 2.00s, 19.09MB read
Requests/sec:  38505.91
Transfer/sec:      9.55MB
";

    #[test]
    fn a_clean_run() {
        assert_eq!(
            parse(CLEAN).expect("a good report"),
            Outcome {
                requests: 77012,
                requests_per_second: 38505.91,
                errors: Errors::default(),
            }
        );
    }

    #[test]
    fn errors_of_both_lines() {
        let text = CLEAN.replace(
            "Requests/sec",
            "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 5\nRequests/sec",
        );
        let errors = parse(&text).expect("a good report").errors;
        assert_eq!(
            errors,
            Errors {
                connect: 1,
                read: 2,
                write: 3,
                timeout: 4,
                status: 5
            }
        );
        assert_eq!(errors.total(), 15);
        assert_eq!(
            errors.to_string(),
            "1 connect, 2 read, 3 write, 4 timeout, 5 status"
        );
        assert_eq!(Errors::default().to_string(), "0");
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(parse("unable to connect to 127.0.0.1:1 Connection refused\n").is_err());
        assert!(parse(&CLEAN.replace("77012", "many")).is_err());
    }
}
