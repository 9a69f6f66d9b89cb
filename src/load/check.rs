//! Orders that cannot be carried out.

use std::net::SocketAddr;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{Order, Scenario};
use crate::{
    compare::Drive,
    error::{Error, Result},
};

/// Requests a second: more than one thread can send.
pub const MAX_RATE: f64 = 1e6;
/// As many addresses of 127.0.0.0/8 as somebody might want.
const MAX_ADDRESSES: u32 = 1_000_000;
/// Descriptors besides the clients'.
const OTHER_DESCRIPTORS: u64 = 16;

/// Says what is wrong with `order`.
///
/// # Errors
/// That.
pub(super) fn check(order: &Order) -> Result<()> {
    let refuse = |message: String| Err(Error::usage(message));
    if order.clients == 0 {
        return refuse("clients: 0 clients send nothing: name 1 or more".into());
    }
    match order.drive {
        Drive::Open { rate } if !(rate > 0.0 && rate <= MAX_RATE) => {
            return refuse(format!(
                "rate: {rate} is no number of requests a second that can be sent: name one above 0 and up to {MAX_RATE}"
            ));
        }
        Drive::Live => return refuse("drive: 'live' load comes from real clients".into()),
        Drive::Closed | Drive::Open { .. } => {}
    }
    for (name, time) in [("duration", order.duration), ("timeout", order.timeout)] {
        if time.is_zero() {
            return refuse(format!("{name}: 0 is too short"));
        }
    }
    if order.addresses == 0 || order.addresses > MAX_ADDRESSES {
        return refuse(format!("addresses: name 1 to {MAX_ADDRESSES}"));
    }
    if order.addresses > 1 && !is_ipv4_loopback(order.target) {
        return refuse(format!(
            "addresses: only with a target in 127.0.0.0/8 can clients have addresses of their own; {} is not there",
            order.target
        ));
    }
    let mut texts = vec![("host", &order.host, false), ("path", &order.path, true)];
    if order.scenario == Scenario::Mixed {
        texts.push(("slow_path", &order.slow_path, true));
    }
    for (name, text, is_path) in texts {
        let is_clean = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || !is_clean || (is_path && !text.starts_with('/')) {
            return refuse(format!("{name}: '{}' cannot be sent", text.escape_debug()));
        }
    }
    descriptors(order.clients)
}

fn is_ipv4_loopback(target: SocketAddr) -> bool {
    matches!(target, SocketAddr::V4(v4) if v4.ip().is_loopback())
}

/// Makes room for the descriptors of all clients.
fn descriptors(clients: u32) -> Result<()> {
    let unknown = |errno: nix::Error| Error::runtime("the limit of descriptors", errno.into());
    let needed = u64::from(clients) + OTHER_DESCRIPTORS;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(unknown)?;
    if needed > hard {
        return Err(Error::usage(format!(
            "clients: {clients} clients need {needed} descriptors and the limit is {hard}: \
             name fewer clients, or raise the limit (ulimit -Hn)"
        )));
    }
    if needed > soft {
        setrlimit(Resource::RLIMIT_NOFILE, needed, hard).map_err(unknown)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::tests::order;

    /// A change that makes an order nonsense, and what has to be said of it.
    type Nonsense = (fn(&mut Order), &'static str);

    #[test]
    fn nonsense_is_refused_by_name() {
        assert!(check(&order()).is_ok());
        let cases: &[Nonsense] = &[
            (|o| o.clients = 0, "clients"),
            (|o| o.clients = u32::MAX, "limit is"),
            (|o| o.drive = Drive::Open { rate: 0.0 }, "rate"),
            (|o| o.drive = Drive::Open { rate: -3.0 }, "rate"),
            (|o| o.drive = Drive::Open { rate: f64::NAN }, "rate"),
            (
                |o| {
                    o.drive = Drive::Open {
                        rate: f64::INFINITY,
                    }
                },
                "rate",
            ),
            (|o| o.drive = Drive::Live, "live"),
            (|o| o.duration = Duration::ZERO, "duration"),
            (|o| o.timeout = Duration::ZERO, "timeout"),
            (|o| o.addresses = 0, "addresses"),
            (
                |o| {
                    o.addresses = 2;
                    o.target = "[::1]:80".parse().expect("an address");
                },
                "127.0.0.0/8",
            ),
            (|o| o.path = "x".into(), "path"),
            (|o| o.path = "/ HTTP/1.1\r\nx: y".into(), "path"),
            (|o| o.host = "a b".into(), "host"),
            (
                |o| {
                    o.scenario = Scenario::Mixed;
                    o.slow_path = String::new();
                },
                "slow_path",
            ),
        ];
        for (change, culprit) in cases {
            let mut order = order();
            change(&mut order);
            let refusal = check(&order).expect_err(culprit).to_string();
            assert!(refusal.contains(culprit), "{culprit}: {refusal}");
            assert!(!refusal.contains('\n'), "{refusal}");
        }
    }
}
