//! One timer for many deadlines.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use crate::sys::clock::monotonic_ns;

/// A timer for deadlines that move on with every request and almost never come.
///
/// Setting a tokio timer for each request, and clearing it again, would cost more than all other
/// accounting. So the timer is left where it is as long as it goes off *before* the deadline; when it
/// does, the deadline is looked at and the timer set anew. Only a deadline earlier than the timer
/// moves it.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    timer: Option<Pin<Box<Sleep>>>,
    /// When the timer goes off, monotonic nanoseconds.
    rings: u64,
}

impl Alarm {
    /// Has `deadline` come? If not, the task is woken in time to ask again. Both times are
    /// monotonic nanoseconds; `now` may be old.
    ///
    /// Always to be asked from the same task.
    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, now: u64, deadline: u64) -> Poll<()> {
        if now >= deadline {
            return Poll::Ready(());
        }
        // Set already, early enough, and still to ring: it will wake the task.
        if let Some(timer) = &self.timer
            && self.rings <= deadline
            && !timer.is_elapsed()
        {
            return Poll::Pending;
        }
        self.set(cx, deadline)
    }

    #[cold]
    fn set(&mut self, cx: &mut Context<'_>, deadline: u64) -> Poll<()> {
        loop {
            // The caller's time may be old, and the timer may have rung since: ask the clock.
            let now = monotonic_ns();
            if now >= deadline {
                return Poll::Ready(());
            }
            let left = Duration::from_nanos(deadline - now);
            self.rings = deadline;
            let timer = match &mut self.timer {
                Some(timer) => {
                    timer.as_mut().reset(Instant::now() + left);
                    timer
                }
                None => self.timer.insert(Box::pin(sleep(left))),
            };
            ready!(timer.as_mut().poll(cx));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn it_rings_even_if_the_caller_believes_that_no_time_has_passed() {
        let begun = monotonic_ns();
        let deadline = begun + 5_000_000;
        let mut alarm = Alarm::default();
        poll_fn(|cx| alarm.poll(cx, begun, deadline)).await;
        assert!(monotonic_ns() >= deadline);
    }

    #[tokio::test]
    async fn a_deadline_that_moves_on_is_kept() {
        let mut alarm = Alarm::default();
        let begun = monotonic_ns();
        let mut deadline = begun + 5_000_000;
        let mut moves = 0;
        poll_fn(|cx| {
            // Each time it wakes there is still a little to go, three times.
            if moves < 3 && monotonic_ns() >= deadline {
                moves += 1;
                deadline = monotonic_ns() + 5_000_000;
            }
            alarm.poll(cx, monotonic_ns(), deadline)
        })
        .await;
        assert_eq!(moves, 3);
        assert!(monotonic_ns() >= begun + 20_000_000);
    }
}
